"""Compressed spectra against torch's STFT, there and back, and gradients where magnitudes vanish."""

from __future__ import annotations

import pytest
import torch
from tiny_models import noise, speech_like

from sekd.config import parse
from sekd.errors import InputError
from sekd.generative.compressed_stft import CompressedStft, SpectraConfig

RMS_OF_ROUNDING = 1e-6  # relative, in float32


def signals(hop: int, hops: int = 40) -> torch.Tensor:
    """Speech, and noise, of whole hops."""
    seconds = hops * hop / 16000
    return torch.stack([torch.from_numpy(speech_like(seconds)), torch.from_numpy(noise(hops * hop, 0.1))])


def complex_of(spectrum: torch.Tensor) -> torch.Tensor:
    return torch.complex(spectrum[:, 0], spectrum[:, 1])


def of(*values: complex) -> torch.Tensor:
    """Bins as a spectrum of one frame, float64."""
    return torch.view_as_real(torch.tensor(values, dtype=torch.complex128)).T[None, :, :, None]


def test_the_published_check_value():
    compressed = CompressedStft(SpectraConfig()).compress(of(3 + 4j))
    assert compressed.flatten().tolist() == pytest.approx([0.201246, 0.268328], abs=1e-6)


@pytest.mark.parametrize("alpha, beta", [(0.5, 0.15), (0.3, 1.0), (1.0, 0.5), (0.667, 0.065)])
def test_magnitudes_are_compressed_and_phases_kept(alpha, beta):
    front = CompressedStft(SpectraConfig(alpha=alpha, beta=beta))
    bins = of(3 + 4j, -0.01j, -2.0, 1e-3 * (1 - 1j), 50j)
    compressed = front.compress(bins)
    wanted = [beta * abs(s) ** alpha * s / abs(s) for s in complex_of(bins).flatten().tolist()]
    assert complex_of(compressed).flatten().tolist() == pytest.approx(wanted, rel=1e-6)
    assert front.expand(compressed).flatten().tolist() == pytest.approx(bins.flatten().tolist(), rel=1e-5, abs=1e-12)


def test_at_half_the_inverse_divides_by_nothing():
    front = CompressedStft(SpectraConfig())
    compressed = of(0.2 - 0.1j, 0.0, 1j)
    wanted = [s * abs(s) / 0.15**2 for s in complex_of(compressed).flatten().tolist()]
    assert complex_of(front.expand(compressed)).flatten().tolist() == pytest.approx(wanted, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("n_fft, hop", [(510, 64), (510, 128), (510, 256), (126, 32), (510, 100)])
def test_transform_is_torchs(n_fft, hop):
    wave = signals(hop)
    window = torch.hann_window(n_fft)
    wanted = torch.stft(wave, n_fft, hop, window=window, center=True, pad_mode="reflect", return_complex=True)
    found = CompressedStft(SpectraConfig(n_fft=n_fft, hop=hop)).transform(wave)
    assert found.shape == (2, 2, n_fft // 2 + 1, 41)
    error = (found - torch.view_as_real(wanted).permute(0, 3, 1, 2)).square().mean().sqrt()
    assert float(error / found.square().mean().sqrt()) < RMS_OF_ROUNDING


@pytest.mark.parametrize("hop", [64, 128, 256])
def test_inverse_is_torchs_also_of_what_no_wave_has(hop):
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.randn(2, 2, 256, 20, generator=generator)
    spectrum[:, 1, [0, -1]] = 0  # which an inverse of real signals ignores
    wanted = torch.istft(complex_of(spectrum), 510, hop, window=torch.hann_window(510))
    found = CompressedStft(SpectraConfig(hop=hop)).invert(spectrum)
    assert found.shape == wanted.shape == (2, 19 * hop)
    assert float((found - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())


@pytest.mark.parametrize("alpha, beta", [(0.5, 0.15), (0.3, 1.0)])
@pytest.mark.parametrize("hop", [64, 128, 256])
def test_waves_survive_the_way_there_and_back(hop, alpha, beta):
    front, wave = CompressedStft(SpectraConfig(hop=hop, alpha=alpha, beta=beta)), signals(hop)
    back = front.synthesise(front.analyse(wave))
    assert back.shape == wave.shape
    snr = 10 * torch.log10(wave.square().sum(1) / (back - wave).square().sum(1))
    assert bool((snr > 100).all())  # published unit test: 60 dB


def test_one_segment_is_transformed_like_many():
    front, wave = CompressedStft(SpectraConfig()), signals(256)
    alone = torch.cat([front.analyse(row[None]) for row in wave])
    assert torch.allclose(front.analyse(wave), alone, atol=1e-6)


def test_gradients_are_those_of_finite_differences():
    front = CompressedStft(SpectraConfig())
    bins = of(3 + 4j, -0.2j, 0.5, 0.1 - 0.3j).requires_grad_()
    assert torch.autograd.gradcheck(front.compress, [bins])
    assert torch.autograd.gradcheck(front.expand, [bins])


def test_gradients_are_finite_on_silence():
    front = CompressedStft(SpectraConfig())
    wave = torch.zeros(1, 5120, requires_grad=True)
    compressed = front.analyse(wave)
    assert not compressed.any()
    (front.synthesise(compressed).sum() + compressed.sum()).backward()
    assert bool(wave.grad.isfinite().all()) and bool(wave.grad.any())


@pytest.mark.parametrize(
    "document, message",
    [
        ({"n_fft": 511}, "n_fft = 511 must be even"),
        ({"n_fft": 2}, "n_fft"),
        ({"hop": 257}, "hop = 257 must be at most half of n_fft = 510, plus one"),
        ({"hop": 0}, "hop"),
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": 1.1}, "alpha"),
        ({"beta": -0.15}, "beta"),
        ({"hops": 128}, "unknown key 'hops'; did you mean 'hop'?"),
    ],
)
def test_nonsense_is_one_line(document, message):
    with pytest.raises(InputError) as error:
        parse(SpectraConfig, document, "spectra")
    assert message in str(error.value) and "\n" not in str(error.value)
