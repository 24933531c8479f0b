"""`nn.MultiheadAttention` with another width inside than outside: fewer heads, or a narrower stream."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class CutMultiheadAttention(nn.MultiheadAttention):
    """Multi-head attention whose inner width (heads x head width) differs from `embed_dim`.

    A cut turns an `nn.MultiheadAttention` into this class in place: same parameters, same names, fewer rows.
    It does not exist on its own, so there is no constructor to call.

    Shapes as in `nn.MultiheadAttention`: [B, T, E] or [T, B, E] by `batch_first`, or [T, E].
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        is_batched = query.dim() == 3
        # [B, T, E] from here on.
        if not is_batched:
            query, key, value = (t.unsqueeze(0) for t in (query, key, value))
        elif not self.batch_first:
            query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        # [B, heads, T, head width] each.
        q, k, v = (self._heads(t) for t in self._project(query, key, value))
        mask = self._mask(q, k, key_padding_mask, attn_mask)
        rate = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            # Somebody wants the weights, so the fused operator, which gives none, will not do.
            scores = q @ k.transpose(-2, -1) * self.head_dim**-0.5
            attention = (scores if mask is None else scores + mask).softmax(-1)
            out = F.dropout(attention, rate, self.training) @ v
            weights = attention.mean(1) if average_attn_weights else attention
        else:
            # `is_causal` is a hint about the mask where there is one, and the operator does not take both.
            out = F.scaled_dot_product_attention(q, k, v, mask, rate, is_causal=is_causal and mask is None)
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        if not is_batched:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return (out if self.batch_first else out.transpose(0, 1)), weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fused, bias = self._parameters["in_proj_weight"], self._parameters["in_proj_bias"]
        weights = (
            (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight) if fused is None else fused.chunk(3)
        )
        biases = (None, None, None) if bias is None else bias.chunk(3)
        q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
        return q, k, v

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)

    def _mask(self, q: Tensor, k: Tensor, padding: Tensor | None, mask: Tensor | None) -> Tensor | None:
        """Both masks as one float mask that broadcasts to [B, heads, T, S]."""
        total: Tensor | None = None
        if mask is not None:
            if mask.dim() == 3:  # [B x heads, T, S]: the caller knows how many heads there are
                mask = mask.view(q.shape[0], -1, *mask.shape[1:])
            total = _additive(mask, q)
        if padding is not None:
            added = _additive(padding, q).reshape(-1, 1, 1, k.shape[-2])
            total = added if total is None else total + added
        return total


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.is_floating_point():
        return mask.to(like.dtype)
    # True means "not seen".
    return mask.new_zeros(mask.shape, dtype=like.dtype).masked_fill(mask, float("-inf"))


def is_square(module: nn.MultiheadAttention) -> bool:
    """Are inner width and the width of queries and outputs what the module's attributes say?"""
    own: dict[str, Tensor | None] = vars(module)["_parameters"]
    fused, apart = own["in_proj_weight"], own["q_proj_weight"]
    queries = apart if fused is None else fused
    width = module.num_heads * module.head_dim
    is_read_whole = queries is None or queries.shape[1] == width
    return is_read_whole and tuple(module.out_proj.weight.shape) == (width, width)


def becomes_cut(module: nn.MultiheadAttention) -> None:
    """Turns the module into one that computes with the widths its tensors, already cut, are left with."""
    if module.bias_k is not None or module.add_zero_attn:
        raise ValueError("bias_k, bias_v and add_zero_attn are not supported together with other widths")
    module.__class__ = CutMultiheadAttention
    # False keeps nn.TransformerEncoderLayer off its fused path, which assumes the full width.
    vars(module)["_qkv_same_embed_dim"] = False
    module.num_heads = module.out_proj.weight.shape[1] // module.head_dim
