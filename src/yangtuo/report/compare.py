"""What differs between runs: their names, options and versions; and the prompts that all have answered."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from yangtuo.report.answers import Answered, Answers, Said, of_samples
from yangtuo.report.facts import RunFacts

_OWN = ("output_dir", "logging_dir", "run_name")  # differ by their nature


def names_of(runs: Sequence[RunFacts]) -> list[str]:
    """Each run's folder, with as many folders above it as it takes to tell them apart."""
    parts = [run.folder.absolute().parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-depth:]) for one in parts]
        if len(set(names)) == len({run.folder.absolute() for run in runs}):
            break
    return names


@dataclass(frozen=True)
class Different:
    """Something that differs: its name, and of each run its value (None: not recorded) and origin."""

    name: str
    values: tuple[Any, ...]
    origins: tuple[str, ...] = ()
    known: tuple[bool, ...] = ()


def options_that_differ(runs: Sequence[RunFacts]) -> list[Different]:
    """Options whose values are not the same in all runs, but for those that name the run itself."""
    tables = [{one.name: one for one in run.options} for run in runs]
    found = []
    for name in sorted({name for table in tables for name in table} - set(_OWN)):
        known = tuple(name in table for table in tables)
        values = tuple(table[name].value if name in table else None for table in tables)
        is_same = len(set(known)) == 1 and all(_are_equal(one, values[0]) for one in values)
        if not is_same:
            origins = tuple(table[name].origin if name in table else "" for table in tables)
            found.append(Different(name, values, origins, known))
    return found


def _are_equal(one: Any, other: Any) -> bool:
    """Where 1 is 1.0, but not true."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def versions_that_differ(runs: Sequence[RunFacts]) -> list[Different]:
    """Versions that are not the same in all runs."""
    tables = [{"yangtuo": run.version, **run.versions} for run in runs]
    names = {name: None for table in tables for name in table}
    rows = [Different(name, tuple(table.get(name) for table in tables)) for name in names]
    return [row for row in rows if len(set(row.values)) > 1]


def same_validation(runs: Sequence[RunFacts]) -> bool:
    """Whether all have evaluated as many rows of the same files, by what their audits say."""
    seen = [
        (tuple(one.path for one in audit.files), audit.counts.get("rows_kept"))
        for run in runs
        for audit in run.audits
        if audit.name == "validation"
    ]
    return len(set(seen)) <= 1


def same_prompts(runs: Sequence[RunFacts], names: Sequence[str]) -> Answers | None:
    """The last answers of all runs to the prompts that the first of them was asked; None without any."""
    of_each = [of_samples(run.log) for run in runs]
    first = next((one for one in of_each if one), None)
    if first is None:
        return None
    prompts = []
    for asked in first.prompts:
        said = []
        for name, one in zip(names, of_each, strict=True):
            found = next((each for each in one.prompts if each.prompt == asked.prompt), None) if one else None
            said.append(found.answers[-1] if found else None)
            said[-1] = Said(name, said[-1].text, said[-1].is_cut) if said[-1] else Said(name, None)
        prompts.append(Answered(asked.prompt, tuple(one for one in said if one), asked.reference))
    return Answers(tuple(prompts), first.num_all, first.step)
