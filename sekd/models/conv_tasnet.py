"""Conv-TasNet (Luo and Mesgarani 2019) for one source."""

from __future__ import annotations

from typing import Literal

from sekd.models.base import NetworkConfig


class ConvTasNetConfig(NetworkConfig):
    family: Literal["conv_tasnet"] = "conv_tasnet"
