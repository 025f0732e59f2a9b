"""Sizes of the small NCSN++, and what segments, noise and knobs do to the networks on a path."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from family_contract import untrained
from path_signals import PATH, SMALL, STUDENT, TEACHER
from tiny_models import noise, speech_like

from search.cost import cost_of, count_macs
from sekd.checkpoint import hash_of_weights
from sekd.config import parse
from sekd.errors import InputError
from sekd.export import export_onnx
from sekd.generative.samplers import few_steps
from sekd.models import ConsistencyNetConfig, PredictiveConfig, build
from sekd.models.ncsnpp import Ncsnpp, NcsnppConfig, groups_of
from sekd.models.timed import TimeEmbedding
from sekd.torch_enhancer import TorchEnhancer

CHANNELS = 4
# Parameters without a second embedding, and GMAC of a second of audio at a hop of 256.
SIZES = {
    (8, (1, 2, 2)): (47_882, 0.196),
    (8, (1, 1, 2)): (35_962, None),
    (12, (1, 1, 2, 2)): (104_134, None),
    (16, (1, 1, 2, 2)): (174_514, 0.472),
    (24, (1, 1, 2, 2)): (388_874, 1.05),
    (28, (1, 1, 2, 2)): (527_830, None),
    (32, (1, 1, 2, 2)): (687_970, 1.86),
}
SECOND_EMBEDDING = {8: 54_154, 16: 180_786, 24: 401_354, 32: 708_706}  # as published, with it


@pytest.mark.parametrize("width, multipliers", SIZES)
def test_sizes_of_the_backbone(width, multipliers):
    parameters, gmacs = SIZES[width, multipliers]
    network = Ncsnpp(NcsnppConfig(width=width, multipliers=multipliers), CHANNELS)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    if gmacs is None:
        return
    embedding = max(64, 4 * width)
    assert SECOND_EMBEDDING[width] - parameters == 33 * embedding + (embedding + 1) * embedding
    frames = 64
    counted = count_macs(network, torch.zeros(1, CHANNELS, 256, frames), network.biases(torch.ones(1)))
    assert counted.total / (frames * 256 / 16000) == pytest.approx(gmacs * 1e9, rel=5e-3)


def test_norms_have_groups_of_four_channels_or_more():
    for channels in range(4, 300, 4):
        groups = groups_of(channels)
        assert channels % groups == 0 and groups <= 32 and channels // groups >= 4
    assert [groups_of(channels) for channels in (4, 24, 128, 192)] == [1, 6, 32, 32]


def test_a_new_block_adds_only_what_its_bias_says():
    """The second convolution begins at zero."""
    network = Ncsnpp(NcsnppConfig(width=4, multipliers=(1, 2)), CHANNELS)
    assert not any(block.second.weight.any() for block in network._blocks)


@torch.no_grad()
def test_the_time_is_told_by_waves_of_its_logarithm():
    torch.manual_seed(0)
    embedding = TimeEmbedding(64, scale=16.0)
    frequencies, heard = embedding.frequencies.tolist(), []
    embedding.layers = torch.nn.Sequential(torch.nn.Identity())
    for t in (0.03, 1.0):
        angles = [2 * math.pi * frequency * math.log(t) for frequency in frequencies]
        heard.append([*map(math.sin, angles), *map(math.cos, angles)])
    assert torch.allclose(embedding(torch.tensor([0.03, 1.0])), torch.tensor(heard), atol=1e-3)
    drawn = torch.cat([TimeEmbedding(4, scale=16.0).frequencies for _ in range(100)])
    assert float(drawn.std()) == pytest.approx(16, rel=0.1)


@torch.no_grad()
def test_the_time_of_each_row_reaches_that_row_alone():
    network = untrained(STUDENT).network
    x = torch.randn(2, CHANNELS, 64, 16, generator=torch.Generator().manual_seed(0))
    both = network(x, network.biases(torch.tensor([0.1, 0.9])))
    for row, t in enumerate((0.1, 0.9)):
        alone = network(x[row : row + 1], network.biases(torch.tensor([t])))
        assert torch.allclose(both[row : row + 1], alone, atol=1e-5)
    assert not torch.allclose(both[1:], network(x[1:], network.biases(torch.tensor([0.1]))), atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("frames", [15, 16, 17])
def test_frames_are_made_up_to_what_the_backbone_halves(frames):
    deep = STUDENT.model_copy(update={"backbone": NcsnppConfig(width=4, multipliers=(1, 1, 2))})
    network = untrained(deep)
    x, noisy = torch.randn(2, 1, 2, 64, frames, generator=torch.Generator().manual_seed(0)).unbind(0)
    assert network.evaluate(x, noisy, 0.5).shape == x.shape


@torch.no_grad()
@pytest.mark.parametrize("t", [0.03, 0.5, 1.0])
def test_scales_stand_around_the_network(t):
    """The denoiser scales its inputs, the consistency function does not; both from the same published numbers."""
    x, noisy = torch.randn(2, 1, 2, 64, 16, generator=torch.Generator().manual_seed(0)).unbind(0)
    sigma = PATH.std(t)
    total = sigma**2 + 0.01
    for config, into in ((TEACHER, total**-0.5), (STUDENT, 1.0)):
        model = untrained(config)
        inside = model.network(into * torch.cat([x, noisy], dim=1), model.network.biases(torch.tensor([t])))
        wanted = 0.01 / total * x + sigma * 0.1 * total**-0.5 * inside
        assert torch.allclose(model.evaluate(x, noisy, t), wanted, atol=1e-5)


@torch.no_grad()
def test_at_the_earliest_time_the_exact_boundary_is_the_input_itself():
    network = untrained(STUDENT.model_copy(update={"boundary": "exact"}))
    x, noisy = torch.randn(2, 1, 2, 64, 16, generator=torch.Generator().manual_seed(0)).unbind(0)
    assert torch.equal(network.evaluate(x, noisy, PATH.t_eps), x)
    assert not torch.allclose(untrained(STUDENT).evaluate(x, noisy, PATH.t_eps), x, atol=1e-3)


@torch.no_grad()
def test_a_segment_is_the_sampler_between_two_transforms():
    config = STUDENT.model_copy(update={"steps": 3, "last_time": 0.2, "renoise": "marginal", "noise_scale": 0.5})
    network = untrained(config)
    noisy = torch.from_numpy(noise(2 * network.samples, 0.3)).reshape(2, -1)
    peak = noisy.abs().amax(1, keepdim=True)
    y = network.spectra.analyse(noisy / peak)
    noises = [part.expand_as(y) for part in network.noise[:, None]]
    sampled = few_steps(network.evaluate, PATH, y, noises, [1.0, 0.6, 0.2], renoise="marginal", scale=0.5)
    assert torch.allclose(network.segments(noisy), network.spectra.synthesise(sampled.spectrum) * peak, atol=1e-5)


@torch.no_grad()
def test_the_deterministic_twin_is_asked_once_where_the_path_ends():
    network = untrained(PredictiveConfig(**SMALL, segment_frames=16, overlap_hops=2))
    y = torch.randn(1, 2, 64, 16, generator=torch.Generator().manual_seed(0))
    inside = network.network(torch.cat([y, y], dim=1), network.network.biases(torch.ones(1)))
    assert torch.allclose(network.enhanced(y), 0.061993 * y + 0.096851 * inside, atol=1e-5)


@torch.no_grad()
def test_segments_that_change_nothing_overlap_to_the_signal_itself():
    network = build(STUDENT)
    network.segments = lambda noisy: noisy
    signal = torch.from_numpy(np.stack([speech_like(0.5), noise(8000)]))
    for samples in (1, 415, 416, 417, 5000, 8000):
        assert torch.allclose(network(signal[:, :samples]), signal[:, :samples], atol=1e-7)


def test_segments_do_not_wait_longer_than_they_say():
    network = build(STUDENT)
    assert (network.samples, network.overlap, network.hop) == (480, 64, 416)
    assert network.segment_ms == network.algorithmic_latency_ms == 30.0


@torch.no_grad()
def test_a_signal_of_many_segments_takes_them_a_few_at_a_time():
    """So that memory does not grow; the result is that of all at once."""
    network, sizes = untrained(STUDENT), []
    inside = network.segments
    network.segments = lambda rows: (sizes.append(len(rows)), inside(rows))[1]
    signal = torch.from_numpy(noise(416 * 19, 0.1))[None]
    network(signal)
    assert max(sizes) == 8 and sum(sizes) == 20


def noises(**changes) -> torch.Tensor:
    return build(STUDENT.model_copy(update=changes)).noise


def test_noise_is_a_function_of_the_seed():
    torch.manual_seed(5)
    first = noises(noise_seed=3)
    torch.manual_seed(6)
    assert torch.equal(noises(noise_seed=3), first)
    assert not torch.allclose(noises(noise_seed=4), first, atol=0.1)
    assert torch.equal(noises(noise_seed=3, steps=4)[:1], first)  # and not of the number of steps
    steps = noises(steps=16)
    for part in steps.unbind(1):
        assert float(part.var()) == pytest.approx(0.5, rel=0.05)
    products = torch.corrcoef(steps.flatten(1)) - torch.eye(16)
    assert float(products.abs().max()) < 4.5 / np.sqrt(steps[0].numel())


SIGNAL = torch.from_numpy(speech_like(0.5) + noise(8000, 0.01))[None]


@torch.no_grad()
def test_equal_segments_come_out_equal_and_seeds_differ():
    network = untrained(STUDENT)
    assert torch.equal(network(SIGNAL), network(SIGNAL))
    rows = SIGNAL[:, :480].repeat(3, 1)
    made = network.segments(rows)
    assert torch.equal(made[0], made[2])
    network.take_knobs(STUDENT.model_copy(update={"noise_seed": 1}))
    assert float((network.segments(rows) - made).abs().max()) > 1e-3 * float(made.abs().max())


CHILD = """
import sys
sys.path.insert(0, {here!r})
from test_segment_networks import SIGNAL, STUDENT, torch, untrained
torch.set_num_threads(1)
with torch.no_grad():
    sys.stdout.write(untrained(STUDENT)(SIGNAL).numpy().tobytes().hex())
"""


def test_other_processes_hear_the_same():
    code = CHILD.format(here=str(Path(__file__).parent))
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    with torch.no_grad():
        assert child.stdout == untrained(STUDENT)(SIGNAL).numpy().tobytes().hex()


MODELS = {
    "one step": STUDENT,
    "three steps": STUDENT.model_copy(update={"steps": 3, "renoise": "marginal"}),
    "twin": PredictiveConfig(**SMALL, segment_frames=16, overlap_hops=2),
    "diffusion": TEACHER.model_copy(update={"steps": 2}),
}


@torch.no_grad()
@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_silence_comes_out_silent_and_levels_are_kept(config):
    network = untrained(config)
    assert not network(torch.zeros(2, 5000)).any()
    loud = network(SIGNAL)
    for factor in (0.1, 1e-4, 8.0):
        assert torch.allclose(network(factor * SIGNAL), factor * loud, rtol=0, atol=1e-4 * factor * float(loud.std()))


@torch.no_grad()
def test_knobs_change_how_a_network_is_asked_and_none_of_its_weights():
    changes = {"steps": 3, "last_time": 0.4, "renoise": "marginal", "noise_scale": 0.7, "noise_seed": 2}
    config = STUDENT.model_copy(update=changes)
    network, wanted = untrained(STUDENT), untrained(config)
    before, first = hash_of_weights(network), network(SIGNAL)
    network.take_knobs(config)
    assert network.config == config and hash_of_weights(network) == before
    assert torch.equal(network(SIGNAL), wanted(SIGNAL)) and not torch.allclose(network(SIGNAL), first)
    network.take_knobs(config.model_copy(update={"boundary": "exact"}))  # which is no knob
    assert network.config == config
    network.take_knobs(STUDENT)
    assert torch.equal(network(SIGNAL), first)


def test_every_step_costs_one_evaluation():
    once, thrice = (cost_of(build(STUDENT.model_copy(update={"steps": steps}))) for steps in (1, 3))
    evaluation = count_macs(
        build(STUDENT).network, torch.zeros(1, CHANNELS, 64, 16), build(STUDENT).network.biases(torch.ones(1))
    ).total
    assert thrice.macs_per_s - once.macs_per_s == pytest.approx(2 * evaluation * 16000 / 416)
    assert thrice.parameters == once.parameters


@torch.no_grad()
@pytest.mark.parametrize("sampler, each", [("pc", 2), ("heun", 2), ("euler", 1)])
def test_diffusion_keeps_the_length_and_counts_its_evaluations(sampler, each):
    network = untrained(TEACHER.model_copy(update={"sampler": sampler, "steps": 3}))
    for samples in (1, 100, 5000):
        assert network(SIGNAL[:, :samples]).shape == (1, samples)
    y = torch.randn(2, 2, 64, 16, generator=torch.Generator().manual_seed(0))
    assert network.sample(y, torch.Generator().manual_seed(0)).evaluations == 3 * each


@torch.no_grad()
def test_diffusion_meets_the_same_noise_whoever_is_beside():
    network = untrained(TEACHER.model_copy(update={"steps": 3}))
    rows = torch.cat([SIGNAL, torch.from_numpy(noise(8000, 0.3))[None]])
    together = network(rows)
    for row, made in zip(rows, together, strict=True):
        assert torch.allclose(network(row[None])[0], made, atol=1e-4 * float(made.std()))
    network.take_knobs(network.config.model_copy(update={"noise_seed": 1}))
    assert not torch.allclose(network(rows), together, atol=1e-2 * float(together.std()))


STREAMING_USES = {
    "stream": TorchEnhancer,
    "cost": cost_of,
    "export": lambda network: export_onnx(network, None),
    "delay": lambda network: network.delay,
    "step": lambda network: network.step(torch.zeros(1, 32), None),
    "example": lambda network: network.example(),
    "state": lambda network: network.state_sizes(),
}


@pytest.mark.parametrize("use", STREAMING_USES.values(), ids=STREAMING_USES)
def test_diffusion_cannot_stream(use):
    with pytest.raises(InputError, match="hears whole signals.* can only teach") as error:
        use(build(TEACHER))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "document, message",
    [
        ({"backbone": {"width": 6}}, "width = 6 must be a multiple of 4"),
        ({"backbone": {"multipliers": []}}, "multipliers need at least one number"),
        ({"backbone": {"multipliers": [1, 0]}}, "multipliers need at least one number, all of them at least 1"),
        ({"backbone": {"kind": "unet"}}, "unet"),
        ({"backbone": {"multipliers": [1] * 10}}, "spectra.n_fft = 510 has 256 bins, no multiple of 512"),
        ({"spectra": {"n_fft": 512}}, "spectra.n_fft = 512 has 257 bins, no multiple of 8"),
        ({"segment_frames": 62}, "segment_frames = 62 must be a multiple of 4"),
        ({"segment_frames": 8, "overlap_hops": 4}, "overlap_hops = 4 must be less than half of segment_frames"),
        ({"segment_frames": 8, "overlap_hops": 1, "spectra": {"hop": 32}}, "is shorter than half a window"),
        ({"steps": 0}, "steps"),
        ({"steps": 17}, "steps"),
        ({"last_time": 1.0}, "last_time"),
        ({"renoise": "mu"}, "renoise"),
        ({"noise_scale": 1.5}, "noise_scale"),
        ({"noise_seed": -1}, "noise_seed"),
        ({"boundry": "exact"}, "unknown key 'boundry'; did you mean 'boundary'?"),
    ],
)
def test_nonsense_is_one_line(document, message):
    with pytest.raises(InputError) as error:
        parse(ConsistencyNetConfig, document, "study.toml: student")
    assert message in str(error.value) and "\n" not in str(error.value)


@torch.no_grad()
def test_longer_segments_need_no_training():
    short = untrained(STUDENT).eval()
    longer = STUDENT.model_copy(update={"segment_frames": 32, "overlap_hops": 4})
    long = build(longer).eval()
    long.load_state_dict(short.state_dict())
    noisy = torch.from_numpy(speech_like(1.0))[None]
    before = short(noisy)
    short.take_knobs(longer)
    hop = STUDENT.spectra.hop
    assert (short.samples, short.hop, short.delay) == (31 * hop, 27 * hop, 4 * hop)
    assert torch.equal(short(noisy), long(noisy)) and not torch.equal(short(noisy), before)
