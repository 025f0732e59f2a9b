"""One worker process: a job as a line of JSON on stdin, progress and records as lines on stdout."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
import time
import warnings
from contextlib import suppress
from typing import IO, Any

PR_SET_PDEATHSIG = 1
PROGRESS_EVERY_S = 0.5
DISK_FULL_BYTES = 1 << 20  # torch hides the error number of a failed write; what is left on the disk does not


class Stopping(BaseException):
    """The driver wants this worker to end; raised between two steps, after which a checkpoint is written."""


def main() -> None:
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked to be told
        return
    os.nice(5)  # the driver and a person's own work come first
    warnings.simplefilter("ignore")
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints must not mix with replies
    stopping: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver, which decides
    for line in sys.stdin:
        try:
            _serve(line, replies, stopping)
        except Stopping:
            return


def _serve(line: str, replies: IO[str], stopping: list[bool]) -> None:
    import json

    from search.objective import run_trial
    from search.trial import Job

    job = Job.model_validate_json(line)
    last: dict[str, Any] = {"stage": None, "at": 0.0}

    def tell(stage: str, share: float) -> None:
        if stopping:
            raise Stopping
        now = time.monotonic()
        if stage != last["stage"] or now - last["at"] >= PROGRESS_EVERY_S:
            last.update(stage=stage, at=now)
            print(json.dumps({"number": job.number, "stage": stage, "share": share}), file=replies)

    try:
        record = run_trial(job, tell).model_dump(mode="json")
        print(json.dumps({"number": job.number, "record": record}), file=replies)
    except Exception as error:
        import traceback

        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        full = shutil.disk_usage(job.folder.parent).free < DISK_FULL_BYTES
        with suppress(OSError):  # the log lies on the disk that may be full, and the driver must hear of it
            traceback.print_exc()
        print(json.dumps({"number": job.number, "died": reason, "disk_full": full}), file=replies)


if __name__ == "__main__":
    main()
