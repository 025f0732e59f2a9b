"""The token that agent and driver share: from the environment or a file, never from an argument or a profile."""

from __future__ import annotations

import ctypes
import hashlib
import hmac
import ipaddress
import os
import stat
from collections.abc import Mapping
from contextlib import suppress

from .errors import UsageError

TOKEN, TOKEN_FILE = "SEKD_AGENT_TOKEN", "SEKD_AGENT_TOKEN_FILE"
SHORTEST, LONGEST = 16, 512
PR_SET_DUMPABLE = 4


def read_token(environ: Mapping[str, str], path: str | None = None) -> str:
    """The token of the file at ``path``, else what the environment says or names.

    Raises:
        UsageError: there is none, others may read its file, or it is too short to keep anyone out.
    """
    where, text = TOKEN, environ.get(TOKEN, "")
    path = path or ("" if text else environ.get(TOKEN_FILE, ""))
    if path:
        where, text = path, _private_text(path)
    token = text.strip()
    if not token:
        raise UsageError(f"no token: set {TOKEN}, or {TOKEN_FILE} to a file that holds it")
    if not SHORTEST <= len(token) <= LONGEST or not all("!" <= character <= "~" for character in token):
        raise UsageError(f"the token from {where} must be {SHORTEST} to {LONGEST} printable characters without spaces")
    return token


def _private_text(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            if os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise UsageError(f"token file {path}: others may read it; chmod 600 {path}")
            return file.read(LONGEST + 2)
    except OSError as error:
        raise UsageError(f"token file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"token file {path}: not plain ASCII text") from error


def same_token(given: str, token: str) -> bool:
    """In a time that tells neither how much of ``given`` is right nor how long the token is."""
    one, other = (hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest() for text in (given, token))
    return hmac.compare_digest(one, other)


def hide_environment() -> None:
    """Also what the process was started with, which else stays readable under /proc."""
    os.environ.pop(TOKEN, None)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0)


def is_loopback(host: str) -> bool:
    """Whether what is sent there stays on this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
