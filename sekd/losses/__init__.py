"""Loss terms by name; a study switches them on, weighs them and searches over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from pydantic import Field
from torch import Tensor

from sekd.config import Frozen
from sekd.losses.bands import Crossover
from sekd.losses.dispatch import Gate, dispatch_dfkd_spectral, dispatch_l2_spectral
from sekd.losses.gating import GATE_TERM, GatingConfig, guided_ratio, ratio_loss
from sekd.losses.gram import Kind, Reduction, flow_loss, similarity_loss
from sekd.losses.output_kd import dfkd_spectral, output_l1_spectral, output_l2_spectral
from sekd.losses.path import consistency, denoising
from sekd.losses.perceptual import pesq_loss
from sekd.losses.signals import Level, Signals
from sekd.losses.supervised import FRONT_END, compressed_spectral, negative_si_snr, psa_spectral

PUBLISHED_RMS = 0.05  # -26 dBFS, the usual level of VoiceBank and DNS mixtures; ours have an RMS of 1


class DispatchConfig(Frozen):
    """Settings of DISPatch, MSSP and DFKD; the defaults are the published code's.

    Patch sizes are in bins of 31.25 Hz: ``patch`` for ``dispatch_l2``, the other two for ``dispatch_dfkd``.
    """

    patch: int = Field(20, ge=1, le=257)
    low_patch: int = Field(10, ge=1, le=257)
    high_patch: int = Field(40, ge=1, le=257)
    keep: float = Field(0.8, gt=0, le=1)
    keep_from: float | None = Field(None, gt=0, le=1)  # the share kept goes from here to keep over the training
    beta: float = Field(0.5, ge=0, le=1)
    gate: Gate = "none"
    crossover: Crossover = "teacher"
    crossover_bin: int = Field(3, ge=0, le=255)

    def keep_at(self, progress: float) -> float:
        """The share kept when ``progress`` of the training (0 to 1) is done."""
        return self.keep if self.keep_from is None else self.keep_from + progress * (self.keep - self.keep_from)


class GramConfig(Frozen):
    """Settings of ``similarity`` and ``flow``; ``mean`` keeps their size independent of the number of cells."""

    kind: Kind = "g_tf"
    normalize: Literal["row", "none"] = "row"
    reduction: Reduction = "mean"


class LossConfig(Frozen):
    """Settings of all terms."""

    dispatch: DispatchConfig = DispatchConfig()
    gram: GramConfig = GramConfig()
    gate: GatingConfig = GatingConfig()
    level: Level = "mixture"


class Term(NamedTuple):
    """One named term: what it computes from a step's signals, and what it listens to.

    ``unit`` makes the gradient of a term that follows the teacher 0.3 times as long as that of the supervised loss
    ``compressed``, so that a search over terms compares methods and not magnitudes. Measured
    (``benchmarks.term_units``) on a CRUSE student of 62 k parameters after 1000 supervised steps on recordings.
    """

    compute: Callable[[Signals, LossConfig], Tensor]
    follows: Literal["clean", "teacher", "gates", "path"]
    reads: Literal["output", "features", "gates", "path"] = "output"
    unit: float = 1.0


def _psa(signals: Signals, _: LossConfig) -> Tensor:
    window = "hann_sqrt"
    return psa_spectral(
        signals.magnitude("estimate", *FRONT_END, window),
        signals.spectrum("target", *FRONT_END, window),
        signals.spectrum("noisy", *FRONT_END, window),
    )


def _si_snr(signals: Signals, _: LossConfig) -> Tensor:
    return negative_si_snr(signals.wave("estimate"), signals.wave("target"))


def _compressed(signals: Signals, _: LossConfig) -> Tensor:
    window = "hann_sqrt"
    return compressed_spectral(
        signals.spectrum("estimate", *FRONT_END, window), signals.spectrum("target", *FRONT_END, window)
    )


def _output_l1(signals: Signals, _: LossConfig) -> Tensor:
    return output_l1_spectral(signals.magnitude("estimate"), signals.magnitude("teacher"))


def _output_l2(signals: Signals, _: LossConfig) -> Tensor:
    return output_l2_spectral(signals.magnitude("estimate"), signals.magnitude("teacher"))


def _output_psa(signals: Signals, _: LossConfig) -> Tensor:
    """Output distillation as in the two-step paper: the teacher's magnitude in place of the phase-sensitive target."""
    window = "hann_sqrt"
    return output_l2_spectral(
        signals.magnitude("estimate", *FRONT_END, window), signals.magnitude("teacher", *FRONT_END, window)
    )


def _output_si_snr(signals: Signals, _: LossConfig) -> Tensor:
    return negative_si_snr(signals.wave("estimate"), signals.wave("teacher"))


def _output_compressed(signals: Signals, _: LossConfig) -> Tensor:
    window = "hann_sqrt"
    return compressed_spectral(
        signals.spectrum("estimate", *FRONT_END, window), signals.spectrum("teacher", *FRONT_END, window)
    )


def _dfkd(signals: Signals, config: LossConfig) -> Tensor:
    own = config.dispatch
    return dfkd_spectral(
        signals.spectrum("estimate"),
        signals.spectrum("teacher"),
        beta=own.beta,
        crossover=own.crossover,
        crossover_bin=own.crossover_bin,
        level=_dfkd_level(config),
    )


def _dfkd_level(config: LossConfig) -> float:
    """What brings the signals to the level at which DFKD's cosines and squares were weighed against each other."""
    return PUBLISHED_RMS if config.level == "mixture" else 1.0


def _dispatch_l2(signals: Signals, config: LossConfig) -> Tensor:
    own = config.dispatch
    return dispatch_l2_spectral(
        signals.magnitude("estimate"),
        signals.magnitude("target"),
        signals.magnitude("teacher"),
        patch=own.patch,
        keep=own.keep_at(signals.progress),
        gate=own.gate,
    )


def _dispatch_dfkd(signals: Signals, config: LossConfig) -> Tensor:
    own = config.dispatch
    return dispatch_dfkd_spectral(
        signals.spectrum("estimate"),
        signals.spectrum("target"),
        signals.spectrum("teacher"),
        low_patch=own.low_patch,
        high_patch=own.high_patch,
        keep=own.keep_at(signals.progress),
        beta=own.beta,
        gate=own.gate,
        crossover=own.crossover,
        crossover_bin=own.crossover_bin,
        level=_dfkd_level(config),
    ).total


def _equally_long(signals: Signals) -> tuple[list[Tensor], list[Tensor]]:
    """Activations of student and teacher without the frames that only one of them computes at the end of a signal."""
    pairs = [
        (ours, theirs, min(ours.shape[2], theirs.shape[2])) for ours, theirs in zip(*signals.features, strict=True)
    ]
    return [ours[:, :, :frames] for ours, _, frames in pairs], [theirs[:, :, :frames] for _, theirs, frames in pairs]


def _similarity(signals: Signals, config: LossConfig) -> Tensor:
    own = config.gram
    normalize = None if own.normalize == "none" else own.normalize
    return similarity_loss(*_equally_long(signals), kind=own.kind, normalize=normalize, reduction=own.reduction)


def _flow(signals: Signals, config: LossConfig) -> Tensor:
    own = config.gram
    normalize = None if own.normalize == "none" else own.normalize
    kind: Any = own.kind  # a study that asks for another is refused before
    return flow_loss(*_equally_long(signals), kind=kind, normalize=normalize, reduction=own.reduction)


def _gate_ratio(signals: Signals, config: LossConfig) -> Tensor:
    own = config.gate
    target: Tensor | float = own.target
    if own.guidance == "dnsmos":
        assert signals.ovrl is not None  # batches of a gated student come from a pool whose OVRL is known
        target = guided_ratio(*signals.ovrl, wanted=own.target, low=own.low, high=own.high)
    return ratio_loss(signals.gates, target)


def _pesq(signals: Signals, _: LossConfig) -> Tensor:
    return pesq_loss(signals.wave("estimate"), signals.wave("target"))


def _denoising(signals: Signals, _: LossConfig) -> Tensor:
    """Per bin, so that its gradient is as long whatever the length of the segments."""
    walked = signals.walked
    return denoising(walked.output, walked.target, walked.weight) / walked.output[0, 0].numel()


def _consistency(signals: Signals, _: LossConfig) -> Tensor:
    walked = signals.walked
    return consistency(walked.output, walked.target, walked.weight)


TERMS: dict[str, Term] = {
    "psa": Term(_psa, "clean"),
    "si_snr": Term(_si_snr, "clean"),
    "compressed": Term(_compressed, "clean"),
    "pesq": Term(_pesq, "clean"),
    "output_l1": Term(_output_l1, "teacher", unit=0.021),
    "output_l2": Term(_output_l2, "teacher", unit=0.00063),
    "output_psa": Term(_output_psa, "teacher", unit=0.00047),
    "output_si_snr": Term(_output_si_snr, "teacher", unit=0.001),
    "output_compressed": Term(_output_compressed, "teacher", unit=0.31),
    "dfkd": Term(_dfkd, "teacher", unit=0.0087),
    "dispatch_l2": Term(_dispatch_l2, "teacher", unit=0.00047),
    "dispatch_dfkd": Term(_dispatch_dfkd, "teacher", unit=0.0081),
    "similarity": Term(_similarity, "teacher", "features", unit=0.17),
    "flow": Term(_flow, "teacher", "features", unit=0.12),
    GATE_TERM: Term(_gate_ratio, "gates", "gates"),
    "denoising": Term(_denoising, "path", "path"),
    "consistency": Term(_consistency, "path", "path"),
}


def reads_features(weights: dict[str, float]) -> bool:
    """Whether a term in ``weights`` compares what happens inside student and teacher."""
    return any(TERMS[name].reads == "features" for name in weights)


def reads_path(weights: dict[str, float]) -> bool:
    """Whether a term in ``weights`` compares what a network says on a path with what it should say."""
    return any(TERMS[name].reads == "path" for name in weights)


def reads_output(weights: dict[str, float]) -> bool:
    """Whether a term in ``weights`` listens to the estimate."""
    return any(TERMS[name].reads == "output" for name in weights)
