"""Operators that work element by element: labels that meet are equal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from esper.anatomy.labels.labels import Flow, with_rank
from esper.anatomy.labels.rules.call import Call, Result, Rule, operators

ZERO_AT_ZERO = operators(
    """relu relu6 gelu silu mish tanh softsign softshrink hardshrink tanhshrink elu selu celu leaky_relu
    rrelu hardswish expm1 log1p sqrt square neg abs sign sin tan asin atan sinh erf erfinv floor ceil
    round trunc frac nan_to_num positive asinh atanh absolute arcsin arctan arcsinh arctanh negative
    fix sgn deg2rad rad2deg real imag conj conj_physical resolve_conj resolve_neg"""
)
SUMS = operators("add sub rsub subtract maximum minimum fmax fmin complex")
BOUNDS = operators("clamp clamp_min clamp_max clip hardtanh")
PRODUCTS = operators("mul multiply")
QUOTIENTS = operators("div divide true_divide")
INFINITE_AT_ZERO = operators("log log2 log10 rsqrt reciprocal logit")
OTHERS = operators(
    """mul multiply div divide true_divide floor_divide remainder fmod pow float_power where masked_fill lerp
    addcmul addcdiv eq ne lt le gt ge not_equal less less_equal greater greater_equal logical_and logical_or
    logical_xor logical_not bitwise_and bitwise_or bitwise_xor bitwise_not bitwise_left_shift
    bitwise_right_shift __and__ __or__ __xor__ sigmoid softplus hardsigmoid log_sigmoid log_sigmoid_forward
    threshold exp exp2 cos acos acosh arccos arccosh cosh erfc atan2 arctan2 isnan isinf isfinite isposinf
    isneginf isclose signbit sinc hypot heaviside copysign logaddexp logaddexp2 lgamma digamma i0 polar angle
    copy fill zeros_like ones_like full_like empty_like rand_like randn_like bernoulli xlogy"""
)


def pointwise(call: Call) -> Result:
    """All tensor operands meet, with broadcasting."""
    flows = call.flows()
    _refuse_infinity(call)
    # Without axes and labels: whatever meets it first stays as it is.
    met = Flow(())
    for flow in flows:
        met = call.space.meet(met, flow, call.reason("combines it with a fixed size"))
    aligned = [with_rank(flow, len(met.shape)) for flow in flows]
    first = replace(met, shape=call.shape, is_zeroed=_keeps_zero(call, met, aligned))
    return first if len(call.shapes) == 1 else [first, *(Flow(shape) for shape in call.shapes[1:])]


def _refuse_infinity(call: Call) -> None:
    """What a mask makes zero must not be divided by: the masked network would compute NaN."""
    divisors = {**dict.fromkeys(QUOTIENTS, 1), **dict.fromkeys(INFINITE_AT_ZERO, 0)}
    position = divisors.get(call.name)
    if position is not None and len(call.args) > position:
        divisor = call.args[position]
        if isinstance(divisor, Flow) and divisor.is_zeroed:
            call.space.freeze_flow(divisor, f"{call.where} is not defined at zero")


def _keeps_zero(call: Call, met: Flow, flows: Sequence[Flow]) -> bool:
    zero_in = partial(call.space.are_zeroed, met.layers)
    # One factor that is zero is enough.
    if call.name in ZERO_AT_ZERO or call.name in PRODUCTS:
        return zero_in(flows)
    if call.name in QUOTIENTS:
        return zero_in(flows[:1])
    if call.name == "copy":
        return zero_in(flows[1:])
    if call.name == "zeros_like":
        return True
    if call.name in SUMS:
        # A sum, like the larger of two, needs zeros in all operands.
        numbers = [arg for arg in call.args[:2] if not isinstance(arg, Flow)]
        return not any(numbers) and all(zero_in([flow]) for flow in flows)
    if call.name in BOUNDS:
        return _is_zero_inside(call) and zero_in(flows)
    if call.name == "pow":
        exponent = call.args[1]
        return not isinstance(exponent, Flow) and exponent > 0 and zero_in(flows)
    if call.name == "masked_fill":
        return call.args[2] == 0 and zero_in(flows[:1])
    return call.name == "where" and len(flows) == 3 and all(zero_in([flow]) for flow in flows[1:])


def _is_zero_inside(call: Call) -> bool:
    low, high = call.arg(1, "min"), call.arg(2, "max")
    if call.name == "clamp_max":
        low, high = None, low
    if isinstance(low, Flow) or isinstance(high, Flow):
        return False
    return (low is None or low <= 0) and (high is None or high >= 0)


def parametric_relu(call: Call) -> Result:
    """PReLU: one slope for every channel (axis 1), or one for all."""
    flow, slope = call.args[0], call.args[1]
    if slope.shape != (1,) and len(flow.shape) > 2:
        slope = slope.unsqueezed(*range(1, len(flow.shape) - 1))
    met = call.space.meet(flow, slope, call.reason("combines it with a fixed size"))
    return replace(met, is_zeroed=call.space.are_zeroed(met.layers, [flow]))


RULES: dict[str, Rule] = {
    **dict.fromkeys((*ZERO_AT_ZERO, *SUMS, *BOUNDS, *INFINITE_AT_ZERO, *OTHERS), pointwise),
    "prelu": parametric_relu,
    "_prelu_kernel": pointwise,
}
