"""Imports point down; optuna stays with what proposes and what stores, ray in its backend."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def imported(path: Path) -> set[str]:
    """Top-level names of all packages that ``path`` imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def importers(package: str) -> set[str]:
    files = [path for top in ("sekd", "search") for path in (ROOT / top).rglob("*.py")]
    return {str(path.relative_to(ROOT)) for path in files if package in imported(path)}


def test_layers_hold():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_optuna_is_known_to_what_proposes_and_what_stores():
    elsewhere = {file for file in importers("optuna") if not file.startswith("search/storage/")}
    assert elsewhere == {"search/sampler.py", "search/store.py"}


def test_ray_is_imported_by_its_backend_alone():
    assert all(file.startswith("search/backends/ray/") for file in importers("ray"))


def test_the_core_does_not_load_torch_before_it_needs_it():
    code = "import sys, sekd, sekd.audio, sekd.config, sekd.streaming; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
