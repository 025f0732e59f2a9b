"""The driver of a search: asks for trials, has them run, and makes each result durable before the next."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from search.backends.base import Backend, Died, Done, Progress
from search.baseline import gated_baseline
from search.closing import measure_again, require_a_student
from search.device import had_kind, load_device, require_torch_device
from search.device_lock import DeviceLock, keep_off, lock_folder
from search.drivers import Roll
from search.ends import Interrupted, exhausted
from search.preflight import (
    check_also_on,
    check_device,
    check_one_machine,
    check_recordings,
    check_trust,
    wants_latency,
)
from search.ranking import KeptFront, share_latency
from search.record import AWAY, TrialRecord
from search.sampler import lapsed
from search.sharing import Sharing
from search.storage.places import open_storage
from search.store import Store
from search.study import StudyDefinition, cache_folder
from search.trial import Job, Shared, make_job
from search.view import View
from sekd.cache import write_json
from sekd.config import content_hash, parse
from sekd.distillation import DistillConfig
from sekd.errors import InputError
from sekd.preparation import Prepared, prepare

AWAY_IN_A_ROW = 3
RETRIES = 1  # of a trial whose process died
POLL_S = 1.0


class Tuner:
    """One study being driven in one run folder, by this driver and maybe others."""

    def __init__(
        self,
        study: StudyDefinition,
        folder: Path,
        backend: Backend,
        view: View,
        *,
        storage: str | None = None,
        prepared: Prepared | None = None,
        torch_device: str = "cpu",
        force: bool = False,
        trust_code: bool = False,
        join: bool = False,
    ) -> None:
        self.study, self.folder, self.backend, self.view = study, folder, backend, view
        self.device = load_device(study.device)
        check_device(study, self.device)
        self.others = check_also_on(study)
        require_torch_device(torch_device)
        data = parse(DistillConfig, study.document({}), study.name)
        check_trust(data, trust_code)
        check_recordings(data)
        self.store = Store.create(study, open_storage(folder, storage, say=view.say), view.say)
        self.roll = Roll(self.store, study.run)
        if not join:
            self.roll.require_alone(view.say, "; --join works beside it")
        check_one_machine(study, self.device, self.roll.others())
        keep_off(self.device)  # workers inherit it
        self._lock = DeviceLock(lock_folder())
        self.prepared = prepared or prepare(
            data.data,
            data.teacher,
            seed=study.seed,
            cache=cache_folder(),
            features=study.reads_features,
            outputs=study.reads_outputs,
            pool=study.gated,
            ovrl=study.reads_ovrl,
            say=view.say,
            turn=self._lock,
            trust_code=trust_code,
        )
        hashes = {k: v for k, v in self.prepared.hashes.model_dump().items() if v is not None}
        self.store.check_identity(study.identity(hashes))
        # A search under way was accepted with the teacher it has.
        force = force or bool(self.store.records())
        with self._lock.step():
            self.baseline = gated_baseline(study, self.prepared, folder, view.say, force=force, trust_code=trust_code)
        self.store.note("baseline", self.baseline["means"])
        self._shared = self._what_jobs_share(torch_device)
        write_json(folder / "shared.json", self._shared.model_dump(mode="json"))

        kind, limits = had_kind(study.device), study.budget.limits()
        self._front = KeptFront(folder / "front.json", study.objectives.names, limits, self.device.name, kind)
        self._front.keep(self.store)
        self._away = 0
        self._running: dict[int, Job] = {}
        self._held: dict[int, dict[str, Any]] = {}  # as a trial with a lower number that is under way
        self._sharing = Sharing(self.store, self.roll, study.run.heartbeat_s)
        self._deaths: dict[int, int] = {}

    def _what_jobs_share(self, torch_device: str) -> Shared:
        teacher = self.baseline["means"].get("teacher", {}).get(self.study.objectives.quality)
        return Shared(
            device=self.device,
            others=self.others,
            latency_wanted=wants_latency(self.study),
            pool=self.prepared.pool,
            valid=self.prepared.valid,
            teacher=self.prepared.teacher,
            outputs=self.prepared.outputs,
            activations=self.prepared.activations,
            ovrl=self.prepared.ovrl,
            hashes=self.prepared.hashes.model_dump(),
            cache=cache_folder(),
            front=self.folder / "front.json",
            measured=self.folder / "measured",
            lock=lock_folder(),
            unprocessed=self.folder / "unprocessed.json",
            teacher_quality=teacher["mean"] if teacher else None,
            threads=self.study.run.threads,
            torch_device=torch_device,
            frames=self.study.run.measure_frames,
            checkpoint_s=self.study.run.checkpoint_s,
        )

    def run(self, trials: int | None = None) -> None:
        """Runs ``trials`` further trials, or what the definition still owes; interrupted ones come first.

        Raises:
            Interrupted: after Ctrl-C; NothingFits: the search ended without one student within the budget.
        """
        with self.roll.present():
            try:
                ended = self._search(trials)
            except KeyboardInterrupt:
                self.view.say("stopping: running trials save a checkpoint first; Ctrl-C again to stop at once")
                try:
                    self.backend.stop()
                except KeyboardInterrupt:
                    self.backend.stop(now=True)
                raise Interrupted from None
            finally:
                self.backend.stop(now=True)
        self._close(ended)

    def _search(self, trials: int | None) -> str | None:
        """Why the search ended before all was done, if it did."""
        while (number := self._sharing.orphan(self._own)) is not None:
            self._start(number, self.store.settings(number), self.study.trials)
            self._make_room(self.study.trials)
        self._finish(self.study.trials)
        wanted = self.study.trials if trials is None else self.store.counted() + trials
        ended: str | None = None
        while ended is None and self._may_start(wanted):
            ended = self._next(wanted)
            self._make_room(wanted)
        self._finish(wanted)
        if not self.roll.others():  # the last to leave does it
            self.store.refresh()
            measure_again(self.store, self.device, self.folder, self._lock, self.view)
            self._front.keep(self.store)
        return ended

    @property
    def _own(self) -> set[int]:
        """Numbers of the trials that this driver is at."""
        return {*self._running, *self._held}

    def _finish(self, wanted: int) -> None:
        while self._running or self._held:
            self._collect(wanted)

    def _may_start(self, wanted: int) -> bool:
        """Waits while all that is owed is under way: it may turn out infeasible, or its driver may die."""
        while self.store.counted() < wanted:
            owed = wanted - self.store.counted() - len(self.store.running())
            if owed > 0 or self._sharing.seems_orphaned(self._own):
                return True
            self._collect(wanted)
        return False

    def _next(self, wanted: int) -> str | None:
        """Starts one more trial; the reason to end the search, if there is one."""
        orphan = self._sharing.orphan(self._own)
        if orphan is not None:
            self._start(orphan, self.store.settings(orphan), wanted)
            return None
        if self._away >= AWAY_IN_A_ROW:
            return f"device '{self.device.name}' stays away: the search ends here, resume when it is back"
        reason = exhausted(self.store.standing(), wanted)
        if reason is not None:
            return reason
        with self._lock.step():  # a Gaussian process keeps a core busy
            asked = self.store.ask(self.roll.me.id, wanted)
        if asked is not None:
            self._start(*asked, wanted)
        return None

    def _start(self, number: int, params: dict[str, Any], wanted: int) -> None:
        try:
            config = parse(DistillConfig, self.study.document(params), f"trial {number}")
        except InputError as error:  # each setting is right, but not all of them together
            nothing = _without_record(number, content_hash(params, 16), params, "INFEASIBLE", str(error))
            return self._record(nothing, wanted)
        trial_id = config.identity(self.prepared.hashes)
        earlier = self._earlier(trial_id, number)
        if earlier is not None:
            twin = earlier.model_copy(update={"number": number, "params": params, "duplicate_of": earlier.number})
            return self._record(twin, wanted)
        if self._sharing.is_twin(number):
            if number not in self._held:
                self.view.say(f"trial {number} is a student that is under way already: it waits for that one")
            self._held[number] = params
            return
        job = make_job(self.study, number, trial_id, params, self.folder, self._shared)
        _own_folder(job)
        self._running[number] = job
        self.view.trial_started(number, params)
        self.backend.submit(job)

    def _earlier(self, trial_id: str, number: int) -> TrialRecord | None:
        """A finished trial of the same identity."""
        for record in self.store.of_student(trial_id):
            same = record.duplicate_of is None and record.number != number
            if same and record.status in ("COMPLETE", "INFEASIBLE") and not lapsed(record, self.study):
                return record
        return None

    def _make_room(self, wanted: int) -> None:
        while len(self._running) >= self.backend.slots:
            self._collect(wanted)

    def _collect(self, wanted: int) -> None:
        if not self._running:
            time.sleep(POLL_S)  # all is in the hands of other drivers
        for event in self.backend.collect(timeout_s=1.0) if self._running else ():
            if event.number not in self._running:
                continue
            if isinstance(event, Progress):
                self.view.trial_moved(event.number, event.stage, event.share)
            elif isinstance(event, Done):
                self._running.pop(event.number)
                self._record(event.record, wanted)
            else:
                self._died(event, wanted)
        if self._sharing.look_around():
            self._give_up_lost()
        self._start_held(wanted)

    def _give_up_lost(self) -> None:
        for number in self._sharing.lost(self._own):
            self.view.say(f"trial {number}: another driver has taken it over")
            self._held.pop(number, None)
            if self._running.pop(number, None) is not None:
                self.backend.cancel(number)

    def _start_held(self, wanted: int) -> None:
        for number in sorted(self._held) if self._held and len(self._running) < self.backend.slots else ():
            if not self._sharing.is_twin(number):
                return self._start(number, self._held.pop(number), wanted)

    def _died(self, event: Died, wanted: int) -> None:
        if event.disk_full:  # no fault of the trial's: the next one would fail as well
            raise InputError(
                f"trial {event.number}: the disk is full at {self.folder}; every finished trial is on record: "
                f"free some space, then sekd resume {self.study.name}"
            )
        job = self._running.pop(event.number)
        ended = job.folder / "result.json"
        if ended.exists():  # only the news of it was lost
            return self._record(TrialRecord.model_validate_json(ended.read_text()), wanted)
        deaths = self._deaths[event.number] = self._deaths.get(event.number, 0) + 1
        if deaths <= RETRIES and not event.final:
            self.view.say(f"trial {event.number}: {event.reason}; it continues from its checkpoint")
            self._running[event.number] = job
            self.backend.submit(job)
            return
        self._record(_without_record(job.number, job.trial_id, job.params, "FAILED", event.reason), wanted)

    def _record(self, record: TrialRecord, wanted: int) -> None:
        self._away = self._away + 1 if AWAY in record.flags else 0
        if not self.store.tell(record, self.roll.me.id):
            return self.view.say(f"trial {record.number}: another driver has taken it over")
        share_latency(record, self.store, self.device.name)
        self._front.keep(self.store)
        done = self.store.counted()
        self.view.trial_ended(record, done, max(wanted, done))

    def _close(self, ended: str | None) -> None:
        if ended is not None and self._away >= AWAY_IN_A_ROW:
            raise InputError(ended)
        if ended is not None:
            self.view.say(ended)
        require_a_student(self.study, self.store.records(), self.device.name)


def _without_record(number: int, trial_id: str, params: dict[str, Any], status: Any, reason: str) -> TrialRecord:
    """A record for a trial that came to none of its own."""
    return TrialRecord(
        trial_id=trial_id, variant_id=trial_id, number=number, status=status, params=params, reason=reason
    )


def _own_folder(job: Job) -> None:
    """The trial's folder; a checkpoint or result in it is kept only if it is this very trial's."""
    owner = job.folder / "trial_id"
    if job.folder.exists() and (not owner.exists() or owner.read_text() != job.trial_id):
        shutil.rmtree(job.folder)  # of a study whose records are elsewhere or gone
    job.folder.mkdir(parents=True, exist_ok=True)
    owner.write_text(job.trial_id)
    write_json(job.folder / "config.json", job.document)
