"""Whole runs in this process."""

import pytest

from yangtuo.cli import main


@pytest.fixture
def train(inputs, tmp_path, capfd):
    """Run `yangtuo train` in this process; returns what it said."""

    def run(output_dir=None, *, expect=0, **changes):
        code = main(["train", *inputs.options(output_dir or tmp_path / "out", **changes)])
        said = capfd.readouterr().err
        assert code == expect, said
        assert "Traceback" not in said
        return said

    return run


@pytest.fixture
def run(capfd):
    """Run any verb in this process; returns what it said."""

    def call(*words, expect=0):
        code = main([str(word) for word in words])
        captured = capfd.readouterr()
        assert code == expect, captured.out + captured.err
        assert "Traceback" not in captured.err
        return captured.out + captured.err

    return call
