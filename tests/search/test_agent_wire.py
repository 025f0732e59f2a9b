"""The walk over an ONNX file: what it refuses, and that no bytes make it hang or fail otherwise."""

import random
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from streaming_onnx import streaming_model

from search.agent import onnx_wire
from search.agent.errors import Refused
from search.agent.onnx_wire import check_model

FLOAT = TensorProto.FLOAT


def value(name, shape=(1, 4)):
    return helper.make_tensor_value_info(name, FLOAT, shape)


def model(nodes=(), inputs=None, **parts):
    functions = parts.pop("functions", [])
    graph = helper.make_graph(list(nodes), "g", inputs or [value("x")], [value("y")], **parts)
    return helper.make_model(graph, functions=functions)


def external(name="w"):
    tensor = numpy_helper.from_array(np.ones(4, np.float32), name)
    onnx.external_data_helper.set_external_data(tensor, location="/etc/passwd")
    return tensor


def refusal(proto):
    with pytest.raises(Refused) as refused:
        check_model(proto if isinstance(proto, bytes) else proto.SerializeToString())
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return streaming_model(tmp_path_factory.mktemp("m") / "m.onnx", hop=64).read_bytes()


def test_a_streaming_model_passes(good):
    assert check_model(good) is None


def _in_branch(attribute_or_node):
    branch = helper.make_graph([attribute_or_node], "b", [], [value("z")])
    return helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)


def test_external_data_is_found_wherever_it_hides():
    constant = helper.make_node("Constant", [], ["y"], value=external())
    sparse = helper.make_sparse_tensor(external(), numpy_helper.from_array(np.arange(4), "i"), [4])
    function = helper.make_function("own", "F", ["x"], ["y"], [constant], [helper.make_opsetid("", 17)])
    unset = numpy_helper.from_array(np.ones(4, np.float32), "w")
    unset.external_data.add(key="location", value="w.bin")  # although data_location says otherwise
    spots = [
        model(initializer=[external()]),
        model(initializer=[unset]),
        model([constant]),
        model([_in_branch(constant)]),
        model([_in_branch(_in_branch(constant))]),
        model(sparse_initializer=[sparse]),
        model([helper.make_node("Constant", [], ["y"], sparse_value=sparse)]),
        model([helper.make_node("X", [], ["y"], tensors=[external()])]),
        model(functions=[function]),
    ]
    for spot in spots:
        assert "another file" in refusal(spot)


@pytest.mark.parametrize(
    ("operator", "domain", "passes"),
    [
        ("Add", "", True),
        ("Add", "ai.onnx", True),
        ("Add", "ai.onnx.ml", False),
        ("QLinearAdd", "com.microsoft", True),
        ("DynamicQuantizeLSTM", "com.microsoft", True),
        ("EPContext", "com.microsoft", False),
        ("QLinearAdd", "com.microsoft.more", False),
        ("Thing", "custom", False),
        ("Thing", "\u00e9\n" * 100, False),
    ],
)
def test_operators_are_standard_or_of_the_quantiser(operator, domain, passes):
    plain = helper.make_node(operator, ["x"], ["y"], domain=domain)
    for node in (plain, _in_branch(plain)):
        if passes:
            check_model(model([node]).SerializeToString())
        else:
            assert "is not standard ONNX" in refusal(model([node]))


def test_functions_of_the_model_may_be_called_and_are_looked_into():
    def calling(inner, domain="own"):
        body = [helper.make_node("Add", ["x", "x"], ["y"], domain=inner)]
        function = helper.make_function(domain, "F", ["x"], ["y"], body, [helper.make_opsetid("", 17)])
        return model([helper.make_node("F", ["x"], ["y"], domain=domain)], functions=[function])

    check_model(calling("").SerializeToString())
    assert "of the domain 'evil'" in refusal(calling("evil"))
    for taken in ("com.microsoft", "ai.onnx", "", "com.ms.internal.nhwc"):
        assert "without a name or domain of its own" in refusal(calling("", taken))


@pytest.mark.parametrize("shape", [(1, "n"), (1, None), (1, 0), (-1, 4), (2**40, 1)])
def test_inputs_have_static_shapes(shape):
    assert "dynamic shape" in refusal(model(inputs=[value("a"), value("x", shape)]))


def test_inputs_are_tensors_with_a_shape():
    assert "no shape" in refusal(model(inputs=[value("x", None)]))
    sequence = helper.make_tensor_sequence_value_info("x", FLOAT, [1])
    assert "no tensor" in refusal(model(inputs=[sequence]))
    check_model(model(inputs=[value("x", ())]).SerializeToString())


@pytest.mark.parametrize(
    "content", [b"", b"\x00", b"no model at all", b"\xff" * 40, b"1234ORTM" + bytes(99), b"\x3b\x3c"]
)
def test_what_is_no_model_is_refused(content):
    refusal(content)


def test_repeated_and_overlong_fields_do_not_get_around_it(good):
    """Protobuf merges a second graph into the first and lets the last of two domains win."""
    evil = model([helper.make_node("Add", ["x"], ["y"], domain="evil")]).SerializeToString()
    assert "evil" in refusal(good + evil)
    node = helper.make_node("Add", ["x"], ["y"], domain="evil").SerializeToString() + b"\x3a\x00"
    graph = b"\x0a" + bytes([len(node)]) + node
    assert "two" in refusal(b"\x3a" + bytes([len(graph)]) + graph)
    tensor = b"\x70\x81\x80\x80\x80\x10"  # data_location, whose low 32 bits say EXTERNAL
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    assert "another file" in refusal(b"\x3a" + bytes([len(graph)]) + graph)


def test_depth_and_number_of_parts_are_bounded(monkeypatch):
    node = helper.make_node("Add", ["x"], ["y"])
    for _ in range(30):
        node = _in_branch_once(node)
    assert "nested" in refusal(model([node]))
    monkeypatch.setattr(onnx_wire, "MAX_FIELDS", 100)
    assert "too many parts" in refusal(model([helper.make_node("Add", ["x"], ["y"])] * 200))


def _in_branch_once(node):
    return helper.make_node("If", ["c"], ["y"], then_branch=helper.make_graph([node], "b", [], [value("z")]))


def test_the_largest_of_files_takes_seconds_at_most():
    began = time.perf_counter()
    refusal(b"\x08\x00" * 10**6)
    assert time.perf_counter() - began < 20  # 1.5 s; the margin is for a loaded machine


def test_no_bytes_make_it_fail_otherwise(good):
    rng = random.Random(0)
    for cut in range(0, len(good), 7):
        _either(good[:cut])
    for _ in range(400):
        damaged = bytearray(good)
        for _ in range(rng.choice((1, 3, 20))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        _either(bytes(damaged))
        _either(rng.randbytes(rng.randrange(200)))


def _either(content):
    try:
        check_model(content)
    except Refused as refused:
        assert str(refused)


def test_what_is_cut_off_is_refused_unless_it_ends_with_a_whole_graph(good):
    end = max(i for i in range(len(good)) if _passes(good[:i]))
    assert onnx.ModelProto.FromString(good[:end]).graph == onnx.ModelProto.FromString(good).graph


def _passes(content):
    try:
        check_model(content)
    except Refused:
        return False
    return True
