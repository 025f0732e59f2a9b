"""Runs the agent alone: ``python FILE.pyz`` on a device, ``python -m search.agent`` here."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from .errors import UsageError
from .options import add_options


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until it is told to end; 2 wrong usage, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="sekd agent", description="Measures models on this device for a sekd search.")
    add_options(parser)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from .server import serve  # late: help needs no numpy

        return serve(options)
    except UsageError as error:
        return _fail(str(error), 2)
    except ImportError as error:
        return _fail(f"{error}: the agent needs numpy and onnxruntime", 2)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)


def _fail(message: str, code: int) -> int:
    print(f"sekd agent: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
