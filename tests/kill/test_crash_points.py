"""Some of the points of `python -m tests.kill.crash_points --configuration NAME`, which plays them all.

One of each kind of window: before the run has said what it is; between an evaluation and its checkpoint; between a
checkpoint and its evaluation; in the middle of a file, of a replacement, of a deletion; between the last checkpoint and
the end; in the middle of the report of a run that has finished.
"""

import pytest

from tests.command import forked
from tests.kill.crash_points import CONFIGURATIONS
from tests.kill.scene import Point, Scene

FIRST, LAST = 0, -1
SAMPLE = [
    # configuration, write, which of those with this text, how
    ("evaluation", "rename .run.json.writing run.json", FIRST, "kill"),
    ("evaluation", "open log.jsonl", 4, "tear"),
    ("evaluation", "mkdir .checkpoint-4.writing", FIRST, "tear"),
    ("evaluation", "rename .best.writing best", 1, "kill"),
    ("evaluation", "remove checkpoint-2/adapter_model.safetensors", FIRST, "kill"),
    ("evaluation", "open .all_results.json.writing", FIRST, "tear"),
    ("evaluation", "rename .proof.json.writing proof.json", FIRST, "kill"),
    ("evaluation", "rename .run.json.writing run.json", LAST, "kill"),
    ("evaluation", "open .report.html.writing", FIRST, "tear"),
    ("evaluation", "open log.jsonl", 1, "stop"),
    ("epochs", "rename best .best.former", FIRST, "kill"),
    ("epochs", "rename .best.writing best", LAST, "kill"),
    ("moved-aside", "rename .run.json.writing run.json", FIRST, "kill"),
    ("two-processes", "open .trainer_state.json.writing", FIRST, "kill"),
    ("two-processes", "rename .best.writing best", 1, "kill all"),
]


@pytest.fixture(scope="module")
def scenes(inputs, tmp_path_factory):
    """The scene of a configuration, made once."""
    made = {}

    def of(name):
        if name not in made:
            made[name] = Scene(tmp_path_factory.mktemp(name), inputs, CONFIGURATIONS[name], forked)
        return made[name]

    return of


@pytest.mark.parametrize(("name", "write", "which", "way"), SAMPLE)
def test_a_killed_run_ends_as_one_that_nobody_killed(name, write, which, way, scenes):
    scene = scenes(name)
    numbers = [number for number, text in enumerate(scene.writes, start=1) if text == write]
    point = Point(numbers[which], way, 20 if way == "tear" else 0)
    assert scene.play(point) == []
