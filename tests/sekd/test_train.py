"""The training loop: resumable to the bit, stopped by what is not finite, the same from cache or live teacher."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import noise, speech_like

from sekd.checkpoint import hash_of_weights
from sekd.config import parse
from sekd.errors import InputError
from sekd.losses import LossConfig
from sekd.models import CruseConfig, build
from sekd.pool import PoolBatches, RowsWriter, write_outputs
from sekd.train import Batch, NotFinite, Phase, Progress, Run, TrainConfig, Trainer, rate

TINY = CruseConfig(width=2, depth=2, gru_groups=2, bands=16, n_fft=128, hop=64)
LOSS = LossConfig()
MIXED = {"compressed": 0.5, "dispatch_l2": 0.5}


def make_batch(step: int) -> Batch:
    """Two signals of half a second, a function of ``step``."""
    clean = np.stack([speech_like(0.5, seed=2 * step + row) for row in range(2)])
    hiss = np.stack([noise(8000, 0.02, seed=2 * step + row) for row in range(2)])
    mixed = [clean + hiss, clean, clean + 0.2 * hiss]
    return Batch(*(torch.from_numpy(part) for part in mixed))


def trainer(steps: int = 12, phases: list[Phase] | None = None, seed: int = 0, **changes) -> Trainer:
    torch.manual_seed(seed)
    config = TrainConfig(steps=steps, batch=2, **changes)
    return Trainer(build(TINY), phases or [Phase(steps, MIXED)], config, LOSS)


PHASES = [Phase(4, {"output_l2": 1.0}), Phase(8, {"compressed": 1.0, "psa": 0.1})]


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("killed_at", [2, 4, 6])
def test_a_resumed_training_ends_on_the_same_bits(tmp_path, ema, killed_at):
    whole = trainer(phases=PHASES, ema=ema)
    whole.run(make_batch)
    run = Run(checkpoint=tmp_path / "checkpoint.pt")
    trainer(phases=PHASES, ema=ema).run(make_batch, run, until=killed_at)
    torch.rand(7)  # whatever else the process did
    again = trainer(phases=PHASES, ema=ema, seed=99)  # other first weights: all must come from the file
    again.run(make_batch, run)
    assert again.step == 12
    assert hash_of_weights(again.model) == hash_of_weights(whole.model)


def test_resuming_a_finished_training_changes_nothing(tmp_path):
    run = Run(checkpoint=tmp_path / "checkpoint.pt")
    first = trainer(ema=0.9)
    first.run(make_batch, run)
    again = trainer(ema=0.9, seed=5)
    again.run(make_batch, run)
    assert hash_of_weights(again.model) == hash_of_weights(first.model)


CHILD = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from test_train import PHASES, Run, make_batch, torch, trainer
torch.set_num_threads(1)
run = Run(checkpoint=Path({path!r}), checkpoint_every_s=0.0, on_progress=lambda p: print(p.step, flush=True))
trainer(phases=PHASES, ema=0.9).run(make_batch, run)
"""


@pytest.mark.slow
def test_a_killed_process_loses_nothing_but_time(tmp_path):
    path = tmp_path / "checkpoint.pt"
    code = CHILD.format(here=str(Path(__file__).parent), path=str(path))
    for wait_for in ("3", "8"):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for line in child.stdout:
            if line.strip() == wait_for:
                os.kill(child.pid, signal.SIGKILL)
                break
        assert child.wait() == -signal.SIGKILL
        child.stdout.close()
    last = trainer(phases=PHASES, ema=0.9, seed=1)
    last.run(make_batch, Run(checkpoint=path))
    whole = trainer(phases=PHASES, ema=0.9)
    whole.run(make_batch)
    assert hash_of_weights(last.model) == hash_of_weights(whole.model)


def test_training_lowers_the_loss_it_minimises():
    seen: list[Progress] = []
    batch = make_batch(0)
    trainer(40, lr=5e-3).run(lambda step: batch, Run(on_progress=seen.append))
    assert [p.step for p in seen] == list(range(1, 41)) and seen[0].steps == 40
    assert seen[-1].loss < 0.8 * seen[0].loss
    for p in seen:
        assert p.loss == pytest.approx(sum(MIXED[name] * value for name, value in p.terms.items()), rel=1e-5)


def test_a_loss_that_is_not_finite_stops_before_it_spoils_the_weights():
    def broken(step: int) -> Batch:
        batch = make_batch(step)
        return batch if step < 3 else batch._replace(noisy=batch.noisy * math.nan)

    stopped = trainer()
    with pytest.raises(NotFinite, match=r"loss is not finite at step 3: compressed = nan, dispatch_l2 = nan"):
        stopped.run(broken)
    assert stopped.step == 3
    assert all(bool(value.isfinite().all()) for value in stopped.model.state_dict().values())


def test_a_gradient_that_is_not_finite_stops_too():
    stopped = trainer()
    first = next(stopped.model.parameters())
    first.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(NotFinite, match="gradient is not finite at step 0"):
        stopped.run(make_batch)
    assert all(bool(value.isfinite().all()) for value in stopped.model.state_dict().values())


@pytest.mark.parametrize("damage", ["half", "empty", "foreign", "other network"])
def test_checkpoints_that_cannot_be_used_are_one_line(tmp_path, damage):
    path = tmp_path / "checkpoint.pt"
    trainer().run(make_batch, Run(checkpoint=path), until=1)
    content = path.read_bytes()
    if damage == "other network":
        other = Trainer(build(CruseConfig(width=3)), [Phase(12, MIXED)], TrainConfig(steps=12), LOSS)
        other.save(path)
    else:
        path.write_bytes({"half": content[: len(content) // 2], "empty": b"", "foreign": b"RIFF" * 99}[damage])
    with pytest.raises(InputError) as error:
        trainer().run(make_batch, Run(checkpoint=path))
    assert str(error.value).startswith(f"{path}: not a checkpoint of this training: ")
    assert "\n" not in str(error.value)


def test_a_checkpoint_is_whole_whenever_it_is_there(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    one = trainer()
    one.save(path)
    before = path.read_bytes()
    monkeypatch.setattr(torch, "save", lambda content, file: file.write(b"half of it") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        one.save(path)
    assert path.read_bytes() == before


def test_cached_and_live_teacher_give_the_same_loss(tmp_path):
    """16 bits with a scale for each row are far finer than what a teacher differs by from a student."""
    torch.manual_seed(1)
    teacher, student = build(CruseConfig(width=4)), build(TINY)
    signals = [make_batch(step) for step in range(4)]
    for name in ("noisy", "clean"):
        writer = RowsWriter(tmp_path, name, 8, 8000)
        for row, wave in enumerate(torch.cat([getattr(batch, name) for batch in signals]).numpy()):
            writer.put(row, wave)
        writer.close()
    write_outputs(tmp_path, tmp_path, teacher, lambda share: None, batch=3)
    cached = PoolBatches(tmp_path, tmp_path, batch=8, seed=0)(0)
    with torch.no_grad():
        live = cached._replace(teacher=teacher.eval()(cached.noisy))
    losses = []
    for batch in (cached, live):
        seen: list[Progress] = []
        phases = [Phase(1, {"dispatch_l2": 1.0, "output_l2": 1.0})]
        one = Trainer(student, phases, TrainConfig(steps=1, lr=1e-9), LOSS)
        one.run(lambda step, batch=batch: batch, Run(on_progress=seen.append))
        losses.append(seen[0].terms)
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


def test_the_rate_rises_to_its_peak_and_falls_to_zero_as_a_cosine():
    values = [rate(step, 1000, 0.05) for step in range(1000)]
    assert values[0] == pytest.approx(0.02) and values[49] == values[50] == 1
    assert np.all(np.diff(values[:50]) > 0) and np.all(np.diff(values[50:]) < 0)
    assert values[525] == pytest.approx(0.5, abs=1e-3) and 0 < values[-1] < 1e-4
    assert rate(0, 1, 0.0) == 1


def test_the_optimiser_is_given_that_rate():
    one = trainer(10, lr=2e-3, warmup=0.2)
    seen = []
    one.run(make_batch, Run(on_progress=lambda p: seen.append(one.optimizer.param_groups[0]["lr"])))
    assert seen == pytest.approx([2e-3 * rate(step, 10, 0.2) for step in range(10)])


def test_phases_follow_each_other_at_their_steps():
    one = trainer(phases=PHASES)
    assert [set(one.weights_at(step)) for step in (0, 3, 4, 11)] == [
        {"output_l2"},
        {"output_l2"},
        {"compressed", "psa"},
        {"compressed", "psa"},
    ]
    seen: list[Progress] = []
    one.run(make_batch, Run(on_progress=seen.append))
    assert [set(p.terms) for p in seen] == [set(one.weights_at(step)) for step in range(12)]


def test_the_running_mean_is_what_is_kept():
    weights: list[dict[str, torch.Tensor]] = []
    one = trainer(5, ema=0.5)
    mean = {k: v.clone() for k, v in one.model.state_dict().items()}
    one.run(
        make_batch,
        Run(on_progress=lambda p: weights.append({k: v.clone() for k, v in one.model.state_dict().items()})),
    )
    for update, after in enumerate(weights, start=1):
        decay = min(0.5, (1 + update) / (10 + update))
        mean = {name: decay * mean[name] + (1 - decay) * value for name, value in after.items()}
    for name, value in one.model.state_dict().items():
        assert torch.allclose(value, mean[name], atol=1e-6), name


def test_every_step_asks_leave():
    class Guard:
        entered = 0

        def __enter__(self):
            self.entered += 1

        def __exit__(self, *_):
            pass

    guard = Guard()
    trainer(3).run(make_batch, Run(step_guard=lambda: guard))
    assert guard.entered == 3


@pytest.mark.parametrize(
    "document",
    [{"steps": 0}, {"batch": 0}, {"lr": 0.0}, {"lr": math.nan}, {"ema": 1.0}, {"warmup": 2.0}, {"clip_norm": 0.0},
     {"optimizer": "sgd"}, {"step": 5}],
)  # fmt: skip
def test_nonsense_about_training_is_one_line(document):
    with pytest.raises(InputError) as error:
        parse(TrainConfig, document, "study.toml: train")
    assert f"'{next(iter(document))}'" in str(error.value) and "\n" not in str(error.value)


def test_checkpoints_are_written_while_training(tmp_path):
    path = tmp_path / "checkpoint.pt"
    there = []
    run = Run(checkpoint=path, checkpoint_every_s=0.0, on_progress=lambda p: there.append(path.exists()))
    trainer(4).run(make_batch, run)
    assert there == [False, True, True, True]
