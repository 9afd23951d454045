"""What a tracker has of a run, by its own reader: `python -m tests.tracker_readers NAME` in the folder of the run.

Prints a JSON list of runs: `points`, pairs of step and value by name; `shown`, what it shows as the configuration. For
W&B there is no reader of runs that were not sent, so its file is taken apart here, with its own protocol buffers.
"""

import contextlib
import json
import struct
import sys
from collections import defaultdict
from pathlib import Path

NAMES = ("loss", "learning_rate", "grad_norm", "eval_loss")


def plain(name):
    """The name in log.jsonl."""
    return name.replace("eval/", "eval_").removeprefix("train/")


def tensorboard():
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for folder in sorted(Path("out/runs").iterdir()):
        events = EventAccumulator(str(folder))
        events.Reload()
        points = {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}
        (text,) = events.Tensors("args/text_summary")[0].tensor_proto.string_val
        yield points, json.loads(text)


def mlflow():
    from mlflow import MlflowClient

    client = MlflowClient("sqlite:///mlflow.db")
    for run in client.search_runs(["0"]):
        assert run.info.status == "FINISHED"
        points = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
        shown = {name: read(value) for name, value in run.data.params.items()}
        yield {name: [(m.step, m.value) for m in found] for name, found in points.items()}, shown


def read(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


def trackio():
    from trackio.sqlite_storage import SQLiteStorage

    for project in SQLiteStorage.get_projects():
        for run in SQLiteStorage.get_runs(project):
            lines = SQLiteStorage.get_logs(project, run)
            yield by_name(lines), SQLiteStorage.get_run_config(project, run)


def by_name(lines):
    points = defaultdict(list)
    for line in lines:
        for name, value in line.items():
            points[name].append((line["train/global_step"], value))
    return points


def swanlab():
    import yaml
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record
    from swanlab.sdk.internal.core_python.store import DataStoreReader

    for folder in Path("swanlog").glob("run-*"):
        reader, points, ended = DataStoreReader(), defaultdict(list), False
        reader.open(next(folder.glob("*.swanlab")))
        for record in map(Record.FromString, reader):
            ended = ended or record.HasField("finish")
            if record.HasField("scalar"):
                points[record.scalar.key].append((record.scalar.step, record.scalar.value.number))
        assert ended
        shown = yaml.safe_load((folder / "files" / "config.yaml").read_text(encoding="utf-8"))
        yield points, {name: entry["value"] for name, entry in shown.items()}


def wandb():
    from wandb.proto.wandb_internal_pb2 import Record

    for path in Path("wandb").glob("offline-run-*/*.wandb"):
        lines, shown, exits = [], {}, []
        for record in map(Record.FromString, leveldb_log(path.read_bytes())):
            for item in [*record.config.update, *record.run.config.update]:
                shown[item.key] = json.loads(item.value_json)
            if record.HasField("history"):
                items = record.history.item
                lines.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
            if record.HasField("exit"):
                exits.append(record.exit.exit_code)
        assert exits == [0]
        yield by_name(lines), shown


def leveldb_log(data, *, start=7, block=32768):
    """The records of a log in the form of LevelDB, behind W&B's header of seven bytes."""
    place, parts = start, b""
    while place + 7 <= len(data):
        if block - place % block < 7:
            place += block - place % block
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        runs = [
            {"points": {plain(name): found for name, found in points.items() if plain(name) in NAMES}, "shown": shown}
            for points, shown in globals()[sys.argv[1]]()
        ]
    sys.stdout.write(json.dumps(runs, default=str) + "\n")
