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
    """The axes that are transformed; without any, the last ones for which a size is given, or all."""
    position = 1 if call.name in (*SHIFTS, *WRITTEN_OUT) else 2
    default = {**dict.fromkeys(ONE_AXIS, [-1]), **dict.fromkeys(TWO_AXES, [-2, -1])}.get(call.name)
    dim = call.arg(position, "dim", default)
    if dim is None:
        sizes = call.arg(1, "s") if call.name in MANY_AXES else None
        dim = range(rank) if sizes is None else range(rank - len(sizes), rank)
    return [axis % rank for axis in ([dim] if isinstance(dim, int) else dim)]


RULES: dict[str, Rule] = dict.fromkeys((*ONE_AXIS, *TWO_AXES, *MANY_AXES, *SHIFTS, *WRITTEN_OUT), transformed)
