"""MACs of one hop of each family against formulas from its published structure, for both counters."""

import pytest
import torch

from search.cost import count_macs
from search.graphs.graph import graph_facts
from sekd.export import export_onnx
from sekd.models import ConvTasNetConfig, CruseConfig, DccrnConfig, FtfConfig, build


def cruse_by_hand(widths, groups=4, bands=80, n_fft=512, *, decoders_per="input"):
    """Daod Nathoo et al. 2024, section 2: convolutions of 2 frames x 3 bands that halve the bands, 1 x 1 convolutions
    beside them, grouped GRUs, and the way back; two matrices between bins and bands."""
    inputs = (1, *widths[:-1])
    halved = [bands // 2 ** (level + 1) for level in range(len(widths))]
    levels = list(zip(inputs, widths, halved, strict=True))
    encoder = sum(freqs * 2 * 3 * i * o for i, o, freqs in levels)
    decoder = encoder * (2 if decoders_per == "output" else 1)
    skips = sum(freqs * o * o for _, o, freqs in levels)
    size = widths[-1] * halved[-1] // groups
    grus = groups * 3 * size * (size + size)
    return encoder + skips + grus + decoder, 2 * (n_fft // 2 + 1) * bands


def conv_tasnet_by_hand(c):
    """Luo and Mesgarani 2019, figure 1 and table I, for each of the encoder's frames in a hop. Of the last block the
    residual convolution is left out: nothing hears it."""
    block = c.bottleneck * c.hidden + c.conv_kernel * c.hidden + c.hidden * c.bottleneck + c.hidden * c.bottleneck
    separation = c.filters * c.bottleneck + c.layers * c.stacks * block + c.bottleneck * c.filters
    unheard = c.hidden * c.bottleneck
    encoder = decoder = c.kernel * c.filters
    frames = c.hop // (c.kernel // 2)
    # Norms of all frames so far, section II-D: mean and variance of each frame weigh in each later one of the hop.
    norms = (1 + 2 * c.layers * c.stacks) * 2 * frames * frames
    return frames * (encoder + separation - unheard + decoder), norms


def dccrn_by_hand(c):
    """Hu et al. 2020, section 2: complex convolutions over 2 frames x 5 frequencies, of 4 real products each, with
    the skips beside what enters the decoder; two LSTMs over both parts, two layers each; a complex linear layer."""
    widths = [2, *c.widths]  # real and imaginary parts
    pairs = list(zip(widths, widths[1:], c.freqs[1:], strict=False))
    encoder = sum(freqs * 2 * 5 * 4 * (i // 2) * (o // 2) for i, o, freqs in pairs)
    decoder = sum(freqs * 2 * 5 * 4 * (2 * o // 2) * (i // 2) for i, o, freqs in pairs)
    flat, hidden = widths[-1] // 2 * c.freqs[-1], c.rnn_width
    lstms = 2 * 2 * (4 * hidden * (flat + hidden) + 4 * hidden * (hidden + hidden))
    return encoder + decoder + lstms + 4 * hidden * flat


def ftf_by_hand(c):
    """Zhao and Madhu 2025 in the sizes of 2026: convolutions of 2 frames x 3 frequencies, with the skips beside what
    enters the decoder. At each of the frequencies left: GRUs of groups, twice with a linear layer back where they run
    both ways; attention with four projections to all frequencies, or to the last frames of one."""
    width, freqs = c.widths[-1], c.freqs[-1]
    steps = list(zip((2, *c.widths), c.widths, c.freqs[1:], strict=False))
    convolutions = sum(3 * 2 * 3 * i * o * positions for i, o, positions in steps)
    gru, projections = 6 * width * width // c.gru_groups, 4 * width * width
    along_frequency = 2 * gru + 2 * width * width
    to_frequencies, to_frames = (projections + 2 * heard * width for heard in (freqs, c.attention_frames))
    ftf = 2 * (along_frequency + to_frequencies) + gru + to_frames
    return convolutions + freqs * (ftf if c.order == "ftf" else 3 * (to_frequencies + gru))


def counted(config, folder):
    """By the tracer and from the file."""
    network = build(config).eval()
    facts = graph_facts(export_onnx(network, folder / "m.onnx").path)
    traced = count_macs(network, network.example(), network.initial_state(), method="step")
    assert facts.coverage == 1.0 and not traced.uncounted
    return traced, facts


PAIR = {"student": ((8, 16, 32, 32), 297_600), "teacher": ((32, 64, 128, 192), 6_300_160)}


@pytest.mark.parametrize("name", PAIR)
def test_the_cruse_pair_equals_the_published_counts(name, tmp_path):
    widths, published = PAIR[name]
    traced, facts = counted(CruseConfig(channels=widths), tmp_path)
    network, mel = cruse_by_hand(widths)
    assert mel == 41_120
    assert traced.total == facts.macs == network + mel
    # The paper counts decoders per output bin.
    assert cruse_by_hand(widths, decoders_per="output")[0] == pytest.approx(published, rel=0.005)
    assert facts.macs - mel + facts.macs_by_operator["ConvTranspose"] == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize("change", [{}, {"width": 12, "depth": 3, "gru_groups": 2}, {"bands": 48, "gru_groups": 1}])
def test_cruse(change, tmp_path):
    config = CruseConfig(**change)
    traced, facts = counted(config, tmp_path)
    assert traced.total == facts.macs == sum(cruse_by_hand(config.widths, config.gru_groups, config.bands))


@pytest.mark.parametrize("change", [{}, {"hop": 64, "filters": 48, "hidden": 40, "layers": 4}, {"kernel": 32}])
def test_conv_tasnet(change, tmp_path):
    config = ConvTasNetConfig(**change)
    traced, facts = counted(config, tmp_path)
    network, norms = conv_tasnet_by_hand(config)
    assert traced.total == facts.macs == network + norms
    assert facts.macs == pytest.approx(network, rel=0.005)


@pytest.mark.parametrize(
    "change", [{}, {"width": 4, "depth": 4, "rnn_width": 16}, {"n_fft": 256, "window_length": 200}]
)
def test_dccrn(change, tmp_path):
    config = DccrnConfig(**change)
    torch.manual_seed(0)
    traced, facts = counted(config, tmp_path)
    assert traced.total == facts.macs == dccrn_by_hand(config)


PUBLISHED_FTF = {"ftf": 318.2e6, "hyst": 266.4e6}  # MACs per second (Zhao and Madhu 2026, table 1)


@pytest.mark.parametrize("order", PUBLISHED_FTF)
def test_ftf_and_hyst_come_within_a_hundredth_of_the_published_counts(order, tmp_path):
    config = FtfConfig(order=order)
    traced, facts = counted(config, tmp_path)
    assert traced.total == facts.macs == ftf_by_hand(config)
    assert facts.macs * 62.5 == pytest.approx(PUBLISHED_FTF[order], rel=0.007)


@pytest.mark.parametrize("change", [{"width": 6, "heads": 3, "attention_frames": 20}, {"order": "hyst", "n_fft": 256}])
def test_ftf(change, tmp_path):
    config = FtfConfig(hop=128, **change)
    traced, facts = counted(config, tmp_path)
    assert traced.total == facts.macs == ftf_by_hand(config)
