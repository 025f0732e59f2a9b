"""Loss terms by name; a study switches them on, weighs them and searches over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from pydantic import Field
from torch import Tensor

from sekd.config import Frozen
from sekd.losses.dispatch import dispatch_l2_spectral
from sekd.losses.output_kd import output_l2_spectral
from sekd.losses.signals import Signals
from sekd.losses.supervised import FRONT_END, compressed_spectral, negative_si_snr, psa_spectral


class DispatchConfig(Frozen):
    """Patch size in bins of 31.25 Hz and share of patches kept."""

    patch: int = Field(20, ge=1, le=257)
    keep: float = Field(0.8, gt=0, le=1)


class Term(NamedTuple):
    """One named term: what it computes from a step's signals, and whether it listens to the teacher."""

    compute: Callable[[Signals, DispatchConfig], Tensor]
    follows: Literal["clean", "teacher"]


def _psa(signals: Signals, _: DispatchConfig) -> Tensor:
    window = "hann_sqrt"
    return psa_spectral(
        signals.magnitude("estimate", *FRONT_END, window),
        signals.spectrum("target", *FRONT_END, window),
        signals.spectrum("noisy", *FRONT_END, window),
    )


def _si_snr(signals: Signals, _: DispatchConfig) -> Tensor:
    return negative_si_snr(signals.wave("estimate"), signals.wave("target"))


def _compressed(signals: Signals, _: DispatchConfig) -> Tensor:
    window = "hann_sqrt"
    return compressed_spectral(
        signals.spectrum("estimate", *FRONT_END, window), signals.spectrum("target", *FRONT_END, window)
    )


def _output_l2(signals: Signals, _: DispatchConfig) -> Tensor:
    return output_l2_spectral(signals.magnitude("estimate"), signals.magnitude("teacher"))


def _dispatch_l2(signals: Signals, config: DispatchConfig) -> Tensor:
    return dispatch_l2_spectral(
        signals.magnitude("estimate"),
        signals.magnitude("target"),
        signals.magnitude("teacher"),
        patch=config.patch,
        keep=config.keep,
    )


TERMS: dict[str, Term] = {
    "psa": Term(_psa, "clean"),
    "si_snr": Term(_si_snr, "clean"),
    "compressed": Term(_compressed, "clean"),
    "output_l2": Term(_output_l2, "teacher"),
    "dispatch_l2": Term(_dispatch_l2, "teacher"),
}
