"""Choose the student that sounds best within a device's latency, MACs and memory."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.choose import select
    from search.driver import launch

__all__ = ["launch", "select"]


def __getattr__(name: str) -> Any:
    # Late: the measuring agent imports this package and has neither torch nor optuna.
    if name == "launch":
        from search.driver import launch

        return launch
    if name == "select":
        from search.choose import select

        return select
    raise AttributeError(f"module 'search' has no attribute {name!r}")
