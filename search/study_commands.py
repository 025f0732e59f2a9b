"""The commands about studies; each reads its options, calls one thing, and shows what came back."""

from __future__ import annotations

import json
import shutil
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console

from search.driver import RunOptions, drive
from search.ends import Interrupted, NothingFits
from search.labels import settings_text
from search.progress import view_for
from search.record import UNSCORED, TrialRecord
from search.results import Results, front_document, open_results, status_document
from search.run_folder import driving, start_run
from search.selection import best
from search.space import THRESHOLD
from search.study import find_definition, home, read_study, run_folder, shipped
from search.tables import front_table, selection_table
from sekd.errors import InputError

if TYPE_CHECKING:
    from search.certificate import Certificate
    from search.choose import Selection


def launch(options: Namespace) -> int:
    return _drive(find_definition(options.study), options)


def resume(options: Namespace) -> int:
    return _drive(run_folder(options.study) / "definition.toml", options)


def _drive(path: Path, options: Namespace) -> int:
    name = read_study(path).name
    nearest = None
    try:
        results = drive(
            path,
            RunOptions(**{name: getattr(options, name) for name in RunOptions.model_fields}),
            lambda study: view_for(study, _aside(options)),
        )
    except (Interrupted, KeyboardInterrupt):
        print(f"sekd: every finished trial is on record; continue with: sekd resume {name}", file=sys.stderr)
        return 130
    except NothingFits as error:
        print(f"sekd: {error}", file=sys.stderr)
        results, nearest = open_results(str(start_run(path)[1]), storage=options.storage), error.nearest
    return _after_search(results, nearest, options)


def _after_search(results: Results, nearest: list[TrialRecord] | None, options: Namespace) -> int:
    if options.json:
        print(json.dumps(status_document(results)))
    else:
        _show_end(results, nearest)
    if nearest is not None:
        return 3
    failed = [trial for trial in results.trials if trial.status == "FAILED"]
    if failed and not any(trial.status == "COMPLETE" for trial in results.trials):
        print(f"sekd: no trial succeeded; the last one: {failed[-1].reason}", file=sys.stderr)
        return 1
    return _after_launch(results, options) if getattr(options, "select", False) else 0


def _show_end(results: Results, nearest: list[TrialRecord] | None) -> None:
    console = _console()
    if nearest is not None:
        console.print(selection_table(None, nearest, results.limits, results.device))
        return
    console.print(front_table(results.front, results.study.objectives.names, results.device, title="Pareto front"))
    counts = status_document(results)["trials"]
    print(", ".join(f"{count} {status}" for status, count in counts.items() if count))
    print(f"next: sekd select {results.study.name} --max-latency-ms X, or sekd report {results.study.name}")


def _after_launch(results: Results, options: Namespace) -> int:
    from search.choose import choose

    chosen = choose(results, {}, say=_tell)
    code = _show_selection(chosen, results, results.limits, options)
    print(f"page:    {_write_report(results, None, chosen.selected)}", file=_aside(options))
    return code


def status(options: Namespace) -> int:
    document = status_document(open_results(options.study, storage=options.storage))
    if options.json:
        print(json.dumps(document))
        return 0
    print(f"study {document['study']}")
    print("trials: " + ", ".join(f"{count} {name}" for name, count in document["trials"].items()))
    seconds = document["seconds"]
    print(
        f"seconds: {seconds['train']:g} training, {seconds['evaluate']:g} scoring, {seconds['measure']:g} measuring; "
        f"about {seconds['saved_estimated']:g} of training saved (estimated)"
    )
    volumes = document["hypervolume_over_trials"]
    shown = [volumes[round(k * (len(volumes) - 1) / 9)] for k in range(10)] if len(volumes) > 10 else volumes
    print(f"hypervolume: {document['hypervolume']:.4g} (over trials: {', '.join(f'{v:.3g}' for v in shown) or '-'})")
    if document["best"]:
        scores = ", ".join(f"{k} {v:.3f}" for k, v in document["best"]["scores"].items() if v is not None)
        setting = document["best"]["variant"]
        at = f" at {settings_text(setting)}" if setting else ""
        print(f"best so far: trial {document['best']['number']}{at}, {scores}")
    return 0


def front(options: Namespace) -> int:
    results = open_results(options.study, storage=options.storage, device=options.device)
    if options.json:
        print(json.dumps(front_document(results, everything=options.all)))
        return 0
    names = results.study.objectives.names
    shown = [r for r in results.records if r.trained and r.duplicate_of is None] if options.all else results.front
    title = f"{'all trained students' if options.all else 'Pareto front'} of {results.study.name} on {results.device}"
    _console().print(front_table(shown, names, results.device, title=title))
    return 0


def select(options: Namespace) -> int:
    from search.choose import choose

    results = open_results(options.study, storage=options.storage, device=options.device)
    over = {
        key.removeprefix("max_") if key.startswith("max_") else key: value
        for key, value in vars(options).items()
        if key.startswith(("max_", "min_")) and value is not None
    }
    out = None if options.out is None else Path(options.out).resolve()
    chosen = choose(
        results, over, options.maximize, out=out, force=options.force, train_steps=options.train_steps,
        certificate=not options.no_certificate, gate_threshold=options.gate_threshold, say=_tell,
    )  # fmt: skip
    if options.json:
        print(json.dumps(_selection_document(chosen)))
    return _show_selection(chosen, results, results.limits | over, options)


def _selection_document(chosen: Selection) -> dict[str, Any]:
    return {
        "selected": chosen.selected.document() if chosen.selected else None,
        "nearest": [record.document() for record in chosen.nearest],
        "package": str(chosen.package) if chosen.package else None,
        "certificate": chosen.certificate.document() if chosen.certificate else None,
    }


def _show_selection(chosen: Selection, results: Results, limits: dict[str, float], options: Namespace) -> int:
    """The choice for people, unless they want JSON; 3 where nothing fits."""
    names = results.study.objectives.names
    if not options.json:
        _console().print(selection_table(chosen.selected, chosen.nearest, limits, results.device, names))
    if chosen.selected is None:
        print(f"sekd: no trained student of '{results.study.name}' fits", file=sys.stderr)
        return 3
    if UNSCORED in chosen.selected.flags:
        threshold = chosen.selected.variant[THRESHOLD]
        print(f"no scores: nothing was scored at gate threshold {threshold:g}; see card.md", file=_aside(options))
    if chosen.certificate is not None:
        print(_verdict(chosen.certificate), file=_aside(options))
    print(f"package: {chosen.package}", file=_aside(options))
    return 0


def _verdict(certificate: Certificate) -> str:
    """One line: what is promised, or why nothing is."""
    latency = certificate.latency
    told = [f"{promise.key} at most {promise.value:.4g} of {promise.limit:g}" for promise in certificate.promises]
    told += [
        f"{mode} p95 at most {spread.p95_upper_ms:.4g} ms"
        for mode, spread in (("burst", latency.burst), ("paced", latency.paced))
        if spread is not None and spread.p95_upper_ms is not None
    ]
    word = "certified" if certificate.certified else f"not certified ({'; '.join(certificate.reasons)})"
    return f"{word}: {', '.join(told)}, at 99 % confidence"


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _aside(options: Namespace) -> TextIO:
    """Where words go that are not the JSON document."""
    return sys.stderr if options.json else sys.stdout


def reprofile(options: Namespace) -> int:
    from search.device import load_device
    from search.reprofile import reprofile as measure_again

    device = load_device(options.device)
    results = open_results(options.study, storage=options.storage)
    done = measure_again(results, options.device, say=lambda line: print(line, file=sys.stderr, flush=True))
    again = open_results(options.study, storage=options.storage, device=device.name)
    if options.json:
        print(json.dumps(front_document(again)))
    else:
        title = f"{done} students {device.kind}; Pareto front on {device.name}"
        _console().print(front_table(again.front, again.study.objectives.names, device.name, title=title))
    return 0


def report(options: Namespace) -> int:
    results = open_results(options.study, storage=options.storage, device=options.device)
    metric = results.study.objectives.quality
    chosen = best(results.records, results.limits, metric, results.device, kind=results.kind)
    path = _write_report(results, options.out, chosen)
    print(json.dumps({"page": str(path)}) if options.json else f"page: {path}")
    return 0


def _write_report(results: Results, out: str | None, chosen: TrialRecord | None) -> Path:
    from search.choose import audio_examples
    from search.record import Score
    from search.report import write_report

    path = Path(out) if out else results.folder / "report.html"
    baseline = {
        name: {metric: Score(**score) for metric, score in scores.items()} for name, scores in results.baseline.items()
    }
    name = results.study.name
    try:
        write_report(
            path,
            study_name=name,
            definition_text=(results.folder / "definition.toml").read_text(encoding="utf-8"),
            device=results.device,
            records=results.records,
            objectives=results.study.objectives.names,
            limits=results.limits,
            selected=chosen,
            baseline=baseline,
            audio=audio_examples(results, chosen) if chosen is not None else [],
            commands=[f"sekd resume {name} --trials 20", f"sekd front {name} --all", f"sekd select {name}"],
        )
    except OSError as error:
        raise InputError(f"{path}: cannot write the page: {error.strerror}") from error
    return path.resolve()


def check(options: Namespace) -> int:
    from search.feasible import check_study, print_check

    document = check_study(find_definition(options.study), options.samples)
    if options.json:
        print(json.dumps(document))
    else:
        print_check(document, _console())
    return 0 if document["share_fitting"] > 0 else 3


def init(options: Namespace) -> int:
    from search.init import write_study

    path = write_study(Path(options.folder), options.name)
    print(f"wrote {path}; next: sekd check {path.stem}, then sekd launch {path.stem}")
    return 0


def clean(options: Namespace) -> int:
    folder = run_folder(options.study)
    with driving(folder):
        freed = _size(folder)
        if options.everything:
            shutil.rmtree(folder)
        else:
            _forget_leftovers(folder)
        freed -= _size(folder) if folder.exists() else 0
    print(json.dumps({"freed_mib": freed / 2**20}) if options.json else f"freed {freed / 2**20:.1f} MiB in {folder}")
    return 0


def _forget_leftovers(folder: Path) -> None:
    """Checkpoints and exports of trials that are on record; what `select` needs stays."""
    for trial in (folder / "trials").glob("*"):
        if (trial / "result.json").exists():
            for name in ("checkpoint.pt", "checkpoint.partial", "untrained.onnx"):
                (trial / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "logs", ignore_errors=True)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def list_(options: Namespace) -> int:
    runs = sorted(found.parent.name for found in (home() / "runs").glob("*/definition.toml"))
    own = sorted(found.stem for found in home().glob("*.toml"))
    document: dict[str, Any] = {"home": str(home()), "runs": runs, "studies": own, "shipped": shipped()}
    if options.json:
        print(json.dumps(document))
        return 0
    for key, value in document.items():
        print(f"{key}: {value if isinstance(value, str) else ', '.join(value) or '-'}")
    return 0


def _console() -> Console:
    # Piped tables must not be cut to 80 columns.
    return Console() if sys.stdout.isatty() else Console(width=160)
