"""The distillation core: train, distil, score and export one speech enhancement model."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sekd.distillation import DistillConfig, Student, distill

__version__ = "0.1.0"
__all__ = ["DistillConfig", "Student", "__version__", "distill"]


def __getattr__(name: str) -> Any:
    # Late: the command line asks for help without waiting a second for torch.
    if name in ("DistillConfig", "Student", "distill"):
        from sekd import distillation

        return getattr(distillation, name)
    raise AttributeError(f"module 'sekd' has no attribute {name!r}")
