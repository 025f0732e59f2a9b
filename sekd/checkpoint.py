"""A trained network as one safetensors file: weights, and the configuration that builds the network."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sekd.config import Frozen, content_hash, parse
from sekd.errors import InputError
from sekd.models import Enhancer, StudentConfig, build

FORMAT = "sekd-model-1"


class _Network(Frozen):
    network: StudentConfig


def save_model(model: Enhancer, path: Path, *, notes: dict[str, str] | None = None) -> None:
    """Writes ``path`` whole or not at all; ``notes`` travel in the file's metadata."""
    config = json.dumps(model.config.model_dump(mode="json"), sort_keys=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(tensors, partial, metadata={"format": FORMAT, "network": config, **(notes or {})})
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def load_model(path: Path) -> Enhancer:
    """The network of a ``.safetensors`` file that ``save_model`` wrote, ready to enhance.

    Raises:
        InputError: the file is missing, truncated, or not one of ours.
    """
    if Path(path).is_dir():
        raise InputError(f"{path}: is a folder, not a .safetensors file")
    try:
        with safe_open(path, "pt") as file:
            notes = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a whole safetensors file: {error}") from error
    if notes.get("format") != FORMAT:
        raise InputError(f"{path}: not a model of sekd (format {notes.get('format')!r}, wanted {FORMAT!r})")
    model = build(parse(_Network, {"network": json.loads(notes["network"])}, str(path)).network)
    expected = {name: value.shape for name, value in model.state_dict().items()}
    if expected != {name: value.shape for name, value in tensors.items()}:
        raise InputError(f"{path}: its weights do not belong to the network it names")
    if not all(torch.isfinite(value).all() for value in tensors.values()):
        raise InputError(f"{path}: some weights are not finite")
    model.load_state_dict(tensors)
    return model.eval()


def network_hash(model: Enhancer) -> str:
    """Identity of a trained network: what it is and all its weights, not the bytes of the file that holds them
    (safetensors writes its metadata in any order)."""
    return content_hash([model.config.model_dump(mode="json"), hash_of_weights(model)])


def hash_of_weights(model: torch.nn.Module) -> str:
    """Digest of all parameters, bit for bit."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]
