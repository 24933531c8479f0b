"""One architecture of the sweep, and the small inputs that architectures take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

VOCABULARY = 99
SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "intermediate_size": 128,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Sizes that most text configurations know under these names."""
SIGHT: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "intermediate_size": 128,
    "image_size": 32,
    "patch_size": 8,
}
"""The same for vision transformers."""
DECODER: dict[str, Any] = {**SMALL, "num_key_value_heads": 4, "use_cache": False}
"""The same for decoders with grouped queries."""


@dataclass(frozen=True)
class Architecture:
    """A network with random weights and one batch of inputs; `family` is what it is for."""

    family: str
    build: Callable[[], nn.Module]
    sample: Callable[[], Any]

    def network(self) -> nn.Module:
        """The same weights every time; norms and biases are not 0 and 1, so that nothing passes by luck."""
        torch.manual_seed(0)
        model = self.build()
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if "running" in name:
                    buffer.add_(torch.rand_like(buffer) * 0.5)
            for parameter in model.parameters():
                if parameter.dim() == 1 and parameter.is_floating_point():
                    parameter.add_(torch.rand_like(parameter) * 0.1)
        return model

    def inputs(self, seed: int = 1) -> Any:
        """One batch, different for every seed."""
        torch.manual_seed(seed)
        return self.sample()


def pretrained(
    family: str, model_class: str, sample: Callable[[], Any], settings: dict[str, Any], **more: Any
) -> Architecture:
    """A class of the transformers library with a small configuration."""

    def build() -> nn.Module:
        import transformers

        kind = getattr(transformers, model_class)
        model: nn.Module = kind(kind.config_class(**{**settings, **more}))
        return model

    return Architecture(family, build, sample)


def numbers(length: int = 12, low: int = 3) -> Tensor:
    """Token numbers: int64 [2, length], none of them special."""
    return torch.randint(low, VOCABULARY, (2, length))


def text(**more: Any) -> Callable[[], dict[str, Any]]:
    """Token numbers and a mask that hides nothing."""
    return lambda: {"input_ids": numbers(), "attention_mask": torch.ones(2, 12, dtype=torch.long), **more}


def unmasked() -> dict[str, Any]:
    """Token numbers alone."""
    return {"input_ids": numbers()}


def two_texts() -> dict[str, Any]:
    """What an encoder-decoder takes."""
    return {"input_ids": numbers(), "decoder_input_ids": numbers(7)}


def pixels(size: int = 32, channels: int = 3, **more: Any) -> Callable[[], dict[str, Any]]:
    """Images: float [2, channels, size, size]."""
    return lambda: {"pixel_values": torch.randn(2, channels, size, size), **more}
