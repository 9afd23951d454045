"""Facts -> the one thing that a person wants to know first, and how sure it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from yangtuo.report.facts import RunFacts


class Level(StrEnum):
    """How good the news is."""

    GOOD = "good"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True)
class Verdict:
    """What is said on top of the page: a text of `texts.json`, and the values in it."""

    level: Level
    text: str
    values: Mapping[str, Any] = field(default_factory=dict)


def verdict_of(facts: RunFacts) -> Verdict:
    """A failed proof before anything else, then a run that has not finished, then what the evaluation says."""
    proof, log = facts.proof, facts.log
    if proof and not proof.passed:
        return Verdict(Level.BAD, "verdict.proof_failed")
    if facts.state != "finished":
        if facts.max_steps:
            return Verdict(Level.NOTE, "verdict.unfinished_of", {"step": log.last_step, "steps": facts.max_steps})
        return Verdict(Level.NOTE, "verdict.unfinished", {"step": log.last_step})
    if not facts.trains:
        return Verdict(Level.NOTE, "verdict.evaluated")
    if proof is None:
        return Verdict(Level.NOTE, "verdict.no_proof")
    outcome = facts.evaluation.outcome if facts.evaluation else ""
    if outcome == "broken":
        return Verdict(Level.BAD, "verdict.broken")
    if outcome == "no_difference":
        return Verdict(Level.NOTE, "verdict.no_difference")
    return Verdict(Level.GOOD, "verdict.better" if outcome == "better" else "verdict.proven")


@dataclass(frozen=True)
class Check:
    """One part of the proof: whether it holds (None: not known), a text of `texts.json` and the values in it."""

    passed: bool | None
    text: str
    values: Mapping[str, Any]


def checks_of(facts: RunFacts) -> list[Check]:
    """What `proof.json` says, part by part."""
    proof = facts.proof
    if proof is None:
        return []
    checks = [
        Check(True, "proof.saved", {"tensors": proof.num_tensors, "bytes": proof.num_bytes}),
        Check(
            proof.num_changed == proof.num_trained, "proof.changed", {"n": proof.num_changed, "of": proof.num_trained}
        ),
        Check(
            _is_near(proof.reloaded, proof.in_memory, proof.limit),
            "proof.reloaded",
            {"reloaded": proof.reloaded, "memory": proof.in_memory, "rows": proof.num_rows, "limit": proof.limit},
        ),
    ]
    if proof.at_start is not None and proof.in_memory is not None:
        values = {"start": proof.at_start, "end": proof.in_memory, "rows": proof.num_rows}
        checks.append(Check(proof.in_memory < proof.at_start, "proof.fell", values))
    return checks


def _is_near(found: float | None, wanted: float | None, limit: float | None) -> bool | None:
    """A loss that is no number is written as none: then the adapter could not be loaded."""
    if wanted is None or limit is None:
        return None
    return found is not None and abs(found - wanted) <= limit
