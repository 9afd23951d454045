import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from yangtuo import logs

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize(("last", "code"), [("logs.end()", 7), ("pass", 120)], ids=["ended", "as Python does it"])
def test_a_stream_that_takes_nothing_does_not_change_the_exit_code(last, code):
    program = f"import sys; from yangtuo import logs; sys.stdout.write('x'); {last}; sys.exit(7)"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with FULL.open("w") as full:
        done = subprocess.run([sys.executable, "-c", program], stdout=full, stderr=subprocess.DEVNULL, env=env)
    assert done.returncode == code


@pytest.mark.parametrize(
    ("config", "is_notebook"), [({"IPKernelApp": {}}, True), ({"TerminalIPythonApp": {}}, False), (None, False)]
)
def test_bars_are_shown_in_a_kernel_whose_stderr_is_no_terminal(config, is_notebook, monkeypatch):
    shell = None if config is None else types.SimpleNamespace(config=config)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    assert logs.in_notebook() is is_notebook
    assert logs.shows_bars() is is_notebook  # pytest's stderr is no terminal


def test_without_ipython_there_is_no_notebook(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert logs.in_notebook() is False
    with logs.bar(total=2, disable=True) as bar:
        assert type(bar).__module__ == "tqdm.std"
