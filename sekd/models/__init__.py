"""Student families: one file each, listed here."""

from __future__ import annotations

from collections.abc import Callable

from sekd.models.base import Enhancer, State
from sekd.models.cruse import Cruse, CruseConfig

# A new family is one file and one line here; its configuration joins StudentConfig.
FAMILIES: dict[type, Callable[..., Enhancer]] = {CruseConfig: Cruse}
StudentConfig = CruseConfig


def build(config: StudentConfig) -> Enhancer:
    """An untrained network, initialised from torch's current random state."""
    return FAMILIES[type(config)](config)


__all__ = ["FAMILIES", "Cruse", "CruseConfig", "Enhancer", "State", "StudentConfig", "build"]
