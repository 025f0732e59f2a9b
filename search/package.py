"""What `select` hands over: a verified streaming ONNX, what retrains it, what it scored, and what it sounds like."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit

from search.card import card_text
from search.certificate import Certificate
from search.record import TrialRecord
from search.results import Results
from search.scoring import validation_pairs
from search.space import merged, nested
from sekd.audio import read_audio, write_audio
from sekd.cache import write_json
from sekd.checkpoint import load_model, save_model
from sekd.config import parse
from sekd.distillation import DistillConfig
from sekd.errors import InputError
from sekd.evaluation_export import write_evaluation
from sekd.hops import HopEnhancer
from sekd.models import Enhancer

EXAMPLES = 3
TAKES = {  # what the file takes per call, by its contract
    "spectrum": "one STFT frame and its states per call (in sherpa-onnx too, if `model_type` is `gtcrn`)",
    "wave": "one hop of samples and its states per call (`contract=wave`, not in sherpa-onnx)",
}


def write_package(
    results: Results,
    record: TrialRecord,
    source: Path,
    model: Path,
    out: Path,
    *,
    limits: Mapping[str, float],
    certificate: Certificate | None = None,
    force: bool = False,
    scored: TrialRecord | None = None,
) -> Path:
    """Writes the package to ``out`` by rename; ``source`` is the trial's folder, ``model`` the student's ONNX.

    ``scored`` is the student as it was scored, where ``record`` has another threshold of its gates.

    Raises:
        InputError: ``out`` is not empty (and not ``force``), cannot be written, or the trial's files are gone.
    """
    require_room(out, force)
    from sekd.streaming import OnnxEnhancer

    partial = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        shutil.copyfile(model, partial / "model.onnx")
        config = config_text(source, record.variant)
        student = _write_weights(source / "model.safetensors", config, partial / "model.safetensors")
        write_evaluation(student, partial)
        (partial / "config.toml").write_text(config, encoding="utf-8")
        enhancer = OnnxEnhancer(partial / "model.onnx")
        _write_audio(results, partial, enhancer)
        dtype = tomllib.loads(config).get("deploy", {}).get("dtype", "fp32")
        card = card_text(
            results, record, limits, TAKES[enhancer.contract], dtype, certificate, network=student.config, scored=scored
        )  # fmt: skip
        (partial / "card.md").write_text(card, encoding="utf-8")
        if certificate is not None:
            write_json(partial / "certificate.json", certificate.document())
        _put_in_place(partial, out)
    except OSError as error:
        raise InputError(f"{out}: cannot write the package: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _write_weights(source: Path, config: str, target: Path) -> Enhancer:
    """The weights as they were trained, with what acts after training as the package's configuration says."""
    model = load_model(source)
    if model.config.gate is None and not model.config.knobs:
        shutil.copyfile(source, target)
        return model
    model.take_knobs(parse(DistillConfig, tomllib.loads(config), "config.toml").student)
    save_model(model, target)
    return model


def require_room(out: Path, force: bool) -> None:
    """Refuses a folder that holds something already.

    Raises:
        InputError: names it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not force:
        raise InputError(f"{out}: not empty; name another --out, or use --force")


def _put_in_place(partial: Path, out: Path) -> None:
    """Two renames, so that no moment is without a whole package."""
    if not out.exists():
        partial.rename(out)
        return
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    out.rename(old)
    partial.rename(out)
    shutil.rmtree(old)


def config_text(source: Path, setting: Mapping[str, Any]) -> str:
    """The configuration that makes the student again, at its setting: ``sekd train config.toml``."""
    document = merged(json.loads((source / "config.json").read_text()), nested(setting))
    facts = json.loads((source / "environment.json").read_text())
    document["expect"] = facts["hashes"]
    document["threads"] = facts["environment"]["threads"]
    text = tomlkit.document()
    made_with = ", ".join(f"{key} {value}" for key, value in facts["environment"].items())
    text.add(tomlkit.comment(f"sekd train {'config.toml'} gives the same weights, bit for bit, on CPU with"))
    text.add(tomlkit.comment(f"{made_with}. [expect] refuses other recordings or another teacher;"))
    text.add(tomlkit.comment("remove it to train on yours."))
    for key, value in _without_none(document).items():
        text[key] = value
    return tomlkit.dumps(text)


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(part) for key, part in value.items() if part is not None}
    return value


def _write_audio(results: Results, folder: Path, enhancer: HopEnhancer) -> None:
    """Three validation pairs, from hard to easy, through the exported file itself."""
    for name, noisy, clean in examples(results):
        mixture = read_audio(noisy)
        place = folder / "audio"
        write_audio(place / f"{name}_noisy.flac", mixture)
        write_audio(place / f"{name}_enhanced.flac", enhancer.enhance(mixture))
        write_audio(place / f"{name}_clean.flac", read_audio(clean))


def examples(results: Results) -> list[tuple[str, Path, Path]]:
    """Validation pairs spread over how bad they are unprocessed."""
    facts = json.loads((results.folder / "shared.json").read_text())
    pairs = validation_pairs(Path(facts["valid"]))
    scores = json.loads((results.folder / "unprocessed.json").read_text())
    quality = results.study.objectives.quality
    ranked = sorted(pairs, key=lambda pair: scores[pair[0]][quality] or 0.0)
    places = [round(k * (len(ranked) - 1) / (EXAMPLES - 1)) for k in range(EXAMPLES)]
    return [ranked[place] for place in dict.fromkeys(places)]
