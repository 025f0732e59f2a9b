"""Noises of the embedded corpus, made from a random generator alone: (sample,) float at 16 kHz, any level."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.random import Generator

SAMPLE_RATE_HZ = 16000

Noise = Callable[[Generator, int], np.ndarray]


def _shaped(rng: Generator, samples: int, gain: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Gaussian noise (sample,) of unit RMS whose amplitude over frequency in Hz is ``gain``."""
    hz = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE_HZ)
    spectrum = np.fft.rfft(rng.standard_normal(samples)) * gain(hz)
    spectrum[0] = 0
    wave = np.fft.irfft(spectrum, samples)
    return wave / np.sqrt(np.mean(wave**2))


def _falling(exponent: float, corner_hz: float = 20.0) -> Callable[[np.ndarray], np.ndarray]:
    """Amplitude whose power falls as frequency to ``-exponent``: 0 white, 1 pink, 2 brown."""
    return lambda hz: np.maximum(hz, corner_hz) ** (-exponent / 2)


def _band(centre_hz: float, octaves: float) -> Callable[[np.ndarray], np.ndarray]:
    """A smooth band, half an amplitude (6 dB) down at ``octaves`` / 2 from its centre."""
    return lambda hz: 2.0 ** -((2 * np.log2(np.maximum(hz, 1) / centre_hz) / octaves) ** 2)


def _slow(rng: Generator, samples: int, per_s: float) -> np.ndarray:
    """A smooth random curve (sample,) of unit RMS that turns about ``per_s`` times a second."""
    return _shaped(rng, samples, lambda hz: np.exp(-((hz / per_s) ** 2)))


def _seconds(samples: int) -> np.ndarray:
    return np.arange(samples) / SAMPLE_RATE_HZ


def _events(rng: Generator, samples: int, per_s: float, one: Callable[[], np.ndarray]) -> np.ndarray:
    """``one()`` added at random times, ``per_s`` a second on average and never fewer than two."""
    wave = np.zeros(samples)
    count = max(2, rng.poisson(per_s * samples / SAMPLE_RATE_HZ))
    for start in rng.integers(0, samples, count):
        event = one()[: samples - start]
        wave[start : start + len(event)] += event
    return wave / max(float(np.sqrt(np.mean(wave**2))), 1e-9)


def _harmonics(rng: Generator, phase: np.ndarray, orders: np.ndarray, amplitudes: np.ndarray) -> np.ndarray:
    """A sum of sines (sample,): multiples ``orders`` of a running phase in cycles, of unit RMS."""
    wave = np.zeros_like(phase)
    for order, amplitude in zip(orders, amplitudes, strict=True):
        wave += amplitude * np.sin(2 * np.pi * (order * phase + rng.random()))
    return wave / np.sqrt(np.mean(wave**2))


def coloured(rng: Generator, samples: int) -> np.ndarray:
    """White, pink or brown noise, or something between."""
    return _shaped(rng, samples, _falling(rng.uniform(0, 2)))


def hum(rng: Generator, samples: int) -> np.ndarray:
    """Mains at 50 or 60 Hz with drifting frequency, many harmonics and a little hiss."""
    mains_hz = rng.choice([50.0, 60.0]) * (1 + 0.002 * _slow(rng, samples, 0.3))
    orders = np.arange(1, 41)
    amplitudes = rng.uniform(0.1, 1, len(orders)) / orders ** rng.uniform(0.4, 1.1)
    tone = _harmonics(rng, np.cumsum(mains_hz) / SAMPLE_RATE_HZ, orders, amplitudes)
    return tone + rng.uniform(0.05, 0.3) * _shaped(rng, samples, _falling(0.5))


def impacts(rng: Generator, samples: int) -> np.ndarray:
    """Knocks, clinks and thuds: a few decaying modes each, over a faint room tone."""
    lowest_hz, decay_s = rng.uniform(120, 900), rng.uniform(0.03, 0.15)

    def knock() -> np.ndarray:
        time = _seconds(int(8 * decay_s * SAMPLE_RATE_HZ))
        modes = lowest_hz * np.concatenate([[1.0], rng.uniform(1.3, 7, 4)])
        rings = [np.sin(2 * np.pi * min(hz, 7000) * time) * np.exp(-time * hz / lowest_hz / decay_s) for hz in modes]
        return rng.uniform(0.4, 1) * (rings[0] + 0.6 * sum(rings[1:]))

    return _events(rng, samples, rng.uniform(2, 6), knock) + 0.1 * _shaped(rng, samples, _falling(1.3))


def modulated(rng: Generator, samples: int) -> np.ndarray:
    """A band of noise that swells and fades periodically, from slow waves to a flutter."""
    carrier = _shaped(rng, samples, _band(rng.uniform(300, 3000), rng.uniform(1, 4)))
    swing = np.sin(2 * np.pi * (rng.uniform(0.5, 12) * _seconds(samples) + rng.random()))
    steepness = rng.uniform(0.5, 5)  # high values switch rather than swell
    return carrier * (1 + rng.uniform(0.7, 0.95) * np.tanh(steepness * swing) / np.tanh(steepness))


def engine(rng: Generator, samples: int) -> np.ndarray:
    """Firing harmonics at a wandering speed, with a rumble that pulses in step."""
    firing_hz = rng.uniform(25, 110) * np.exp(rng.uniform(0.02, 0.15) * _slow(rng, samples, 0.4))
    phase = np.cumsum(firing_hz) / SAMPLE_RATE_HZ
    orders = np.arange(0.5, 30, 0.5)  # half orders: the cylinders are not equal
    amplitudes = rng.uniform(0.2, 1, len(orders)) * np.exp(-orders / rng.uniform(3, 10))
    rumble = _shaped(rng, samples, _falling(1.5, 150)) * (1 + 0.6 * np.sin(2 * np.pi * phase))
    return _harmonics(rng, phase, orders, amplitudes) + rng.uniform(0.3, 0.9) * rumble


def wind(rng: Generator, samples: int) -> np.ndarray:
    """Low rumble in gusts, with a whistle that rises with each gust."""
    gust = np.exp(rng.uniform(0.4, 0.8) * _slow(rng, samples, rng.uniform(0.3, 1)))
    rumble = _shaped(rng, samples, _falling(rng.uniform(2, 3), rng.uniform(60, 200)))
    whistle = _shaped(rng, samples, _band(rng.uniform(400, 1500), 0.3))
    return gust * rumble + rng.uniform(0.05, 0.3) * gust**2 * whistle


def keyboard(rng: Generator, samples: int) -> np.ndarray:
    """Typing: a click and a thump at each press, a lighter click at each release."""
    thump_hz, hold_s = rng.uniform(150, 400), rng.uniform(0.06, 0.12)
    click = _band(rng.uniform(2000, 5000), 1.5)

    def stroke() -> np.ndarray:
        time = _seconds(int(0.25 * SAMPLE_RATE_HZ))
        press, release = time, np.maximum(time - hold_s * rng.uniform(0.8, 1.2), 0)
        clicks = np.exp(-press / 0.006) + 0.4 * (release > 0) * np.exp(-release / 0.004)
        thump = np.sin(2 * np.pi * thump_hz * time) * np.exp(-time / 0.02)
        return rng.uniform(0.6, 1) * (clicks * _shaped(rng, len(time), click) + 0.8 * thump)

    return _events(rng, samples, rng.uniform(5, 10), stroke) + 0.1 * _shaped(rng, samples, _falling(1))


def rain(rng: Generator, samples: int) -> np.ndarray:
    """Hundreds of drops a second, each a short ring, over a steady hiss."""
    drop_hz = rng.uniform(1200, 4000)
    time = _seconds(int(0.012 * SAMPLE_RATE_HZ))

    def drop() -> np.ndarray:
        ring = np.sin(2 * np.pi * drop_hz * rng.uniform(0.6, 1.6) * time)
        return rng.uniform(0.05, 1) ** 2 * ring * np.exp(-time / 0.002)

    hiss = _shaped(rng, samples, _band(rng.uniform(2000, 5000), 3))
    return _events(rng, samples, rng.uniform(80, 400), drop) + rng.uniform(0.3, 1) * hiss


def beeps(rng: Generator, samples: int) -> np.ndarray:
    """An appliance: one or two tones in a fixed rhythm, over the noise of its fan."""
    time = _seconds(samples)
    period_s, duty = rng.uniform(0.25, 1.2), rng.uniform(0.3, 0.7)
    beat, place = np.divmod(time / period_s + rng.random(), 1)
    low_hz, high_hz = rng.uniform(500, 1200), rng.uniform(1200, 2800)
    tone = np.where(beat % 2 == 0, np.sin(2 * np.pi * low_hz * time), np.sin(2 * np.pi * high_hz * time))
    # Ramps of 5 ms at both ends: a switched tone would be mostly clicks.
    ramp = 0.005 / period_s
    gate = np.clip(np.minimum(place, duty - place) / ramp, 0, 1)
    return tone * gate + rng.uniform(0.1, 0.4) * _shaped(rng, samples, _falling(1, 100))


GENERATORS: dict[str, Noise] = {
    noise.__name__: noise for noise in (coloured, hum, impacts, modulated, engine, wind, keyboard, rain, beeps)
}


def babble(rng: Generator, samples: int, talkers: Sequence[np.ndarray]) -> np.ndarray:
    """Eight streams of talk at once from the speech (sample,) of several talkers, each looped and shifted."""
    wave = np.zeros(samples)
    for stream in range(8):
        talk = np.roll(talkers[stream % len(talkers)], rng.integers(0, SAMPLE_RATE_HZ * 60))
        wave += 10 ** (rng.uniform(-6, 0) / 20) * np.resize(talk, samples)
    return wave
