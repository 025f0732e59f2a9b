"""Multiply-accumulates of one traced operator: what costs them, by which rule, and what is free.

Every rule is an fvcore handle: it takes the operator's traced inputs and outputs and returns
``{name: MACs}``. Rules of counting, where publications differ:

* Biases, normalisation, activations and element-wise products are free: only matrix-like work counts.
* A convolution counts output positions x kernel x Cin / groups x Cout, padding included.
* A transposed convolution counts the products really made: *input* positions x kernel x Cin / groups x
  Cout. Papers that count per output bin publish stride times more.
* An FFT of length n counts n / 2 x log2(n) complex products of 4 real MACs, the radix-2 count, for real
  signals too (a real-input FFT may save half of it). The analysis window is free.
* A product of two complex numbers counts 4 real MACs, of a real and a complex one 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

# (traced inputs, traced outputs) -> MACs by name. Values are torch._C.Value, which has no public type.
Rule = Callable[[Sequence[Any], Sequence[Any]], dict[str, int]]


def _shape(value: Any) -> list[int]:
    sizes = value.type().sizes() if value.isCompleteTensor() else None
    if sizes is None:
        raise ValueError(f"the shape of {value.debugName()} ({value.node().kind()}) was not traced")
    return list(sizes)


def _elements(value: Any) -> list[Any]:
    """The traced values of a list argument."""
    return list(value.node().inputs())


def _is_list(value: Any) -> bool:
    return value.type().kind() == "ListType"


def _real_macs(*operands: Any) -> int:
    """Real MACs of one product of these operands: 1, 2 or 4."""
    return 2 ** sum("Complex" in str(value.type().scalarType()) for value in operands)


def _product(first: int) -> Rule:
    """Matrix product of arguments ``first`` and ``first + 1``, vectors and broadcasting included."""

    def rule(inputs: Sequence[Any], outputs: Sequence[Any]) -> dict[str, int]:
        left, right = inputs[first], inputs[first + 1]
        return {"matmul": math.prod(_shape(outputs[0])) * _shape(left)[-1] * _real_macs(left, right)}

    return rule


def _linear(inputs: Sequence[Any], outputs: Sequence[Any]) -> dict[str, int]:
    signal, weight = inputs[:2]
    tokens = math.prod(_shape(signal)[:-1])
    return {"linear": tokens * math.prod(_shape(weight)) * _real_macs(signal, weight)}


def _convolution(transposed_at: int | None, always_transposed: bool = False) -> Rule:
    """``transposed_at``: the index of the boolean argument that says so, where the operator has one."""

    def rule(inputs: Sequence[Any], outputs: Sequence[Any]) -> dict[str, int]:
        signal, weight = inputs[:2]
        kernel = _shape(weight)
        dimensions = len(kernel) - 2
        transposed = always_transposed
        if transposed_at is not None:
            transposed = bool(inputs[transposed_at].toIValue())
        positions = _shape(signal) if transposed else _shape(outputs[0])
        batch = math.prod(positions[: -dimensions - 1])
        # The kernel is (Cout, Cin / groups, ...) or, transposed, (Cin, Cout / groups, ...).
        macs = batch * math.prod(positions[-dimensions:]) * math.prod(kernel) * _real_macs(signal, weight)
        return {"conv_transpose" if transposed else "conv": macs}

    return rule


def _recurrent(name: str, weights_at: int | None) -> Rule:
    """Every weight matrix of every layer and direction is used once per step; biases are no products.

    ``weights_at``: the index of the list of weights (one further on for a packed sequence, whose second
    argument is its batch sizes), or None where the weights are arguments of their own (a cell).
    """

    def rule(inputs: Sequence[Any], outputs: Sequence[Any]) -> dict[str, int]:
        if weights_at is None:
            weights = [value for value in inputs[2:4]]
        else:
            packed = not _is_list(inputs[weights_at])
            weights = _elements(inputs[weights_at + packed])
        per_step = sum(math.prod(_shape(weight)) for weight in weights if len(_shape(weight)) == 2)
        return {name: math.prod(_shape(inputs[0])[:-1]) * per_step}

    return rule


def _attention(inputs: Sequence[Any], outputs: Sequence[Any]) -> dict[str, int]:
    """Scores and weighted values of scaled dot-product attention; every head of the query counts."""
    query, key, value = (_shape(v) for v in inputs[:3])
    return {"attention": math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])}


def _self_attention_macs(query: list[int], key: list[int], width: int) -> dict[str, int]:
    """Multi-head attention over (batch, token, width): four projections, then :func:`_attention`."""
    tokens, key_tokens = math.prod(query[:-1]), math.prod(key[:-1])
    return {
        "linear": 2 * (tokens + key_tokens) * width * width,
        "attention": 2 * tokens * key[-2] * width,
    }


def _fused_attention(inputs: Sequence[Any], outputs: Sequence[Any]) -> dict[str, int]:
    return _self_attention_macs(_shape(inputs[0]), _shape(inputs[1]), inputs[3].toIValue())


def _fused_encoder_layer(inputs: Sequence[Any], outputs: Sequence[Any]) -> dict[str, int]:
    tokens = _shape(inputs[0])
    macs = _self_attention_macs(tokens, tokens, inputs[1].toIValue())
    matrices = [_shape(v) for v in inputs[10:] if v.isCompleteTensor() and len(_shape(v)) == 2]
    feed_forward = sum(math.prod(matrix) for matrix in matrices[:2])
    return macs | {"linear": macs["linear"] + math.prod(tokens[:-1]) * feed_forward}


def fft_macs(length: int, transforms: int = 1) -> int:
    """Real MACs of ``transforms`` FFTs of ``length`` points: n / 2 x log2(n) complex products each."""
    return round(transforms * length / 2 * math.log2(length) * 4) if length > 1 else 0


def _stft(inputs: Sequence[Any], outputs: Sequence[Any]) -> dict[str, int]:
    shape = _shape(outputs[0])
    if "Complex" not in str(outputs[0].type().scalarType()):
        shape = shape[:-1]
    frames = math.prod(shape[:-2]) * shape[-1]
    return {"fft": fft_macs(inputs[1].toIValue(), frames)}


def _istft(inputs: Sequence[Any], outputs: Sequence[Any]) -> dict[str, int]:
    shape = _shape(inputs[0])
    return {"fft": fft_macs(inputs[1].toIValue(), math.prod(shape[:-2]) * shape[-1])}


def _fft(length_from_output: bool) -> Rule:
    """One-dimensional transforms; the length is read where it is not halved."""

    def rule(inputs: Sequence[Any], outputs: Sequence[Any]) -> dict[str, int]:
        dimension = inputs[2].toIValue()
        length = inputs[1].toIValue() if inputs[1].node().kind() == "prim::Constant" else None
        shape = _shape(outputs[0] if length_from_output else inputs[0])
        transforms = math.prod(shape) // max(shape[dimension], 1)
        return {"fft": fft_macs(length or shape[dimension], transforms)}

    return rule


def _einsum(inputs: Sequence[Any], outputs: Sequence[Any]) -> dict[str, int]:
    equation = inputs[0].toIValue().replace(" ", "")
    operands = _elements(inputs[1])
    shapes = [_shape(operand) for operand in operands]
    return {"einsum": einsum_macs(equation, shapes) * _real_macs(*operands)}


def einsum_macs(equation: str, shapes: Sequence[Sequence[int]]) -> int:
    """Products of an einsum contracted from left to right; one operand alone needs none."""
    terms, arrow, result = equation.partition("->")
    labels = [_labels(term, len(shape)) for term, shape in zip(terms.split(","), shapes, strict=True)]
    sizes: dict[str, int] = {}
    for term, shape in zip(labels, shapes, strict=True):
        for label, size in zip(term, shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))  # a broadcast dimension has size 1 somewhere
    flat = [label for term in labels for label in term]
    kept = set(result) if arrow else {label for label in flat if flat.count(label) == 1}
    kept |= {label for label in flat if label.isdigit()}
    total, current = 0, set(labels[0])
    for position, term in enumerate(labels[1:], start=1):
        current |= set(term)
        total += math.prod(sizes[label] for label in current)
        later = {label for other in labels[position + 1 :] for label in other}
        current &= kept | later
    return total


def _labels(term: str, dimensions: int) -> list[str]:
    """One label per dimension; those an ellipsis stands for are numbered from the last."""
    if "..." not in term:
        return list(term)
    before, after = term.split("...")
    hidden = dimensions - len(before) - len(after)
    return [*before, *(str(i) for i in reversed(range(hidden))), *after]


_CONVOLUTION = _convolution(None)
_TRANSPOSED = _convolution(None, always_transposed=True)

COUNTED: dict[str, Rule] = {
    "aten::linear": _linear,
    **{f"aten::{name}": _product(0) for name in ("matmul", "mm", "bmm", "mv", "dot", "vdot", "inner")},
    **{f"aten::{name}": _product(1) for name in ("addmm", "baddbmm", "addmv")},
    "aten::einsum": _einsum,
    "aten::_convolution": _convolution(6),
    "aten::convolution": _convolution(6),
    "aten::_convolution_mode": _CONVOLUTION,
    **{f"aten::conv{n}d": _CONVOLUTION for n in (1, 2, 3)},
    **{f"aten::conv_transpose{n}": _TRANSPOSED for n in ("1d", "2d", "3d")},
    **{f"aten::{name}": _recurrent(name, 2) for name in ("rnn_tanh", "rnn_relu", "gru", "lstm")},
    # Traced cells may be single operators or, in newer versions, two aten::linear: the count is the same.
    **{f"aten::{name}": _recurrent(name, None) for name in ("rnn_tanh_cell", "rnn_relu_cell", "gru_cell", "lstm_cell")},
    "aten::scaled_dot_product_attention": _attention,
    "aten::_native_multi_head_attention": _fused_attention,
    "aten::_transformer_encoder_layer_fwd": _fused_encoder_layer,
    "aten::stft": _stft,
    "aten::istft": _istft,
    **{f"aten::fft_{name}": _fft(False) for name in ("rfft", "fft", "ifft", "ihfft")},
    **{f"aten::fft_{name}": _fft(True) for name in ("irfft", "hfft")},
}

# Free by name, so that an operator nobody thought of is an error and never a silent zero.
_FREE = """
abs acos acosh add addcdiv addcmul alias all amax amin angle any arange argmax argmin argsort as_strided
as_tensor asin asinh atan atan2 atanh avg_pool1d avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d
adaptive_max_pool1d adaptive_max_pool2d bartlett_window batch_norm bernoulli bincount bitwise_and
bitwise_not bitwise_or bitwise_xor blackman_window broadcast_tensors broadcast_to bucketize cat ceil celu
chunk clamp clamp_max col2im clamp_min clone column_stack complex concat concatenate conj conj_physical
constant_pad_nd contiguous copy copysign cos cosh count_nonzero cummax cummin cumprod cumsum
deg2rad detach diag diag_embed diagonal diff dim div divide dropout dropout2d dstack elu embedding empty
empty_like empty_strided eq erf erfc exp exp2 expand expand_as expm1 eye feature_dropout flatten flip
fliplr floor floor_divide fft_fftfreq fft_fftshift fft_ifftshift fft_rfftfreq fmod frac full full_like
gather ge gelu glu greater group_norm gt hamming_window hann_window hardshrink hardsigmoid hardswish
hardtanh heaviside hsplit hstack imag im2col index index_add index_copy index_fill index_put index_select
instance_norm is_complex is_floating_point isfinite isinf isnan item kaiser_window layer_norm le
leaky_relu lerp less lift_fresh linalg_vector_norm linspace log log10 log1p log2 log_sigmoid log_softmax
logaddexp logical_and logical_not logical_or logical_xor logit logspace logsumexp lt masked_fill
masked_scatter masked_select max max_pool1d max_pool2d maximum mean median meshgrid min minimum mish
movedim mul multinomial multiply nan_to_num narrow native_batch_norm native_group_norm native_layer_norm
ne neg negative new_empty new_full new_ones new_zeros nonzero norm normal not_equal numel numpy_T
one_hot ones ones_like pad permute pixel_shuffle pixel_unshuffle polar positive pow prelu prod quantile
rand rand_like randint randn randn_like randperm ravel real reciprocal reflection_pad1d
reflection_pad2d relu relu6 remainder renorm repeat repeat_interleave replication_pad1d
replication_pad2d reshape reshape_as resolve_conj resolve_neg rms_norm roll round rrelu rsqrt rsub
scalar_tensor scatter scatter_add searchsorted select select_scatter selu sgn shape sigmoid sign signbit
silu sin sinc sinh size slice slice_scatter softmax softplus softshrink softsign sort split
split_with_sizes sqrt square squeeze stack std std_mean sub subtract sum swapaxes swapdims t take tan
tanh tanhshrink tensor tensor_split threshold tile to topk transpose tril triu true_divide trunc type_as
unbind unflatten unfold unsafe_chunk unsafe_split unsqueeze upsample_linear1d upsample_nearest1d
upsample_nearest2d upsample_bilinear2d var var_mean view view_as view_as_complex view_as_real vsplit vstack
where xlogy zero zeros zeros_like
_conj _softmax _log_softmax _to_copy _unsafe_view _shape_as_tensor _reshape_alias _weight_norm
_weight_norm_interface __and__ __or__ __xor__ _pack_padded_sequence _pad_packed_sequence
Int Float Bool ScalarImplicit IntImplicit FloatImplicit Complex
"""

# In-place forms end in an underscore.
FREE = frozenset(f"aten::{name}{ending}" for name in _FREE.split() for ending in ("", "_"))
