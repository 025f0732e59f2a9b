import json
from pathlib import Path

import numpy as np
import pytest
from cost_devices import TRUE, measured, networks
from onnx_parts import node, save, weight
from streaming_onnx import streaming_model

from search.device import DeviceProfile, load_device
from search.latency import Latency, MeasurementFailed
from search.prediction.calibrate import Subject, calibrate, export_spread, measure_all, model_from, time_of
from search.prediction.cost_model import CostModel, cost_model_of, load_cost_model, predict, require_same_runtime
from search.prediction.features import Features, features_of
from search.prediction.fit import FEWEST, FORMS, fit, interval_ratio, judge
from search.prediction.networks import MOST, name_of, spread
from sekd.errors import InputError
from sekd.models import FAMILIES, FtfConfig
from sekd.models.path_network import PathNetwork

HERE = load_device("x86-1core")


def had(ms, **fields):
    return Latency(kind="measured", source="local", p50_ms=ms, hop_ms=16.0, rtf=ms / 16, n=100, **fields)


def synthetic_model(seed=0, count=24, noise=0.05, device=HERE):
    """A model of a device with known costs, through all that `sekd calibrate` does but the measuring."""
    rng = np.random.default_rng(seed)
    figures = networks(rng, count)
    subjects = [Subject(str(i), Path(), Features(each, ("MatMul",), (), 16.0)) for i, each in enumerate(figures)]
    times = measured(figures, rng, noise)
    return model_from(subjects, {str(i): [had(ms), had(ms)] for i, ms in enumerate(times)}, device, "calibration")


def test_known_costs_are_found_again():
    rng = np.random.default_rng(0)
    figures = networks(rng, 30)
    exact = fit(figures, measured(figures, rng, noise=0.0))
    assert exact.us_per == pytest.approx(TRUE, rel=1e-6)
    noisy = fit(figures, measured(figures, rng, noise=0.03))
    assert {name: noisy.us_per[name] for name in ("nodes", "values_k")} == pytest.approx(
        {"nodes": 0.5, "values_k": 0.6}, rel=0.15
    )


def test_rates_of_kinds_and_memory_are_found_where_there_are_any():
    rng = np.random.default_rng(1)
    costs = {"nodes": 0.5, "values_k": 0.5, "conv_macs_k": 0.01, "matmul_macs_k": 0.05, "recurrent_macs_k": 0.2,
             "weights_kib_over_4096": 0.1}  # fmt: skip
    figures = networks(rng, 30)
    for each in figures[::4]:
        each["weights_kib_over_4096"] = float(rng.uniform(500, 5000))
    found = fit(figures, measured(figures, rng, 0.01, costs)).us_per
    assert {name: found[name] for name in costs} == pytest.approx(costs, rel=0.15)


def test_no_cost_is_negative_and_forms_are_few():
    rng = np.random.default_rng(2)
    figures = networks(rng, 12)
    assert min(fit(figures, rng.uniform(0.1, 1, 12).tolist()).us_per.values()) >= 0
    assert max(map(len, FORMS)) <= 7 and len(FORMS) <= 16


def test_nine_of_ten_unseen_networks_lie_within_the_interval():
    shares = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        figures, unseen = networks(rng, 24), networks(rng, 100)
        found = fit(figures, measured(figures, rng, 0.1))
        ratio = interval_ratio(found.errors)
        times = measured(unseen, rng, 0.1)
        said = [sum(cost * each[n] for n, cost in found.us_per.items()) / 1000 for each in unseen]
        shares.append(np.mean(np.abs(np.log(np.divide(times, said))) <= np.log(ratio)))
    assert 0.86 < np.mean(shares) < 0.96


def test_a_network_is_judged_by_a_fit_that_does_not_know_it():
    rng = np.random.default_rng(3)
    figures = networks(rng, 12)
    times = measured(figures, rng)
    before = judge(figures, times)
    times[4] *= 100  # whatever it took, the model of the others says the same of it
    after = judge(figures, times)
    assert after[4] == before[4]
    assert after[5] != before[5]


def test_the_interval_is_the_error_of_conformal_rank():
    errors = np.log(np.arange(1, 20, dtype=float))
    assert interval_ratio(errors) == pytest.approx(18)  # rank 20 x 0.9
    assert interval_ratio(errors[:10]) == pytest.approx(10)
    assert interval_ratio(errors[:5]) == pytest.approx(5)


def test_fewer_than_ten_networks_are_refused():
    figures = networks(np.random.default_rng(0), FEWEST - 1)
    with pytest.raises(InputError, match="9 networks are too few"):
        fit(figures, [1.0] * 9)
    with pytest.raises(InputError, match="3 networks are too few"):
        synthetic_model(count=3)


def test_what_left_out_networks_tell_is_in_the_file(tmp_path):
    model = synthetic_model()
    assert model.spearman > 0.95 and model.kendall > 0.85
    assert 0.75 <= model.coverage <= 1
    assert model.coverage == np.mean([each.covered for each in model.networks])
    file = tmp_path / "m.json"
    file.write_text(model.model_dump_json())
    assert load_cost_model(file) == model
    for broken in ("{}", "none", json.dumps({**model.model_dump(mode="json"), "version": 2})):
        file.write_text(broken)
        with pytest.raises(InputError, match="not a cost model of this version"):
            load_cost_model(file)
    with pytest.raises(InputError, match="sekd calibrate"):
        load_cost_model(tmp_path / "none.json")


def calibrated(**changes):
    """A model of one microsecond a node, two for a thousand MACs."""
    fields = {
        "us_per": {"nodes": 1.0, "macs_k": 2.0},
        "ranges": {"nodes": (1.0, 100.0), "macs_k": (0.01, 100.0)},
        "interval_ratio": 1.5,
    }
    return synthetic_model().model_copy(update=fields | changes)


def test_a_prediction_is_called_one_and_has_an_interval(tmp_path):
    found = predict(streaming_model(tmp_path / "m.onnx", hop=32, repeat=3), calibrated())
    # Three products of 8 x 8, two means, a reshape and two sums.
    expected = (8 + 2 * 3 * 64 / 1000) / 1000
    assert (found.kind, found.source, found.flags) == ("predicted", "model", [])
    assert found.p50_ms == pytest.approx(expected)
    assert found.interval_ms == pytest.approx((expected / 1.5, expected * 1.5))
    assert (found.hop_ms, found.rtf) == (2.0, pytest.approx(expected / 2))
    assert (found.burst, found.paced, found.n) == (None, None, 0)
    assert found.environment["calibration"]["device"] == "x86-1core"
    assert predict(tmp_path / "m.onnx", calibrated(), hop_ms=4.0).rtf == pytest.approx(expected / 4)


def test_beyond_the_networks_of_the_calibration_is_said(tmp_path):
    model = streaming_model(tmp_path / "m.onnx")
    found = predict(model, calibrated(ranges={"nodes": (10.0, 100.0), "macs_k": (0.01, 100.0)}))
    assert (found.flags, found.environment["outside"]) == (["extrapolated"], ["nodes"])


def test_operators_that_were_never_measured_are_refused(tmp_path):
    conv = save(tmp_path / "c.onnx", [node("Conv", "x w", "y")], {"x": [1, 3, 9]}, ["y"], [weight("w", [8, 3, 3])])
    with pytest.raises(MeasurementFailed, match="no network of the calibration on x86-1core had Conv"):
        predict(conv, calibrated())
    strange = [node("Attention", "x", "y", domain="com.microsoft")]
    path = save(tmp_path / "s.onnx", strange, {"x": [1, 8]}, ["y"])
    with pytest.raises(MeasurementFailed, match="no rule counts com.microsoft.Attention"):
        predict(path, calibrated())


def test_a_profile_names_its_model_and_runs_as_it_was_measured(tmp_path):
    file = tmp_path / "m.json"
    file.write_text(calibrated().model_dump_json())
    device = DeviceProfile(name="board", description="x", latency="model", cost_model=str(file))
    assert device.kind == "predicted"
    assert cost_model_of(device).device == "x86-1core"
    two = device.model_copy(update={"threads": 2})
    with pytest.raises(InputError, match="'board': threads = 2, and its cost model was fitted with 1"):
        cost_model_of(two)
    require_same_runtime(calibrated(), HERE)


def test_the_spread_is_of_its_families_and_of_different_networks():
    assert len(spread(99)) == MOST
    hear_segments = {config for config, family in FAMILIES.items() if issubclass(family, PathNetwork)}
    assert {type(config) for config in spread(FEWEST)} == set(FAMILIES) - {FtfConfig} - hear_segments
    assert len({name_of(config) for config in spread(MOST)}) == MOST
    assert spread(12) == spread(MOST)[:12]


def test_figures_of_the_spread_cover_what_forms_ask_for(tmp_path):
    subjects = export_spread(6, tmp_path)
    for subject in subjects:
        figures = subject.features.figures
        parts = [figures[f"{kind}_macs_k"] for kind in ("conv", "matmul", "recurrent")]
        assert figures["macs_k"] == pytest.approx(sum(parts))
        assert figures.keys() >= {name for form in FORMS for name in form}
        assert subject.features.uncounted == ()
    again = features_of(export_spread(1, tmp_path)[0].path)
    assert again == subjects[0].features


def test_passes_go_there_and_back_and_failures_are_left_out():
    subjects = [Subject(name, Path(name), Features({}, (), (), None)) for name in "abc"]
    order, lines = [], []

    def clock(path):
        order.append(path.name)
        if path.name == "b" and len(order) > 3:
            raise MeasurementFailed("b died")
        return had(1.0)

    found = measure_all(subjects, clock, lines.append)
    assert order == list("abccbaabc")
    assert {name: len(latencies) for name, latencies in found.items()} == {"a": 3, "c": 3}
    assert any("left out: b died" in line for line in lines)


@pytest.mark.parametrize(
    ("times", "slowed", "ms"),
    [((1.0, 3.0, 1.1), (), 1.1), ((1.0, 3.0, 1.1), (1,), 1.0), ((2.0, 2.2, 2.1), (0, 1, 2), 2.1)],
)
def test_the_middle_pass_counts_and_slowed_ones_only_alone(times, slowed, ms):
    flags = [["slowed"] if place in slowed else [] for place in range(3)]
    passes = [had(time).model_copy(update={"flags": raised}) for time, raised in zip(times, flags, strict=True)]
    assert time_of(passes) == ms


@pytest.mark.parametrize(
    ("latency", "message"),
    [({"latency": "unmeasured"}, "cannot be measured"), ({"latency": "model", "cost_model": "m.json"}, "not measured")],
)
def test_only_what_can_be_measured_is_calibrated(latency, message):
    device = DeviceProfile(name="board", description="x", **latency)
    with pytest.raises(InputError, match=message):
        calibrate(device, 10, lock=None, say=print)
    with pytest.raises(InputError, match="--networks 9: 10 to 30"):
        calibrate(HERE, 9, lock=None, say=print)


def test_a_model_is_frozen_and_knows_all_of_its_fields():
    assert CostModel.model_config["frozen"] and CostModel.model_config["extra"] == "forbid"
