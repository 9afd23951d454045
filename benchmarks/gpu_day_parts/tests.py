"""tests/gpu, a file each, and what became of the tests. Imports no torch."""

import os
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from gpu_day_parts.job import ROOT, Job, NothingToDo, PartFailure, start

_MOST_WORKERS = 6
_REHEARSED = "attention"  # the part that collects all files in a rehearsal, where every test is skipped


def run_file(job: Job, name: str) -> dict[str, Any]:
    """Run one file of tests/gpu.

    Raises:
        NothingToDo: all of its tests were skipped.
        PartFailure: one failed, or none could be collected.
    """
    if job.rehearses and name != _REHEARSED:
        raise NothingToDo(f"tests_{_REHEARSED} collects them")
    report = job.scratch / f"tests_{name}.xml"
    report.unlink(missing_ok=True)
    folder = ROOT / "tests" / "gpu"
    file = folder if job.rehearses else folder / f"test_{name}.py"
    # Each test is a process or several, whose start takes longest.
    workers = 0 if job.rehearses else max(1, min(_MOST_WORKERS, (os.cpu_count() or 1) // 2))
    how = ["-n", str(workers), *(["--dist", "load"] if workers else []), "-q", f"--junitxml={report}"]
    done = start([sys.executable, "-m", "pytest", file, *how])
    if not report.is_file():
        raise PartFailure(done.reason)
    found = outcomes(report)
    num = {kind: len(found[kind]) for kind in found}
    found["headline"] = ", ".join(f"{num[kind]} {kind}" for kind in ("passed", "failed", "skipped") if num[kind])
    if found["failed"] or done.code:
        first = next(iter(found["failed"].items()), ("pytest", done.reason))
        raise PartFailure("; ".join(filter(None, [found["headline"], f"{first[0]}: {first[1]}"])), found)
    if not found["passed"]:
        raise NothingToDo(f"{num['skipped']} tests skipped: {', '.join(sorted(set(found['skipped'].values())))}")
    return found


def outcomes(report: Path) -> dict[str, Any]:
    """Names of the tests by what became of them, with seconds or the reason."""
    found: dict[str, Any] = {"passed": {}, "failed": {}, "skipped": {}}
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.get("name", "")
        bad = next((case.find(kind) for kind in ("failure", "error") if case.find(kind) is not None), None)
        skipped = case.find("skipped")
        if bad is not None:
            found["failed"][name] = " ".join((bad.get("message") or "").split())[:300]
        elif skipped is not None:
            found["skipped"][name] = " ".join((skipped.get("message") or "").split())[:300]
        else:
            found["passed"][name] = float(case.get("time") or 0)
    return found
