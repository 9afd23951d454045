"""The file of sentences: what is worded otherwise is found, what lies elsewhere is not."""

import os

import pytest
from hypothesis import settings

from tests import sentences as module
from tests.sentences import FILE, Sentences


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FILE", tmp_path / "sentences.json")
    module.FILE.write_text("{}")

    def sentences(*, renew=False, folder="pytest-3/popen-gw0/test_a0"):
        return Sentences("a", tmp_path / folder, renew=renew)

    return sentences


def test_another_wording_is_found_and_another_place_is_not(kept, tmp_path):
    written = kept(renew=True)
    written(f"other\n --x: {tmp_path}/pytest-3/popen-gw0/test_a0/f is wrong, not {tmp_path}/pytest-3/base2/g\n", "--x")
    written.keep()
    assert "HERE/f is wrong, not THERE/base/g" in module.FILE.read_text()
    same = f"--x: {tmp_path}/pytest-4/test_a1/f is wrong, not {tmp_path}/pytest-4/base0/g"
    kept(folder="pytest-4/test_a1")(same, "--x")
    for said, fault in (("--x: worse", "worded otherwise"), ("--y: wrong", "nothing is said of --x")):
        with pytest.raises(AssertionError, match=fault):
            kept()(said, "--x")


def test_no_sentence_is_left_over():
    """Of tests that were renamed or removed."""
    tests = FILE.parent
    for name in module.json.loads(FILE.read_text(encoding="utf-8")):
        file, _, test = name.partition("::")
        assert f"def {test.partition('[')[0]}(" in (tests / file).read_text(encoding="utf-8"), name


def test_hypothesis_draws_the_same_examples_where_ci_runs():
    """Its own profile of that name; elsewhere each run draws others."""
    assert settings.get_profile("ci").derandomize
    assert not settings.get_profile("default").derandomize
    assert (settings.default == settings.get_profile("ci")) == bool(os.environ.get("CI"))
