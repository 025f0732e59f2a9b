"""How a trained student is written for its device: the knob that acts after training and changes no weights."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from sekd.config import Frozen
from sekd.errors import nearest

DType = Literal["fp32", "int8_dynamic", "int8_static", "int8_weights"]


class DeployConfig(Frozen):
    """The arithmetic of the exported file; docs/deploying.md says what each word does."""

    dtype: DType = "fp32"
    exclude: tuple[str, ...] = ()  # ONNX operator types whose weights and arithmetic stay in float
    calibration_s: float = Field(20.0, gt=0)  # training audio that int8_static takes its ranges from

    @field_validator("exclude")
    @classmethod
    def _operators(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value:
            known = _standard_operators()
            for name in value:
                if name not in known:
                    raise ValueError(f"no ONNX operator {name!r}{nearest(name, known)}")
        return value


def _standard_operators() -> set[str]:
    import onnx.defs  # here: few configurations exclude anything

    return {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
