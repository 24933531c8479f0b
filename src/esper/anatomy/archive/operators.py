"""The operators that a stored program may call: those that compute tensors from tensors and numbers.

torch would resolve any dotted path (`torch.os.system`), and among its own operators are some that read files,
print, take memory by its address, or believe packed weights to be what they say.
"""

from __future__ import annotations

import re
from functools import cache

import torch
from torch._ops import OpOverload

from esper.anatomy.archive.names import NotAdmitted, shown
from esper.anatomy.labels.rules import RULES

_ON_SIZES = {
    *(
        f"_operator.{name}"
        for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pos", "pow")
    ),
    *(f"_operator.{name}" for name in ("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_")),
    *(f"torch.sym_{name}" for name in ("not", "int", "float", "ite", "max", "min")),
    *("torch._sym_sqrt", "math.trunc"),
}
"""Arithmetic on sizes. Shifts are left out: they make numbers of any length from two small ones."""

_WITH_BODIES = {
    "wrap_with_set_grad_enabled",
    "wrap_with_autocast",
    "cond",
    "scan",
    "associative_scan",
    "while_loop",
}
"""Operators that call a graph of the same program."""

_OPERATOR = re.compile(r"torch\.ops\.([A-Za-z][A-Za-z0-9_]*)\.([A-Za-z0-9_]+)(?:\.([A-Za-z0-9_]+))?")
_VALUES = re.compile(r"(?:Optional\[|List\[)*(?:Tensor|int|float|bool|number|complex|Device)\]*")
_CHOICES = {
    *("approximate", "equation", "indexing", "interpolation", "mode", "norm", "ord", "p", "pad_mode"),
    *("padding", "padding_side", "reduce", "rounding_mode", "side", "driver", "UPLO", "assert_msg"),
}
"""Arguments of torch's own operators that are text: how something is computed, not what is read."""

_OWN = ("aten", "prims")
_TORCH = {
    *(
        "c10d",
        "_c10d_functional",
        "_c10d_functional_autograd",
        "symm_mem",
        "_dtensor",
        "inductor",
        "inductor_prims",
    ),
    *(
        "quantized",
        "_quantized",
        "quantization",
        "onednn",
        "mkldnn",
        "mkldnn_prepacked",
        "mkl",
        "sparse",
        "prim",
    ),
    *("static_runtime", "profiler", "debugprims", "debug_mode_ops", "rngprims", "export", "_native", "_test"),
}
"""Libraries that torch brings along for other purposes: processes, packed weights, raw memory, files."""


def operator(target: str) -> str:
    """The name of an operator that may be called.

    Raises:
        NotAdmitted: it may not, or this process does not know it.
    """
    parts = _OPERATOR.fullmatch(target)
    if target in _ON_SIZES or (parts and _is_admitted(*parts.groups())):
        return target
    raise NotAdmitted(
        f"the operator {shown(target)}, which does more than compute, or which nothing here defines "
        "(import the library that does)"
    )


@cache
def _is_admitted(library: str, name: str, overload: str | None) -> bool:
    if library == "higher_order":
        return name in _WITH_BODIES and overload is None
    if overload is None or library in _TORCH or name.startswith("__") is not name.endswith("__"):
        return False
    found = getattr(getattr(getattr(torch.ops, library), name, None), overload, None)
    # What only TorchScript knows (`aten::save`) has no kernel.
    if not isinstance(found, OpOverload) or not torch._C._dispatch_has_kernel(found.name()):
        return False
    return (library != "aten" or _computes(found, name)) and _takes_values(found, library in _OWN)


def _computes(found: OpOverload, name: str) -> bool:
    plain = name if name.startswith("__") else name.rstrip("_")
    return (
        plain in RULES or plain in _MORE or not {torch.Tag.core, torch.Tag.pointwise}.isdisjoint(found.tags)
    )


def _takes_values(found: OpOverload, is_own: bool) -> bool:
    return all(
        _VALUES.fullmatch(str(argument.type))
        or str(argument.type) == "Optional[Generator]"
        or (is_own and argument.name in _CHOICES and str(argument.type) in ("str", "Optional[str]"))
        for argument in found._schema.arguments
    )


_WORDS = """
addmv addr bilinear block_diag cdist _cdist_forward chain_matmul cholesky cholesky_inverse
cholesky_solve cosine_similarity cross det dist _euclidean_dist frobenius_norm ger inner
_int_mm inverse kron linalg_cholesky linalg_cholesky_ex linalg_cond linalg_cross _linalg_det
linalg_det linalg_diagonal linalg_eig linalg_eigh _linalg_eigh linalg_eigvals
_linalg_eigvals linalg_eigvalsh linalg_householder_product linalg_inv linalg_inv_ex
linalg_lstsq linalg_lu linalg_lu_factor linalg_lu_factor_ex linalg_lu_solve linalg_matmul
linalg_matrix_exp linalg_matrix_norm linalg_matrix_power linalg_matrix_rank linalg_multi_dot
linalg_norm linalg_pinv linalg_qr _linalg_slogdet linalg_slogdet linalg_solve
linalg_solve_ex _linalg_solve_ex linalg_solve_triangular linalg_svd _linalg_svd
linalg_svdvals linalg_tensorsolve linalg_vander linalg_vecdot logdet matrix_exp matrix_power
nuclear_norm pairwise_distance pinverse slogdet svd tensordot trace triangular_solve
_trilinear vander vdot

bartlett_window blackman_window fft_fftfreq fft_rfftfreq hamming_window hann_window istft
kaiser_window stft

_batch_norm_no_update _batch_norm_with_update _fused_rms_norm
_native_batch_norm_legit_functional _safe_softmax _scaled_dot_product_attention_math
_scaled_dot_product_cudnn_attention _scaled_dot_product_efficient_attention
_scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu

allclose aminmax argwhere bincount bucketize corrcoef cov cummax cummin cumulative_trapezoid
equal gradient histogram isin kthvalue masked_select mode msort multinomial nanmedian
nanquantile nonzero nonzero_static quantile renorm searchsorted segment_reduce trapezoid
_unique2 unique_consecutive unique_dim

affine_grid_generator alias_copy as_strided as_strided_copy as_strided_scatter atleast_1d
atleast_2d atleast_3d broadcast_tensors cartesian_prod _cast_Float column_stack combinations
_conj detach_copy diag diag_embed diagflat diagonal_copy diagonal_scatter diff dsplit dstack
embedding_bag embedding_renorm empty_permuted empty_strided expand_copy fill_diagonal fliplr
flipud hsplit hstack index_reduce item lift _local_scalar_dense mH masked_scatter matrix_H
max_unpool2d max_unpool3d meshgrid narrow_copy _neg_view new_empty_strided _pad_circular
_pad_enum pad_sequence permute_copy put range result_type rot90 row_stack select_copy
slice_copy slice_inverse split_copy split_with_sizes_copy squeeze_copy _stack sum_to_size
t_copy take take_along_dim transpose_copy unbind_copy unfold_copy _unsafe_index
_unsafe_index_put unsafe_split_with_sizes unsqueeze_copy view_as_complex_copy
view_as_real_copy view_copy vsplit vstack zero

conv_tbc _convolution_mode fractional_max_pool2d fractional_max_pool3d pdist _pdist_forward
_upsample_nearest_exact1d _upsample_nearest_exact3d

binomial cauchy exponential geometric log_normal normal normal_functional poisson
randint_like random randperm rrelu_with_noise _standard_gamma uniform

_assert_async _assert_scalar _functional_assert_async _functional_assert_scalar
_functional_sym_constrain_range _functional_sym_constrain_range_for_size _is_all_true
_is_any_true is_complex is_floating_point is_nonzero is_same_size logspace special_digamma
special_erf special_erfc special_erfinv special_exp2 special_expit special_expm1
special_gammainc special_gammaincc special_gammaln special_i0 special_log1p
special_log_softmax special_logit special_logsumexp special_multigammaln special_ndtr
special_polygamma special_psi special_round special_sinc special_softmax special_xlogy
sym_constrain_range sym_constrain_range_for_size sym_is_contiguous sym_numel sym_size
sym_storage_offset sym_stride
"""
"""Products and distances, transforms, recurrence and attention, order, shapes, pooling, chance, numbers."""
_MORE = frozenset(_WORDS.split())
"""Operators of `aten` beside those that Esper has a rule for and those marked as core or pointwise."""
