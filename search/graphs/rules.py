"""Multiply-accumulates of one ONNX operator: what costs them, by which rule, and what is free.

The conventions are those of :mod:`search.mac_rules`, for graphs as they lie in a file. Quantised forms count like
the ones they stand for: a multiplication of integers is a multiplication.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from search.mac_rules import einsum_macs, fft_macs

if TYPE_CHECKING:
    from onnx import NodeProto

Shapes = Callable[[str], list[int]]  # of a tensor by name; raises KeyError where it is not known
Rule = Callable[["NodeProto", Shapes], int]


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    from onnx import helper

    return next((helper.get_attribute_value(found) for found in node.attribute if found.name == name), default)


def _convolution(signal: int, kernel: int, *, transposed: bool = False) -> Rule:
    """The arguments that hold the signal and the kernel, which is (Cout, Cin / groups, ...) or, transposed,
    (Cin, Cout / groups, ...)."""

    def rule(node: NodeProto, shapes: Shapes) -> int:
        positions = shapes(node.input[signal] if transposed else node.output[0])
        return positions[0] * math.prod(positions[2:]) * math.prod(shapes(node.input[kernel]))

    return rule


def _product(left: int) -> Rule:
    """The argument on the left of a matrix product; vectors and broadcasting included."""

    def rule(node: NodeProto, shapes: Shapes) -> int:
        return math.prod(shapes(node.output[0])) * shapes(node.input[left])[-1]

    return rule


def _gemm(node: NodeProto, shapes: Shapes) -> int:
    rows_last = attribute(node, "transA", 0)
    return math.prod(shapes(node.output[0])) * shapes(node.input[0])[-2 if rows_last else -1]


def _packed_product(node: NodeProto, shapes: Shapes) -> int:
    """Weights of a few bits lie packed: their shape is an attribute."""
    return math.prod(shapes(node.output[0])) * attribute(node, "K", 0)


def _recurrent(node: NodeProto, shapes: Shapes) -> int:
    """Every weight of both matrices, of every direction, once per step of every signal of the batch."""
    steps = math.prod(shapes(node.input[0])[:2])
    return steps * sum(math.prod(shapes(name)) for name in node.input[1:3])


def _einsum(node: NodeProto, shapes: Shapes) -> int:
    equation = attribute(node, "equation", b"").decode().replace(" ", "")
    return einsum_macs(equation, [shapes(name) for name in node.input])


def _dft(node: NodeProto, shapes: Shapes) -> int:
    """Transforms of the longer of both sides (one-sided outputs are halved), two values for each point at most."""
    before, after = shapes(node.input[0]), shapes(node.output[0])
    if len(node.input) > 2:  # opset 20: the axis is a tensor, and the shapes alone may not tell which
        raise KeyError(node.input[2])
    axis = attribute(node, "axis", 1)
    length = max(before[axis], after[axis])
    return fft_macs(length, math.prod(before[:-1]) // max(before[axis], 1))


def _stft(node: NodeProto, shapes: Shapes) -> int:
    """Frames of the output times one transform of the window's length."""
    batch, frames, bins, _ = shapes(node.output[0])
    length = shapes(node.input[2])[0] if len(node.input) > 2 and node.input[2] else 2 * (bins - 1)
    return fft_macs(length, batch * frames)


COUNTED: dict[str, Rule] = {
    "Conv": _convolution(0, 1),
    "ConvInteger": _convolution(0, 1),
    "QLinearConv": _convolution(0, 3),
    "ConvTranspose": _convolution(0, 1, transposed=True),
    "MatMul": _product(0),
    "MatMulInteger": _product(0),
    "QLinearMatMul": _product(0),
    "Gemm": _gemm,
    "Einsum": _einsum,
    **dict.fromkeys(("GRU", "LSTM", "RNN"), _recurrent),
    "DFT": _dft,
    "STFT": _stft,
    # onnxruntime's own, of which only the quantised ones are known here.
    "com.microsoft.QLinearConv": _convolution(0, 3),
    "com.microsoft.MatMulIntegerToFloat": _product(0),
    "com.microsoft.DynamicQuantizeMatMul": _product(0),
    "com.microsoft.QGemm": _gemm,
    "com.microsoft.DynamicQuantizeLSTM": _recurrent,
    "com.microsoft.MatMulNBits": _packed_product,
}

# What cost models tell apart: operators of one kind run through the same kind of kernel.
KINDS: dict[str, str] = {
    **dict.fromkeys(("Conv", "ConvInteger", "QLinearConv", "com.microsoft.QLinearConv"), "conv"),
    "ConvTranspose": "conv_transpose",
    **dict.fromkeys(("GRU", "LSTM", "RNN", "com.microsoft.DynamicQuantizeLSTM"), "recurrent"),
    **dict.fromkeys(("DFT", "STFT"), "fft"),
}


def kind_of_operator(name: str) -> str:
    """Of a counted operator; whatever multiplies matrices is ``matmul``."""
    return KINDS.get(name, "matmul")


# Free by name, so that an operator nobody thought of is uncounted and never a silent zero.
_FREE = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Bernoulli BitShift
BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike Ceil Celu CenterCropPad Clip Col2Im Compress
Concat ConstantOfShape Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout DynamicQuantizeLinear Elu Equal Erf
Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gelu GlobalAveragePool GlobalMaxPool Greater
GreaterOrEqual GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If
InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization
LpPool Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Multinomial Neg NonZero Not OneHot Or PRelu Pad Pow
QuantizeLinear RMSNormalization RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal
ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare
Relu Reshape Resize ReverseSequence Round ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice
Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu Tile TopK Transpose
Trilu Unique Unsqueeze Upsample Where Xor
"""
_FREE_OF_ONNXRUNTIME = """
QLinearAdd QLinearAveragePool QLinearConcat QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearReduceMean
QLinearSigmoid QLinearSoftmax QLinearWhere QuantizeLinear DequantizeLinear
"""
FREE = frozenset([*_FREE.split(), *(f"com.microsoft.{name}" for name in _FREE_OF_ONNXRUNTIME.split())])


def name_of(node: NodeProto) -> str:
    """Operator type, with its domain where that is not ONNX's own."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
