"""Operators that compute are admitted; those that read, write or believe memory are not."""

from __future__ import annotations

import pytest

from esper.anatomy.archive.names import NotAdmitted
from esper.anatomy.archive.operators import operator


@pytest.mark.parametrize(
    "name",
    [
        "torch.ops.aten.add.Tensor",
        "torch.ops.aten.relu_.default",
        "torch.ops.aten.__and__.Tensor",
        "torch.ops.aten.div.Tensor_mode",
        "torch.ops.aten.einsum.default",
        "torch.ops.aten.lstm.input",
        "torch.ops.aten.sym_size.int",
        "torch.ops.aten._assert_scalar.default",
        "torch.ops.aten.cross_entropy_loss.default",
        "torch.ops.higher_order.wrap_with_autocast",
        "torch.ops.higher_order.cond",
        "_operator.floordiv",
        "torch.sym_max",
    ],
)
def test_what_computes_is_admitted(name: str) -> None:
    assert operator(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "torch.os.system",
        "torch.load",
        "torch.ops.load_library",
        "torch.ops.aten.add.__class__",
        "torch.ops.aten.__dict__.update",
        "torch.ops.aten.add",
        "torch.ops.aten.save.default",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten._print.default",
        "torch.ops.aten.set_.source_Storage",
        "torch.ops.aten.set_.source_Tensor_storage_offset",
        "torch.ops.aten.fbgemm_linear_int8_weight.default",
        "torch.ops.aten.record_stream.default",
        "torch.ops.quantized.linear.default",
        "torch.ops.c10d.broadcast_.default",
        "torch.ops.debugprims.load_tensor.default",
        "torch.ops.higher_order.call_torchbind",
        "torch.ops.higher_order.triton_kernel_wrapper_functional",
        "torch.ops.nobody.knows.default",
        "_operator.lshift",
        "_operator.methodcaller",
        "math.factorial",
        "#extension:op",
        "",
    ],
)
def test_what_does_more_is_not(name: str) -> None:
    with pytest.raises(NotAdmitted, match="the operator"):
        operator(name)
