"""One trial on a node of a Ray cluster, as Ray Tune's Trainable: the same `run_trial` in a thread, told of in steps."""

from __future__ import annotations

import platform
import shutil
import threading
import traceback
from pathlib import Path
from typing import Any

import ray
from ray import tune

from search.backends.ray.files import Place, send, send_folder, settle
from search.backends.ray.node import require_same, this_node
from search.record import TrialRecord
from search.trial import Job
from sekd.data import DEMO
from sekd.errors import InputError

REPORT_EVERY_S = 2.0
GRACE_S = 8.0  # for a checkpoint; Tune kills an actor that takes 10 s to stop
DISK_FULL_BYTES = 1 << 20
CHECKPOINT = "checkpoint.pt"


class Stopping(BaseException):
    """Nobody wants this trial any more; raised between two steps, after which a checkpoint is written."""


class TrialOnNode(tune.Trainable):
    """Runs the job that ``home`` keeps under this trial's id; reused for one trial after another."""

    def setup(self, config: dict[str, Any], home: Any = None) -> None:
        self._home = home
        self._work: Work | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self._work = None
        return True

    def step(self) -> dict[str, Any]:
        if self._work is None:
            self._work = Work(self._home, self.trial_id)
        return self._work.report()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        assert self._work is not None
        self._work.copy_checkpoint(Path(checkpoint_dir))

    def load_checkpoint(self, checkpoint: Any) -> None:
        self._work = Work(self._home, self.trial_id, restored=(Path(checkpoint) / CHECKPOINT).read_bytes())

    def restore(self, checkpoint_path: Any) -> None:
        try:
            super().restore(checkpoint_path)
        except (ValueError, OSError):  # this node does not see Tune's storage; the driver's machine has a copy
            self._work = None

    def cleanup(self) -> None:
        if self._work is not None:
            self._work.end(0.0 if ray.get(self._home.hurried.remote()) else GRACE_S)


class Work:
    """A trial in a thread of this process, from bringing its files here to taking its results home."""

    def __init__(self, home: Any, key: str, restored: bytes | None = None) -> None:
        self._home, self._key, self._restored = home, key, restored
        self._place: Place | None = None
        self._at: tuple[str, float] = ("start", 0.0)
        self._told: str | None = None
        self._outcome: dict[str, Any] | None = None
        self._sent_at: int | None = None  # modification time of the checkpoint that was kept last
        self._keeps = False  # whether Tune's storage is seen here
        self._stopping = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def report(self) -> dict[str, Any]:
        """What there is to tell, at the latest after ``REPORT_EVERY_S``; the last one is done."""
        with self._news:
            self._news.wait_for(lambda: self._outcome is not None or self._at[0] != self._told, REPORT_EVERY_S)
            outcome, (stage, share) = self._outcome, self._at
        if outcome is not None:
            return outcome | {"done": True}
        self._told = stage
        if not ray.get(self._home.wanted.remote(self._key)):
            self.end(GRACE_S)
            return {"done": True, "cancelled": True, "stage": stage, "share": share}
        node = ray.get_runtime_context().get_node_id()
        return {"stage": stage, "share": share, "node": node, "should_checkpoint": self._keep()}

    def _keep(self) -> bool:
        """Sends a new checkpoint home; whether Tune is to keep it too."""
        place = self._place
        if place is None or self._outcome is not None:
            return False
        try:
            changed = (place.job.folder / CHECKPOINT).stat().st_mtime_ns
        except OSError:
            return False
        if changed == self._sent_at:
            return False
        self._sent_at = changed
        if place.home is not None:
            send(self._home, place.job.folder / CHECKPOINT, place.home / CHECKPOINT)
        return self._keeps

    def copy_checkpoint(self, folder: Path) -> None:
        assert self._place is not None
        try:
            shutil.copyfile(self._place.job.folder / CHECKPOINT, folder / CHECKPOINT)
        except FileNotFoundError:  # the training is over, and its checkpoint gone
            (folder / CHECKPOINT).write_bytes(b"")

    def end(self, grace_s: float) -> None:
        """Ends the trial between two of its steps; its checkpoint is at home then."""
        self._stopping = True
        self._thread.join(grace_s)

    def _run(self) -> None:
        try:
            outcome = self._lived()
        except Stopping:
            outcome = {"cancelled": True}
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            outcome = {"died": reason, "traceback": traceback.format_exc(), "disk_full": self._disk_is_full()}
        with self._news:
            self._outcome = {"stage": self._at[0], "share": self._at[1]} | outcome
            self._news.notify()

    def _lived(self) -> dict[str, Any]:
        job = Job.model_validate_json(ray.get(self._home.job.remote(self._key)))
        driver = ray.get(self._home.facts.remote())
        require_same(driver, this_node(), job)
        place = settle(job, self._home)
        self._keeps = driver["storage"] == "given" or place.home is None
        _require_recordings(place)
        self._put_back(place)
        self._place = place
        try:
            return self._trained(place)
        finally:
            send_folder(self._home, place)

    def _trained(self, place: Place) -> dict[str, Any]:
        from search.objective import run_trial

        record = run_trial(place.job, self._tell)
        return {"share": 1.0, "record": record.model_dump_json()} | figures(record, place.job)

    def _put_back(self, place: Place) -> None:
        """Tune's checkpoint, where the folder has none or, being this node's own, an older one."""
        path = place.job.folder / CHECKPOINT
        if self._restored and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._restored)

    def _tell(self, stage: str, share: float) -> None:
        if self._stopping:
            raise Stopping
        with self._news:
            if stage != self._at[0]:
                self._news.notify()
            self._at = (stage, share)

    def _disk_is_full(self) -> bool:
        folder = Path("/") if self._place is None else self._place.job.folder.parent
        return shutil.disk_usage(folder).free < DISK_FULL_BYTES


def figures(record: TrialRecord, job: Job) -> dict[str, Any]:
    """What a person watches in TensorBoard: numbers alone, under the names of the record."""
    scores = {name: score.mean for name, score in record.scores.items() if score is not None and score.mean is not None}
    cost = {k: v for k, v in (record.cost.model_dump() if record.cost else {}).items() if isinstance(v, int | float)}
    latency = {name: value.get("p50_ms") for name, value in record.latency.items()}
    seconds = {k: v for k, v in record.seconds.model_dump().items() if v is not None}
    return {
        "scores": scores, "cost": cost, "latency_p50_ms": {k: v for k, v in latency.items() if v is not None},
        "seconds": seconds, "status": record.status,
    }  # fmt: skip


def _require_recordings(place: Place) -> None:
    """Without a teacher there is no pool to ship, and batches are mixed from the recordings themselves.

    Raises:
        InputError: they are not on this node.
    """
    if place.home is None or place.job.shared.pool is not None:
        return
    train = place.job.document.get("data", {}).get("train", {})
    for key in ("manifest", "clean", "noise"):
        path = train.get(key)
        if isinstance(path, str) and path != DEMO and not Path(path).exists():
            raise InputError(
                f"{path}: not on node {platform.node()}: mount recordings there, or give the study a teacher"
            )
