"""Weights as int8: their scales, and which of a graph's tensors are weights and nothing else."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sekd.int8_weights import quantise, store_as_int8


def test_a_scale_for_each_channel():
    weight = np.array([[[1.0, -0.5], [0.0, 0.0], [254.0, 100.0]]], np.float32)
    values, scale = quantise(weight, (0, 1))
    assert values.tolist() == [[[127, -64], [0, 0], [127, 50]]]
    assert np.allclose(scale[0, :, 0], [1 / 127, 1, 2])
    assert quantise(weight, (-1,))[1].shape == (1, 1, 2)


def graph_of(*nodes: onnx.NodeProto, **weights: np.ndarray) -> onnx.GraphProto:
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    return helper.make_graph(nodes, "g", [], [], tensors)


def test_a_weight_that_something_else_reads_stays_in_float():
    weight = np.random.default_rng(0).standard_normal((32, 32))
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    for other in (helper.make_node("Add", ["x", "w"], ["z"]), helper.make_node("Gemm", ["x", "w"], ["z"], transB=1)):
        graph = graph_of(product, other, w=weight)
        store_as_int8(graph)
        assert [tensor.name for tensor in graph.initializer] == ["w"] and len(graph.node) == 2
    graph = graph_of(product, helper.make_node("MatMul", ["v", "w"], ["z"]), w=weight)
    store_as_int8(graph)
    assert [tensor.name for tensor in graph.initializer] == ["w_int8", "w_int8_scale"]


def test_a_weight_read_in_a_branch_stays_in_float():
    branch = graph_of(helper.make_node("MatMul", ["x", "w"], ["b"]))
    choice = helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    graph = graph_of(helper.make_node("MatMul", ["x", "w"], ["y"]), choice, w=np.ones((32, 32)))
    store_as_int8(graph)
    assert [tensor.name for tensor in graph.initializer] == ["w"]


def test_a_weight_too_small_to_gain_stays_in_float():
    graph = graph_of(helper.make_node("Conv", ["x", "w"], ["y"]), w=np.ones((8, 1, 1, 1)))
    store_as_int8(graph)
    assert [tensor.name for tensor in graph.initializer] == ["w"]
