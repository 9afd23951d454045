"""Free memory is read once the base is where it is trained: before, it would be an empty device's."""

import pytest

from yangtuo.config.parser import build_parser, parse
from yangtuo.training import environment, load, run


class EnoughError(Exception):
    """The run has come to what is looked at."""


def test_the_base_is_loaded_to_the_device_before_free_memory_is_read(inputs, tmp_path, monkeypatch):
    order = []
    load_base = load.load_base

    def loading(settings, opened, precision, device=None):
        model = load_base(settings, opened, precision, device)
        order.append(("base", device))
        return model

    def free(device):
        order.append(("free memory", device))
        raise EnoughError

    monkeypatch.setattr(load, "load_base", loading)
    monkeypatch.setattr(environment.memory, "free_bytes", free)
    words = [*inputs.options(tmp_path / "out"), "--use_cpu"]
    with pytest.raises(EnoughError):
        run.train(parse(words, build_parser("yangtuo train"))[0])
    assert [name for name, _ in order] == ["base", "free memory"]
    assert order[0][1] == order[1][1]
