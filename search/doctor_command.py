"""`sekd doctor`: what is wrong with a study, told and, where that is safe, mended."""

from __future__ import annotations

import json
from argparse import Namespace

from search.doctor import Finding, examine, repair, require_nobody
from search.results import open_results
from search.run_folder import driving


def doctor(options: Namespace) -> int:
    """0: nothing is wrong, or nothing any more; 1: something is."""
    results = open_results(options.study, storage=options.storage)
    if options.repair:
        with driving(results.folder):
            require_nobody(results)
            findings = repair(examine(results))
    else:
        findings = examine(results)
    wrong = [finding for finding in findings if not finding.notice and not finding.repaired]
    if options.json:
        print(json.dumps({"study": results.study.name, "findings": [one.model_dump(mode="json") for one in findings]}))
    else:
        _show(results.study.name, findings, wrong)
    return 1 if wrong else 0


def _show(name: str, findings: list[Finding], wrong: list[Finding]) -> None:
    for finding in findings:
        word = "notice" if finding.notice else "repaired" if finding.repaired else "wrong"
        print(f"{word}: {finding.what}")
    if any(finding.files for finding in wrong):
        print(f"next: sekd doctor {name} --repair removes what is half-written or unreadable; no record is lost")
    print(
        f"study {name}: {len(wrong)} wrong, {len(findings) - len(wrong)} to note"
        if findings
        else f"study {name}: sound"
    )
