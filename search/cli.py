"""The `sekd` command: what each subcommand takes, and how its errors are told. Start reading here."""

from __future__ import annotations

import argparse
import importlib
import math
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from search.agent.options import add_options
from sekd.errors import InputError, nearest

STUDY, CORE = "search.study_commands", "search.core_commands"
STORAGE, DOCTOR = "search.storage_commands", "search.doctor_command"
AGENT, CALIBRATE = "search.agent_command", "search.calibrate_command"
COST_LIMITS = (
    "latency-ms", "paced-p95-ms", "total-latency-ms", "rtf", "macs-per-s", "weight-kib", "state-kib",
    "expected-latency-ms", "expected-macs-per-s",
)  # fmt: skip
METRIC_LIMITS = ("pesq_wb", "pesq_nb", "estoi", "si_sdr_db")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; 0 done, 1 failed, 2 wrong usage or input, 3 nothing fits, 130 after Ctrl-C."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 2
    # A service manager asks to end in this way: it is Ctrl-C by another name.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        # Late: help must not wait for torch, optuna and onnxruntime.
        module = importlib.import_module(options.module)
        return getattr(module, options.function)(options)
    except InputError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except OSError as error:
        return _fail(f"{error.filename or 'system'}: {error.strerror or error}", 1)


def _fail(message: str, code: int) -> int:
    print(f"sekd: {' '.join(message.split())}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    """One line for a wrong word, with the nearest right one."""

    def error(self, message: str) -> NoReturn:
        if "invalid choice" in message and "argument COMMAND" in message:
            word = message.split("'")[1]
            message = f"unknown command '{word}'{nearest(word, COMMANDS)}"
        elif message.startswith("unrecognized arguments"):
            word = message.split(": ", 1)[1].split()[0]
            options = [text for action in self._actions for text in action.option_strings]
            message = f"unknown option or argument '{word}'{nearest(word, options)}"
        self.exit(2, f"{self.prog}: {message}\n")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:
            # The subcommand's own parser knows which option was meant.
            COMMAND_PARSERS.get(known.command, self).error(f"unrecognized arguments: {' '.join(unknown)}")
        return known


COMMANDS: dict[str, str] = {}
COMMAND_PARSERS: dict[str, _Parser] = {}


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="sekd", description="Find and distil the student that sounds best on your device.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    def command(name: str, module: str, about: str) -> _Parser:
        made = commands.add_parser(name, help=about, description=about)
        made.set_defaults(module=module, function="list_" if name == "list" else name.replace("-", "_"))
        COMMANDS[name], COMMAND_PARSERS[name] = about, made
        return made

    _searching(command)
    _reading(command)
    _core(command)
    return parser


def _searching(command: Any) -> None:
    launch = command("launch", STUDY, "run a Pareto search (continues one with the same definition)")
    launch.add_argument("study", metavar="STUDY", help="a TOML file, or the name of a study")
    launch.add_argument("--select", action="store_true", help="then select the best student and write the report")
    resume = command("resume", STUDY, "continue a study: N more trials, or what its definition still owes")
    resume.add_argument("study", metavar="NAME")
    for made in (launch, resume):
        made.add_argument("--trials", type=_positive, metavar="N")
        made.add_argument("--workers", type=_positive, metavar="N")
        made.add_argument("--backend", choices=["local", "ray"], default="local", help="where trials run")
        made.add_argument("--address", metavar="A", help="of a Ray cluster to join: auto, or HOST:PORT")
        made.add_argument("--ray-storage", metavar="URI", help="for Ray's checkpoints: a folder or URI all nodes reach")
        made.add_argument("--join", action="store_true", help="work beside other drivers of the same study")
        made.add_argument("--torch-device", default="cpu", metavar="DEVICE", help="cpu, cuda, cuda:1 ...")
        made.add_argument("--force", action="store_true", help="run even if the teacher does not beat unprocessed")
        _trust(made)
        _common(made)
    check = command("check", STUDY, "cost and measure a sample of a study's space; trains nothing")
    check.add_argument("study", metavar="STUDY")
    check.add_argument("--samples", type=_positive, default=24, metavar="N")
    check.add_argument("--json", action="store_true")
    init = command("init", STUDY, "write a commented study for your own recordings")
    init.add_argument("folder", metavar="DIR", help="holds clean/ and noise/, or noisy/ and clean/, or MANIFEST.csv")
    init.add_argument("--name", help="of the study; the folder's name unless given")


def _reading(command: Any) -> None:
    about = {
        "status": "trials by status, best so far, hypervolume, time spent and saved",
        "front": "the Pareto front",
        "select": "the best student within a budget, as a package",
        "reprofile": "measure every trained student on a device; trains nothing",
        "report": "one HTML page: front, students, audio",
        "clean": "remove what a finished study no longer needs",
    }
    made = {name: command(name, STUDY, text) for name, text in about.items()}
    for name, parser in made.items():
        parser.add_argument("study", metavar="NAME")
        _common(parser)
        if name in ("front", "select", "reprofile", "report"):
            parser.add_argument("--device", required=name == "reprofile", metavar="D")
    made["front"].add_argument("--all", action="store_true", help="with --json: every trial too")
    doctor = command("doctor", DOCTOR, "look a study over: orphans, missing or half-written files, clocks")
    doctor.add_argument("study", metavar="NAME")
    doctor.add_argument("--repair", action="store_true", help="mend what is safe to mend")
    _common(doctor)
    copy = command("copy", STORAGE, "copy a study to another storage, where it then goes on")
    copy.add_argument("study", metavar="NAME")
    copy.add_argument("--to", required=True, metavar="URL", help="sqlite:///, journal:///, postgresql://...")
    _common(copy)
    made["report"].add_argument("--out", metavar="FILE.html")
    made["clean"].add_argument("--everything", action="store_true", help="the whole run, records and packages too")
    select = made["select"]
    for key in COST_LIMITS:
        select.add_argument(f"--max-{key}", type=_finite, metavar="X")
    for metric in METRIC_LIMITS:
        select.add_argument(f"--min-{metric.replace('_', '-')}", type=_finite, metavar="X")
    select.add_argument("--maximize", metavar="METRIC", help="the study's own quality unless given")
    select.add_argument("--train-steps", type=_positive, metavar="N", help="train the choice anew for N steps")
    select.add_argument("--gate-threshold", type=_share, metavar="X", help="of a student with gates, 0 to 1: its knob")
    select.add_argument("--out", metavar="DIR", help="the package; under the run's packages/ unless given")
    select.add_argument("--force", action="store_true", help="replace what is in --out")
    select.add_argument("--no-certificate", action="store_true", help="do not measure the chosen file (a minute)")
    listing = command("list", STUDY, "studies and runs")
    listing.add_argument("--json", action="store_true")


def _core(command: Any) -> None:
    devices = command("devices", CORE, "the device profiles")
    devices.add_argument("name", nargs="?", metavar="NAME")
    measure = command("measure", CORE, "latency of any streaming ONNX on a device")
    measure.add_argument("model", metavar="MODEL.onnx")
    measure.add_argument("--device", required=True, metavar="D")
    measure.add_argument("--hop-ms", type=_above_zero, metavar="X", help="where the file's metadata do not say")
    measure.add_argument(
        "--level", choices=["screening", "ranking", "certificate"], default="ranking",
        help="how much: 128 frames, 662 in each of three processes, or 1024 and 10 s in three (default: ranking)",
    )  # fmt: skip
    measure.add_argument("--predict", action="store_true", help="say what a cost model would have said, too")
    measure.add_argument("--cost-model", metavar="FILE", help="of sekd calibrate; that of the device unless given")
    calibrate = command("calibrate", CALIBRATE, "fit a cost model to a device, from networks measured on it")
    calibrate.add_argument("--device", required=True, metavar="D")
    calibrate.add_argument("--networks", type=_positive, default=30, metavar="N", help="10 to 30; all unless given")
    calibrate.add_argument("--out", metavar="FILE", help="cost_models/D.json beside the studies unless given")
    agent = command("agent", AGENT, "serve measurements from this machine, or pack the agent for a device")
    agent.add_argument("--pack", metavar="FILE.pyz", help="write the agent as one file, and end")
    add_options(agent)
    train = command("train", CORE, "one distillation")
    train.add_argument("config", metavar="CONFIG.toml")
    train.add_argument("--out", metavar="DIR", help="CONFIG without .toml unless given")
    train.add_argument("--torch-device", default="cpu", metavar="DEVICE")
    _trust(train)
    evaluate = command("evaluate", CORE, "score a model on a folder with noisy/ and clean/")
    evaluate.add_argument("model", metavar="MODEL", help="a package, an .onnx or a .safetensors")
    evaluate.add_argument("pairs", metavar="PAIRS_DIR")
    evaluate.add_argument("--metric", action="append", default=[], metavar="NAME", help="besides: dnsmos_ovrl, pesq_nb")
    enhance = command("enhance", CORE, "enhance a file or a folder")
    enhance.add_argument("model", metavar="MODEL", help="a package, an .onnx or a .safetensors")
    enhance.add_argument("source", metavar="IN")
    enhance.add_argument("target", metavar="OUT")
    corpus = command("demo-corpus", CORE, "make the embedded corpus")
    corpus.add_argument("folder", metavar="DIR")
    corpus.add_argument("--minutes", type=_above_zero, default=10.0, metavar="X")
    corpus.add_argument("--seed", type=int, default=0, metavar="N")
    for made in (devices, measure, calibrate, evaluate, enhance, train):
        made.add_argument("--json", action="store_true", help="one JSON document on stdout")


def _trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust-code", action="store_true", help="import and call the function that the teacher's module names"
    )


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--storage", metavar="URL", help="of the study; where it lies unless given")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number")
    return value


def _share(text: str) -> float:
    value = _finite(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not within 0 to 1")
    return value


def _above_zero(text: str) -> float:
    value = _finite(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
