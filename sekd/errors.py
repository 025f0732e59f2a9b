"""What is wrong with what the user gave us: one line, exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """Input that cannot be used. The message is one line: what, where, and the nearest right thing."""


def nearest(word: str, options: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the closest option, a list of a few options, or an empty string."""
    names = sorted(options)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names[:12])}" if names else ""
