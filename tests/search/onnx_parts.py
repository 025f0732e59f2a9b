"""ONNX graphs of one or a few nodes for tests."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

KINDS = {"f": TensorProto.FLOAT, "u": TensorProto.UINT8, "i": TensorProto.INT32, "b": TensorProto.BOOL}
DTYPES = {"f": np.float32, "u": np.uint8, "s": np.int8, "i": np.int32, "l": np.int64}


def node(operator, inputs, outputs, **attributes):
    """Names are written in one string; ``-`` stands for an absent input."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(operator, names, outputs.split(), **attributes)


def weight(name, shape, kind="f", value=None):
    values = np.full(shape, 1) if value is None else np.asarray(value)
    return numpy_helper.from_array(values.astype(DTYPES[kind]), name)


def info(name, shape=None, kind="f"):
    return helper.make_tensor_value_info(name, KINDS[kind], shape)


def save(path, nodes, inputs, outputs, weights=(), opset=17):
    """``inputs``: name to shape or to (shape, kind); ``outputs``: infos or names whose shapes follow."""
    given = [info(name, *(shape if isinstance(shape, tuple) else (shape,))) for name, shape in inputs.items()]
    taken = [onnx.ValueInfoProto(name=output) if isinstance(output, str) else output for output in outputs]
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(list(nodes), "parts", given, taken, list(weights))
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path
