"""Transformers written by hand, and torch's own attention modules."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.anatomy.networks.case import Case, images, sequences, tokens


class FusedAttention(nn.Module):
    """Fused query, key and value; how many heads there are follows from the width that is found."""

    def __init__(self, width: int, heads: int, *, flash: bool) -> None:
        super().__init__()
        self.inner, self.head_width, self.flash = width, width // heads, flash
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (
            part.view(b, t, -1, self.head_width).transpose(1, 2) for part in self.qkv(x).split(self.inner, 2)
        )
        if self.flash:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = q @ k.transpose(-2, -1) * self.head_width**-0.5
            future = torch.ones(t, t, dtype=torch.bool, device=x.device).triu(1)
            y = scores.masked_fill(future, float("-inf")).softmax(-1) @ v
        out: Tensor = self.out(y.transpose(1, 2).reshape(b, t, -1))
        return out


class FixedWidthAttention(FusedAttention):
    """Computes the head width from the width of the stream and views back to it: its heads stay."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads, flash=True)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.size()
        q, k, v = (
            part.view(b, t, self.heads, c // self.heads).transpose(1, 2)
            for part in self.qkv(x).split(self.inner, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out(y.transpose(1, 2).contiguous().view(b, t, c))
        return out


class Block(nn.Module):
    def __init__(self, width: int, attention: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(width), attention, nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Decoder(nn.Module):
    """A GPT: token and position tables, blocks, and a classifier that may be tied to the tokens."""

    def __init__(
        self,
        attention: Callable[[int, int], nn.Module] | None = None,
        *,
        flash: bool = True,
        tied: bool = True,
    ) -> None:
        super().__init__()
        width, vocabulary = 32, 50
        make = attention or partial(FusedAttention, flash=flash)
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(1, 16, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, make(width, 4)) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, numbers: Tensor) -> Tensor:
        x = self.tokens(numbers) + self.positions[:, : numbers.shape[1]]
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.norm(x))
        return out


class VisionAttention(nn.Module):
    """Fused projection by reshape, permute, unbind."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head_width, self.qkv, self.out = (
            width // heads,
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, -1, self.head_width).permute(2, 0, 3, 1, 4).unbind(0)
        y = (q @ k.transpose(-2, -1) * self.head_width**-0.5).softmax(-1) @ v
        out: Tensor = self.out(y.transpose(1, 2).reshape(b, n, -1))
        return out


class VisionTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.block = nn.Conv2d(3, 32, 4, 4), Block(32, VisionAttention(32, 4))
        self.token = nn.Parameter(torch.zeros(1, 1, 32))
        self.positions = nn.Parameter(torch.randn(1, 17, 32))
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        out: Tensor = self.head(self.block(x)[:, 0])
        return out


class NormedAttention(nn.Module):
    """Queries and keys are normalized over the width of a head; separate projections; RMS norm before."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.head_width = width // heads
        self.norm = nn.RMSNorm(width)
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.q_norm, self.k_norm = nn.RMSNorm(self.head_width), nn.RMSNorm(self.head_width)
        self.out, self.head = nn.Linear(width, width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (
            p(y).unflatten(-1, (-1, self.head_width)).transpose(1, 2) for p in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        out: Tensor = self.head(x + self.out(y.transpose(1, 2).flatten(2)))
        return out


class Rotary(nn.Module):
    """Rotary positions, half against half or interleaved; grouped-query attention."""

    def __init__(self, *, interleaved: bool) -> None:
        super().__init__()
        self.interleaved, self.head_width = interleaved, 8
        self.q, self.k, self.v = nn.Linear(32, 32), nn.Linear(32, 16), nn.Linear(32, 16)
        self.out = nn.Linear(32, 5)
        self.register_buffer("frequencies", 10000 ** -(torch.arange(4) / 4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        angles = torch.outer(torch.arange(x.shape[1], device=x.device), self.get_buffer("frequencies"))
        q, k, v = (
            p(x).unflatten(-1, (-1, self.head_width)).transpose(1, 2) for p in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(self._turn(q, angles), self._turn(k, angles), v, enable_gqa=True)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out

    def _turn(self, x: Tensor, angles: Tensor) -> Tensor:
        cos, sin = angles.cos(), angles.sin()
        if self.interleaved:
            even, odd = x[..., ::2], x[..., 1::2]
            return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
        first, second = x.chunk(2, -1)
        return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


class RelativeBias(nn.Module):
    """T5's attention: a learned bias per head and distance, no scaling."""

    def __init__(self) -> None:
        super().__init__()
        self.head_width, self.norm = 8, nn.LayerNorm(32)
        self.q, self.k, self.v = (nn.Linear(32, 32, bias=False) for _ in range(3))
        self.bias, self.out, self.head = nn.Embedding(13, 4), nn.Linear(32, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        place = torch.arange(x.shape[1], device=x.device)
        bias = self.bias(place[:, None] - place[None, :] + 6).permute(2, 0, 1)
        y = self.norm(x)
        q, k, v = (
            p(y).unflatten(-1, (-1, self.head_width)).transpose(1, 2) for p in (self.q, self.k, self.v)
        )
        y = (torch.einsum("bhid,bhjd->bhij", q, k) + bias).softmax(-1)
        y = torch.einsum("bhij,bhjd->bihd", y, v).flatten(2)
        out: Tensor = self.head(x + self.out(y))
        return out


class Windows(nn.Module):
    """Swin's shifted windows with a relative bias table and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.attention = (
            nn.Conv2d(3, 32, 2, 2),
            nn.LayerNorm(32),
            VisionAttention(32, 4),
        )
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        y = torch.roll(self.norm(x), (-2, -2), (1, 2))
        y = y.view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        y = self.attention(y)
        y = y.view(b, h // 4, w // 4, 4, 4, -1).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, -1)
        out: Tensor = self.head((x + torch.roll(y, (2, 2), (1, 2))).mean((1, 2)))
        return out


class CrossAttention(nn.Module):
    """`nn.MultiheadAttention` on two inputs, of two widths when `separate`."""

    def __init__(self, *, separate: bool = False, bias: bool = True) -> None:
        super().__init__()
        other = 24 if separate else 32
        self.attention = nn.MultiheadAttention(32, 4, kdim=other, vdim=other, bias=bias, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        y, _ = self.attention(x, memory, memory)
        out: Tensor = self.head(x + y)
        return out


class Encoder(nn.Module):
    """torch's encoder layers, batch first or sequence first, norm first or last."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, **options)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head, self.sequence = nn.Linear(32, 5), 1 if options.get("batch_first") else 0

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(x).mean(self.sequence))
        return out


class Seq2Seq(nn.Module):
    """torch's encoder and decoder with a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.Transformer(32, 4, 1, 1, 48, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(y.shape[1], dtype=y.dtype)
        out: Tensor = self.head(self.transformer(x, y, tgt_mask=mask, tgt_is_causal=True))
        return out


class PaddedEncoder(nn.Module):
    """torch's encoder with a padding mask, which its fused path turns into nested tensors."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(32, 5)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(x, src_key_padding_mask=padding))
        return out


class LinearAttention(nn.Module):
    """Positive features instead of a softmax: a masked feature is 1, not 0, so widths inside a head stay."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(32, 16), nn.Linear(32, 16), nn.Linear(32, 24)
        self.out = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k = F.elu(self.q(x)) + 1, F.elu(self.k(x)) + 1
        y = q @ (k.transpose(1, 2) @ self.v(x)) / (q @ k.sum(1).unsqueeze(-1))
        out: Tensor = self.out(y)
        return out


def padded_sequences() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 7, 32), torch.arange(7).ge(torch.tensor([[7], [4]]))


def pair(first: int = 32, second: int = 32) -> Any:
    return lambda: (torch.randn(2, 7, first), torch.randn(2, 9, second))


ATTENTION = {
    "gpt": Case(Decoder, tokens(), groups=4, heads=2, frozen_by=("layer_norm", "embedding")),
    "gpt-eager-untied": Case(lambda: Decoder(flash=False, tied=False), tokens(), groups=4, heads=2),
    "vit": Case(VisionTransformer, images(), groups=2, heads=1),
    "qk-norm": Case(NormedAttention, sequences(), groups=1, heads=1),
    "rotary-halves": Case(lambda: Rotary(interleaved=False), sequences(), groups=1, heads=1),
    "rotary-interleaved": Case(lambda: Rotary(interleaved=True), sequences(), groups=1, heads=1),
    "relative-bias": Case(RelativeBias, sequences(), groups=1, heads=1),
    "windows": Case(Windows, images(), groups=1, heads=1),
    "cross-attention": Case(CrossAttention, pair(), groups=1, heads=1),
    "cross-attention-two-widths": Case(
        lambda: CrossAttention(separate=True), pair(32, 24), groups=1, heads=1
    ),
    "cross-attention-no-bias": Case(lambda: CrossAttention(bias=False), pair(), groups=1, heads=1),
    "encoder": Case(lambda: Encoder(batch_first=True), sequences(), groups=4, heads=2),
    "encoder-norm-first": Case(
        lambda: Encoder(batch_first=True, norm_first=True), sequences(), groups=4, heads=2
    ),
    "encoder-sequence-first": Case(Encoder, lambda: torch.randn(7, 2, 32), groups=4, heads=2),
    "encoder-sequence-norm-first": Case(
        lambda: Encoder(norm_first=True), lambda: torch.randn(7, 2, 32), groups=4, heads=2
    ),
    "encoder-padded": Case(PaddedEncoder, padded_sequences, groups=4, heads=2),
    "seq2seq": Case(Seq2Seq, pair(), groups=5, heads=3),
    "linear-attention": Case(LinearAttention, sequences(), groups=1, frozen_by=("not make it zero",)),
}
