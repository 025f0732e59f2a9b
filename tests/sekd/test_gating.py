"""Gates in training: the wanted ratio, the phases, the gradient of the policy, and the same bits after a break."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from test_distillation import HASHES, TINY, configure, document
from test_train import make_batch

from sekd.checkpoint import hash_of_weights
from sekd.config import parse
from sekd.distillation import DistillConfig, batches, distill
from sekd.errors import InputError
from sekd.gate_spread import spread
from sekd.losses import LossConfig
from sekd.losses.gating import GatingConfig, Ovrl, guided_ratio, ratio_loss
from sekd.models import CruseConfig, build
from sekd.models.gates import GateConfig
from sekd.preparation import Prepared, prepare
from sekd.schedule import DistillSection, with_gates
from sekd.train import Batch, Phase, Progress, Run, TrainConfig, Trainer

SLIM = {**TINY, "gate": {"width": 8, "hidden": 4}}
NETWORK = CruseConfig(**TINY, gate=GateConfig(width=8, hidden=4))
SUPERVISED = {"schedule": {"kind": "supervised"}}


def gated(corpus: Path, **changes) -> DistillConfig:
    return configure(corpus, **{"student": SLIM, **changes})


def alone(corpus: Path, **changes) -> DistillConfig:
    """A gated student without a teacher."""
    made = document(corpus, student=SLIM, teacher=None, distill={**SUPERVISED, **changes})
    return parse(DistillConfig, made, "distil.toml")


def test_the_ratio_loss_is_the_mean_of_squared_distances():
    gates = torch.tensor([[[1.0, 0, 1, 0], [1, 1, 1, 1]], [[1, 0, 0, 0], [0, 0, 0, 1]]])  # ratios 3/4 and 1/4
    assert float(ratio_loss(gates, 0.5)) == pytest.approx(0.0625)
    assert float(ratio_loss(gates, torch.tensor([0.75, 0.75]))) == pytest.approx((0 + 0.25) / 2)


@pytest.mark.parametrize(
    "wanted, ratios",
    [
        (0.6, [0.9, 0.5, 0.1, 0.9]),  # as the line has it: its mean is 0.6
        (0.3, [0.45, 0.25, 0.05, 0.45]),
        (0.7, [0.925, 0.625, 0.325, 0.925]),  # distances to 1 shrink to three quarters
    ],
)
def test_worse_signals_want_more_and_the_mean_is_kept(wanted, ratios):
    found = guided_ratio(torch.tensor([1.0, 2.0, 3.5, 0.0]), 1.0, 3.0, wanted=wanted)
    assert found.tolist() == pytest.approx(ratios)


@pytest.mark.parametrize("wanted", [0.01, 0.5, 0.99])
def test_wanted_ratios_stay_ratios(wanted):
    draws = torch.rand(50, 8, generator=torch.Generator().manual_seed(0)) * 4
    for ovrl in [*draws, torch.zeros(8), torch.full((8,), 4.0)]:
        found = guided_ratio(ovrl, 1.0, 3.0, wanted=wanted, low=0.0, high=1.0)
        assert float(found.mean()) == pytest.approx(wanted, abs=1e-6) and 0 <= found.min() <= found.max() <= 1
    assert guided_ratio(torch.full((3,), 2.0), 2.0, 2.0, wanted=wanted).tolist() == pytest.approx([wanted] * 3)


def test_a_schedule_is_cut_where_another_way_of_drawing_begins():
    section = DistillSection(schedule={"kind": "two_step", "kd_only_fraction": 0.5})
    own = GatingConfig(random_share=0.25, hard_share=0.1, weight=2.0)
    phases = with_gates(section.phases(200), own)
    assert [(phase.steps, phase.gates.mode, sorted(phase.weights)) for phase in phases] == [
        (50, "random", ["dispatch_l2"]),
        (50, "gumbel", ["dispatch_l2", "gate_ratio"]),
        (80, "gumbel", ["compressed", "gate_ratio"]),
        (20, "hard", ["compressed", "gate_ratio"]),
    ]
    assert phases[1].gates is phases[2].gates and phases[3].weights["gate_ratio"] == 2.0


@pytest.mark.parametrize("kind", ["supervised", "one_step", "two_step", "two_step_kept"])
@pytest.mark.parametrize("steps", [1, 3, 10, 1001])
def test_cutting_keeps_every_step_and_its_terms(kind, steps):
    whole = DistillSection(schedule={"kind": kind}).phases(steps)
    cut = with_gates(whole, GatingConfig())
    each = [set(phase.weights) for phase in whole for _ in range(phase.steps)]
    assert [set(phase.weights) - {"gate_ratio"} for phase in cut for _ in range(phase.steps)] == each
    assert all(phase.steps > 0 and phase.gates is not None for phase in cut)


def test_the_temperature_holds_then_falls_exponentially_and_stays():
    own = GatingConfig(random_share=0.2, hard_share=0.1, temperature=2.0, coldest=0.5, hold=0.3)
    random, joint, hard = (phase.gates for phase in with_gates([Phase(1000, {})], own))
    assert random.at(0).mode == "random" and (joint.begin, joint.steps, hard.begin) == (200, 700, 900)
    temperatures = [joint.at(step).temperature for step in range(200, 900)]
    assert set(temperatures[:211]) == {2.0} and temperatures[-1] == pytest.approx(0.5, rel=0.01)
    assert temperatures[455] == pytest.approx(1.0)  # half the way of the logarithm
    falls = [b / a for a, b in pairwise(temperatures[211:])]
    assert falls == pytest.approx([falls[0]] * len(falls))
    assert hard.at(950) == ("hard", 0.5)


def judged(step: int) -> Batch:
    """Two signals, the second a hard one."""
    return make_batch(step)._replace(ovrl=Ovrl(torch.tensor([3.0, 1.0]), 1.0, 3.0))


def short(step: int) -> Batch:
    """The same, a fifth of a second of each."""
    batch = judged(step)
    return batch._replace(noisy=batch.noisy[:, 1000:4200], clean=batch.clean[:, 1000:4200])


def trainer(steps: int = 12, seed: int = 0, lr: float = 1e-3, **own) -> Trainer:
    torch.manual_seed(seed)
    settings = GatingConfig(**own)
    phases = with_gates([Phase(steps, {"compressed": 1.0})], settings)
    return Trainer(build(NETWORK), phases, TrainConfig(steps=steps, batch=2, lr=lr), LossConfig(gate=settings))


@pytest.mark.parametrize("mode, shares", [("gumbel", (0.0, 0.0)), ("hard", (0.0, 0.9)), ("random", (0.9, 0.0))])
def test_the_gradient_reaches_the_policy_unless_a_coin_decides(mode, shares):
    one = trainer(10, random_share=shares[0], hard_share=shares[1])
    one.step = 5
    one.run(short, until=6)
    gradient = one.model.policy.full.weight.grad
    assert one.phase_at(5).gates.mode == mode
    assert gradient is None if mode == "random" else float(gradient.abs().max()) > 0
    assert one.model.encoder[0].weight.grad is not None


def test_gates_are_drawn_for_training_and_decided_afterwards():
    seen: list[Progress] = []
    one = trainer(20)
    one.run(short, Run(on_progress=seen.append))
    assert one.model.gating is None
    assert ["gate_ratio" in p.terms for p in seen] == [False] * 5 + [True] * 15
    assert all(0 <= p.gate <= 1 for p in seen) and {p.gate for p in seen[:5]} <= {0.0, 0.5, 1.0}  # one coin a signal


def test_a_training_that_breaks_leaves_no_noise_behind():
    one = trainer(20)
    with pytest.raises(ZeroDivisionError):
        one.run(lambda step: short(step) if step < 8 else 1 / 0)  # type: ignore[arg-type]
    assert one.step == 8 and one.model.gating is None


def test_under_noise_the_term_counts_what_the_policy_would_decide():
    """Or what was drawn; the estimate is made with the drawn gates either way."""
    found = {}
    for counted in ("decided", "drawn"):
        one = trainer(4, counted=counted, guidance="constant", random_share=0.0, hard_share=0.0)
        with torch.no_grad():
            one.model.policy.head.weight.zero_()
            one.model.policy.head.bias.copy_(torch.tensor([0.4, 0.0]))  # open with a probability of 0.6
        one.run(make_batch, Run(on_progress=lambda p, counted=counted: found.setdefault(counted, p)))
    assert found["decided"].gate == 1 and found["decided"].terms["gate_ratio"] == 0.25
    assert 0.45 < found["drawn"].gate < 0.75
    assert found["drawn"].terms["compressed"] == found["decided"].terms["compressed"]


@pytest.mark.parametrize("target", [0.2, 0.8])
def test_the_share_of_open_gates_moves_to_the_target(target):
    """The share of what will run, not of what the noise drew: that one is right too, until the noise goes."""
    one = trainer(80, lr=0.03, target=target, guidance="constant", random_share=0.1)
    batch = short(0)
    one.run(lambda step: batch)
    with one.model.eval().watched() as gates, torch.no_grad():
        one.model(batch.noisy)
    assert float(gates[0].mean()) == pytest.approx(target, abs=0.05)


def test_a_guided_policy_opens_more_for_the_signals_that_want_it():
    one = trainer(80, lr=0.03, target=0.5, random_share=0.1)
    batch = short(0)
    one.run(lambda step: batch)
    with one.model.eval().watched() as gates, torch.no_grad():
        one.model(batch.noisy)
    easy, hard = gates[0].mean((1, 2)).tolist()
    assert hard > easy + 0.3


@pytest.fixture(scope="module")
def whole() -> str:
    """The weights of a training that nothing broke."""
    one = trainer()
    one.run(short)
    return hash_of_weights(one.model)


@pytest.mark.parametrize("killed_at", [2, 3, 7, 11])
def test_a_resumed_training_draws_the_same_gates(tmp_path, whole, killed_at):
    run = Run(checkpoint=tmp_path / "checkpoint.pt")
    trainer().run(short, run, until=killed_at)  # random until 3, hard from 11
    torch.rand(7)
    again = trainer(seed=99)
    again.run(short, run)
    assert hash_of_weights(again.model) == whole


BEFORE_GATES = {
    "supervised": "aca4beffa79d04cc",
    "one_step": "c8b66ee6c1a45e5f",
    "two_step": "a11a9cf3f827a850",
    "two_step_kept": "025f5f9607169eef",
}


@pytest.mark.parametrize("kind, identity", BEFORE_GATES.items())
def test_identities_of_students_without_gates_are_those_of_before(corpus, kind, identity):
    config = configure(corpus, distill={"schedule": {"kind": kind}})
    assert config.identity(HASHES) == identity


@pytest.mark.parametrize("kind", ["supervised", "one_step"])
def test_identity_is_how_gates_are_trained(corpus, kind):
    def found(**own) -> str:
        return gated(corpus, distill={"schedule": {"kind": kind}, **own}).identity(HASHES)

    assert found() == found(gate={}) == found(gate={"target": 0.5})
    settings = [{}, {"target": 0.4}, {"weight": 2.0}, {"low": 0.2}, {"hold": 0.0}, {"guidance": "constant"}]
    settings.append({"counted": "drawn"})
    assert len({found(gate=own) for own in settings}) == len(settings)
    unread = [{"guidance": "constant", "low": low} for low in (0.1, 0.2)]
    assert len({found(gate=own) for own in unread}) == 1


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"student": TINY, "distill": {"gate": {}}}, "distill.gate says how gates are trained, and the student has"),
        ({"train": {"steps": 4, "batch": 1}}, "'dnsmos' compares the clips of a batch"),
        ({"distill": {"gate": {"target": 1.0}}}, "'distill.gate.target' = 1.0"),
        ({"distill": {"gate": {"low": 0.6, "high": 0.5}}}, "low = 0.6 must not be above high = 0.5"),
        ({"distill": {"gate": {"coldest": 2.0}}}, "coldest = 2.0 must not be above temperature = 1.0"),
        ({"distill": {"gate": {"random_share": 0.6, "hard_share": 0.4}}}, "leave no steps"),
        ({"distill": {"gate": {"guidance": "dnsmoss"}}}, "'distill.gate.guidance' = 'dnsmoss'"),
        ({"distill": {"supervised": {"gate_ratio": 1.0}}}, "no loss term 'gate_ratio' that follows the clean"),
        ({"distill": {"term": "gate_ratio"}}, "no loss term 'gate_ratio' that follows the teacher"),
        ({"teacher": {"network": SLIM}}, "network.gate: only students are slimmable"),
    ],
)
def test_nonsense_about_gates_is_one_line(corpus, changes, message):
    with pytest.raises(InputError) as error:
        gated(corpus, **changes)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def prepared(corpus, cache) -> Prepared:
    config = gated(corpus)
    return prepare(config.data, config.teacher, seed=0, cache=cache, features=True, ovrl=True)


@pytest.mark.parametrize("kind", ["supervised", "two_step"])
def test_the_same_gated_configuration_gives_the_same_student(corpus, cache, prepared, kind):
    config = gated(corpus, distill={"schedule": {"kind": kind}})
    models = [distill(config, prepared=prepared, cache=cache).model for _ in range(2)]
    assert len({hash_of_weights(model) for model in models}) == 1
    assert models[0].gating is None and not models[0].training
    other = gated(corpus, distill={"schedule": {"kind": kind}, "gate": {"guidance": "constant"}})
    assert hash_of_weights(distill(other, prepared=prepared, cache=cache).model) != hash_of_weights(models[0])


def test_gates_and_terms_on_features_go_together(corpus, cache, prepared):
    config = gated(
        corpus, distill={"term": "similarity", "gate": {"random_share": 0.3}}, train={"steps": 4, "batch": 16}
    )
    seen: list[Progress] = []
    distill(config, prepared=prepared, cache=cache, run=Run(on_progress=seen.append))
    assert [sorted(p.terms) for p in seen[:2]] == [
        ["compressed", "similarity"],
        ["compressed", "gate_ratio", "similarity"],
    ]


def test_without_a_teacher_a_pool_is_made_all_the_same(corpus, cache, prepared):
    config = alone(corpus)
    made = prepare(config.data, None, seed=0, cache=cache, pool=config.gated, ovrl=config.reads_ovrl)
    assert made.pool == prepared.pool and made.hashes.pool == prepared.hashes.pool and made.hashes.teacher is None
    assert made.ovrl == prepared.ovrl and made.outputs is None
    assert config.identity(made.hashes) == gated(corpus, distill=SUPERVISED).identity(prepared.hashes)
    student = distill(config, cache=cache)  # finds the same
    assert student.prepared == made
    constant = alone(corpus, gate={"guidance": "constant"})
    assert distill(constant, cache=cache).prepared == made._replace(ovrl=None)


def test_batches_carry_the_ovrl_of_their_rows(corpus, cache, prepared):
    values = np.load(prepared.ovrl / "ovrl.npy")
    source = batches(gated(corpus), prepared, cache)
    batch = source(2)
    assert batch.ovrl.values.tolist() == values[np.sort(source._rows(2))].tolist()
    assert (batch.ovrl.low, batch.ovrl.high) == pytest.approx(tuple(np.percentile(values, [5, 95])))
    assert batches(configure(corpus), prepared, cache)(2).ovrl is None
    with pytest.raises(InputError, match="was not prepared"):
        batches(gated(corpus), prepared._replace(ovrl=None), cache)


def test_a_stretched_policy_decides_as_before_and_thresholds_cut_between_frames():
    torch.manual_seed(0)
    network = build(CruseConfig(width=4, gate=GateConfig())).eval()
    signals = torch.randn(4, 16000) * torch.linspace(0.01, 1, 16000)

    def share(threshold: float) -> float:
        network.get_buffer("policy.threshold").fill_(threshold)
        with torch.no_grad(), network.watched() as gates:
            network(signals)
        return float(gates[0].mean())

    with torch.no_grad(), network.weighed() as logits:
        network(signals)
    network.policy.head.bias[0].data.sub_((logits[0][..., 0] - logits[0][..., 1]).median())  # half of them open
    before = [share(threshold) for threshold in (0.2, 0.5, 0.8)]
    spread(network, lambda step: Batch(signals, signals, None))
    after = [share(threshold) for threshold in (0.2, 0.5, 0.8)]
    assert before == pytest.approx([1, 0.5, 0], abs=0.02)
    assert after[1] == before[1]
    assert 1 > after[0] > 0.6 and 0.4 > after[2] > 0
