"""How much faster is one evaluation of a consistency function than thirty predictor-corrector steps of its teacher?

    python -m benchmarks.consistency_speed [--width 8 --rounds 5]

Teacher and student have the same network, untrained (times do not depend on weights), and get the same spectrum of one
segment; what is timed is the sampler with its noise and all evaluations, on one thread of this machine, without STFT
and files. All take turns within a round. In onnxruntime one evaluation is a file and the sampler is numpy.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import torch

from sekd.evaluation_export import FILE, export_evaluation, one_evaluation
from sekd.evaluation_runner import Runner
from sekd.generative.samplers import predictor_corrector
from sekd.models import ConsistencyNet, ConsistencyNetConfig, Diffusion, DiffusionConfig
from sekd.models.settled import settled

FRAMES = 64
TEACHER_STEPS = 30
STEPS = (1, 2, 4)
LEAST_S = 0.3  # of a turn: fast ones run several times, and their median counts
WANTED = 54  # Xu et al. 2025, for 60 evaluations against one

Call = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    teacher, students = networks(options.width)
    spectrum = 0.1 * torch.randn(1, 2, teacher.config.spectra.freqs, FRAMES)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        runtimes = {
            "torch": in_torch(teacher, students, spectrum),
            "onnxruntime": in_onnxruntime(teacher, students[1], spectrum.numpy(), Path(folder)),
        }
        calls = {(name, count): call for name, counts in runtimes.items() for count, call in counts.items()}
        found = timed(calls, options.rounds)
    parameters = sum(value.numel() for value in teacher.parameters())
    print(f"width {options.width}, {parameters:,} parameters, {FRAMES} frames, one thread, {options.rounds} rounds\n")
    for name, counts in runtimes.items():
        table(name, {count: found[name, count] for count in counts})


def networks(width: int) -> tuple[Diffusion, dict[int, ConsistencyNet]]:
    """The teacher, and the student for each number of evaluations, as it runs in use."""
    torch.manual_seed(0)
    backbone = {"width": width}
    teacher = Diffusion(DiffusionConfig(backbone=backbone, steps=TEACHER_STEPS)).eval()
    students = {}
    for steps in STEPS:
        student = ConsistencyNet(ConsistencyNetConfig(backbone=backbone, segment_frames=FRAMES, steps=steps)).eval()
        student.network.load_state_dict(teacher.network.state_dict())
        students[steps] = settled(student)
    return teacher, students


def in_torch(teacher: Diffusion, students: dict[int, ConsistencyNet], spectrum: torch.Tensor) -> dict[int, Call]:
    """By number of evaluations."""
    calls: dict[int, Call] = {
        2 * TEACHER_STEPS: lambda: teacher.sample(spectrum, torch.Generator().manual_seed(0)).spectrum
    }
    return calls | {steps: lambda student=student: student.enhanced(spectrum) for steps, student in students.items()}


def in_onnxruntime(teacher: Diffusion, student: ConsistencyNet, noisy: np.ndarray, folder: Path) -> dict[int, Call]:
    """The same by files of one evaluation; the sampler of the teacher takes arrays as well as tensors."""
    export_evaluation(student, folder / FILE)
    runner = Runner(folder / FILE)
    # The teacher's file, with the metadata of a student's: so that the same runner opens it in the same way.
    graph = one_evaluation(teacher, FRAMES)
    graph.metadata_props.extend(onnx.load(folder / FILE).metadata_props)
    onnx.save(graph, folder / "teacher.onnx")
    session = Runner(folder / "teacher.onnx")._session

    def denoise(x: Any, noisy: Any, t: float) -> Any:
        return session.run(None, {"x": x, "noisy": noisy, "t": np.array([t], np.float32)})[0]

    def sampled() -> Any:
        drawn = np.random.default_rng(0)

        def noise() -> Any:
            return np.float32(np.sqrt(0.5)) * drawn.standard_normal(noisy.shape, dtype=np.float32)

        return predictor_corrector(denoise, teacher.path, noisy, noise, steps=TEACHER_STEPS).spectrum  # type: ignore

    calls: dict[int, Call] = {2 * TEACHER_STEPS: sampled}
    for steps in STEPS:
        knobs = runner.knobs.but(steps=steps)
        noises = runner.noises(knobs)  # once for all segments
        calls[steps] = lambda knobs=knobs, noises=noises: runner.sampled(noisy, knobs, noises)
    return calls


def timed(calls: dict[Any, Call], rounds: int) -> dict[Any, list[float]]:
    """Seconds of each in every round, in which all take turns; a round before them only warms up."""
    found: dict[Any, list[float]] = {key: [] for key in calls}
    for _ in range(rounds + 1):
        for key, call in calls.items():
            found[key].append(turn(call))
    return {key: seconds[1:] for key, seconds in found.items()}


def turn(call: Call) -> float:
    """Median seconds of as many calls as take ``LEAST_S``, after one that only warms up."""
    call()
    seconds: list[float] = []
    while sum(seconds) < LEAST_S:
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return median(seconds)


def table(name: str, found: dict[int, list[float]]) -> None:
    """Medians over rounds; ratios are to the teacher in the same round: of times, and of times of one evaluation."""
    most = max(found)
    ratios = {n: [t / s for t, s in zip(found[most], seconds, strict=True)] for n, seconds in found.items()}
    row(name, "evaluations", "ms", "ms each", "times faster", "by each evaluation")
    row(*["---"] * 6)
    for n, seconds in found.items():
        kind = f"teacher, {TEACHER_STEPS} steps" if n == most else "student"
        ms, ratio = 1e3 * median(seconds), median(ratios[n])
        row(kind, n, f"{ms:.2f}", f"{ms / n:.2f}", f"{ratio:.1f}", f"{ratio * n / most:.2f}")
    least, largest = min(ratios[1]), max(ratios[1])
    spread = f"{median(ratios[1]):.1f} times faster ({least:.1f} to {largest:.1f} over the rounds)"
    print(f"\n{name}: one evaluation is {spread}; at least {WANTED} wanted\n")


def row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
