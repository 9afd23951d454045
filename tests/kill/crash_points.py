"""A run killed at any of its writes, and started again, must end as one that nobody killed.

    python -m tests.kill.crash_points --configuration evaluation [--jobs 2] [--points 12,40]

Not a sample: the run is killed before its first write into the output folder, before its second, and so on to the
last, and in the middle of each file that it writes (`killer.py`). Each time the very same command is started again. It
has to go on from the last whole checkpoint, and to end with all files of the run that nobody killed, no other ones,
and the same in them: floats to the last bit, times left out. A third start finds the run finished.
"""

import argparse
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests import tiny
from tests.command import Forker
from tests.conftest import Inputs
from tests.kill.scene import Configuration, Point, Scene

SAVES = {"save_strategy": "steps", "save_steps": 2}
EVALUATES = {"do_train": True, "do_eval": True, "validation_file": "valid", "eval_strategy": "steps", "eval_steps": 2}
# A rate at which the second evaluation is the best and the last is not.
KEEPS_BEST = {"load_best_model_at_end": True, "learning_rate": 0.5, "force_learning_rate": True, "save_total_limit": 2}
EPOCHS = {
    **SAVES,
    **EVALUATES,
    **{"max_steps": -1, "num_train_epochs": 2, "max_rows": 12, "save_steps": 3, "save_total_limit": 1},
    **{"eval_strategy": "epoch", "eval_on_start": True, "lr_scheduler_type": "reduce_lr_on_plateau"},
    "metric_for_best_model": "loss",
}
CONFIGURATIONS = {
    "plain": Configuration("checkpoints only", SAVES),
    "evaluation": Configuration(
        "evaluations, best/, the best weights at the end, two checkpoints kept", {**SAVES, **EVALUATES, **KEEPS_BEST}
    ),
    "epochs": Configuration(
        "an evaluation before the first step and after each epoch, whose last checkpoint comes before it", EPOCHS
    ),
    "epoch-saves": Configuration(
        "evaluated and saved at the end of each epoch, the best weights at the end, one checkpoint kept",
        {
            **{**EVALUATES, **KEEPS_BEST, "save_strategy": "epoch", "eval_strategy": "epoch"},
            **{"max_rows": 8, "save_total_limit": 1},
        },
    ),
    "resumed": Configuration(
        "a run that was killed before its second checkpoint, killed once more while it goes on",
        {**SAVES, **EVALUATES, **KEEPS_BEST},
        begun="rename .checkpoint-4.writing checkpoint-4",
    ),
    "stopped": Configuration(
        "a signal that asks for the end of the step", {**SAVES, **EVALUATES, **KEEPS_BEST}, ways=("stop",)
    ),
    "stopped-epochs": Configuration("the same, evaluated at the end of each epoch", EPOCHS, ways=("stop",)),
    "no-checkpoints": Configuration("--save_strategy no: it starts again", {**EVALUATES, "save_strategy": "no"}),
    "models-only": Configuration(
        "--save_only_model: it starts again", {**SAVES, **EVALUATES, **KEEPS_BEST, "save_only_model": True}
    ),
    "moved-aside": Configuration(
        "--overwrite_output_dir, where the folder holds another run",
        {**SAVES, "overwrite_output_dir": True},
        former={"learning_rate": 0.2, "force_learning_rate": True},
    ),
    "two-processes": Configuration(
        "two processes, of which the first is killed",
        {**SAVES, **EVALUATES, **KEEPS_BEST, "learning_rate": 0.1},
        num_processes=2,
    ),
    "two-at-once": Configuration(
        "two processes, killed together as when the power fails",
        {**SAVES, **EVALUATES, **KEEPS_BEST, "learning_rate": 0.1},
        num_processes=2,
        ways=("kill all",),
    ),
}


def play_all(folder: Path, configuration: Configuration, numbers: set[int], num_jobs: int) -> tuple[int, int]:
    """All points, or those of the writes with these numbers; returns how many points there were and faults."""
    inputs = make_inputs(folder)
    waiting: list[Point] = []
    counts, lock, ready = [0, 0], threading.Lock(), threading.Barrier(num_jobs)

    def work(job: int) -> None:
        forker = Forker()
        try:
            scene = Scene(folder / str(job), inputs, configuration, lambda *words, **more: forker.run(words, **more))
            if job == 0:
                waiting.extend(point for point in scene.points() if not numbers or point.at in numbers)
                print(f"{len(scene.writes)} writes, {len(waiting)} points", flush=True)
            ready.wait()
            while True:
                with lock:
                    if not waiting:
                        return
                    point = waiting.pop(0)
                faults = scene.play(point)
                with lock:
                    counts[0], counts[1] = counts[0] + 1, counts[1] + bool(faults)
                if faults:
                    print(f"{scene.name(point)}: {'; '.join(faults)}", flush=True)
        except BaseException:
            ready.abort()
            raise
        finally:
            forker.end()

    with ThreadPoolExecutor(num_jobs) as pool:
        for job in [pool.submit(work, job) for job in range(num_jobs)]:
            job.result()
    return counts[0], counts[1]


def make_inputs(folder: Path) -> Inputs:
    """A tiny base, 24 rows, 5 to validate on."""
    base = tiny.tiny_llama(folder / "base")
    tiny.tiny_sentencepiece(base)
    (folder / "data").mkdir()
    rows = tiny.rows(29)
    tiny.write_rows(folder / "data" / "a.json", rows[:24])
    return Inputs(base, folder / "data", tiny.write_rows(folder / "valid.json", rows[24:]))


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configuration", choices=[*CONFIGURATIONS, "all"], default="all")
    parser.add_argument("--points", default="", help="numbers of writes, with commas between; all without it")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    args = parser.parse_args()
    numbers = {int(number) for number in args.points.split(",") if number}
    failed = False
    for name in CONFIGURATIONS if args.configuration == "all" else [args.configuration]:
        configuration, begin = CONFIGURATIONS[name], time.monotonic()
        print(f"{name}: {configuration.says}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            num_points, num_faulty = play_all(Path(folder), configuration, numbers, args.jobs)
        minutes = (time.monotonic() - begin) / 60
        print(f"{name}: {num_points} points, {num_faulty} of them faulty, {minutes:.1f} minutes", flush=True)
        failed |= num_faulty > 0 or num_points == 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
