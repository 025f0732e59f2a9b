"""Students that hear segments: devices that take none refuse them, and their evaluations are counted and measured."""

from pathlib import Path

import pytest
import torch

from search.cost import cost_of
from search.device import DeviceProfile, check_fits, load_device
from search.measure import LEVELS, for_hop, measure
from search.space import SAMPLING, SEGMENTS, Domain, check_free, sweep
from sekd.errors import InputError
from sekd.export import export_onnx
from sekd.models import FAMILIES, ConsistencyNetConfig, CruseConfig, Diffusion, build

TINY = {"backbone": {"width": 4, "multipliers": (1, 2)}, "segment_frames": 16, "overlap_hops": 2}
SEGMENT_MS = 15 * 256 / 16


def network(**knobs):
    torch.manual_seed(0)
    return build(ConsistencyNetConfig(**TINY, **knobs)).eval()


def device(**limits) -> DeviceProfile:
    sources = dict.fromkeys(limits, "for tests")
    return DeviceProfile(name="near", description="for tests", latency="local", sources=sources, **limits)


def test_every_knob_of_a_student_acts_after_training_and_no_other_key():
    students = [config for config, family in FAMILIES.items() if family is not Diffusion]
    knobs = {f"student.{name}" for config in students for name in config.knobs}
    assert knobs == {*SAMPLING, *SEGMENTS}
    for key in (*SAMPLING, *SEGMENTS):
        with pytest.raises(InputError, match="acts after training: it needs free = true"):
            check_free({key: Domain(choice=(1, 2))})
        check_free({key: Domain(choice=(1, 2), free=True)})


def test_one_evaluation_is_tried_once_whatever_only_several_would_look_at():
    space = {
        "student.steps": Domain(choice=(1, 2), free=True),
        "student.renoise": Domain(choice=("published", "marginal"), free=True),
        "student.noise_scale": Domain(choice=(0.0, 1.0), free=True),
    }
    found = [tuple(setting.values()) for setting in sweep(space)]
    assert found == [
        (1, "published", 0.0), (1, "published", 1.0),
        (2, "published", 0.0), (2, "published", 1.0), (2, "marginal", 0.0), (2, "marginal", 1.0),
    ]  # fmt: skip


def test_cost_says_how_long_a_segment_is_and_grows_with_evaluations():
    one, two, four = (cost_of(network(steps=steps)) for steps in (1, 2, 4))
    assert one.segment_ms == one.algorithmic_latency_ms == SEGMENT_MS
    assert cost_of(build(CruseConfig())).segment_ms is None
    evaluation = two.macs_per_s - one.macs_per_s
    assert four.macs_per_s - two.macs_per_s == pytest.approx(2 * evaluation)
    transforms = 2 * 2 * 16 * 256 * 256 * 16000 / (13 * 256)  # two products each way, 16 frames, for 13 new hops
    assert one.macs_per_s == pytest.approx(evaluation + transforms)
    assert one.parameters == two.parameters == four.parameters


@pytest.mark.parametrize(
    "profile, reason",
    [
        (device(), "near: it has a budget for each frame, and no segments"),
        (device(max_segment_ms=100), "near: it has segments of at most 100 ms"),
        (load_device("x86-1core"), "x86-1core: it has a budget for each frame, and no segments"),
    ],
)
def test_a_device_without_room_for_a_segment_says_so(profile, reason):
    (broken,) = check_fits(profile, cost_of(network()))
    assert (broken.key, broken.value, broken.limit) == ("segment_ms", SEGMENT_MS, profile.max_segment_ms or 0)
    assert broken.reason == f"{reason} (max_segment_ms), and the student hears 240 ms at once"


def test_a_device_with_room_takes_segments_and_frames():
    profile = device(max_segment_ms=SEGMENT_MS)
    assert check_fits(profile, cost_of(network())) == [] == check_fits(profile, cost_of(build(CruseConfig())))


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_segments_are_not_waited_for(level):
    assert for_hop(level, 16.0) is level and for_hop(level, None) is level
    changed = for_hop(level, 200.0)
    assert changed.paced_frames == 0 and changed.paced_s == 0 and changed.processes == level.processes
    assert changed.burst_frames * changed.processes >= 44, "enough for a bound of p90"


def test_a_segment_is_measured_as_latency_and_real_time_factor(tmp_path: Path):
    path = export_onnx(network(), tmp_path / "model.onnx").path
    latency = measure(path, load_device("x86-1core-segments"))
    assert latency.hop_ms == 13 * 16 and latency.paced is None
    assert latency.n == latency.burst.n == 44
    assert latency.rtf == pytest.approx(latency.p50_ms / latency.hop_ms) and 0 < latency.rtf < 1
