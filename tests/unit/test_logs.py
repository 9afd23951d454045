import os
import subprocess
import sys
from pathlib import Path

import pytest

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize(("last", "code"), [("logs.end()", 7), ("pass", 120)], ids=["ended", "as Python does it"])
def test_a_stream_that_takes_nothing_does_not_change_the_exit_code(last, code):
    program = f"import sys; from yangtuo import logs; sys.stdout.write('x'); {last}; sys.exit(7)"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with FULL.open("w") as full:
        done = subprocess.run([sys.executable, "-c", program], stdout=full, stderr=subprocess.DEVNULL, env=env)
    assert done.returncode == code
