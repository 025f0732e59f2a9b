"""An ONNX file that is all in one piece and asks for nothing but the standard: looked at before any runtime is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sekd.errors import InputError

if TYPE_CHECKING:
    from onnx import ModelProto

STANDARD = ("", "ai.onnx")


def read_onnx(path: Path) -> bytes:
    """The bytes of ``path``, which may be given to a runtime: it then reads no other file.

    Raises:
        InputError: missing, not a whole ONNX file, with data in other files, or with custom operators.
    """
    from google.protobuf.message import DecodeError
    from onnx import ModelProto

    try:
        content = path.read_bytes()
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise InputError(f"{path}: {reason}") from error
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise InputError(f"{path}: not a whole ONNX file") from error
    if not model.HasField("graph"):
        raise InputError(f"{path}: not an ONNX file")
    if not model.opset_import:  # it comes after the graph, and no file may lack it
        raise InputError(f"{path}: not a whole ONNX file")
    _refuse(path, model)
    return content


def save_onnx(model: ModelProto, path: Path) -> None:
    """Writes ``path``, whole or not at all."""
    from onnx import save

    partial = path.with_name(f".{path.name}.{os.getpid()}")
    save(model, partial)
    partial.replace(path)


def _refuse(path: Path, model) -> None:
    from onnx import NodeProto, TensorProto

    own = {(function.domain, function.name) for function in model.functions}  # made of other nodes, in this file
    for part in _parts(model):
        if isinstance(part, TensorProto) and (part.data_location == TensorProto.EXTERNAL or part.external_data):
            raise InputError(
                f"{path}: keeps tensor '{part.name}' in another file; save it in one piece "
                "(onnx.save with save_as_external_data=False)"
            )
        if isinstance(part, NodeProto) and part.domain not in STANDARD and (part.domain, part.op_type) not in own:
            raise InputError(f"{path}: needs the custom operator {part.domain}.{part.op_type}; only ONNX's own are run")


def _parts(message) -> Iterator:
    """``message`` and every message in it, however deep: branches, loops, functions, sparse tensors."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _parts(part)
