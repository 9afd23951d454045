"""What published work recommends, and what is said of a run that is far from it."""

import json
from dataclasses import replace

import pytest

from yangtuo.training.advice import advise
from yangtuo.training.learning_rate import Base, Plan, rate, recommended_learning_rate, refusal
from yangtuo.training.plan import base_of, num_lora_parameters

LLAMA = Base("llama", 4096)
PLAN = Plan(
    learning_rate=3e-4,
    rank=8,
    alpha=32,
    use_rslora=False,
    num_parameters=20_000_000,
    trainable=("q_proj", "up_proj"),
    in_full=(),
    rows_per_step=128,
    num_steps=300,
    steps_an_epoch=100,
    num_rows=12_800,
    num_tokens=1_000_000,
)


def said(base=LLAMA, **changes):
    return list(advise(base, replace(PLAN, **changes)).findings)


def row(name, **changes):
    (found,) = [row for row in advise(LLAMA, replace(PLAN, **changes)).rows if row.name == name]
    return found


@pytest.mark.parametrize(
    ("model_type", "hidden_size", "expected"),
    [
        ("llama", 4096, 2.856e-4),  # 5e-4 * (2000 / 4096) ** 0.781 = 5e-4 * exp(0.781 * -0.71685)
        ("llama", 2000, 5e-4),
        ("mistral", 4096, 2.856e-4),
        ("qwen3", 2560, 4.905e-4),  # 5e-4 * (2000 / 2560) ** 0.0775 = 5e-4 * exp(0.0775 * -0.24686)
        ("qwen2_moe", 2000, 5e-4),
        ("gemma2", 4096, 2.856e-4),
        ("llama", 512, 1.4493e-3),
        ("llama", 32, 1.4493e-3),
    ],
)
def test_the_formula_by_hand(model_type, hidden_size, expected):
    assert recommended_learning_rate(model_type, hidden_size) == pytest.approx(expected, rel=1e-3)


def test_without_a_hidden_size_there_is_no_advice():
    assert recommended_learning_rate("llama", 0) is None
    assert advise(Base("llama", 0), PLAN) is None
    assert refusal(1e9, Base("llama", 0)) == ""


@pytest.mark.parametrize(
    ("model_type", "hidden_size", "measured"),
    [
        *[("llama", 8192, 3e-4), ("llama", 4096, 3e-4), ("llama", 2048, 1e-3), ("llama", 3072, 1e-3)],
        *[("qwen3", 4096, 1e-3), ("qwen3", 5120, 3e-4), ("qwen3", 2560, 1e-3), ("qwen3_moe", 2048, 1e-3)],
        ("qwen3_moe", 4096, 3e-4),
    ],
)
def test_rates_that_were_measured_later_are_within_threefold(model_type, hidden_size, measured):
    """Of tinker-cookbook's table at 02face34; what is told of begins at tenfold."""
    assert 1 / 3 < measured / recommended_learning_rate(model_type, hidden_size) < 3


def test_a_guess_and_what_is_extrapolated_are_said():
    def basis(*base):
        return advise(Base(*base), PLAN).basis

    assert basis("llama", 4096) == "tinker-cookbook's formula for a LLaMA of hidden size 4,096"
    assert basis("qwen3", 2560) == "tinker-cookbook's formula for a Qwen of hidden size 2,560"
    assert "a guess for gemma2" in basis("gemma2", 4096)
    assert basis("llama", 576).endswith("extrapolated from models of 2,048 to 8,192")
    assert "hidden size 32, which counts as 512, extrapolated" in basis("llama", 32)


def test_a_rate_within_tenfold_is_no_finding():
    best = recommended_learning_rate("llama", 4096)
    for times in (0.101, 1, 9.9):
        assert said(learning_rate=times * best) == []
        assert row("learning rate", learning_rate=times * best).fits
    for times, words in ((10.1, "is 10 times the 2.9e-4"), (0.099, "is 1/10 of the 2.9e-4")):
        (text,) = said(learning_rate=times * best)
        assert words in text
        assert "tinker-cookbook's formula" in text
        assert not row("learning rate", learning_rate=times * best).fits


def test_a_rate_a_hundred_times_too_high_is_refused():
    best = recommended_learning_rate("llama", 4096)
    assert refusal(99 * best, LLAMA) == ""
    assert refusal(best / 1e6, LLAMA) == ""
    assert refusal(1, LLAMA) == (
        "--learning_rate 1 is 3,501 times the 2.9e-4 that published work recommends for LoRA on this base "
        "(tinker-cookbook's formula for a LLaMA of hidden size 4,096); --force_learning_rate takes it all the same"
    )
    for size in (1, 32, 512, 8192):
        for kind in ("llama", "qwen3", "other"):
            assert refusal(1, Base(kind, size))
            assert not refusal(0.01, Base(kind, 32))


def test_alpha_counts_as_the_rate_does():
    assert said(alpha=64) == said(alpha=320 / 1.1) == []
    assert "--lora_alpha 640 (as 6e-3 with the published alpha of 32)" in said(alpha=640)[0]
    assert said(alpha=320, learning_rate=3e-5) == []
    assert "(as 9.4e-6 " in said(alpha=1)[0]
    # sqrt(256) times the alpha
    assert "--lora_alpha 32 at rank 256 with --use_rslora (as 4.8e-3 " in said(rank=256, use_rslora=True)[0]
    assert said(rank=64, use_rslora=True) == []
    # Adam moves each weight by the rate, however small the scale.
    assert "is 35 times" in said(learning_rate=0.01, alpha=1)[0]


def test_a_rank_that_cannot_hold_the_rows():
    assert row("parameters", num_tokens=20_000_000).fits
    assert not row("parameters", num_tokens=20_000_001).fits
    assert said(num_tokens=40_000_000) == []
    (text,) = said(num_tokens=40_000_001)
    assert "--lora_rank 16 would hold them" in text
    assert "--lora_rank 64 would" in said(num_tokens=320_000_000)[0]
    for unknown in ({"num_parameters": None}, {"in_full": ("lm_head",)}):
        assert said(num_tokens=10**9, **unknown) == []


def test_attention_alone():
    assert "only attention gets LoRA (q_proj,v_proj)" in said(trainable=("q_proj", "v_proj"))[0]
    for names in (("q_proj", "down_proj"), ("all-linear",), ("in_proj",), ()):
        assert said(trainable=names) == []


def test_large_steps():
    assert said(rows_per_step=512) == []
    assert "513 rows a step" in said(rows_per_step=513)[0]


def test_few_steps_are_marked_and_not_said():
    assert row("steps", num_steps=100).fits
    assert not row("steps", num_steps=99).fits
    assert said(num_steps=99) == []


def test_many_epochs_on_few_rows():
    few = {"num_rows": 999, "steps_an_epoch": 20}
    assert "999 rows 10.1 times over" in said(**few, num_steps=201)[0]
    assert "--num_train_epochs 5 gives 100 steps" in said(**few, num_steps=201)[0]
    assert said(**few, num_steps=200) == []
    assert said(num_rows=1000, steps_an_epoch=20, num_steps=201) == []
    # A run has to have steps: those that need many epochs for a hundred are left in peace.
    assert said(num_rows=24, steps_an_epoch=3, num_steps=100) == []
    assert said(num_rows=24, steps_an_epoch=0, num_steps=0) == []


def test_modules_in_full_are_noted():
    (note,) = advise(LLAMA, replace(PLAN, in_full=("embed_tokens", "lm_head"))).notes
    assert "embed_tokens,lm_head: trained in full" in note
    assert "2.9e-5" in note
    assert advise(LLAMA, PLAN).notes == ()


@pytest.mark.parametrize(
    ("value", "text"),
    [(2.856e-4, "2.9e-4"), (1e-4, "1e-4"), (0.01, "0.01"), (1, "1"), (0, "0"), (150, "150"), (1e30, "1e30")],
)
def test_rates_are_written_as_people_write_them(value, text):
    assert rate(value) == text


LLAMA_7B = {
    "model_type": "llama",
    **{"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
}


def test_parameters_are_counted_by_formula():
    seven = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    # Chinese-Alpaca's own number at rank 8: 19,988,480.
    assert num_lora_parameters(LLAMA_7B, seven, 8) == 19_988_480 == 32 * 8 * (4 * 8192 + 3 * 15104)
    assert num_lora_parameters(LLAMA_7B, ["all-linear"], 8) == 19_988_480
    grouped = {**LLAMA_7B, "num_key_value_heads": 8}
    assert num_lora_parameters(grouped, ["model.layers.0.self_attn.k_proj"], 1) == 32 * (4096 + 1024)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"model_type": "mixtral"}, ["q_proj"]),
        ({"hidden_size": None}, ["q_proj"]),
        ({"num_attention_heads": 0}, ["q_proj"]),
        ({}, ["q_proj", "embed_tokens"]),
        ({}, []),
    ],
)
def test_what_cannot_be_counted_is_not(changes, names):
    assert num_lora_parameters({**LLAMA_7B, **changes}, names, 8) is None


def test_the_sizes_of_a_base_with_several_towers_are_those_of_its_text(tmp_path):
    def base(value):
        (tmp_path / "config.json").write_text(json.dumps(value))
        return base_of(tmp_path)

    assert base({"model_type": "a", "text_config": {"hidden_size": 3, "model_type": "b"}}) == Base("b", 3)
    assert base({"model_type": "a", "text_config": {"hidden_size": 3}}) == Base("a", 3)
    assert base({"model_type": "gpt2", "n_embd": 768}) == Base("gpt2", 768)
    assert base([]) == Base("", 0)
    (tmp_path / "config.json").unlink()
    assert base_of(tmp_path) == Base("", 0)
