import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from yangtuo.errors import MissingDependencyError, UsageError
from yangtuo.model.processor import Hardware

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))  # no package: as `python FILE` does

import throughput
from throughput_parts import machine, peers, record, runs, settings, work
from throughput_parts.bench import Bench, ChildFailure
from throughput_parts.summary import slow_between_steps, summarise, table

SHAPE = work.ModelShape(linear_weights=1000, hidden_size=10, vocabulary=100, num_layers=2, num_heads=3, head_dim=5)


def row(ids, num_supervised):
    ids = list(ids)
    labels = [settings.IGNORED_LABEL] * (len(ids) - num_supervised) + ids[len(ids) - num_supervised :]
    return work.Row(ids, labels)


def run(num_rows, seconds, **changes):
    counts = {"tokens": [10 * n for n in num_rows], "supervised_tokens": [4 * n for n in num_rows]}
    counts |= {"rows": num_rows, "losses": [2.0] * len(num_rows)}
    values = {"step_seconds": seconds, "loop_seconds": sum(seconds), **counts, **changes}
    return runs.Run(**values)


def naive_prefixes(sequences):
    """All prefixes written out: the definition."""
    prefixes = {tuple(sequence[:end]) for sequence in sequences for end in range(1, len(sequence) + 1)}
    return len(prefixes), sum(map(len, prefixes))


@pytest.mark.parametrize(
    ("sequences", "expected"),
    [
        ([[1, 2, 3]], (3, 6)),
        ([[1, 2, 3], [1, 2, 3]], (3, 6)),  # the same row twice costs nothing
        ([[1, 2, 3], [1, 2, 4, 5]], (5, 1 + 2 + 3 + 3 + 4)),
        ([[1, 2, 3], [2, 3]], (5, 6 + 3)),  # a shared suffix is not shared work
        ([[1, 2], [1, 2, 3]], (3, 6)),
        ([], (0, 0)),
    ],
)
def test_a_shared_prefix_counts_once(sequences, expected):
    assert work.distinct_prefixes(sequences) == expected


def test_prefixes_agree_with_their_definition():
    sequences = [list(sequence) for n in range(1, 5) for sequence in itertools.product([1, 2], repeat=n)]
    for some in (sequences[::3], sequences[1::2], sequences):
        assert work.distinct_prefixes(some) == naive_prefixes(some)


def test_useful_flop_by_hand():
    rows = [row([1, 2, 3], 1), row([1, 2, 4, 5], 2)]
    linear, head, attention = 4 * 1000 * 5, 4 * 10 * 100 * 3, 12 * 2 * 3 * 5 * 13
    assert work.useful_flop(rows, SHAPE) == linear + head + attention


def test_steps_wrap_around_and_end_an_epoch_short():
    rows = [row([i], 1) for i in range(5)]
    plan = work.plan_steps(rows, 2, 4)
    assert [[r.input_ids[0] for r in step] for step in plan] == [[0, 1], [2, 3], [4], [0, 1]]


def test_the_first_step_is_left_out_of_the_rate():
    assert run([2, 2, 4], [100.0, 1.0, 2.0]).per_second([2, 2, 4]) == 2.0
    assert run([2], [4.0]).per_second([2]) == 0.5  # unless it is the only one


@pytest.mark.parametrize(
    ("batch", "num_steps", "num_rows", "num_packs", "expected"),
    [
        (8, 3, 16, 3, (2, 1 + 2)),  # 5.3 rows a pack: 2 packs are nearest to 8 rows, 2 steps an epoch
        (8, 3, 16, 16, (8, 1 + 2)),  # nothing fits together: as without packing
        (8, 1, 16, 16, (8, 2)),  # no warm-up, still a whole epoch
        (8, 6, 16, 16, (8, 1 + 3 * 2)),  # 40 rows asked for: 3 epochs
        (2, 3, 40, 1, (1, 1 + 1)),  # a pack holds more than a batch
    ],
)
def test_packed_steps_are_whole_epochs(batch, num_steps, num_rows, num_packs, expected):
    found = work.packed_steps(batch, num_steps, num_rows, num_packs)
    assert (found["per_device_train_batch_size"], found["max_steps"]) == expected


ROWS = [row(range(10), 4) for _ in range(4)]


def test_the_planned_work_is_accepted():
    plan = work.plan_steps(ROWS, 2, 3)
    assert runs.check_work(run([2, 2, 2], [1.0] * 3), plan) is None
    assert runs.check_work(run([3, 3, 1], [1.0] * 3), plan, packed_rows=ROWS) is None  # warm-up, then 3 + 1


@pytest.mark.parametrize(
    "changes", [{"tokens": [20, 20, 21]}, {"supervised_tokens": [8, 7, 8]}, {"rows": [2, 1, 2]}], ids=str
)
def test_other_work_is_refused(changes):
    plan = work.plan_steps(ROWS, 2, 3)
    assert "planned" in runs.check_work(run([2, 2, 2], [1.0] * 3, **changes), plan)


@pytest.mark.parametrize(("rows", "tokens"), [([3, 3, 2], [30, 30, 20]), ([3, 3, 1], [30, 30, 9])])
def test_a_packed_run_of_parts_of_epochs_is_refused(rows, tokens):
    found = runs.check_work(run(rows, [1.0] * 3, tokens=tokens), [], packed_rows=ROWS)
    assert "no whole epochs" in found


def test_the_collator_counts_what_it_is_given():
    collate = peers.CountingCollator(len)
    assert collate([{"labels": [-100, 1]}, {"labels": [-100, 2, 3]}]) == 2
    assert collate([{"labels": [-100, 1, -100, 2], "seq_lengths": [2, 2]}]) == 1
    assert collate.batches == [
        {"rows": 2, "tokens": 5, "supervised_tokens": 3},
        {"rows": 2, "tokens": 4, "supervised_tokens": 2},
    ]


def comparison(rounds, matmul_flop_per_s, contenders=("ours", "seed", "trl_packed")):
    made = runs.Comparison(list(contenders), ROWS, 2, 3, {"shape": vars(SHAPE), "dtype": "float32"})
    made.rounds, made.matmul_flop_per_s = rounds, matmul_flop_per_s
    return made


@pytest.mark.parametrize("dtype", settings.FORMATS)
@pytest.mark.parametrize("package", ["transformers", "trl"])
def test_what_the_peers_are_given_is_taken_in_each_number_format(package, dtype, tmp_path):
    kind = {"transformers": "TrainingArguments", "trl": "SFTConfig"}[package]
    job = {"output_dir": str(tmp_path), "num_steps": 2, "batch": 1, "dtype": dtype}
    args = getattr(pytest.importorskip(package), kind)(**peers.training_arguments(job))
    assert args.bf16 == (dtype == "bfloat16")
    assert args.use_cpu != torch.accelerator.is_available()


def test_a_number_format_that_the_machine_has_not(monkeypatch):
    monkeypatch.setattr(machine, "detect_hardware", lambda use_cpu: Hardware("cpu", bfloat16=False, float16=False))
    with pytest.raises(UsageError, match="--dtype bfloat16: this processor would emulate it; give float32"):
        machine.measure_machine({"dtype": "bfloat16"})


@pytest.mark.parametrize(("failing", "code"), [((), 0), (("seed",), 1), (("ours",), 1)])
def test_a_contender_that_fails_is_told_and_the_exit_code_says_it(failing, code, tmp_path, monkeypatch, capsys):
    def train(bench, name, comparison):
        if name in failing:
            raise ChildFailure(1, "error: no room")
        return run([2, 2, 2], [9, 1.0, 1.0])

    def ask(bench, verb, job):
        assert (verb, job) == ("_machine", {"dtype": "float32"})
        return {"shape": vars(SHAPE), "dtype": "float32", "matmul_flop_per_s": 1e9}, 0

    monkeypatch.setattr(Bench, "encode", lambda bench: ROWS)
    monkeypatch.setattr(Bench, "ask", ask)
    monkeypatch.setattr(Bench, "train", train)
    (tmp_path / "config.json").write_text("{}")
    words = ["--model", str(tmp_path), "--contenders", "ours,seed", "--rounds", "1", "--dtype", "float32"]
    assert throughput.main(words) == code
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if "failed: " in line] == [f"{name} failed: no room" for name in failing]


def test_ratios_are_taken_within_a_round():
    rounds = [
        {"ours": run([2, 2, 2], [9, 1.0, 1.0]), "seed": run([2, 2, 2], [9, 2.0, 2.0]), "trl_packed": "no memory"},
        {"ours": run([2, 2, 2], [9, 4.0, 4.0]), "seed": run([2, 2, 2], [9, 4.0, 4.0]), "trl_packed": "no memory"},
    ]
    summary = summarise(comparison(rounds, [1e6, 1e6, 1e6]))
    assert summary["ours"]["examples_per_s"] == {"median": 1.25, "min": 0.5, "max": 2.0}
    assert summary["seed"]["ratio_to_ours"] == {"median": 0.75, "min": 0.5, "max": 1.0}
    assert summary["seed"]["ours_over_it"]["max"] == 2.0
    assert summary["trl_packed"] == {"failures": ["no memory", "no memory"]}


def test_the_share_is_of_the_better_rate_around_a_round():
    flop = work.useful_flop(ROWS[:2], SHAPE)
    rounds = [{"ours": run([2, 2, 2], [9, 1.0, 1.0])}]
    summary = summarise(comparison(rounds, [flop, 4 * flop], ["ours"]))
    assert summary["ours"]["share_of_matmul_bound"]["median"] == pytest.approx(0.25)


def test_a_packed_run_did_the_work_of_the_plan():
    packed, plain = run([3, 3, 1], [9, 1.5, 0.5]), run([2, 2, 2], [9, 1.0, 1.0])
    made = comparison([], [])
    assert runs.flop_per_second(packed, made, packed=True) == runs.flop_per_second(plain, made, packed=False)


def test_the_table_tells_who_failed_and_keeps_its_columns():
    rounds = [
        {"ours": run([2, 2, 2], [9, 1.0, 1.0]), "seed": run([2, 2, 2], [9, 2.0, 2.0]), "trl_packed": "no memory"},
    ]
    summary = summarise(comparison(rounds, [1e6, 1e6]))
    lines = table(summary).splitlines()
    assert len({len(line) for line in lines[:4]}) == 1
    assert [line.split()[0] for line in lines[:4]] == ["contender", "ours", "seed", "trl_packed"]
    assert lines[4:] == ["ours: 2.00 x seed (examples/s)", "trl_packed failed: no memory"]


def test_time_between_steps_is_told():
    rounds = [{"ours": run([2, 2, 2], [9, 1.0, 1.0]), "seed": run([2, 2, 2], [9, 1.0, 1.0], loop_seconds=22.0)}]
    summary = summarise(comparison(rounds, [1e6, 1e6]))
    assert slow_between_steps(summary) == ["seed spent 50% of its loop outside its steps"]


def test_first_losses_that_differ_are_told():
    def notes(seed_loss, dtype="float32", name="seed"):
        other = run([2], [1.0], losses=[seed_loss])
        return runs.different_losses({"ours": run([2], [1.0]), name: other, "trl": "no memory"}, dtype)

    assert notes(2.0001) is None
    assert notes(2.01) == "the first step's losses differ: ours 2.00000, seed 2.01000"
    assert notes(2.01, dtype="bfloat16") is None
    assert notes(2.01, name="trl_packed") is None  # its first step has other rows


def test_contenders():
    choose = throughput.choose_contenders
    assert choose(None, has_trl=True) == list(settings.CONTENDERS)
    assert choose("seed, ours", has_trl=False) == ["seed", "ours"]
    for asked in ("ours,other", "ours,ours", ","):
        with pytest.raises(UsageError, match="expected some of ours,seed"):
            choose(asked, has_trl=True)


def test_trl_that_is_missing_is_left_out_and_said_or_an_error(capsys):
    assert throughput.choose_contenders(None, has_trl=False) == ["ours", "seed"]
    assert "pip install trl" in capsys.readouterr().err
    with pytest.raises(MissingDependencyError, match="pip install trl"):
        throughput.choose_contenders("ours,trl", has_trl=False)


@pytest.mark.parametrize(
    ("exit_code", "log", "reason"),
    [
        (1, "Traceback:\n  x\nRuntimeError: no memory\n\n", "RuntimeError: no memory"),
        (2, "loading\nerror: --rows: bad\nbye\n", "--rows: bad"),
        (-9, "step 1\n", "killed by SIGKILL, out of memory?"),
        (-15, "", "killed by SIGTERM"),
        (1, "", "no word why"),
    ],
)
def test_a_dead_child_leaves_one_line(exit_code, log, reason):
    assert ChildFailure(exit_code, log).reason == reason


def test_a_child_is_measured_and_its_end_told(tmp_path):
    bench = Bench(tmp_path, tmp_path, None)
    log, peak_bytes = bench.start([sys.executable, "-c", "print(len(b'x' * (200 * 2**20)))"], "big")
    assert log.read_text() == "209715200\n"
    assert peak_bytes > 200 * 2**20
    with pytest.raises(ChildFailure, match="no such thing"):
        bench.start([sys.executable, "-c", "raise SystemExit('no such thing')"], "dead")


@pytest.mark.parametrize(
    "words",
    [
        ["--rows", "0"],
        ["--rounds", "x"],
        ["--nonsense"],
        ["--dtype", "float8"],
        ["--contenders", "other"],
        ["--model", "no/such/folder"],
        ["--json", "no/such/folder/out.json"],
        ["--contenders", "ours", "--model", "{}", "--dataset_dir", "no/such/folder"],
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line_and_exit_code_2(words, tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({}))
    assert throughput.main([word.format(tmp_path) for word in words]) == 2
    assert [line[:7] for line in capsys.readouterr().err.splitlines()] == ["error: "]


def test_the_command_is_recorded_without_folders(tmp_path):
    assert record.without_folders(str(tmp_path / "model")) == "model"
    assert record.without_folders("--model") == "--model"
    assert record.without_folders("examples/data") == "examples/data"


def test_the_parent_stays_small():
    """A child's resident set, as the kernel tells it, begins with that of the process which started it."""
    code = "import sys, throughput; print(*({'torch', 'transformers', 'trl', 'numpy'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(throughput.__file__).parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
