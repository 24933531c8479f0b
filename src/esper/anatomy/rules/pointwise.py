"""Operators that work element by element: labels that meet are equal."""

from __future__ import annotations

from esper.anatomy.labels import Flow
from esper.anatomy.rules.call import Call, Result, Rule

POINTWISE = frozenset(
    "add sub rsub mul div true_divide floor_divide remainder fmod pow maximum minimum fmax fmin where masked_fill lerp addcmul addcdiv "
    "eq ne lt le gt ge logical_and logical_or logical_xor logical_not bitwise_and bitwise_or bitwise_not "
    "relu relu6 gelu silu mish sigmoid tanh softplus softsign softshrink hardshrink tanhshrink elu selu celu leaky_relu "
    "rrelu hardswish hardtanh hardsigmoid log_sigmoid log_sigmoid_forward threshold exp expm1 log log1p log2 log10 sqrt rsqrt "
    "square reciprocal neg abs sign sin cos tan asin acos atan atan2 sinh cosh erf erfc erfinv floor ceil round trunc frac "
    "clamp clamp_min clamp_max clip nan_to_num isnan isinf isfinite sinc hypot logit copy fill masked_fill_ "
    "square_ zeros_like ones_like full_like empty_like rand_like randn_like bernoulli __and__ __or__ xlogy".split()
)


def pointwise(call: Call) -> Result:
    """All tensor operands meet, with broadcasting."""
    flows = call.flows()
    met = Flow(())
    for flow in flows:
        met = call.space.meet(met, flow, f"{call.where} combines it with a fixed size")
    return Flow(call.shape, met.layers) if len(met.shape) == len(call.shape) else call.unlabelled()


def parametric_relu(call: Call) -> Result:
    """PReLU: one slope for every channel (axis 1), or one for all."""
    flow, slope = call.args[0], call.args[1]
    if slope.shape != (1,) and len(flow.shape) > 2:
        slope = slope.unsqueezed(*range(1, len(flow.shape) - 1))
    return call.space.meet(flow, slope, f"{call.where} combines it with a fixed size")


RULES: dict[str, Rule] = {**dict.fromkeys(POINTWISE, pointwise), "prelu": parametric_relu, "_prelu_kernel": pointwise}
