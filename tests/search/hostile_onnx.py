"""Models that are valid and mean harm."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

VALUE = helper.make_tensor_value_info


def endless_model():
    """Bytes of a streaming model whose first frame never ends."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_on"], ["still"]), helper.make_node("Sin", ["a"], ["b"])],
        "body",
        [
            VALUE("i", TensorProto.INT64, []),
            VALUE("go_on", TensorProto.BOOL, []),
            VALUE("a", TensorProto.FLOAT, [1, 4]),
        ],
        [VALUE("still", TensorProto.BOOL, []), VALUE("b", TensorProto.FLOAT, [1, 4])],
    )
    most = numpy_helper.from_array(np.array(2**63 - 1), "most")
    true = numpy_helper.from_array(np.array(True), "true")
    return _model([helper.make_node("Loop", ["most", "true", "mix"], ["enh"], body=body)], [most, true])


def hungry_model():
    """Bytes of a streaming model whose first frame wants 64 GiB."""
    shape = numpy_helper.from_array(np.array([2**17, 2**17]), "shape")
    nodes = [
        helper.make_node("Expand", ["one", "shape"], ["large"]),
        helper.make_node("ReduceMean", ["mix"], ["one"], keepdims=1, axes=[0, 1]),
        helper.make_node("ReduceMax", ["large"], ["small"], keepdims=0),
        helper.make_node("Add", ["mix", "small"], ["enh"]),
    ]
    return _model([nodes[1], nodes[0], *nodes[2:]], [shape])


def _model(nodes, weights):
    value = [VALUE(name, TensorProto.FLOAT, [1, 4]) for name in ("mix", "enh")]
    graph = helper.make_graph(nodes, "hostile", value[:1], value[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
