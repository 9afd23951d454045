"""One training run, killed again and again at random times, must end bit for bit as one that nobody killed.

    python -m tests.kill.random_kills --engine zero2 --kills 20 [--seed N]

The seed of the times is printed. A kill hits all processes at once, as when the power fails, or one rank only; every
step is saved, so many hit the middle of a save.
"""

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests import tiny
from tests.command import log_of
from tests.conftest import Inputs
from tests.distributed.launch import Running, assert_bit_identical, command, engine_files

STEPS = 100


def attempt(words, env, out: Path, times: random.Random) -> tuple[bool, str]:
    """Start the command and kill it; returns whether it has ended by itself, and what was done."""
    with Running(words, env=env) as running:
        at_start = times.random() < 0.2
        before = len(log_of(out)) if (out / "log.jsonl").exists() else 0
        while running.process.poll() is None and not at_start and _steps(out) <= before:
            time.sleep(0.02)
        time.sleep(times.uniform(0, 6) if at_start else times.uniform(0, 1.2))
        if running.process.poll() is not None:
            done = running.end()
            if done.code:
                raise SystemExit(f"the run failed by itself:\n{done.said}")
            return True, "ended"
        ranks = psutil.Process(running.process.pid).children()
        if ranks and times.random() < 0.5:
            victim = times.choice(ranks)
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.send_signal(signal.SIGKILL)
            running.end(timeout=60)
            return False, f"one of {len(ranks)} ranks at step {_steps(out)}"
        running.kill()  # as when the power fails
        psutil.wait_procs(ranks, timeout=30)
        return False, f"all at step {_steps(out)}"


def _steps(out: Path) -> int:
    try:
        return len(log_of(out))
    except (OSError, ValueError):
        return 0


def play(folder: Path, inputs, engine, num_kills: int, seed: int, say=print, num_steps: int = STEPS) -> None:
    """Kill `num_kills` times, let the run end, compare.

    Raises:
        AssertionError: the curves or the adapters differ.
    """
    times = random.Random(seed)
    options = {"max_steps": num_steps, "save_steps": 1, "save_total_limit": 2, "lora_dropout": 0.1, "seed": 7}
    env = {"STEP_SECONDS": "0.1", **dict(engine.env)}
    out, num_done = folder / "killed", 0
    words = command(inputs, out, *engine.options, **options)
    while num_done < num_kills:
        ended, what = attempt(words, env, out, times)
        if ended:
            raise SystemExit(f"the run ended after {num_done} kills; it is too short for {num_kills}")
        num_done += 1
        say(f"kill {num_done}: {what}")
    for words_of, env_of in ((words, env), (command(inputs, folder / "whole", *engine.options, **options), {})):
        with Running(words_of, env={**dict(engine.env), **env_of, "STEP_SECONDS": "0"}) as running:
            done = running.end(timeout=300)
        assert done.code == 0, done.said
    assert len(log_of(out)) == num_steps
    assert_bit_identical(out, folder / "whole")
    say(f"{engine.name}: {num_kills} kills (seed {seed}), {num_steps} steps, curve and adapter bit for bit")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["ddp", "zero2", "zero3", "fsdp2"], default="ddp")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3)))
    args = parser.parse_args()
    print(f"seed of the times: {args.seed}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = tiny.tiny_llama(folder / "base")
        tiny.tiny_sentencepiece(base)
        (folder / "data").mkdir()
        tiny.write_rows(folder / "data" / "a.json", tiny.rows(24))
        inputs = Inputs(base, folder / "data", folder / "none.json")
        play(folder, inputs, engine_files(folder)[args.engine], args.kills, args.seed)


if __name__ == "__main__":
    sys.exit(main())
