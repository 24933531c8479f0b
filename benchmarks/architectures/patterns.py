"""The pattern zoo: one small network for every way in which layers are wired in the field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from architectures.case import Architecture

Forward = Callable[[Any, Tensor], Tensor]


class Net(nn.Module):
    """Named parts and a function that wires them."""

    def __init__(self, forward: Forward, **parts: Any) -> None:
        super().__init__()
        self.wiring = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.wiring(self, x)


def conv(a: int, b: int, kernel: int = 3, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(a, b, kernel, padding=kernel // 2, **more)


def residual() -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.norm(net.stem(x)))
        x = F.relu(x + net.two(F.relu(net.one(x))))
        return net.head(x.mean((2, 3)))

    return Net(
        forward,
        stem=conv(3, 32),
        norm=nn.BatchNorm2d(32),
        one=conv(32, 48),
        two=conv(48, 32),
        head=nn.Linear(32, 5),
    )


def concat() -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.norm(torch.cat([net.one(x), net.two(x), net.three(x)], 1))
        return net.head(net.mix(F.relu(x)).mean((2, 3)))

    return Net(
        forward,
        one=conv(3, 16),
        two=conv(3, 24),
        three=conv(3, 8, 1),
        norm=nn.BatchNorm2d(48),
        mix=conv(48, 32),
        head=nn.Linear(32, 5),
    )


def flatten() -> nn.Module:
    return nn.Sequential(
        conv(3, 16), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 5)
    )


def grouped_and_depthwise() -> nn.Module:
    return nn.Sequential(
        conv(3, 32),
        nn.ReLU(),
        conv(32, 64, groups=8),
        nn.ReLU(),
        conv(64, 64, groups=64),
        nn.ReLU(),
        conv(64, 32, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 5),
    )


def se_gate() -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        gate = net.up(F.relu(net.down(x.mean((2, 3), keepdim=True)))).sigmoid()
        return net.head(net.mix(x * gate).mean((2, 3)))

    return Net(
        forward,
        stem=conv(3, 32),
        down=conv(32, 16, 1),
        up=conv(16, 32, 1),
        mix=conv(32, 32),
        head=nn.Linear(32, 5),
    )


def broadcast_mask() -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        return net.head((net.mix(x) * net.mask(x).sigmoid()).mean((2, 3)))

    return Net(forward, stem=conv(3, 32), mask=conv(32, 1, 1), mix=conv(32, 32), head=nn.Linear(32, 5))


def conv_transpose() -> nn.Module:
    return nn.Sequential(
        conv(3, 32), nn.ReLU(), nn.ConvTranspose2d(32, 24, 2, 2), nn.BatchNorm2d(24), nn.ReLU(), conv(24, 3)
    )


def group_norm() -> nn.Module:
    return nn.Sequential(
        conv(3, 32),
        nn.GroupNorm(8, 32),
        nn.SiLU(),
        conv(32, 48),
        nn.GroupNorm(16, 48),
        nn.SiLU(),
        conv(48, 4),
    )


def reused_module() -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.stem(x)
        for _ in range(3):
            x = F.relu(net.again(x))
        return net.head(x.mean((2, 3)))

    return Net(forward, stem=conv(3, 32), again=conv(32, 32), head=nn.Linear(32, 5))


def embedding() -> nn.Module:
    return nn.Sequential(nn.Embedding(50, 64), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 5))


def tied_embedding() -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.decode(net.two(F.relu(net.one(net.encode(x)))))

    encode, decode = nn.Embedding(50, 32), nn.Linear(32, 50, bias=False)
    decode.weight = encode.weight
    return Net(
        forward,
        encode=encode,
        one=nn.Linear(32, 64),
        two=nn.Linear(64, 32),
        decode=decode,
    )


def slice_gate() -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.both(x)
        return net.last(net.mix(x[:, : net.size].tanh() * x[:, net.size :].sigmoid()))

    return Net(forward, both=conv(3, 48), mix=conv(24, 32), last=conv(32, 2, 1), size=24)


def chunk_c2f() -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        parts = list(F.silu(net.first(x)).chunk(2, 1))
        parts.extend(F.silu(block(parts[-1])) for block in (net.one, net.two))
        return net.head(F.silu(net.last(torch.cat(parts, 1))).mean((2, 3)))

    return Net(
        forward,
        first=conv(3, 32, 1),
        one=conv(16, 16),
        two=conv(16, 16),
        last=conv(64, 32, 1),
        head=nn.Linear(32, 5),
    )


def channel_shuffle() -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.one(F.relu(net.stem(x))))
        b, c, h, w = x.shape
        x = x.view(b, 4, c // 4, h, w).transpose(1, 2).reshape(b, c, h, w)
        return net.head(F.relu(net.two(x)).mean((2, 3)))

    return Net(
        forward,
        stem=conv(3, 32),
        one=conv(32, 32, 1, groups=4),
        two=conv(32, 32, 1, groups=4),
        head=nn.Linear(32, 5),
    )


def pixel_shuffle() -> nn.Module:
    return nn.Sequential(
        conv(3, 32),
        nn.ReLU(),
        conv(32, 64),
        nn.PixelShuffle(2),
        nn.ReLU(),
        conv(16, 24),
        nn.ReLU(),
        conv(24, 3),
    )


def fused_glu() -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        gate, value = net.both(x).chunk(2, -1)
        return net.head(x + net.down(F.silu(gate) * value))

    return Net(forward, both=nn.Linear(32, 256), down=nn.Linear(128, 32), head=nn.Linear(32, 5))


def attention(heads: int, kv_heads: int, width: int, *, fused: bool = False) -> nn.Module:
    head = width // heads

    def forward(net: Any, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        if fused:
            q, k, v = net.qkv(x).reshape(b, t, 3, -1, head).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (p(x).view(b, t, -1, head).transpose(1, 2) for p in (net.q, net.k, net.v))
            k, v = (y.repeat_interleave(q.shape[1] // k.shape[1], 1) for y in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, -1)
        return net.head(x + net.out(y))

    out, last = nn.Linear(width, width), nn.Linear(width, 5)
    if fused:
        return Net(forward, qkv=nn.Linear(width, 3 * width), out=out, head=last)
    q, k, v = nn.Linear(width, width), nn.Linear(width, head * kv_heads), nn.Linear(width, head * kv_heads)
    return Net(forward, q=q, k=k, v=v, out=out, head=last)


def multihead() -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.head(x + net.attention(x, x, x, need_weights=False)[0])

    return Net(forward, attention=nn.MultiheadAttention(64, 8, batch_first=True), head=nn.Linear(64, 5))


class DenseExperts(nn.Module):
    """Every expert computes; a router weighs them."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(32, 4)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)) for _ in range(4)
        )
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.router(x).softmax(-1)
        outs = torch.stack([expert(x) for expert in self.experts], -1)
        out: Tensor = self.head(x + (outs * weights.unsqueeze(-2)).sum(-1))
        return out


def recurrent(kind: type[nn.LSTM] | type[nn.GRU]) -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.head(F.relu(net.mix(net.cells(net.before(x))[0][:, -1])))

    return Net(
        forward,
        before=nn.Linear(8, 32),
        cells=kind(32, 48, batch_first=True),
        mix=nn.Linear(48, 32),
        head=nn.Linear(32, 5),
    )


def linear_view_conv_transpose() -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.project(x)).view(-1, 32, 4, 4)
        return net.last(F.relu(net.up(x)))

    return Net(forward, project=nn.Linear(8, 512), up=nn.ConvTranspose2d(32, 24, 4, 2, 1), last=conv(24, 3))


def windows() -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.embed(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        y = torch.roll(net.norm(x), (-2, -2), (1, 2))
        y = y.view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        q, k, v = net.qkv(y).reshape(y.shape[0], 16, 3, -1, 8).permute(2, 0, 3, 1, 4).unbind(0)
        y = ((q @ k.transpose(-2, -1)) * 8**-0.5 + net.bias).softmax(-1) @ v
        y = net.out(y.transpose(1, 2).flatten(2))
        y = y.view(b, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        return net.head((x + torch.roll(y, (2, 2), (1, 2))).mean((1, 2)))

    return Net(
        forward,
        embed=nn.Conv2d(3, 64, 2, 2),
        norm=nn.LayerNorm(64),
        qkv=nn.Linear(64, 192),
        bias=nn.Parameter(torch.randn(8, 16, 16)),
        out=nn.Linear(64, 64),
        head=nn.Linear(64, 5),
    )


def cross_attention() -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        memory = net.memory(x.flip(1))
        b, t, _ = x.shape
        q, k, v = (
            p(y).view(b, t, -1, 8).transpose(1, 2) for p, y in ((net.q, x), (net.k, memory), (net.v, memory))
        )
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, -1)
        return net.head(x + net.out(y))

    return Net(
        forward,
        memory=nn.Linear(64, 48),
        q=nn.Linear(64, 64),
        k=nn.Linear(48, 64),
        v=nn.Linear(48, 64),
        out=nn.Linear(64, 64),
        head=nn.Linear(64, 5),
    )


def _image() -> Tensor:
    return torch.randn(2, 3, 16, 16)


def _sequence(width: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(2, 7, width)


def _numbers() -> Tensor:
    return torch.randint(0, 50, (2, 7))


def _case(build: Callable[[], nn.Module], sample: Callable[[], Any] = _image) -> Architecture:
    return Architecture("pattern", build, sample)


PATTERNS: dict[str, Architecture] = {
    "residual": _case(residual),
    "concat": _case(concat),
    "flatten": _case(flatten),
    "grouped-depthwise": _case(grouped_and_depthwise),
    "se-gate": _case(se_gate),
    "broadcast-mask": _case(broadcast_mask),
    "conv-transpose": _case(conv_transpose),
    "group-norm": _case(group_norm),
    "reused-module": _case(reused_module),
    "embedding": _case(embedding, _numbers),
    "tied-embedding": _case(tied_embedding, _numbers),
    "slice-gate": _case(slice_gate),
    "chunk-c2f": _case(chunk_c2f),
    "channel-shuffle": _case(channel_shuffle),
    "pixel-shuffle": _case(pixel_shuffle),
    "fused-glu": _case(fused_glu, _sequence(32)),
    "fused-qkv": _case(lambda: attention(8, 8, 64, fused=True), _sequence(64)),
    "multihead-attention": _case(multihead, _sequence(64)),
    "gqa-8-2": _case(lambda: attention(8, 2, 64), _sequence(64)),
    "gqa-12-4": _case(lambda: attention(12, 4, 96), _sequence(96)),
    "dense-routed-moe": _case(DenseExperts, _sequence(32)),
    "lstm": _case(lambda: recurrent(nn.LSTM), _sequence(8)),
    "gru": _case(lambda: recurrent(nn.GRU), _sequence(8)),
    "linear-view-conv-transpose": _case(linear_view_conv_transpose, lambda: torch.randn(2, 8)),
    "windows": _case(windows),
    "cross-attention": _case(cross_attention, _sequence(64)),
}
