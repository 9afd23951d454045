"""docs/scaling.md has the tables that benchmarks/scaling.py prints, and no other figures in their place."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.command import run

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = REPOSITORY / "benchmarks" / "scaling.py"


def load():
    """benchmarks/ is no package: its file is run, and imported only here."""
    spec = importlib.util.spec_from_file_location("scaling", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


scaling = load()
SEVEN, THIRTEEN, SEVENTY = scaling.MODELS
EIGHTH = 7 / 8  # (N-1)/N of 8 GPUs


def tables_of(text: str) -> list[str]:
    return [f"{block.strip()}\n" for block in text.split("\n\n") if block.lstrip().startswith("|")]


def test_the_page_has_the_tables_that_the_program_prints():
    done = run([sys.executable, PROGRAM])
    assert (done.code, done.err) == (0, "")
    printed = tables_of(done.out)
    page = tables_of((REPOSITORY / "docs" / "scaling.md").read_text(encoding="utf-8"))
    assert [table for table in page if table in printed] == printed
    assert len(printed) == 3
    assert len(page) == len(printed) + 2  # the formulas and the choice are written by hand


def test_another_result_gives_another_page():
    newest = max((REPOSITORY / "benchmarks" / "results").glob("*balance*.json"))
    points = json.loads(newest.read_text(encoding="utf-8"))["points"]
    before = list(scaling.tables(points))
    for point in points:
        point["planned"][0] += 0.1
    after = list(scaling.tables(points))
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, True, True]


def test_sizes_are_those_of_the_published_models():
    published = {"7B": 6_738_415_616, "13B": 13_015_864_320, "70B": 68_976_648_192}  # Llama 2, vocabulary 32,000
    for model in scaling.MODELS:
        norms = model.hidden * (2 * model.num_layers + 1)
        other_vocabulary = 2 * (scaling.VOCABULARY - 32_000) * model.hidden
        assert model.blocks + model.outer + norms - other_vocabulary == published[model.name]
    assert SEVEN.trained == 19_988_480  # what PEFT prints for rank 8 on all linear layers of Llama 2 7B


def test_bytes_by_hand():
    lora, everything = SEVEN.trained, replace(SEVEN, saves_modules=True)
    assert SEVEN.sent(8, 1) == SEVEN.sent(8, 5) == pytest.approx(2 * EIGHTH * 4 * lora)
    assert everything.sent(8, 1) == pytest.approx(2 * EIGHTH * 4 * (lora + 2 * 49_954 * 4096))
    assert replace(SEVEN, engine="ZeRO-2").sent(8, 3) == pytest.approx(EIGHTH * (3 * 4 + 2) * lora)
    sharded = replace(SEVEN, engine="sharded")
    assert sharded.sent(8, 1) == pytest.approx(EIGHTH * (4 * SEVEN.blocks + 2 * SEVEN.outer + 6 * lora))
    assert sharded.sent(8, 3) == pytest.approx(3 * sharded.sent(8, 1))
    assert all(replace(SEVEN, engine=engine).sent(1, 1) == 0 for engine in ("DDP", "ZeRO-2", "sharded"))
