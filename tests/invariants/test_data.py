"""What rows mean is the same however it is spelled: through the real command line, to the trained weight."""

import json

import pytest
from safetensors.torch import load_file

from tests import tiny
from tests.command import forked, log_of

ROWS = tiny.rows(6)


def turns(row):
    user = f"{row['instruction']}\n{row['input']}" if row["input"] else row["instruction"]
    return [{"role": "user", "content": user}, {"role": "assistant", "content": row["output"]}]


@pytest.fixture
def train(inputs, tmp_path):
    """Four steps over all rows at once; returns losses and adapter."""

    def run(name, files, **changes):
        folder = tmp_path / name
        folder.mkdir()
        for file, rows in files.items():
            text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
            (folder / file).write_text(text, encoding="utf-8")
        out = tmp_path / f"{name}-out"
        options = {"dataset_dir": folder, "per_device_train_batch_size": 100, **changes}
        done = forked("train", *inputs.options(out, **options))
        assert done.code == 0, done.said
        return [entry["loss"] for entry in log_of(out)], load_file(out / "sft_lora_model" / "adapter_model.safetensors")

    return run


def assert_same(a, b):
    assert a[0] == pytest.approx(b[0], abs=2e-6)
    for name, tensor in b[1].items():
        assert (a[1][name] - tensor).abs().max() <= 2e-5, name


def assert_different(a, b):
    with pytest.raises(AssertionError):
        assert_same(a, b)


def test_formats(train):
    alpaca = train("alpaca", {"a.jsonl": ROWS})
    assert_same(train("messages", {"a.jsonl": [{"messages": turns(row)} for row in ROWS]}), alpaca)
    share = [
        {"conversations": [{"from": "human", "value": user["content"]}, {"from": "gpt", "value": answer["content"]}]}
        for user, answer in map(turns, ROWS)
    ]
    assert_same(train("sharegpt", {"a.jsonl": share}), alpaca)
    pairs = [{"prompt": turns(row)[0]["content"], "completion": row["output"]} for row in ROWS]
    assert_same(train("pairs", {"a.jsonl": pairs}), alpaca)
    assert_different(train("others", {"a.jsonl": ROWS[:5]}), alpaca)


def test_weights_repetitions_and_mixes(train):
    """A row of weight 2 counts as the row twice; so does a file that is mixed in twice."""
    twice = train("twice", {"a.jsonl": [*ROWS, *ROWS[:3]]})
    weighted = [{**row, "weight": 2 if i < 3 else 1} for i, row in enumerate(ROWS)]
    assert_same(train("weighted", {"a.jsonl": weighted}), twice)
    assert_same(train("halved", {"a.jsonl": [{**row, "weight": row["weight"] / 2} for row in weighted]}), twice)
    files = {"a.jsonl": ROWS[:3], "b.jsonl": ROWS[3:]}
    assert_same(train("mixed", files, mix="a.jsonl:2"), twice)
    assert_different(train("plain", files), twice)
    assert_same(train("without", files, mix="b.jsonl:0"), train("first", {"a.jsonl": ROWS[:3]}))
    assert_same(train("single", {"a.jsonl": [*ROWS, *ROWS[:3]]}, deduplicate="exact"), train("all", {"a.jsonl": ROWS}))


def test_turns_that_are_not_trained(train):
    """The answers before are read, not learned; a row of which nothing is trained would be an error."""
    dialogues = [{"messages": [*turns(a), *turns(b)]} for a, b in zip(ROWS[:3], ROWS[3:], strict=True)]
    both = train("both", {"a.jsonl": dialogues})
    last = train("last", {"a.jsonl": dialogues}, train_turns="last")
    assert_different(both, last)
    marked = [
        {"messages": [user, {**answer, "train": False}, *rest]}
        for user, answer, *rest in (row["messages"] for row in dialogues)
    ]
    assert_same(train("marked", {"a.jsonl": marked}), last)
    weightless = [
        {"messages": [user, {**answer, "weight": 0}, *rest]}
        for user, answer, *rest in (row["messages"] for row in dialogues)
    ]
    assert_same(train("weightless", {"a.jsonl": weightless}), last)


def test_a_mix_is_drawn_anew_each_epoch_and_the_same_in_every_run(train):
    files = {"a.jsonl": ROWS[:4], "b.jsonl": ROWS[4:]}
    first = train("first", files, mix="a.jsonl:0.5")
    assert_same(train("again", files, mix="a.jsonl:0.5"), first)
    assert_different(train("seed", files, mix="a.jsonl:0.5", seed=1), first)


def test_padded_rows_carry_the_same_weights(train):
    rows = [{"messages": [*turns(ROWS[0]), *turns(ROWS[1])], "weight": 0.5}, {"messages": turns(ROWS[2])}]
    shared = train("shared", {"a.jsonl": rows})
    assert_same(train("padded", {"a.jsonl": rows}, attn_implementation="sdpa"), shared)
    by_group = train("groups", {"a.jsonl": rows}, loss_reduction="device_batch")
    assert_same(by_group, shared)  # one group is the whole step
