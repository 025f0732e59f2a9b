"""What all trials of a study share, made once: corpus, validation pairs, pool, teacher, the teacher's outputs."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import torch
from pydantic import Field, field_validator, model_validator

from sekd.audio import write_audio
from sekd.cache import build_once, write_json
from sekd.checkpoint import load_model, save_model
from sekd.config import Frozen, content_hash, expand_path
from sekd.data import DEMO, DataConfig, Mixer, Recipe, TrainRecipe, ValidRecipe, recipe_hash
from sekd.dnsmos import model_file
from sekd.errors import InputError
from sekd.losses import LossConfig
from sekd.models import Diffusion, StudentConfig, build
from sekd.pool import LiveBatches, activations_bytes, rows_of, write_activations, write_outputs, write_ovrl, write_pool
from sekd.teacher import OwnTeacher, Teacher, open_teacher
from sekd.teacher_source import StftConfig, TeacherSource, absolute_reference, split_reference
from sekd.train import Phase, Progress, Run, TrainConfig, Trainer

Kind = TypeVar("Kind", bound=Recipe)

CORE_VERSION = 2  # raised when the same configuration would give another result


class TeacherConfig(Frozen):
    """A trained model to learn from, or a network to train first on the same recordings."""

    model: str | None = None  # a .safetensors of ours, or an .onnx
    stft: StftConfig = StftConfig()  # of an .onnx whose metadata do not say
    module: str | None = None  # "package.module:function" or "path/to/file.py:function": any torch module
    options: dict[str, Any] = {}  # of the function
    network: StudentConfig | None = None
    train: TrainConfig = TrainConfig()
    supervised: dict[str, float] = {"compressed": 1.0}
    # Activations for terms that compare features: kept on disk (float16), or computed anew for every batch.
    features: Literal["cached", "live"] = "cached"
    features_gib: float = Field(4.0, gt=0)  # most that cached ones may take

    @model_validator(mode="after")
    def _one_source(self) -> TeacherConfig:
        if sum(value is not None for value in (self.model, self.module, self.network)) != 1:
            raise ValueError("needs one of model (a file), module (your own code) and network (trained here)")
        if self.stft != StftConfig() and self.model is None:
            raise ValueError("stft describes an .onnx model, and there is none")
        if self.options and self.module is None:
            raise ValueError("options are given to the function of module, and there is none")
        if self.network is not None and self.network.gate is not None:
            raise ValueError("network.gate: only students are slimmable; a teacher costs nothing on the device")
        return self

    @field_validator("module")
    @classmethod
    def _reference(cls, value: str | None) -> str | None:
        if value is not None:
            split_reference(value)
        return value

    @property
    def source(self) -> TeacherSource | None:
        """The teacher, where it exists already."""
        if self.network is not None:
            return None
        return TeacherSource(model=self.model, stft=self.stft, module=self.module, options=self.options)


class Hashes(Frozen):
    """Identities of what a result depends on besides its configuration."""

    pool: str
    valid: str
    teacher: str | None = None


class Prepared(NamedTuple):
    """Where the shared things lie, and what they are."""

    pool: Path | None  # where nothing is to be known of each segment, batches are mixed on the fly
    valid: Path  # noisy/ and clean/ with equal names
    teacher: TeacherSource | None
    outputs: Path | None
    hashes: Hashes
    activations: Path | None = None  # where terms on features read them from a cache
    ovrl: Path | None = None  # DNSMOS OVRL of the pool's noisy signals


class Turn(Protocol):
    """Somebody who at times wants the processor for himself."""

    def step(self) -> AbstractContextManager[None]:
        """Around work that he must not meet."""

    def breathe(self) -> None:
        """Inside that: lets him go first, if he waits."""


class Reporter:
    """Tells how far a long preparation is: at most one line every ``every_s`` seconds, with the time left."""

    def __init__(self, say: Callable[[str], None] | None, every_s: float = 5.0, *, turn: Turn | None = None) -> None:
        self.say, self.every_s, self.turn = say, every_s, turn

    @contextmanager
    def task(self, what: str):
        """Yields a function of the share done, 0 to 1."""
        started = last = time.monotonic()

        def tell(share: float) -> None:
            nonlocal last
            if self.turn is not None:
                self.turn.breathe()
            now = time.monotonic()
            if self.say is not None and now - last >= self.every_s and 0.02 < share < 1:
                last = now
                left = (now - started) * (1 - share) / share
                self.say(f"{what}: {share:.0%}, about {left:.0f} s left")

        with nullcontext() if self.turn is None else self.turn.step():
            yield tell
        if self.say is not None:
            self.say(f"{what}: done in {time.monotonic() - started:.0f} s")


def prepare(
    data: DataConfig,
    teacher: TeacherConfig | None,
    *,
    seed: int,
    cache: Path,
    expect: Hashes | None = None,
    features: bool = False,
    outputs: bool = True,
    pool: bool = False,
    ovrl: bool = False,
    say: Callable[[str], None] | None = None,
    turn: Turn | None = None,
    trust_code: bool = False,
) -> Prepared:
    """Builds, or finds in ``cache``, all that the trials of one study share; ``features``: a term reads them.

    Args:
        outputs: a term follows what the teacher makes of the training audio.
        pool: students train from a pool even without a teacher, as those with gates do.
        ovrl: the gates of students are guided by DNSMOS, which brings a pool too.
        turn: lets whoever wants the processor for himself have it between any two small parts of the work.
        trust_code: whether the function that ``teacher.module`` names may be called.

    Raises:
        InputError: recordings or the teacher cannot be used or are not the expected ones, or the cache cannot be
            written.
    """
    report = Reporter(say, turn=turn)
    source = None if teacher is None else teacher.source
    given = None if source is None else open_teacher(source, trust_code=trust_code)  # before anything takes minutes
    if features and teacher is not None and teacher.features == "cached":
        _check_room(teacher, given, data.train)
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{cache}: cannot make the cache here: {error.strerror}") from error
    train = with_corpus(data.train, cache, seed, report)
    valid = with_corpus(data.valid, cache, seed, report)
    valid_hash = content_hash(["valid", valid.count, recipe_hash(valid, seed), CORE_VERSION])
    live = teacher is None and not pool and not ovrl
    if live:
        pool_hash = content_hash(["live", recipe_hash(train, seed), CORE_VERSION])
    else:
        pool_hash = content_hash(["pool", train.pool_minutes, recipe_hash(train, seed), CORE_VERSION])
    check_expected(expect, pool=pool_hash, valid=valid_hash)  # before anything takes minutes
    valid_folder = build_once(cache / f"valid-{valid_hash}", lambda f: _write_valid(f, valid, seed, report))
    mixers: list[Mixer] = []  # reading the recordings is slow: once, and only if something is to be built

    def mixer() -> Mixer:
        if not mixers:
            mixers.append(Mixer(train, seed=seed, notice=say))
        return mixers[0]

    def mix(folder: Path) -> None:
        with report.task(f"mixing {train.pool_minutes:g} minutes of training audio") as tell:
            write_pool(folder, train, mixer(), tell)

    hashes = Hashes(pool=pool_hash, valid=valid_hash)
    if live:
        return Prepared(None, valid_folder, None, None, hashes)
    pool_folder = build_once(cache / f"pool-{pool_hash}", mix)
    heard = _ovrl(cache, pool_folder, pool_hash, report) if ovrl else None
    if teacher is None:
        return Prepared(pool_folder, valid_folder, None, None, hashes, ovrl=heard)
    source = source or _trained_teacher(teacher, cache, train, seed, mixer, report)
    opened = given or open_teacher(source)
    check_expected(expect, teacher=opened.identity)

    def run_teacher(folder: Path) -> None:
        with report.task("running the teacher once over the training audio") as tell:
            write_outputs(folder, pool_folder, opened.enhance, tell)

    made = None
    if outputs:
        made = build_once(cache / f"outputs-{content_hash([pool_hash, opened.identity, CORE_VERSION])}", run_teacher)
    hashes = hashes.model_copy(update={"teacher": opened.identity})
    kept = None
    if features and teacher.features == "cached":
        kept = _activations(cache, pool_folder, opened, hashes, report)
    return Prepared(pool_folder, valid_folder, source, made, hashes, kept, heard)


def _ovrl(cache: Path, pool: Path, pool_hash: str, report: Reporter) -> Path:
    """The DNSMOS OVRL of every noisy signal of the pool."""

    def write(folder: Path) -> None:
        with report.task("judging the noisy training audio (DNSMOS)") as tell:
            write_ovrl(folder, pool, tell)

    judge = hashlib.sha256(model_file().read_bytes()).hexdigest()
    return build_once(cache / f"ovrl-{content_hash([pool_hash, judge, CORE_VERSION])}", write)


def _check_room(config: TeacherConfig, given: Teacher | None, train: TrainRecipe) -> None:
    """Refuses activations that would take more disk than ``features_gib``.

    Raises:
        InputError: says how much they would take.
    """
    if isinstance(given, OwnTeacher):
        network = given.model
    elif config.network is not None:
        network = build(config.network)
    else:
        return
    gib = activations_bytes(network, rows_of(train), train.samples) / 2**30
    if gib > config.features_gib:
        raise InputError(
            f"teacher.features_gib = {config.features_gib:g}: the teacher's activations would take {gib:.2g} GiB of "
            'disk; raise it, lower data.train.pool_minutes, or set teacher.features = "live"'
        )


def _activations(cache: Path, pool: Path, teacher: Teacher, hashes: Hashes, report: Reporter) -> Path | None:
    """The cached activations; None of a teacher that shows none."""
    if not isinstance(teacher, OwnTeacher) or not teacher.blocks:
        return None

    def write(folder: Path) -> None:
        with report.task("keeping the teacher's activations over the training audio") as tell:
            write_activations(folder, pool, teacher.model, tell)

    return build_once(cache / f"activations-{content_hash([hashes.pool, hashes.teacher, CORE_VERSION])}", write)


def check_expected(expect: Hashes | None, **found: str | None) -> None:
    """Refuses recordings or a teacher other than a package was made of.

    Raises:
        InputError: names the first that differs.
    """
    for key, have in found.items():
        wanted = None if expect is None else getattr(expect, key)
        if wanted is not None and have != wanted:
            raise InputError(
                f"expect.{key} = {wanted!r}, but this {key} is {have!r}: the student would differ; "
                "remove the [expect] table to train it anyway"
            )


def with_corpus(recipe: Kind, cache: Path, seed: int, report: Reporter) -> Kind:
    """``recipe`` with the embedded corpus in place of the word ``demo``."""
    if recipe.manifest != DEMO:
        return recipe
    from sekd.demo_corpus import make_demo_corpus

    def make(folder: Path) -> None:
        with report.task("making the embedded corpus"):
            make_demo_corpus(folder / "audio", seed=seed, minutes=recipe.demo_minutes)

    folder = build_once(cache / f"demo-{content_hash([recipe.demo_minutes, seed, CORE_VERSION])}", make)
    return recipe.model_copy(update={"manifest": str(folder / "audio" / "MANIFEST.csv")})


def _write_valid(folder: Path, recipe: ValidRecipe, seed: int, report: Reporter) -> None:
    """Validation pairs as files, so that anybody can listen to them and score anything on them."""
    mixer = Mixer(recipe, seed=seed + 1)
    count = recipe.count
    with report.task(f"mixing {count} validation pairs") as tell:
        for part in ("noisy", "clean"):
            (folder / part).mkdir(exist_ok=True)
        for index in range(count):
            segment = mixer.segment(index)
            for part, audio in zip(("noisy", "clean"), segment, strict=False):
                write_audio(folder / part / f"{index:03d}.flac", audio)
            tell((index + 1) / count)


def _trained_teacher(
    config: TeacherConfig, cache: Path, recipe: Recipe, seed: int, mixer: Callable[[], Mixer], report: Reporter
) -> TeacherSource:
    """The network that the study gives, trained here, supervised."""
    network = config.network
    assert network is not None
    settings = config.model_dump(mode="json", include={"model", "supervised"})
    settings |= {"network": network.trained_part, "train": config.train.what_matters}
    made_of = [settings, recipe_hash(recipe, seed), seed, CORE_VERSION]

    def train(folder: Path) -> None:
        torch.manual_seed(seed)
        model = build(network)
        weights = network.objective or config.supervised
        walk = model.walk() if isinstance(model, Diffusion) else None
        trainer = Trainer(model, [Phase(config.train.steps, weights)], config.train, LossConfig(), walk)
        with report.task(f"training the teacher ({config.train.steps} steps)") as tell, one_thread():

            def told(progress: Progress) -> None:
                tell(progress.step / progress.steps)

            batches = LiveBatches(mixer(), batch=config.train.batch)
            trainer.run(batches, Run(checkpoint=folder / "checkpoint.pt", on_progress=told))
        save_model(model, folder / "model.safetensors")
        write_json(folder / "made_of.json", made_of)

    trained = build_once(cache / f"teacher-{content_hash(made_of)}", train) / "model.safetensors"
    if not network.knobs:
        return TeacherSource(model=str(trained))

    def set_knobs(folder: Path) -> None:
        model = load_model(trained)
        model.take_knobs(network)
        save_model(model, folder / "model.safetensors")

    key = content_hash([made_of, network.model_dump(mode="json")])
    return TeacherSource(model=str(build_once(cache / f"teacher-{key}", set_knobs) / "model.safetensors"))


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch inside, as many as before afterwards.

    On networks this small a second thread gains little, loses much where the cores are busy, and changes bits.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def resolve(data: DataConfig, teacher: TeacherConfig | None, base: Path) -> tuple[DataConfig, TeacherConfig | None]:
    """The same with every path absolute: relative ones lie beside the file at ``base``, variables are filled in."""

    def recipe(value: Kind) -> Kind:
        return value.model_copy(update={k: str(expand_path(v, base)) for k, v in value.paths.items()})

    data = DataConfig.model_construct(train=recipe(data.train), valid=recipe(data.valid))
    if teacher is not None and teacher.model is not None:
        teacher = teacher.model_copy(update={"model": str(expand_path(teacher.model, base))})
    if teacher is not None and teacher.module is not None:
        teacher = teacher.model_copy(update={"module": absolute_reference(teacher.module, base)})
    return data, teacher
