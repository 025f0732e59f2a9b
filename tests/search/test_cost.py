import math
import random

import pytest
import torch
from torch import nn

from search.cost import UncountedOperator, cost_of, count_macs
from search.mac_rules import COUNTED, FREE, einsum_macs
from sekd.models.base import NetworkConfig, SpectralEnhancer, State


class Apply(nn.Module):
    """A function of its modules and inputs as a module."""

    def __init__(self, function, *parts):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, *inputs):
        return self.function(*self.parts, *inputs)


def _stft(signal):
    return torch.stft(signal, 512, 256, window=torch.hann_window(512), return_complex=True)


def _attend(layer, signal):
    return layer(signal, signal, signal)[0]


T, B = 7, 2
# name: module, input shape, expected MACs
HAND_COUNTED = {
    "linear": (nn.Linear(10, 20), (B, T, 10), B * T * 10 * 20),
    "gru": (nn.GRU(10, 16), (T, B, 10), T * B * 3 * 16 * (10 + 16)),
    "gru 2 layers": (nn.GRU(10, 16, 2), (T, B, 10), T * B * 3 * 16 * (10 + 16 + 16 + 16)),
    "gru both ways": (
        nn.GRU(10, 16, 2, bidirectional=True, batch_first=True),
        (B, T, 10),
        T * B * 2 * 3 * 16 * ((10 + 16) + (32 + 16)),
    ),
    "lstm": (nn.LSTM(10, 16), (T, B, 10), T * B * 4 * 16 * (10 + 16)),
    "lstm with projection": (nn.LSTM(10, 16, proj_size=4), (T, B, 10), T * B * (64 * (10 + 4) + 4 * 16)),
    "rnn": (nn.RNN(10, 16, bias=False), (T, B, 10), T * B * 16 * (10 + 16)),
    "gru cell": (nn.GRUCell(10, 16), (B, 10), B * 3 * 16 * (10 + 16)),
    "lstm cell": (nn.LSTMCell(10, 16), (B, 10), B * 4 * 16 * (10 + 16)),
    "strided conv": (nn.Conv2d(3, 8, (2, 3), (1, 2)), (B, 3, 5, 9), B * 4 * 4 * 6 * 3 * 8),
    "conv without batch": (nn.Conv1d(3, 8, 5), (3, 20), 16 * 5 * 3 * 8),
    "conv padded same": (nn.Conv1d(3, 8, 5, padding="same"), (B, 3, 20), B * 20 * 5 * 3 * 8),
    "depthwise conv": (nn.Conv1d(8, 8, 5, groups=8, padding=2), (B, 8, 20), B * 20 * 5 * 8),
    "transposed conv": (nn.ConvTranspose2d(6, 4, 3, 2), (B, 6, 5, 9), B * 45 * 9 * 6 * 4),
    "grouped transposed conv": (nn.ConvTranspose1d(6, 4, 3, 2, groups=2), (B, 6, 9), B * 9 * 3 * 6 * 2),
    "attention": (
        Apply(_attend, nn.MultiheadAttention(16, 4, batch_first=True)),
        (B, T, 16),
        B * (4 * T * 16 * 16 + 2 * T * T * 16),
    ),
    "encoder layer": (
        nn.TransformerEncoderLayer(16, 4, 32, batch_first=True),
        (B, T, 16),
        B * (4 * T * 16 * 16 + 2 * T * T * 16 + 2 * T * 16 * 32),
    ),
    "stft": (Apply(_stft), (B, 1024), B * 5 * 256 * 9 * 4),
    "fft there and back": (Apply(lambda x: torch.fft.irfft(torch.fft.rfft(x))), (B, 64), 2 * B * 32 * 6 * 4),
    "complex matmul": (Apply(lambda x: torch.view_as_complex(x) @ torch.eye(4, dtype=torch.cfloat)),
                       (3, 4, 2), 3 * 4 * 4 * 4),
    "norms and activations": (nn.Sequential(nn.BatchNorm1d(8), nn.PReLU(), nn.Softmax(1)), (B, 8, 5), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", HAND_COUNTED)
@pytest.mark.parametrize("mode", ["train", "eval", "no_grad"])
def test_counts_equal_hand_counts_in_every_mode(name, mode):
    module, shape, expected = HAND_COUNTED[name]
    module.train(mode == "train")
    with torch.set_grad_enabled(mode != "no_grad"):
        assert count_macs(module, torch.randn(shape)).total == pytest.approx(expected, rel=0.005)


def test_fused_attention_counts_like_its_parts():
    layer = nn.MultiheadAttention(16, 4, batch_first=True).eval()

    def fused(attention, x):
        packed = (attention.in_proj_weight, attention.in_proj_bias)
        out = (attention.out_proj.weight, attention.out_proj.bias)
        return torch._native_multi_head_attention(x, x, x, 16, 4, *packed, *out)[0]

    x = torch.randn(2, 7, 16)
    assert count_macs(Apply(fused, layer), x).total == count_macs(Apply(_attend, layer), x).total
    assert torch.backends.mha.get_fastpath_enabled()


def test_operators_are_named_apart():
    both = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ConvTranspose1d(4, 2, 3), nn.Linear(10, 10))
    assert set(count_macs(both, torch.randn(1, 2, 10)).by_operator) == {"conv", "conv_transpose", "linear"}


class Cruse(nn.Module):
    """The 62 k student of CRUSE (Braun et al. 2021), one frame of 80 bands."""

    def __init__(self):
        super().__init__()
        wide = [1, 8, 16, 32, 32]
        pairs = list(zip(wide, wide[1:], strict=False))
        conv = {"kernel_size": (2, 3), "stride": (1, 2), "padding": (0, 1)}
        self.down = nn.ModuleList(nn.Conv2d(a, b, **conv) for a, b in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, **conv, output_padding=(0, 1)) for a, b in pairs)
        self.skips = nn.ModuleList(nn.Conv2d(b, b, 1) for _, b in pairs)
        self.grus = nn.ModuleList(nn.GRU(40, 40) for _ in range(4))

    def forward(self, x):
        kept = []
        for layer in self.down:
            x = layer(nn.functional.pad(x, (0, 0, 1, 0)))
            kept.append(x)
        parts = x.view(1, 1, 160).chunk(4, -1)
        x = torch.cat([gru(part)[0] for gru, part in zip(self.grus, parts, strict=True)], -1).view(1, 32, 1, 5)
        for layer, skip, encoded in list(zip(self.up, self.skips, kept, strict=True))[::-1]:
            x = layer(x + skip(encoded))[:, :, :1]
        return x


def test_cruse_student_equals_the_published_count():
    """0.2976 M per frame where decoders are counted per output bin, twice what we count for them."""
    counted = count_macs(Cruse(), torch.randn(1, 1, 1, 80))
    assert counted.total + counted.by_operator["conv_transpose"] == 297_600


def test_an_unknown_operator_is_an_error_that_names_it():
    module = Apply(lambda x: torch.cdist(x, x))
    with pytest.raises(UncountedOperator, match=r"aten::cdist \(1x\)"):
        count_macs(module, torch.randn(3, 4))
    counted = count_macs(Apply(lambda linear, x: torch.cdist(linear(x), x), nn.Linear(4, 4)),
                         torch.randn(3, 4), strict=False)  # fmt: skip
    assert (counted.total, counted.uncounted) == (48, {"aten::cdist": 1})


def _powers(x):
    for _ in range(x.shape[0]):
        x = x @ x
    return x


def test_work_inside_scripted_code_is_not_free():
    with pytest.warns(DeprecationWarning):
        scripted = torch.jit.script(_powers)
    with pytest.raises(UncountedOperator, match="prim::CallFunction"):
        count_macs(Apply(lambda x: scripted(x)), torch.randn(3, 3))


class Restless(nn.Module):
    """Changes all that a forward pass can change."""

    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(4), nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(1))
        self.linear.weight.requires_grad_(False)
        self.norm.eval()

    def forward(self, x):
        self.calls += 1
        self.last = x + torch.rand(1)
        x.mul_(2)
        return {"out": self.linear(self.norm(x)), "extra": [self.last, 3]}


def test_the_module_is_left_as_it_was():
    module, x = Restless(), torch.ones(2, 4)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    torch.manual_seed(3)
    random.seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    assert count_macs(module, x).total == 2 * 4 * 4
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert module.training and not module.norm.training
    assert not module.linear.weight.requires_grad and module.linear.bias.requires_grad
    assert not hasattr(module, "last") and not module._forward_hooks
    assert torch.equal(x, torch.ones(2, 4))


class Student(SpectralEnhancer):
    """A GRU over frequency bins and a fixed bank, the least that an enhancer can be."""

    config = NetworkConfig()

    def __init__(self):
        super().__init__(n_fft=16, hop=8)
        self.gru = nn.GRU(9, 9, batch_first=True)
        self.register_buffer("bank", torch.ones(9, 9), persistent=False)

    def frames(self, spectrum, state):
        magnitude = torch.linalg.vector_norm(spectrum, dim=-1).transpose(1, 2) @ self.bank
        mask, hidden = self.gru(magnitude, state.inter_cache[None])
        return spectrum * mask.transpose(1, 2)[..., None], state._replace(inter_cache=hidden[0])

    def state_sizes(self):
        return State(1, 1, 9)


def test_cost_of_a_student_is_that_of_one_frame_per_hop():
    cost = cost_of(Student())
    assert cost.macs_per_s == 16000 / 8 * (9 * 9 + 3 * 9 * 18)
    assert cost.parameters == 2 * 3 * 9 * 9 + 2 * 3 * 9
    assert cost.weight_bytes == 4 * (cost.parameters + 81)
    assert (cost.state_bytes, cost.algorithmic_latency_ms) == (44, 1.0)


@pytest.mark.parametrize(
    ("equation", "shapes", "macs"),
    [
        ("bi,ij->bj", [(2, 3), (3, 4)], 24),
        ("bi,ij", [(2, 3), (3, 4)], 24),
        ("...ij,jk->...ik", [(5, 6, 2, 3), (3, 4)], 5 * 6 * 2 * 3 * 4),
        ("ij->ji", [(2, 3)], 0),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)], 2 * 3 * 4 + 2 * 4 * 5),
    ],
)
def test_einsum(equation, shapes, macs):
    assert einsum_macs(equation, shapes) == macs
    counted = count_macs(Apply(lambda *x: torch.einsum(equation, *x)), *map(torch.randn, shapes))
    assert counted.total == macs


def test_broadcast_and_vector_products():
    counted = count_macs(Apply(lambda a, b, c: (a @ b) @ c), torch.randn(5, 1, 2, 3), torch.randn(6, 3, 4),
                         torch.randn(4))  # fmt: skip
    assert counted.total == math.prod((5, 6, 2, 4, 3)) + math.prod((5, 6, 2, 4))


def test_nothing_is_both_counted_and_free():
    assert not FREE & COUNTED.keys()
