"""Any torch module as a teacher, made by a function that the study names: code of the user's, run on request only."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from sekd.audio import SAMPLE_RATE
from sekd.config import content_hash
from sekd.errors import InputError, nearest
from sekd.teacher import Teacher, checked
from sekd.teacher_source import is_file_reference, split_reference


class ModuleTeacher(Teacher):
    """What ``function(**options)`` returns; its input and output are ``(batch, sample)`` at 16 kHz.

    Raises:
        InputError: there is no such file, module or function, or it raises, or what it returns does not enhance.
    """

    def __init__(self, reference: str, options: Mapping[str, Any]) -> None:
        self.reference = reference
        place, name = split_reference(reference)
        file = Path(place) if is_file_reference(place) else None
        source = None if file is None else _read(file)
        self._folder = None if file is None else file.parent
        with self._guest("loading it"):
            code = importlib.import_module(place) if file is None or source is None else _import(file, source)
            function = self._function(code, name)
            made = function(**options)
        if not isinstance(made, nn.Module):
            raise InputError(f"{reference}: returns {_kind(made)}, not a torch.nn.Module")
        with self._guest("moving it to the CPU"):
            self.module = made.to("cpu").eval()
        probe = 0.05 * torch.randn(2, SAMPLE_RATE, generator=torch.Generator().manual_seed(0))
        self.enhance(probe)  # what cannot work is told now, not after the audio was mixed
        with self._guest("reading its weights"):
            weights = _hash_of_tensors(self.module)
        where = place if file is None else file.name  # a study may move, its teacher stays the same
        digest = None if source is None else hashlib.sha256(source).hexdigest()
        self.identity = content_hash([where, name, dict(options), digest, weights])

    @torch.no_grad()
    def enhance(self, noisy: Tensor) -> Tensor:
        with self._guest(f"enhancing {tuple(noisy.shape)}"):
            output = self.module(noisy)
        if not isinstance(output, Tensor) or output.is_complex():
            kind = "complex numbers" if isinstance(output, Tensor) else _kind(output)
            raise InputError(f"{self.reference}: gives {kind}, not the enhanced signals")
        if output.dim() == 3 and output.shape[1] == 1:
            output = output[:, 0]
        return checked(output.detach().to("cpu", torch.float32), noisy, self.reference)

    def _function(self, code: ModuleType, name: str) -> Callable[..., Any]:
        function = getattr(code, name, None)
        if not callable(function):
            known = [key for key, value in vars(code).items() if callable(value) and not key.startswith("_")]
            raise InputError(f"{self.reference}: no function '{name}' there{nearest(name, known)}")
        return function

    @contextmanager
    def _guest(self, doing: str) -> Iterator[None]:
        """Lets foreign code run: its errors become one line, and what it sets and prints is not ours to suffer from.

        Its file's folder is on the path, as for a script; the seed is fixed, so that what draws numbers gives the
        same twice; printing goes to stderr, since stdout may hold a document.
        """
        path, threads, dtype = list(sys.path), torch.get_num_threads(), torch.get_default_dtype()
        if self._folder is not None:
            sys.path.insert(0, str(self._folder))
        try:
            with redirect_stdout(sys.stderr), torch.random.fork_rng(devices=[]), torch.set_grad_enabled(False):
                torch.manual_seed(0)
                yield
        except (InputError, KeyboardInterrupt):
            raise
        except BaseException as error:  # SystemExit too: a script that ends itself must not end a search unnoticed
            told = " ".join(str(error).split())[:300]
            raise InputError(f"{self.reference}: {doing} raised {type(error).__name__}: {told}") from error
        finally:
            sys.path[:] = path
            torch.set_num_threads(threads)
            torch.set_default_dtype(dtype)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"teacher.module: {file}: {error.strerror}") from error


def _import(file: Path, source: bytes) -> ModuleType:
    """The module of exactly these bytes, which the identity knows; a cached compilation could be of others."""
    module = ModuleType(f"sekd_teacher_{file.stem}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # dataclasses and pickled weights look their module up
    exec(compile(source, str(file), "exec"), module.__dict__)
    return module


def _hash_of_tensors(module: nn.Module) -> str:
    """All parameters and buffers, bit for bit; those that are not saved with the weights too."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers()), **module.state_dict()}
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(name.encode())
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"
