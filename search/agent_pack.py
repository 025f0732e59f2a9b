"""Writes the agent as one file that Python runs on a device where nothing else of ours is."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from sekd.errors import InputError

PACKAGE = "sekd_agent"
PACKED = (".py", ".onnx", ".npz")
SOURCE = Path(__file__).with_name("agent")
START = f"import sys\n\nfrom {PACKAGE}.__main__ import main\n\nsys.exit(main())\n"
WHEN = (1980, 1, 1, 0, 0, 0)  # equal sources give equal bytes


def pack_agent(path: Path) -> Path:
    """The zipapp at ``path``, whole or not at all; raises InputError where it cannot be written."""
    if path.suffix != ".pyz":
        raise InputError(f"{path}: the agent is packed into a file that ends in .pyz")
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            file.write(b"#!/usr/bin/env python3\n")
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                _add(archive, "__main__.py", START.encode())
                for source in sorted(SOURCE.iterdir()):
                    if source.suffix in PACKED:
                        _add(archive, f"{PACKAGE}/{source.name}", source.read_bytes())
        partial.chmod(0o755)
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot write here: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    about = zipfile.ZipInfo(name, WHEN)
    about.external_attr, about.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
    archive.writestr(about, content)
