"""What an agent does not take, told in one line that holds nothing of its insides."""

from __future__ import annotations


class Refused(Exception):
    """A model or a request that is not run; the message is one line for whoever sent it."""


class UsageError(Exception):
    """The agent cannot start like this; the message is one line for whoever starts it."""
