"""Whole sentences of the program, in one file: `pytest --renew-sentences` writes it, and a person reads what changed.

A test asserts itself what matters (the error's class, the option, the row). How that is worded is here, so that a
better wording, or one in another language, is one look at a diff and not a walk through the tests.
"""

import json
import re
from pathlib import Path

import pytest

FILE = Path(__file__).with_name("sentences.json")


class Sentences:
    """Those of one test, in the order in which it asks for them."""

    def __init__(self, test: str, folder: Path, *, renew: bool):
        self._test, self._folder, self._renew = test, folder, renew
        self._found: list[str] = []
        self._known = json.loads(FILE.read_text(encoding="utf-8")).get(test, [])

    def __call__(self, said: str, about: str) -> None:
        """Assert that the lines of `said` which contain `about` are worded as the file has it."""
        lines = [self._without_places(line.strip()) for line in str(said).splitlines() if about in line]
        assert lines, f"nothing is said of {about}: {said}"
        self._found.append(lines[0])
        if not self._renew:
            at = len(self._found) - 1
            known = self._known[at] if at < len(self._known) else "(none)"
            assert lines[0] == known, (
                "worded otherwise than in tests/sentences.json; pytest --renew-sentences writes it"
            )

    def _without_places(self, line: str) -> str:
        """Temporary folders have other names in each run."""
        line = line.replace(str(self._folder), "HERE")
        return re.sub(rf"{re.escape(str(_root(self._folder)))}(?:/popen-gw\d+)?/([\w-]+?)\d*\b", r"THERE/\1", line)

    def keep(self) -> None:
        """Write what was found."""
        if self._renew and self._found:
            everything = json.loads(FILE.read_text(encoding="utf-8")) | {self._test: self._found}
            FILE.write_text(json.dumps(dict(sorted(everything.items())), indent=1, ensure_ascii=False) + "\n")


def _root(folder: Path) -> Path:
    """The session's own folder of pytest, also one that --basetemp names."""
    base = folder.parent
    return base.parent if base.name.startswith("popen-gw") else base


@pytest.fixture
def sentences(request, tmp_path):
    """Compares whole sentences with `sentences.json`."""
    test = request.node.nodeid.removeprefix("tests/")
    kept = Sentences(test, tmp_path, renew=request.config.getoption("--renew-sentences"))
    yield kept
    kept.keep()
