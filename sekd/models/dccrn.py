"""DCCRN-CL (Hu et al. 2020): complex convolutions around a complex LSTM."""

from __future__ import annotations

from typing import Literal

from sekd.models.base import NetworkConfig


class DccrnConfig(NetworkConfig):
    family: Literal["dccrn"] = "dccrn"
