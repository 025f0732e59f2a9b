"""Families of networks: one file each, listed here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from sekd.models.base import Enhancer, NetworkConfig, SpectralEnhancer, State, WaveEnhancer
from sekd.models.conv_tasnet import ConvTasNet, ConvTasNetConfig
from sekd.models.cruse import Cruse, CruseConfig
from sekd.models.dccrn import Dccrn, DccrnConfig
from sekd.models.ftf import Ftf
from sekd.models.ftf_config import FtfConfig


def _family(value: Any) -> str:
    """A document that names no family means CRUSE."""
    return str(value.get("family", "cruse") if isinstance(value, dict) else getattr(value, "family", ""))


# A new family is one file, one line here and one below.
FAMILIES: dict[type[NetworkConfig], Callable[..., Enhancer]] = {
    CruseConfig: Cruse,
    ConvTasNetConfig: ConvTasNet,
    DccrnConfig: Dccrn,
    FtfConfig: Ftf,
}
StudentConfig = Annotated[
    Annotated[CruseConfig, Tag("cruse")]
    | Annotated[ConvTasNetConfig, Tag("conv_tasnet")]
    | Annotated[DccrnConfig, Tag("dccrn")]
    | Annotated[FtfConfig, Tag("ftf")],
    Discriminator(_family),
]


def build(config: NetworkConfig) -> Enhancer:
    """An untrained network, initialised from torch's current random state."""
    return FAMILIES[type(config)](config)


__all__ = [
    "FAMILIES",
    "ConvTasNet",
    "ConvTasNetConfig",
    "Cruse",
    "CruseConfig",
    "Dccrn",
    "DccrnConfig",
    "Enhancer",
    "Ftf",
    "FtfConfig",
    "NetworkConfig",
    "SpectralEnhancer",
    "State",
    "StudentConfig",
    "WaveEnhancer",
    "build",
]
