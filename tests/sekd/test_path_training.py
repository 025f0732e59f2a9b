"""Training a consistency function: the target network, its running mean, phases, and the same bits when resumed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from path_signals import STUDENT, TEACHER, make_batch

from sekd.checkpoint import hash_of_weights
from sekd.config import parse
from sekd.distillation import DistillConfig, distill
from sekd.generative.learning import Consistency, ConsistencyConfig
from sekd.losses import LossConfig
from sekd.models import build
from sekd.path_learning import mean_decay
from sekd.train import Phase, Progress, Run, TrainConfig, Trainer

PLAIN = {"pesq": 0.0, "si_snr": 0.0}


def networks(seed: int = 0):
    """A student, and a teacher that has learnt nothing but says something."""
    torch.manual_seed(seed)
    student, teacher = build(STUDENT), build(TEACHER).eval().requires_grad_(False)
    for parameter in [*student.parameters(), *teacher.parameters()]:
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return student, teacher


def trainer(config: ConsistencyConfig, steps: int = 12, *, led: bool = True, seed: int = 0, **changes) -> Trainer:
    student, teacher = networks(seed)
    walk = Consistency(student, networks(0)[1] if led else None, config)
    torch.manual_seed(seed)
    phases = [Phase(count, terms) for count, terms in config.phases(steps)]
    settings = {"steps": steps, "batch": 2, "ema": 0.9} | changes
    return Trainer(student, phases, TrainConfig(**settings), LossConfig(), walk)


def test_the_target_has_no_gradient_and_follows_the_mean_of_the_weights():
    one = trainer(ConsistencyConfig(**PLAIN), ema=0.999)
    first = {name: value.clone() for name, value in one.model.state_dict().items()}
    one.run(make_batch, until=1)
    assert all(p.grad is None and not p.requires_grad for p in one.walk.target.parameters())
    assert any(p.grad.any() for p in one.model.parameters())
    for name, after in one.model.state_dict().items():
        mean = 2 / 11 * first[name] + 9 / 11 * after
        assert torch.allclose(one.averaged[name], mean, atol=1e-7), name
        assert torch.equal(one.walk.target.state_dict()[name], one.averaged[name]), name
    one.run(make_batch, until=4)
    for name, value in one.walk.target.state_dict().items():
        assert torch.equal(value, one.averaged[name]) and value is not one.averaged[name], name


@pytest.mark.parametrize("update, decay", [(1, 2 / 11), (2, 3 / 12), (100, 0.9182), (8980, 0.999), (9500, 0.999)])
def test_a_young_mean_follows_quickly(update, decay):
    one = trainer(ConsistencyConfig(**PLAIN), steps=10_000, ema=0.999)
    one.step, name = update - 1, "network.last.weight"
    one.averaged[name] = torch.full_like(one.averaged[name], 100.0)  # far from the weights
    one.run(make_batch, until=update)
    weight = one.model.state_dict()[name]
    assert float(((one.averaged[name] - weight) / (100.0 - weight)).mean()) == pytest.approx(decay, abs=5e-5)


def test_the_mean_trails_by_a_fifth_of_a_training_at_most():
    assert [mean_decay(steps) for steps in (1, 500, 2500, 5000, 39_000)] == [0, 0.99, 0.998, 0.999, 0.999]


def test_the_loss_is_consistency_and_two_small_parts_of_what_is_heard():
    seen: list[Progress] = []
    one = trainer(ConsistencyConfig(), steps=1)
    one.run(lambda step: make_batch(step, 8000), Run(on_progress=seen.append))
    terms = seen[0].terms
    assert seen[0].loss == pytest.approx(terms["consistency"] + 5e-4 * terms["pesq"] + 5e-5 * terms["si_snr"])
    assert terms.keys() == {"consistency", "pesq", "si_snr"}


def test_what_is_heard_can_be_left_out_or_begin_later():
    config = ConsistencyConfig(weight=2.0, si_snr=0.0, auxiliary_from=0.25)
    assert config.phases(8) == [(2, {"consistency": 2.0}), (6, {"consistency": 2.0, "pesq": 5e-4})]
    assert ConsistencyConfig(**PLAIN).phases(8) == [(8, {"consistency": 1.0})]


@pytest.mark.parametrize("led", [True, False])
@pytest.mark.parametrize("killed_at", [1, 5, 8])
def test_a_resumed_training_ends_on_the_same_bits(tmp_path, led, killed_at):
    config = ConsistencyConfig(pesq=0.0, auxiliary_from=0.5)
    whole = trainer(config, led=led)
    whole.run(make_batch)
    run = Run(checkpoint=tmp_path / "checkpoint.pt")
    trainer(config, led=led).run(make_batch, run, until=killed_at)
    torch.rand(7)  # whatever else the process did
    again = trainer(config, led=led, seed=99)  # other first weights: all must come from the file
    again.run(make_batch, run)
    assert again.step == 12 and hash_of_weights(again.model) == hash_of_weights(whole.model)
    assert hash_of_weights(again.walk.target) == hash_of_weights(whole.walk.target)


def test_learning_lowers_the_loss():
    """Of one pair, without a teacher: the exact function exists, so a network can come near it."""
    seen: list[float] = []
    batch = make_batch(1)
    one = trainer(ConsistencyConfig(**PLAIN), steps=150, led=False, lr=3e-3)
    one.run(lambda step: batch, Run(on_progress=lambda p: seen.append(p.loss)))
    assert np.mean(seen[-30:]) < 0.7 * np.mean(seen[:30])


@pytest.mark.parametrize("kind", ["consistency", "consistency_training"])
def test_from_a_configuration_to_the_same_student_twice_whose_knobs_come_later(corpus, tmp_path, kind):
    source = {"manifest": str(corpus), "segment_s": 0.5}
    shared = {"spectra": {"n_fft": 126, "hop": 48}, "backbone": {"width": 4, "multipliers": [1, 2]}}  # no whole hops
    document = {
        "student": {"family": "consistency", "segment_frames": 16, "overlap_hops": 2, **shared},
        "distill": {"schedule": {"kind": kind}},
        "train": {"steps": 3, "batch": 2},
        "teacher": {"network": {"family": "diffusion", **shared}, "train": {"steps": 2, "batch": 2}},
        "data": {"train": {**source, "pool_minutes": 0.1}, "valid": {**source, "count": 2}},
    }
    config = parse(DistillConfig, document, "distil.toml")
    first = distill(config, cache=tmp_path / "cache", folder=tmp_path / "trial")
    again = distill(config, cache=tmp_path / "cache", prepared=first.prepared)
    assert hash_of_weights(again.model) == hash_of_weights(first.model)
    assert first.prepared.outputs is None  # nobody follows what the teacher makes of the training audio
    document["student"] |= {"steps": 2, "renoise": "marginal"}
    asked = distill(parse(DistillConfig, document, "x"), cache=tmp_path / "cache", folder=tmp_path / "trial").model
    assert asked.config.steps == 2 and asked.noise.shape[0] == 2
    assert hash_of_weights(asked) == hash_of_weights(first.model)
