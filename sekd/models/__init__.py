"""Families of networks: one file each, listed here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from sekd.models.base import Enhancer, NetworkConfig, SpectralEnhancer, State, WaveEnhancer
from sekd.models.consistency import ConsistencyNet, ConsistencyNetConfig
from sekd.models.conv_tasnet import ConvTasNet, ConvTasNetConfig
from sekd.models.cruse import Cruse, CruseConfig
from sekd.models.dccrn import Dccrn, DccrnConfig
from sekd.models.diffusion import Diffusion, DiffusionConfig
from sekd.models.ftf import Ftf
from sekd.models.ftf_config import FtfConfig
from sekd.models.predictive import Predictive, PredictiveConfig


def _family(value: Any) -> str:
    """A document that names no family means CRUSE."""
    return str(value.get("family", "cruse") if isinstance(value, dict) else getattr(value, "family", ""))


# A new family is one file, one line here and one below.
FAMILIES: dict[type[NetworkConfig], Callable[..., Enhancer]] = {
    CruseConfig: Cruse,
    ConvTasNetConfig: ConvTasNet,
    DccrnConfig: Dccrn,
    FtfConfig: Ftf,
    DiffusionConfig: Diffusion,
    ConsistencyNetConfig: ConsistencyNet,
    PredictiveConfig: Predictive,
}
StudentConfig = Annotated[
    Annotated[CruseConfig, Tag("cruse")]
    | Annotated[ConvTasNetConfig, Tag("conv_tasnet")]
    | Annotated[DccrnConfig, Tag("dccrn")]
    | Annotated[FtfConfig, Tag("ftf")]
    | Annotated[DiffusionConfig, Tag("diffusion")]
    | Annotated[ConsistencyNetConfig, Tag("consistency")]
    | Annotated[PredictiveConfig, Tag("predictive")],
    Discriminator(_family),
]


def build(config: NetworkConfig) -> Enhancer:
    """An untrained network, initialised from torch's current random state."""
    return FAMILIES[type(config)](config)


__all__ = [
    "FAMILIES",
    "ConsistencyNet",
    "ConsistencyNetConfig",
    "ConvTasNet",
    "ConvTasNetConfig",
    "Cruse",
    "CruseConfig",
    "Dccrn",
    "DccrnConfig",
    "Diffusion",
    "DiffusionConfig",
    "Enhancer",
    "Ftf",
    "FtfConfig",
    "NetworkConfig",
    "Predictive",
    "PredictiveConfig",
    "SpectralEnhancer",
    "State",
    "StudentConfig",
    "WaveEnhancer",
    "build",
]
