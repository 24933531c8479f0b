"""Networks that join images, sound and text."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from architectures.case import DECODER, SIGHT, SMALL, Architecture, numbers, pixels, pretrained

_joint = partial(pretrained, "multimodal")
_TEXT = {k: v for k, v in SMALL.items() if k != "pad_token_id"} | {"pad_token_id": 0}
_SEEN = {**SIGHT, "patch_size": 16}
_IMAGE_TOKEN = 98


def _both(size: int = 32) -> Callable[[], dict[str, Any]]:
    return lambda: {"input_ids": numbers(), "pixel_values": torch.randn(2, 3, size, size)}


def _with_image_tokens(count: int, size: int = 32) -> Callable[[], dict[str, Any]]:
    """Text that holds as many image tokens as the image makes patches."""

    def sample() -> dict[str, Any]:
        ids = torch.randint(3, 90, (2, 12))
        ids[:, 1 : 1 + count] = _IMAGE_TOKEN
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": torch.randn(2, 3, size, size),
        }

    return sample


MULTIMODAL: dict[str, Architecture] = {
    "clip": _joint(
        "CLIPModel", _both(), {"text_config": _TEXT, "vision_config": _SEEN, "projection_dim": 32}
    ),
    "siglip": _joint("SiglipModel", _both(), {"text_config": _TEXT, "vision_config": _SEEN}),
    "chinese-clip": _joint(
        "ChineseCLIPModel", _both(), {"text_config": _TEXT, "vision_config": _SEEN, "projection_dim": 32}
    ),
    "owlvit": _joint(
        "OwlViTForObjectDetection",
        _both(),
        {"text_config": _TEXT, "vision_config": _SEEN, "projection_dim": 64},
    ),
    "clipseg": _joint(
        "CLIPSegForImageSegmentation",
        _both(),
        {
            "text_config": _TEXT,
            "vision_config": _SEEN,
            "projection_dim": 32,
            "extract_layers": [0, 1],
            "reduce_dim": 32,
            "decoder_num_attention_heads": 4,
            "decoder_intermediate_size": 64,
        },
    ),
    "blip": _joint(
        "BlipForImageTextRetrieval",
        _both(),
        {
            "text_config": {**_TEXT, "encoder_hidden_size": 64},
            "vision_config": _SEEN,
            "projection_dim": 32,
            "image_text_hidden_size": 32,
        },
    ),
    "vilt": _joint("ViltForImageAndTextRetrieval", _both(), {**SMALL, **_SEEN}),
    "visual-bert": _joint(
        "VisualBertModel",
        lambda: {"input_ids": numbers(), "visual_embeds": torch.randn(2, 5, 20)},
        SMALL,
        visual_embedding_dim=20,
    ),
    "lxmert": _joint(
        "LxmertModel",
        lambda: {
            "input_ids": numbers(),
            "visual_feats": torch.randn(2, 5, 20),
            "visual_pos": torch.rand(2, 5, 4),
        },
        SMALL,
        l_layers=1,
        x_layers=1,
        r_layers=1,
        visual_feat_dim=20,
    ),
    "layoutlm": _joint(
        "LayoutLMForTokenClassification",
        lambda: {"input_ids": numbers(), "bbox": torch.randint(0, 60, (2, 12, 4)).cummax(-1).values},
        SMALL,
        max_2d_position_embeddings=64,
    ),
    "git": _joint(
        "GitForCausalLM", _both(), {**SMALL, "vision_config": _SEEN, "use_cache": False, "num_labels": 5}
    ),
    "vision-encoder-decoder": _joint(
        "VisionEncoderDecoderModel",
        lambda: {**pixels()(), "decoder_input_ids": numbers(7)},
        {
            "encoder": {"model_type": "vit", **_SEEN},
            "decoder": {
                "model_type": "bert",
                **SMALL,
                "is_decoder": True,
                "add_cross_attention": True,
                "use_cache": False,
            },
        },
    ),
    "llava": _joint(
        "LlavaForConditionalGeneration",
        _with_image_tokens(4),
        {
            "text_config": {"model_type": "llama", **DECODER},
            "vision_config": {"model_type": "clip_vision_model", **_SEEN},
            "image_token_index": _IMAGE_TOKEN,
            "image_token_id": _IMAGE_TOKEN,
            "image_seq_length": 4,
        },
    ),
    "paligemma": _joint(
        "PaliGemmaForConditionalGeneration",
        _with_image_tokens(4),
        {
            "text_config": {"model_type": "gemma", **DECODER, "head_dim": 8},
            "vision_config": {"model_type": "siglip_vision_model", **_SEEN, "projection_dim": 64},
            "image_token_id": _IMAGE_TOKEN,
            "image_token_index": _IMAGE_TOKEN,
            "projection_dim": 64,
            "hidden_size": 64,
        },
    ),
    "clap": _joint(
        "ClapTextModelWithProjection",
        lambda: {"input_ids": numbers()},
        {**SMALL, "projection_dim": 32},
    ),
    "trocr": _joint(
        "TrOCRForCausalLM",
        lambda: {"input_ids": numbers(), "encoder_hidden_states": torch.randn(2, 5, 48)},
        {
            "d_model": 64,
            "decoder_layers": 2,
            "decoder_attention_heads": 8,
            "decoder_ffn_dim": 128,
            "vocab_size": 99,
            "max_position_embeddings": 64,
            "cross_attention_hidden_size": 48,
            "use_cache": False,
        },
    ),
    "flava": _joint("FlavaTextModel", lambda: {"input_ids": numbers()}, SMALL),
    "perceiver": _joint(
        "PerceiverForSequenceClassification",
        lambda: {"inputs": numbers()},
        {
            "d_model": 64,
            "d_latents": 64,
            "num_latents": 8,
            "num_blocks": 1,
            "num_self_attends_per_block": 2,
            "num_self_attention_heads": 8,
            "num_cross_attention_heads": 8,
            "vocab_size": 99,
            "max_position_embeddings": 12,
        },
    ),
}
