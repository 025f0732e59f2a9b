"""URLs of storages: read strictly, and shown without a password."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, quote_plus

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from sekd.errors import InputError, nearest

SCHEMES = ("sqlite", "journal", "postgresql", "mysql")


def scheme_of(url: str) -> str:
    """What kind of storage ``url`` names.

    Raises:
        InputError: none that we know.
    """
    written, found, _ = url.partition("://")
    scheme = written.partition("+")[0]
    if found and scheme in SCHEMES:
        return scheme
    if found:
        raise InputError(f"storage {written}://: not a URL of a storage{nearest(scheme, SCHEMES)}")
    if "@" in url:  # it may hold a password
        raise InputError("storage: not a URL: write postgresql:// before it")
    raise InputError(f"storage '{url}': not a URL: for a file write sqlite:///{url}")


def parse_url(url: str) -> URL:
    """``url`` in its parts, the file of SQLite absolute.

    Raises:
        InputError: it cannot be read without doubt.
    """
    scheme = url.partition("://")[0]
    server = not scheme.startswith("sqlite")
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # their text may show the password
        raise InputError(f"{scheme}://: cannot be read: write {scheme}://user@host:port/database") from None
    if server and url.partition("?")[0].count("@") > 1:
        raise InputError(f"{scheme}://: more than one @ in the URL: write one that is in a password as %40")
    if server:
        return parsed
    if parsed.database in (None, "", ":memory:"):
        raise InputError(f"{url}: this storage keeps nothing: name a file, as in sqlite:////home/me/study.db")
    return parsed.set(database=str(Path(parsed.database or "").absolute()))


def without_password(url: str) -> str:
    """``url`` as it may be shown and kept.

    Raises:
        InputError: it cannot be read without doubt.
    """
    if scheme_of(url) == "journal":
        return url
    parsed = parse_url(url)
    return URL.create(
        parsed.drivername, parsed.username, None, parsed.host, parsed.port, parsed.database,
        {key: value for key, value in parsed.query.items() if not _secret(key)},
    ).render_as_string(hide_password=False)  # fmt: skip


def reason_of(error: BaseException, url: str | URL = "sqlite://") -> str:
    """What a driver says, on one line and without the password of ``url``."""
    text = " ".join(str(getattr(error, "orig", None) or error).split()) or type(error).__name__
    parsed = make_url(url)
    secrets = [str(parsed.password or "")] + [str(value) for key, value in parsed.query.items() if _secret(key)]
    for secret in filter(None, secrets):
        for written in (secret, quote(secret, safe=""), quote_plus(secret)):
            text = text.replace(written, "***")
    return text[:300]


def _secret(key: str) -> bool:
    return "pass" in key and key != "passfile"
