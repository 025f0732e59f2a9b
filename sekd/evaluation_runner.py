"""Enhances with an ONNX file that holds one evaluation of a consistency function, in as many evaluations as you like.

    python run_evaluations.py evaluation.onnx IN.wav OUT.wav [--steps N]

It needs numpy and onnxruntime, for audio files soundfile, and nothing of sekd: copy it anywhere. What is not said is as
the student was trained and chosen; then this computes what the model.onnx beside it does, from the same noise.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

RENOISE = ("published", "marginal")
WANTED = {
    "steps": "at least 1",
    "last_time": "between 0 and 1",
    "renoise": " or ".join(RENOISE),
    "noise_scale": "from 0 to 1",
    "seed": "from 0 to 2**32 - 1",
}
TINY = 1e-12  # energy below which magnitudes are not told apart


class Unusable(ValueError):
    """What was given cannot be used. The message is one line."""


class Knobs(NamedTuple):
    """How the network is asked: at ``steps`` times from 1 down to ``last_time``, with noise before each of them."""

    steps: int
    last_time: float
    renoise: str
    noise_scale: float
    seed: int

    @property
    def times(self) -> list[float]:
        return [float(t) for t in np.linspace(1.0, self.last_time, self.steps)]

    def but(self, **said: Any) -> Knobs:
        """With what is said and not None; raises Unusable for what is out of its range."""
        knobs = self._replace(**{name: value for name, value in said.items() if value is not None})
        allowed = {
            "steps": knobs.steps >= 1,
            "last_time": 0 < knobs.last_time < 1,
            "renoise": knobs.renoise in RENOISE,
            "noise_scale": 0 <= knobs.noise_scale <= 1,
            "seed": 0 <= knobs.seed < 2**32,
        }
        for name, good in allowed.items():
            if not good:
                raise Unusable(f"{name} = {getattr(knobs, name)!r}: must be {WANTED[name]}")
        return knobs


class Ouve(NamedTuple):
    """From clean at time 0 to noisy at 1 (Richter et al. 2023, section III)."""

    theta: float
    sigma_min: float
    sigma_max: float

    def mean(self, clean: np.ndarray, noisy: np.ndarray, t: float) -> np.ndarray:
        kept = np.float32(math.exp(-self.theta * t))
        return kept * clean + (1 - kept) * noisy

    def std(self, t: float) -> float:
        rate = math.log(self.sigma_max / self.sigma_min)
        grown = math.exp(2 * (self.theta + rate) * t) - 1
        return self.sigma_min * math.sqrt(rate * math.exp(-2 * self.theta * t) * grown / (self.theta + rate))


class Spectra:
    """Compressed spectra of a segment: frames centred on multiples of the hop, the edges reflected."""

    def __init__(self, n_fft: int, hop: int, alpha: float, beta: float, frames: int) -> None:
        self.n_fft, self.alpha, self.beta = n_fft, alpha, beta
        self._window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
        self._places = hop * np.arange(frames)[:, None] + np.arange(n_fft)
        self._sums = np.maximum(self._added(np.tile(np.square(self._window), (frames, 1))), 1e-6)

    def analyse(self, wave: np.ndarray) -> np.ndarray:
        """``(sample,)`` to ``(1, 2, freq, frame)``."""
        framed = np.pad(wave, self.n_fft // 2, mode="reflect")[self._places] * self._window
        spectrum = np.fft.rfft(framed).T
        spectrum = self.beta * self._energy(spectrum) ** ((self.alpha - 1) / 2) * spectrum
        return np.stack([spectrum.real, spectrum.imag])[None].astype(np.float32)

    def synthesise(self, spectrum: np.ndarray) -> np.ndarray:
        """``(1, 2, freq, frame)`` to ``(sample,)``."""
        real, imaginary = spectrum[0].astype(np.float64)
        compressed = real + 1j * imaginary
        expanded = self.beta ** (-1 / self.alpha) * self._energy(compressed) ** ((1 / self.alpha - 1) / 2) * compressed
        framed = np.fft.irfft(expanded.T, self.n_fft) * self._window
        half = self.n_fft // 2
        return (self._added(framed) / self._sums)[half:-half]

    def _energy(self, spectrum: np.ndarray) -> np.ndarray:
        return np.square(spectrum.real) + np.square(spectrum.imag) + TINY

    def _added(self, framed: np.ndarray) -> np.ndarray:
        return np.bincount(self._places.ravel(), framed.ravel())


class Runner:
    """The file at ``path`` as an enhancer of whole signals.

    Raises:
        Unusable: there is no such file, or it is none of ours.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int = 1) -> None:
        self._session = _opened(str(path), threads)
        self._about = self._session.get_modelmeta().custom_metadata_map
        try:
            self._read()
        except (KeyError, ValueError) as error:
            raise Unusable(f"{path}: not one evaluation of a consistency function: {_reason(error)}") from error

    def _read(self) -> None:
        if self._about.get("contract") != "evaluation":
            raise ValueError(f"its contract is {self._about.get('contract')!r}, not 'evaluation'")
        integer, number = self._integer, self._number
        self.sample_rate, hop, frames = integer("sample_rate"), integer("hop"), integer("segment_frames")
        self.samples, self.overlap = (frames - 1) * hop, integer("overlap_hops") * hop
        self._spectra = Spectra(integer("n_fft"), hop, number("alpha"), number("beta"), frames)
        self._path = Ouve(number("theta"), number("sigma_min"), number("sigma_max"))
        self.knobs = Knobs(
            integer("steps"), number("last_time"), self._about["renoise"], number("noise_scale"), integer("noise_seed")
        ).but()  # fmt: skip
        self.shape = (1, 2, self._spectra.n_fft // 2 + 1, frames)
        wanted = {"x": list(self.shape), "noisy": list(self.shape), "t": [1]}
        found = {tensor.name: tensor.shape for tensor in self._session.get_inputs()}
        if found != wanted:
            raise ValueError(f"its inputs are {found}, not {wanted}")

    def _integer(self, key: str) -> int:
        return int(self._about[key])

    def _number(self, key: str) -> float:
        return float(self._about[key])

    def enhance(
        self,
        noisy: np.ndarray,
        *,
        steps: int | None = None,
        last_time: float | None = None,
        renoise: str | None = None,
        noise_scale: float | None = None,
        seed: int | None = None,
    ) -> np.ndarray:
        """Noisy samples ``(sample,)`` to as many enhanced ones, float32; what is not given is as the file says.

        Raises:
            Unusable: no finite samples, or a knob out of its range.
        """
        knobs = self.knobs.but(
            steps=steps, last_time=last_time, renoise=renoise, noise_scale=noise_scale, seed=seed
        )  # fmt: skip
        signal, noises = _checked(noisy, self.sample_rate), self.noises(knobs)
        hop, overlap = self.samples - self.overlap, self.overlap
        padded = np.pad(signal, (overlap, overlap + -(len(signal) + overlap) % hop))
        enhanced, weights = np.zeros(len(padded)), self._weights()
        for start in range(0, len(padded) - overlap, hop):
            part = slice(start, start + self.samples)
            enhanced[part] += weights * self._segment(padded[part], knobs, noises)
        if not np.isfinite(enhanced).all():
            raise Unusable("the network gave back samples that are not finite numbers")
        return enhanced[overlap : overlap + len(signal)].astype(np.float32)

    def _weights(self) -> np.ndarray:
        """Segments are faded into each other where they overlap."""
        weights = np.ones(self.samples)
        weights[: self.overlap] = (np.arange(self.overlap) + 0.5) / self.overlap
        weights[-self.overlap :] = 1 - weights[: self.overlap]
        return weights

    def noises(self, knobs: Knobs) -> list[np.ndarray]:
        """Complex noise of variance 1 for each step, the same for all segments; the network's own draws it so too."""
        return [
            (math.sqrt(0.5) * np.random.RandomState([knobs.seed, step]).standard_normal(self.shape)).astype(np.float32)
            for step in range(knobs.steps)
        ]

    def _segment(self, wave: np.ndarray, knobs: Knobs, noises: Sequence[np.ndarray]) -> np.ndarray:
        peak = np.abs(wave).max()
        if peak == 0:
            return wave
        clean = self.sampled(self._spectra.analyse(wave / max(peak, 1e-8)), knobs, noises)
        return peak * self._spectra.synthesise(clean)

    def sampled(self, noisy: np.ndarray, knobs: Knobs, noises: Sequence[np.ndarray]) -> np.ndarray:
        """A compressed spectrum ``(1, 2, freq, frame)`` to a clean one (Xu et al. 2025)."""
        x = noisy
        for step, (t, noise) in enumerate(zip(knobs.times, noises)):
            if step and knobs.renoise == "marginal":
                x = self._path.mean(x, noisy, t)
            if knobs.noise_scale:
                x = x + np.float32(knobs.noise_scale * self._path.std(t)) * noise
            (x,) = self._session.run(["clean"], {"x": x, "noisy": noisy, "t": np.array([t], np.float32)})
        return x


def _opened(path: str, threads: int) -> Any:
    import onnxruntime  # here: help needs none

    if not os.path.isfile(path):
        raise Unusable(f"{path}: no such file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no other base
        raise Unusable(f"{path}: not a readable ONNX file: {_reason(error)}") from error


def _checked(noisy: np.ndarray, rate: int) -> np.ndarray:
    """The signal as float64, if it is one."""
    signal = np.asarray(noisy, np.float64)
    if signal.ndim != 1:
        raise Unusable(f"one channel (sample,) is needed, not {signal.shape}")
    if not len(signal):
        raise Unusable("it holds no samples")
    finite = np.isfinite(signal)
    if not finite.all():
        raise Unusable(f"a sample at {int(np.argmin(finite)) / rate:.3f} s is not a finite number")
    return signal


def _reason(error: BaseException) -> str:
    told = f"its metadata lack {error}" if isinstance(error, KeyError) else str(error)
    return " ".join(told.split())


def enhance_file(runner: Runner, source: str, target: str, **knobs: Any) -> None:
    """Writes the enhanced ``source`` to ``target``, whole or not at all; in floats where it exceeds full scale."""
    import soundfile

    if os.path.exists(target) and os.path.exists(source) and os.path.samefile(source, target):
        raise Unusable(f"{target}: would overwrite its own source")
    container = os.path.splitext(target)[1][1:].upper()
    if container not in soundfile.available_formats():
        raise Unusable(f"{target}: unknown suffix, try .wav or .flac")
    runner.knobs.but(**knobs)  # what is wrong with them is no fault of the source
    noisy, subtype = _read(source, runner.sample_rate)
    try:
        enhanced = runner.enhance(noisy, **knobs)
    except Unusable as error:
        raise Unusable(f"{source}: {error}") from error
    wanted = "FLOAT" if np.abs(enhanced).max() > 1 else subtype
    known = wanted if soundfile.check_format(container, wanted) else None
    folder, name = os.path.split(target)
    partial = os.path.join(folder, f".{os.getpid()}.{name}")
    try:
        soundfile.write(partial, enhanced, runner.sample_rate, subtype=known, format=container)
        os.replace(partial, target)
    except (OSError, soundfile.SoundFileError) as error:
        raise Unusable(f"{target}: cannot be written: {_reason(error)}") from error
    finally:
        if os.path.exists(partial):
            os.remove(partial)


def _read(path: str, rate: int) -> tuple[np.ndarray, str]:
    """Samples, and how they are stored."""
    import soundfile

    if not os.path.isfile(path):
        raise Unusable(f"{path}: no such file")
    try:
        with soundfile.SoundFile(path) as file:
            if file.samplerate != rate:
                raise Unusable(f"{path}: is of {file.samplerate} Hz, and the network of {rate} Hz")
            if file.channels != 1:
                raise Unusable(f"{path}: has {file.channels} channels, and the network hears one")
            return file.read(dtype="float32"), file.subtype
    except (OSError, soundfile.SoundFileError, TypeError) as error:  # TypeError: .raw needs a format
        raise Unusable(f"{path}: not a readable audio file: {_reason(error)}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model", metavar="evaluation.onnx")
    parser.add_argument("source", metavar="IN.wav")
    parser.add_argument("target", metavar="OUT.wav")
    parser.add_argument("--steps", type=int, metavar="N", help="evaluations of the network")
    parser.add_argument("--renoise", choices=RENOISE, help="around the output itself, or around the path's mean")
    parser.add_argument("--last-time", type=float, metavar="T", help="of several: evenly spaced from 1 down to it")
    parser.add_argument("--noise-scale", type=float, metavar="S", help="of all noise, 0 to 1")
    parser.add_argument("--seed", type=int, metavar="N", help="of the noise")
    options = vars(parser.parse_args(arguments))
    model, source, target = (options.pop(name) for name in ("model", "source", "target"))
    try:
        enhance_file(Runner(model), source, target, **options)
    except (Unusable, ImportError) as error:
        print(f"{parser.prog}: {_reason(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
