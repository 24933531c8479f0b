"""Blueprints: what a seed can be. Each makes a module f of the shape of its input, with f(x) = 0 at birth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.errors import ConfigError

Blueprint = Callable[..., nn.Module]
"""Makes a seed for activations like the tensor that it is given; options are keywords."""

ENTRY_POINTS = "esper.blueprints"
"""The group under which installed packages offer theirs."""

_HEAD_FEATURES = 16
"""Fewest features that an attention head has unless somebody says how many heads there are."""

_CONVOLUTIONS: Mapping[int, Callable[..., nn.Module]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}


def conv(like: Tensor, *, width: int | None = None, kernel: int = 3) -> nn.Module:
    """Two convolutions with a nonlinearity between them, for activations [samples, channels, ...]."""
    make, channels = _convolution(like, "conv"), like.shape[1]
    width = _count("conv", width=channels if width is None else width)
    kernel = _count("conv", kernel=kernel)
    first = make(channels, width, kernel, padding=kernel // 2)
    return nn.Sequential(first, nn.GELU(), _silent(make(width, channels, kernel, padding=kernel // 2)))


def bottleneck(like: Tensor, *, width: int | None = None, kernel: int = 3) -> nn.Module:
    """A convolution over few channels, between two over single positions, for [samples, channels, ...]."""
    make, channels = _convolution(like, "bottleneck"), like.shape[1]
    width = _count("bottleneck", width=max(channels // 4, 1) if width is None else width)
    kernel = _count("bottleneck", kernel=kernel)
    inner = make(width, width, kernel, padding=kernel // 2)
    return nn.Sequential(
        *(make(channels, width, 1), nn.GELU(), inner, nn.GELU()), _silent(make(width, channels, 1))
    )


def mlp(like: Tensor, *, width: int | None = None) -> nn.Module:
    """Two linear layers with a nonlinearity between them, over the last axis."""
    features = like.shape[-1]
    width = _count("mlp", width=features if width is None else width)
    return nn.Sequential(nn.Linear(features, width), nn.GELU(), _silent(nn.Linear(width, features)))


def low_rank(like: Tensor, *, rank: int = 4) -> nn.Module:
    """A linear map of low rank over the last axis, as LoRA adds it."""
    features = like.shape[-1]
    rank = _count("low_rank", rank=rank)
    down = nn.Linear(features, rank, bias=False)
    return nn.Sequential(down, _silent(nn.Linear(rank, features, bias=False)))


class SelfAttention(nn.Module):
    """Every position reads the others: activations [samples, positions, features] to the same shape."""

    def __init__(self, features: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        # Not the number of heads, which pruning makes smaller.
        self.head_features, self.causal = features // heads, causal
        self.query, self.key, self.value = (nn.Linear(features, features) for _ in range(3))
        self.output = _silent(nn.Linear(features, features))

    def forward(self, x: Tensor) -> Tensor:
        # [samples, heads, positions, features of a head]
        q, k, v = (
            part(x).unflatten(-1, (-1, self.head_features)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        read = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        answer: Tensor = self.output(read.transpose(1, 2).flatten(2))
        return answer


def attention(like: Tensor, *, heads: int | None = None, causal: bool = False) -> nn.Module:
    """Self-attention over the positions of [samples, positions, features].

    With `causal` no position reads a later one: a network that tells the next token from those before it
    needs that, or the seed would read the answer.
    """
    if like.dim() != 3:
        raise ConfigError(
            "The blueprint 'attention' needs activations [samples, positions, features], and here they are "
            f"{list(like.shape)}. Nothing was changed. 'mlp' and 'low_rank' work over the last axis of any."
        )
    features = like.shape[-1]
    if heads is None:
        heads = next(n for n in range(max(features // _HEAD_FEATURES, 1), 0, -1) if features % n == 0)
    if features % _count("attention", heads=heads):
        raise ConfigError(
            f"The blueprint 'attention' cannot share {features} features among {heads} heads. Nothing was "
            "changed. Give a number of heads that divides them."
        )
    return SelfAttention(features, heads, causal=causal)


def norm(like: Tensor) -> nn.Module:
    """The normalized input, scaled: over channels and positions of images, over the last axis elsewhere."""
    if like.dim() in (4, 5):
        return _silent(nn.GroupNorm(1, like.shape[1]))
    return _silent(nn.LayerNorm(like.shape[-1]))


def auto(like: Tensor, *, width: int | None = None, **options: Any) -> nn.Module:
    """`conv` for images and volumes, `mlp` over the last axis elsewhere."""
    make: Blueprint = conv if like.dim() in (4, 5) else mlp
    return make(like, width=width, **options)


BLUEPRINTS: Mapping[str, Blueprint] = {
    "auto": auto,
    "conv": conv,
    "bottleneck": bottleneck,
    "mlp": mlp,
    "attention": attention,
    "low_rank": low_rank,
    "norm": norm,
}


def blueprints_in(given: Mapping[Any, Any] | None) -> dict[str, Blueprint]:
    """Blueprints of the user's own, by name.

    Raises:
        ConfigError: they are no mapping from names to what can be called.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"blueprints= is a {type(given).__name__}, and it is to be a mapping of names to functions or "
            'classes that make seeds, as in {"gate": Gate}. Nothing was changed.'
        )
    for name, make in given.items():
        if not isinstance(name, str) or not callable(make) or isinstance(make, nn.Module):
            raise ConfigError(
                f"blueprints= has {name!r}: {type(make).__name__}, and a blueprint is a name with a function "
                "or class that makes a fresh seed from a tensor like the activations. Nothing was changed."
            )
    return dict(given)


def blueprint(name: str, given: Mapping[str, Blueprint]) -> Blueprint:
    """The blueprint of a name: one that the caller has given, one of ours, or one of an installed package.

    Raises:
        ConfigError: nobody knows it, or an installed package cannot be imported.
    """
    if name in given:
        return given[name]
    if name in BLUEPRINTS:
        return BLUEPRINTS[name]
    installed = entry_points(group=ENTRY_POINTS)
    if name in installed.names:
        try:
            known: Blueprint = installed[name].load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"The blueprint {name!r} is offered by {installed[name].value}, which cannot be imported: "
                f"{error}. Nothing was changed."
            ) from error
        return known
    names = sorted({*given, *BLUEPRINTS, *installed.names})
    raise ConfigError(
        f"There is no blueprint {name!r}; known are {', '.join(names)}. Nothing was changed. Give your own "
        f"as blueprints={{{name!r}: make}} to attach and resume (to Growth, where there is no session), or "
        f"as an entry point in the group {ENTRY_POINTS!r}."
    )


def check_options(name: str, given: Mapping[str, Blueprint], options: Mapping[str, Any]) -> None:
    """Refuses options that a blueprint does not take; it is not called.

    Raises:
        ConfigError: it does not take one of them, or nobody knows it.
    """
    maker = blueprint(name, given)
    try:
        known = signature(maker)
    except ValueError:  # nobody has written it down, as for what is made in C
        return
    try:
        known.bind(None, **options)
    except TypeError as error:
        said = ", ".join(f"{key}={value!r}" for key, value in options.items()) or "no options"
        raise ConfigError(
            f"The blueprint {name!r} does not take {said}: {error}. Nothing was changed."
        ) from error


def _count(name: str, **option: object) -> int:
    """The value of an option that is a number of things."""
    ((key, value),) = option.items()
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise ConfigError(
        f"The blueprint {name!r} cannot be made with {key}={value!r}: it is a whole number of at least 1. "
        "Nothing was changed."
    )


def _convolution(like: Tensor, name: str) -> Callable[..., nn.Module]:
    if like.dim() not in _CONVOLUTIONS:
        raise ConfigError(
            f"The blueprint {name!r} needs activations [samples, channels, positions ...], and here they are "
            f"{list(like.shape)}. Nothing was changed. 'mlp' and 'low_rank' work over the last axis."
        )
    return _CONVOLUTIONS[like.dim()]


def _silent(module: nn.Module) -> nn.Module:
    """The last module of a seed, which makes zeros at birth."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    return module
