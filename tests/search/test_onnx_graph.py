import math

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx_parts import info, node, save, weight
from streaming_onnx import streaming_model
from torch import nn

from search.cost import count_macs, with_graph
from search.graphs.graph import graph_facts
from search.graphs.rules import COUNTED, FREE
from search.record import Cost
from sekd.errors import InputError
from sekd.export import export_onnx
from sekd.models import ConvTasNetConfig, CruseConfig, DccrnConfig, build

FAMILIES = [
    CruseConfig(),
    CruseConfig(width=4, depth=2, bands=40, gru_groups=1),
    CruseConfig(width=16, norm_horizon_s=None, hop=128),
    CruseConfig(channels=(32, 64, 128, 192)),
    ConvTasNetConfig(),
    ConvTasNetConfig(filters=32, bottleneck=16, hidden=24, layers=3, hop=64, mask="relu", norm_horizon_s=None),
    DccrnConfig(),
    DccrnConfig(width=4, depth=4, rnn_width=16, hop=200),
]


def exported(config, folder, seed=0):
    torch.manual_seed(seed)
    network = build(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(seed * torch.randn_like(parameter))
    return network, graph_facts(export_onnx(network, folder / f"{seed}.onnx").path)


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.family)
def test_of_every_family_both_counters_agree_and_cover_all(config, tmp_path):
    network, facts = exported(config, tmp_path)
    counted = count_macs(network, network.example(), network.initial_state(), method="step", strict=False)
    assert facts.macs == counted.total
    assert (facts.coverage, facts.uncounted, counted.uncounted) == (1.0, {}, {})
    assert facts.hop_ms == network.hop / 16
    assert sum(facts.operators.values()) == facts.nodes


@pytest.mark.parametrize("config", FAMILIES[::3], ids=lambda config: config.family)
def test_training_does_not_change_the_hash_and_the_network_does(config, tmp_path):
    # An untrained network stores many equal weights once, a trained one each of them.
    assert exported(config, tmp_path)[1].graph_hash == exported(config, tmp_path, seed=1)[1].graph_hash
    hashes = {exported(other, tmp_path)[1].graph_hash for other in FAMILIES}
    assert len(hashes) == len(FAMILIES)


def one(tmp_path, operator, inputs, shapes, weights=(), outputs="y", opset=17, **attributes):
    made = node(operator, inputs, outputs, **attributes)
    return graph_facts(save(tmp_path / "one.onnx", [made], shapes, outputs.split(), weights, opset))


SCALES = (weight("s", []), weight("z", [], "u"))
Q = "x s z w s z s z"
MS = {"domain": "com.microsoft"}
# operator, inputs, shapes of what is fed, weights, attributes, MACs
QUANTISED = {
    "ConvInteger": ("x w", {"x": ([1, 3, 9], "u")}, [weight("w", [8, 3, 3], "u")], {"strides": [2]}, 4 * 3 * 3 * 8),
    "QLinearConv": (Q, {"x": ([1, 3, 9], "u")}, [weight("w", [8, 3, 3], "u"), *SCALES], {}, 7 * 3 * 3 * 8),
    "MatMulInteger": ("x w", {"x": ([2, 7, 10], "u")}, [weight("w", [10, 20], "u")], {}, 2 * 7 * 10 * 20),
    "QLinearMatMul": (Q, {"x": ([7, 10], "u")}, [weight("w", [10, 20], "u"), *SCALES], {}, 7 * 10 * 20),
    "QGemm": ("x s z w s z", {"x": ([7, 10], "u")}, [weight("w", [20, 10], "u"), *SCALES],
              {"transB": 1, **MS}, 7 * 10 * 20),
    "DynamicQuantizeMatMul": ("x w s z", {"x": [2, 7, 10]}, [weight("w", [10, 20], "u"), *SCALES], MS, 2 * 7 * 200),
    "MatMulIntegerToFloat": ("x w s s", {"x": ([7, 10], "u")}, [weight("w", [10, 20], "u"), *SCALES], MS, 1400),
    "MatMulNBits": ("x w s", {"x": [1, 7, 64]}, [weight("w", [20, 2, 16], "u"), *SCALES],
                    {"K": 64, "N": 20, "bits": 4, "block_size": 32, **MS}, 7 * 64 * 20),
    "DynamicQuantizeLSTM": ("x w r - - - - - s z s z", {"x": [5, 1, 10]},
                            [weight("w", [1, 10, 64], "u"), weight("r", [1, 16, 64], "u"), *SCALES],
                            {"hidden_size": 16, **MS}, 5 * 4 * 16 * (10 + 16)),
}  # fmt: skip


@pytest.mark.parametrize("operator", QUANTISED)
def test_quantised_operators_count_like_what_they_stand_for(operator, tmp_path):
    inputs, shapes, weights, attributes, macs = QUANTISED[operator]
    facts = one(tmp_path, operator, inputs, shapes, weights, **attributes)
    assert (facts.macs, facts.coverage) == (macs, 1.0)
    assert facts.weight_bytes < 4 * 20 * 64


def test_a_dynamically_quantised_network_keeps_its_macs_and_not_its_hash(tmp_path):
    from onnxruntime.quantization import quantize_dynamic

    _, facts = exported(DccrnConfig(width=4, depth=3, rnn_width=16), tmp_path)
    quantize_dynamic(tmp_path / "0.onnx", tmp_path / "q.onnx", op_types_to_quantize=["MatMul", "LSTM"])
    quantised = graph_facts(tmp_path / "q.onnx")
    assert "com.microsoft.DynamicQuantizeLSTM" in quantised.operators
    assert (quantised.macs, quantised.coverage) == (facts.macs, 1.0)
    assert quantised.graph_hash != facts.graph_hash
    assert quantised.weight_bytes < 0.6 * facts.weight_bytes
    assert quantised.activation_bytes is not None


def test_what_no_rule_knows_is_named_and_lowers_the_coverage(tmp_path):
    nodes = [node("Relu", "x", "a"), node("Attention", "a w", "b", domain="com.microsoft", num_heads=2),
             node("MatMul", "x w", "y")]  # fmt: skip
    facts = graph_facts(save(tmp_path / "m.onnx", nodes, {"x": [1, 8]}, ["y"], [weight("w", [8, 8])]))
    assert facts.uncounted == {"com.microsoft.Attention": 1}
    assert (facts.coverage, facts.macs, facts.activation_bytes) == (pytest.approx(2 / 3), 64, None)


def test_a_product_of_unknown_shape_is_uncounted_and_no_zero(tmp_path):
    facts = one(tmp_path, "MatMul", "x w", {"x": ["n", 8]}, [weight("w", [8, 8])])
    assert (facts.macs, facts.uncounted) == (0, {"MatMul": 1})


def with_branches(path):
    """An ``If`` of 64 MACs in one branch and 2 x 64 in the other, each with a tensor of its own named t."""
    dear = helper.make_graph([node("MatMul", "x w", "t"), node("MatMul", "t w", "d")], "dear", [], [info("d", [1, 8])])
    cheap = helper.make_graph([node("MatMul", "x w", "t"), node("Relu", "t", "c")], "cheap", [], [info("c", [1, 8])])
    made = node("If", "on", "y", then_branch=cheap, else_branch=dear)
    return save(path, [made], {"on": ([1], "b"), "x": [1, 8]}, [info("y", [1, 8])], [weight("w", [8, 8])])


def test_of_a_branch_the_dearest_counts(tmp_path):
    facts = graph_facts(with_branches(tmp_path / "m.onnx"))
    assert (facts.macs, facts.nodes, facts.operators) == (128, 3, {"If": 1, "MatMul": 2})
    assert facts.weight_bytes == 4 * 64
    # The condition, what the If gives, and both products of the branch together.
    assert facts.activation_bytes == 1 + 32 + 64


def test_what_depends_on_constants_alone_does_not_run(tmp_path):
    nodes = [node("Transpose", "w", "v"), node("Identity", "v", "u"), node("MatMul", "x u", "y")]
    facts = graph_facts(save(tmp_path / "m.onnx", nodes, {"x": [1, 8]}, ["y"], [weight("w", [20, 8])]))
    assert (facts.nodes, facts.macs, facts.weight_bytes) == (1, 160, 640)


def test_values_of_constant_nodes_are_weights(tmp_path):
    value = weight("value", [8, 20])
    nodes = [helper.make_node("Constant", [], ["w"], value=value), node("MatMul", "x w", "y")]
    facts = graph_facts(save(tmp_path / "m.onnx", nodes, {"x": [1, 8]}, ["y"]))
    stored = graph_facts(save(tmp_path / "n.onnx", nodes[1:], {"x": [1, 8]}, ["y"], [weight("w", [8, 20])]))
    assert (facts.nodes, facts.macs, facts.weight_bytes) == (1, 160, 640)
    assert facts.graph_hash == stored.graph_hash


def test_the_arena_is_the_largest_sum_of_tensors_that_live_at_once(tmp_path):
    # x 8 values, state 4 (apart), a 16, b 16 of which r is a view, c 8, y 8, next 4; floats.
    nodes = [
        node("Concat", "x x", "a", axis=1),  # x a
        node("Relu", "a", "b"),  # x a b: a is done after this
        node("Reshape", "b to", "r"),  # x b
        node("Slice", "r zero eight", "c"),  # x b c
        node("Add", "x c", "y"),  # x c y
        node("Relu", "state", "next"),  # y next
    ]
    weights = [weight("to", [1], "l", [16]), weight("zero", [1], "l", [0]), weight("eight", [1], "l", [8])]
    outputs = [info("y", [1, 8]), info("next", [1, 4])]
    facts = graph_facts(save(tmp_path / "m.onnx", nodes, {"x": [1, 8], "state": [1, 4]}, outputs, weights))
    assert facts.activation_bytes == 4 * (8 + 16 + 16)


def hash_of(tmp_path, *, names="x a y", to=(2, 4), value=1.0, alpha=0.1, kind="f"):
    x, a, y = names.split()
    nodes = [node("Add", f"{x} w", a), node("LeakyRelu", a, "b", alpha=alpha), node("Reshape", "b to", y)]
    weights = [weight("w", [1, 8], "f", np.full((1, 8), value)), weight("to", [2], "l", to)]
    return graph_facts(save(tmp_path / "h.onnx", nodes, {x: [1, 8]}, [y], weights)).graph_hash


def test_names_and_values_of_weights_leave_the_hash_shapes_and_attributes_do_not(tmp_path):
    same = hash_of(tmp_path)
    assert hash_of(tmp_path, names="p q r") == hash_of(tmp_path, value=3.0) == same
    assert len({same, hash_of(tmp_path, to=(4, 2)), hash_of(tmp_path, alpha=0.2)}) == 3


def test_weights_that_are_stored_as_int8_are_another_graph(tmp_path):
    def stored(kind, *decoding):
        weights = [weight("w", [8, 8], kind), weight("s", [])]
        nodes = [*decoding, node("MatMul", "x v" if decoding else "x w", "y")]
        return graph_facts(save(tmp_path / "i.onnx", nodes, {"x": [1, 8]}, ["y"], weights))

    plain, int8 = stored("f"), stored("s", node("DequantizeLinear", "w s", "v"))
    assert plain.graph_hash == stored("f", node("Identity", "w", "v")).graph_hash != int8.graph_hash
    assert (int8.nodes, int8.macs, int8.weight_bytes) == (plain.nodes, plain.macs, 64 + 4)


def test_edges_are_in_the_hash(tmp_path):
    def wired(second):
        nodes = [node("Relu", "x", "a"), node("Relu", "x", "b"), node("Add", f"a {second}", "y")]
        return graph_facts(save(tmp_path / "w.onnx", nodes, {"x": [1, 8]}, ["y"])).graph_hash

    assert len({wired("a"), wired("b"), wired("x")}) == 3


def test_branches_are_in_the_hash(tmp_path):
    path = with_branches(tmp_path / "m.onnx")
    model = onnx.load(path)
    before = graph_facts(path).graph_hash
    model.graph.node[0].attribute[0].g.node[1].op_type = "Tanh"
    onnx.save(model, path)
    assert graph_facts(path).graph_hash != before


class Apply(nn.Module):
    def __init__(self, function, *parts):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, *inputs):
        return self.function(*self.parts, *inputs)


T, B = 7, 2
# name: module, input shape, MACs written out by hand
HAND_COUNTED = {
    # Three gates of 16, each a product with 10 inputs and one with 16 outputs, at each of T steps of B signals.
    "gru": (nn.GRU(10, 16), (T, B, 10), T * B * 3 * 16 * (10 + 16)),
    "gru both ways": (nn.GRU(10, 16, bidirectional=True), (T, B, 10), T * B * 2 * 3 * 16 * (10 + 16)),
    # Four gates.
    "lstm": (nn.LSTM(10, 16), (T, B, 10), T * B * 4 * 16 * (10 + 16)),
    "rnn": (nn.RNN(10, 16), (T, B, 10), T * B * 16 * (10 + 16)),
    # 4 x 4 output positions of a 5 x 9 plane under a 2 x 3 kernel that moves by 1 and 2.
    "strided conv": (nn.Conv2d(3, 8, (2, 3), (1, 2)), (B, 3, 5, 9), B * 4 * 4 * (2 * 3) * 3 * 8),
    "depthwise conv": (nn.Conv1d(8, 8, 5, groups=8, padding=2), (B, 8, 20), B * 20 * 5 * 8),
    # Each of the 5 x 9 input positions is multiplied with the whole kernel.
    "transposed conv": (nn.ConvTranspose2d(6, 4, 3, 2), (B, 6, 5, 9), B * (5 * 9) * (3 * 3) * 6 * 4),
    "grouped transposed conv": (nn.ConvTranspose1d(6, 4, 3, 2, groups=2), (B, 6, 9), B * 9 * 3 * 6 * 2),
    # Projections of query, key, value and output; scores of T queries with T keys; as many weighted values.
    "attention": (
        Apply(lambda layer, x: layer(x, x, x)[0], nn.MultiheadAttention(16, 4, batch_first=True)),
        (B, T, 16),
        B * (4 * T * 16 * 16 + 2 * T * T * 16),
    ),
    "linear": (nn.Linear(10, 20), (B, T, 10), B * T * 10 * 20),
    "einsum": (Apply(lambda x: torch.einsum("btc,bsc->bts", x, x)), (B, T, 10), B * T * T * 10),
}


def _to_onnx(module, x, path):
    torch.onnx.export(module.eval(), (x,), path, dynamo=False, opset_version=17)
    return graph_facts(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", HAND_COUNTED)
def test_both_counters_equal_hand_counts(name, tmp_path):
    module, shape, expected = HAND_COUNTED[name]
    facts = _to_onnx(module, torch.randn(shape), tmp_path / "m.onnx")
    assert facts.macs == pytest.approx(expected, rel=0.005)
    assert count_macs(module, torch.randn(shape)).total == pytest.approx(expected, rel=0.005)
    assert facts.coverage == 1.0


def test_an_stft_counts_half_its_length_times_its_logarithm_for_each_frame(tmp_path):
    """Radix 2: n/2 log2 n complex products of 4 real MACs; 1024 samples make (1024 - 512) / 256 + 1 frames."""
    hand = 3 * (512 // 2) * 9 * 4
    weights = [weight("step", [], "l", 256), weight("window", [512]), weight("length", [], "l", 512)]
    made = node("STFT", "x step window", "y", onesided=1)
    facts = graph_facts(save(tmp_path / "s.onnx", [made], {"x": [1, 1024, 1]}, [info("y", [1, 3, 257, 2])], weights))
    same = count_macs(
        Apply(lambda x: torch.stft(x, 512, 256, center=False, window=torch.ones(512), return_complex=True)),
        torch.randn(1, 1024),
    )
    assert facts.macs == same.total == hand
    spectrum = one(tmp_path, "DFT", "x", {"x": [3, 512, 1]}, axis=1, onesided=1)
    assert spectrum.macs == hand
    assert hand == 3 * 512 / 2 * math.log2(512) * 4


def test_facts_join_the_cost_of_a_student(tmp_path):
    facts = graph_facts(streaming_model(tmp_path / "m.onnx", hop=32, repeat=3))
    cost = Cost(parameters=1, macs_per_s=1, weight_bytes=1, state_bytes=1, algorithmic_latency_ms=1)
    joined = with_graph(cost, facts)
    assert (joined.graph_nodes, joined.mac_coverage) == (8, 1.0)
    assert joined.activation_bytes == facts.activation_bytes > 4 * 66
    assert (facts.macs, facts.hop_ms) == (3 * 64, 2.0)


@pytest.mark.parametrize("content", [b"", b"no model at all"])
def test_what_is_no_onnx_file_is_one_line(tmp_path, content):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match="broken.onnx: not a"):
        graph_facts(path)
    with pytest.raises(InputError, match="none.onnx: No such file"):
        graph_facts(tmp_path / "none.onnx")


def test_nothing_is_both_counted_and_free():
    assert not FREE & COUNTED.keys()
    assert TensorProto.FLOAT == 1  # as search.graphs.shapes writes it
