"""Tiny streaming ONNX models for tests."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def streaming_model(path, *, shape=(1, 33, 1, 2), hop=None, size=8, repeat=1, state_out=None, kind=TensorProto.FLOAT):
    """Writes a model whose state takes ``repeat`` matrix products a frame and adds a value to its signal."""
    state = [1, size]
    weight = numpy_helper.from_array(np.eye(size, dtype=np.float32) * 0.5, "weight")
    nodes = [helper.make_node("MatMul", ["state", "weight"], ["m0"])]
    for i in range(1, repeat):
        nodes.append(helper.make_node("MatMul", [f"m{i - 1}", "weight"], [f"m{i}"]))
    nodes += [
        helper.make_node("ReduceMean", ["mix"], ["level"], keepdims=1, axes=list(range(1, len(shape)))),
        helper.make_node("Reshape", ["level", "flat"], ["level2"]),
        helper.make_node("Add", [f"m{repeat - 1}", "level2"], ["state_out"]),
        helper.make_node("ReduceMean", ["state_out"], ["gain"], keepdims=0),
        helper.make_node("Add", ["mix", "gain"], ["enh"]),
    ]
    graph = helper.make_graph(
        nodes,
        "streaming",
        [helper.make_tensor_value_info("mix", kind, list(shape)),
         helper.make_tensor_value_info("state", TensorProto.FLOAT, state)],
        [helper.make_tensor_value_info("enh", kind, list(shape)),
         helper.make_tensor_value_info("state_out", TensorProto.FLOAT, state_out or state)],
        [weight, numpy_helper.from_array(np.array([1, 1], np.int64), "flat")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if hop:
        helper.set_model_props(model, {"hop_length": str(hop), "sample_rate": "16000"})
    onnx.save(model, path)
    return path
