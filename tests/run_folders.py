"""Folders of runs as training leaves them, written without a model: for tests of what reads them."""

import json
import math
from pathlib import Path

NOTES = ("--fp16: this CPU has no 16-bit instructions; float32 is used",)
NOTES_ZH = ("--fp16：这个 CPU 没有 16 位指令；改用 float32",)
EVENT = {
    "step": 7,
    "event": "loss_spike",
    "text": "the loss of step 7 is 9.0000, where it was about 2.0000",
    "text_zh": "第 7 步的损失为 9.0000，之前约为 2.0000",
}


def steps(number, *, spikes=(), seed=0):
    """Lines of log.jsonl: a falling loss with a little noise, and a loss of 50 at each of `spikes`."""
    return [
        {
            "step": n,
            "epoch": n / 10,
            "loss": 50.0 if n in spikes else 1 + 3 / (1 + n / 50) + 0.2 * math.sin(n * 12.9898 + seed),
            "grad_norm": 1.5 + math.cos(n * 78.233),
            "learning_rate": 1e-4 * (1 - n / (number + 1)),
            "num_tokens": 512,
            "num_supervised_tokens": 200,
            "rows": 8,
            "tokens_per_s": 1000.0 + n % 7,
            "step_seconds": 0.5,
            "memory_bytes": 2 * 2**30,
            "peak_memory_bytes": 2 * 2**30 + n,
        }
        for n in range(1, number + 1)
    ]


def evaluations(number, every=10):
    return [{"step": n, "eval_loss": 2.0 - n / number, "perplexity": 3.0} for n in range(every, number + 1, every)]


def samples(step, answer, *, prompt="请介绍长城。", base="The wall"):
    one = {"prompt": prompt, "answer": answer, "base": base, "ended": True, "reference": "长城很长。"}
    return {"step": step, "samples": [one], "ended_share": 1.0, "runtime": 0.1}


def audit(**changes):
    """data_audit.json of 100 rows of which one was dropped and two were cut."""
    part = {
        "files": [
            {"path": "data/a.json", "num_rows": 101, "num_bad": 1, "data_format": "alpaca", "rows_kept": 100}
            | {"rows_cut": 2, "tokens": 5000, "supervised_tokens": 2000, "median_tokens": 50}
        ],
        "rows_read": 101,
        "rows_kept": 100,
        "examples": 100,
        "rows_that_cannot_be_used": 1,
        "rows_dropped": {"longer than --max_seq_length": 3},
        "prompts_shortened": 2,
        "empty_answers": 0,
        "special_texts": {"</s>": 4},
        "rows_with_trained_end_token": 98,
        "tokens": 5000,
        "supervised_tokens": 2000,
        "row_tokens": {"min": 10, "median": 50, "max": 99, "p90": 90, "p99": 98},
        "histogram": [{"from": 0, "to": 49, "rows": 49}, {"from": 50, "to": 99, "rows": 51}],
        **changes,
    }
    return {"train": part}


def record(**changes):
    """run.json of a finished run."""
    return {
        "yangtuo": "0.1.0",
        "state": "finished",
        "command": ["/usr/bin/yangtuo", "train", "run file.yaml", "--learning_rate", "1e-4"],
        "process": "process 77 on here",
        "began": "2026-11-29T21:17:33+0000",
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "world_size": 1,
        "seed": 42,
        "arguments": {
            "do_train": {"value": True, "from": "default"},
            "learning_rate": {"value": 1e-4, "from": "command line"},
            "lora_rank": {"value": 8, "from": "default"},
            "max_steps": {"value": 60, "from": "configuration file"},
            "output_dir": {"value": "out", "from": "command line"},
        },
        "notes": list(NOTES),
        "notes_zh": list(NOTES_ZH),
        "plan": ["steps: 60 of 8 rows (8 a device x 1 accumulated x 1 process(es)); 6 steps an epoch, 10.00 epochs"],
        "memory_plan": {
            "machine": {"kind": "cpu", "num_devices": 1},
            "parts": {"program": 2**30, "LoRA": 2**29, "gaps of the allocator": 2**29},
            "total": 2**31,
            "there": 2**34,
            "fits": True,
        },
        "next_commands": ["to ask it: yangtuo chat out/sft_lora_model", "to merge it: yangtuo merge --peft_path x"],
        "planned_seconds": 25.0,
        "seconds": 95.0,
        **changes,
    }


def proof(**changes):
    """proof.json of a run of 60 steps that passed."""
    return {
        "adapter": "out/sft_lora_model",
        "passed": True,
        "problems": [],
        "num_tensors": 28,
        "num_bytes": 41416,
        "changes": {"num_tensors": 28, "num_changed": 28, "unchanged": []},
        "reload": {"into": "a fresh base", "num_rows": 16, "in_memory": 1.25, "reloaded": 1.25001, "without": 4.0}
        | {"limit": 0.001},
        "gain": {"at_start": 4.0, "at_end": 1.25, "num_steps": 60, "limit": 0.001, "is_continued": False},
        **changes,
    }


def results(outcome="better", **changes):
    """evaluation/results.json of a base and a tuned model."""
    values = {"base": 3.2, "tuned": 2.1}
    loss = {"name": "own/loss", "unit": "nats/token", "better": "lower", "n": 40, "clusters": 40, "values": values}
    loss["intervals"] = {"base": [3.0, 3.4], "tuned": [1.9, 2.3]}
    loss["difference"] = {"between": ["base", "tuned"], "estimate": -1.1, "low": -1.3, "high": -0.9, "smallest": 0.2}
    facts = {"name": "probe/zh/facts", "unit": "", "better": "higher", "n": 50, "values": {"base": 0.5, "tuned": 0.4}}
    facts |= {"intervals": None, "difference": {"between": [], "estimate": -0.1, "low": -0.2, "high": 0.1}}
    return {
        "version": 1,
        "versions": {"yangtuo": "0.1.0", "torch": "2.13.0"},
        "created": "2026-11-29T21:00:00+00:00",
        "seconds": 12.3,
        "models": [
            {"name": "base", "path": "/m/base", "adapter": None, "dtype": "float32"},
            {"name": "tuned", "path": "/m/base", "adapter": "/r/sft_lora_model", "dtype": "float32"},
        ],
        "template": "alpaca_zh",
        "data": [{"path": "valid/x.json", "sha256": "0", "num_rows": 40}],
        "measures": [loss, facts],
        "verdict": {
            "outcome": outcome,
            "text": "The loss on 40 rows fell.",
            "text_zh": "40 条数据上的损失下降了。",
            "rules": [{"name": "own_data", "passed": outcome == "better", "text": "the loss fell by 1.1"}],
        },
        "samples": [{"prompt": "你是谁？", "reference": None, "answers": {"base": "I am", "tuned": "我是羊驼。"}}],
        **changes,
    }


def write_run(folder: Path, *, log=None, run=None, proven=None, data=None, evaluated=None) -> Path:
    """A run's folder with these files, the usual ones where nothing is given; of what is False, none."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [samples(0, "The wall"), *steps(60), EVENT, *evaluations(60), samples(60, "长城很长。")]
    written = {
        "run.json": record() if run is None else run,
        "proof.json": proof() if proven is None else proven,
        "data_audit.json": audit() if data is None else data,
        "evaluation/results.json": evaluated or False,
    }
    for name, value in written.items():
        if value is not False:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    if log is not False:
        text = "".join(json.dumps(line) + "\n" for line in (lines if log is None else log))
        (folder / "log.jsonl").write_text(text, encoding="utf-8")
    return folder
