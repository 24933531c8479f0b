"""Fourier transforms: every result depends on the whole axis, and labels along other axes flow on."""

from __future__ import annotations

from esper.anatomy.labels.labels import varying_axes
from esper.anatomy.labels.rules.call import Call, Result, Rule, operators

ONE_AXIS = operators("fft_fft fft_ifft fft_rfft fft_irfft fft_hfft fft_ihfft")
TWO_AXES = operators("fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_hfft2 fft_ihfft2")
MANY_AXES = operators("fft_fftn fft_ifftn fft_rfftn fft_irfftn fft_hfftn fft_ihfftn")
SHIFTS = operators("fft_fftshift fft_ifftshift")
WRITTEN_OUT = operators("_fft_r2c _fft_c2r _fft_c2c")


def transformed(call: Call) -> Result:
    """The transform is linear, so zeros along the other axes stay zeros."""
    flow = call.only()
    axes = _axes(call, len(flow.shape))
    for axis in axes:
        call.couple(flow, axis, " runs over it")
    layers = [call.space.conjunction(layer, axes) for layer in flow.layers]
    return call.result([layer for layer in layers if varying_axes(layer)], is_zeroed=flow.is_zeroed)


def _axes(call: Call, rank: int) -> list[int]:
    """The axes that are transformed; where none are named, the last ones that sizes are given for, or all."""
    dim = call.arg(1 if call.name in (*SHIFTS, *WRITTEN_OUT) else 2, "dim")
    if dim is None and call.name in ONE_AXIS:
        dim = -1
    if dim is None and call.name not in SHIFTS:
        sizes = call.arg(1, "s")
        count = 2 if call.name in TWO_AXES else rank if sizes is None else len(sizes)
        dim = range(-count, 0)
    chosen = range(rank) if dim is None else [dim] if isinstance(dim, int) else dim
    return [axis % rank for axis in chosen]


RULES: dict[str, Rule] = dict.fromkeys((*ONE_AXIS, *TWO_AXES, *MANY_AXES, *SHIFTS, *WRITTEN_OUT), transformed)
