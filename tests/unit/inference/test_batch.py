"""Many rows in one forward: the same tokens and probabilities as one after the other, for models of several kinds."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests import tiny
from yangtuo.data.examples import Examples
from yangtuo.data.records import Turn
from yangtuo.data.templates import ALPACA_ZH
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.errors import OutOfMemoryError, RunFailure
from yangtuo.inference.batch import BatchGenerator, BatchLimits, plan_batches
from yangtuo.inference.forward import RowReader, Rows, places_of_rows
from yangtuo.inference.generate import Generator, Sampling
from yangtuo.inference.likelihood import LikelihoodReader
from yangtuo.inference.load import LoadedModel

SMALL = {
    "vocab_size": tiny.SENTENCEPIECE_VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
}
KINDS = {
    "llama": {},
    "qwen3": {},
    "mistral": {"sliding_window": 24},
    "gemma2": {"query_pre_attn_scalar": 16, "sliding_window": 24, "attn_logit_softcapping": 5.0},
    "qwen3_next": {
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
        "decoder_sparse_step": 1,
    },
}
QUESTIONS = ["请介绍一下长城。", "春天来了，", "To be or not to be?", "请介绍一下长城的历史，从山海关说起。", "你好"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return open_tokenizer(tiny.tiny_sentencepiece(tmp_path_factory.mktemp("tokenizer")))


def loaded(tokenizer, kind="llama", **changes):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SMALL, **KINDS[kind], **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)  # answers that differ, instead of one token again and again
    return LoadedModel(model, tokenizer, tokenizer.num_tokens)


def prompts_of(tokenizer):
    generator = Generator(loaded(tokenizer), ALPACA_ZH, Sampling(1))
    return [generator.prompt([Turn("user", question, trained=False)]) for question in QUESTIONS]


def rows_of(prompts):
    ids = [*prompts, prompts[0] + [7, 8, 9], prompts[0] + [7, 8, 10], [5, 6]]
    return Examples.of_rows(ids, [np.arange(len(row)) % 3 > 0 for row in ids])


def plainly(model, examples, i):
    """Log-probability of each token with a loss, and whether it was the likeliest, by the model alone."""
    ids, supervised = examples.row(i)
    with torch.no_grad():
        logp = model(input_ids=torch.tensor([ids.tolist()])).logits[0, :-1].float().log_softmax(-1)
    of_ids = logp.gather(1, torch.tensor(ids[1:].astype(np.int64))[:, None])[:, 0].numpy()
    return of_ids[supervised[1:]], (logp.argmax(-1).numpy() == ids[1:])[supervised[1:]]


@pytest.mark.parametrize("kind", KINDS)
def test_likelihoods_are_those_of_a_plain_forward_of_each_row(tokenizer, kind):
    one = loaded(tokenizer, kind)
    reader = RowReader(one)
    assert reader.way.rows is (Rows.PADDED if kind == "qwen3_next" else Rows.TREE)
    before = one.model.config._attn_implementation
    examples = rows_of(prompts_of(tokenizer))
    likelihoods = LikelihoodReader(reader, 150)
    found = dict(pair for batch in likelihoods.read(examples) for pair in batch)
    assert sorted(found) == list(range(len(examples)))
    for i, likelihood in found.items():
        logps, hits = plainly(one.model, examples, i)
        np.testing.assert_allclose(likelihood.logps, logps, atol=1e-5, rtol=1e-5)
        assert likelihood.is_likeliest.tolist() == hits.tolist()
    assert one.model.config._attn_implementation == before


def test_what_rows_begin_with_is_computed_once(tokenizer):
    prefix = list(range(5, 105))
    ids = [[*prefix, 200 + n] for n in range(8)]
    examples = Examples.of_rows(ids, [np.arange(101) == 100] * 8)
    likelihoods = LikelihoodReader(RowReader(loaded(tokenizer)), 1000)
    assert sum(len(batch) for batch in likelihoods.read(examples)) == 8
    assert (likelihoods.work.num_cells, likelihoods.work.num_tokens) == (100, 808)


def test_rows_that_are_known_are_left_out(tokenizer):
    examples = rows_of(prompts_of(tokenizer))
    likelihoods = LikelihoodReader(RowReader(loaded(tokenizer)), 60)
    everything = [[i for i, _ in batch] for batch in likelihoods.read(examples)]
    assert len(everything) > 2
    first = set(everything[0])
    again = [[i for i, _ in batch] for batch in likelihoods.read(examples, first.__contains__)]
    assert again == everything[1:]


def test_a_model_whose_tree_is_wrong_is_read_otherwise(tokenizer, monkeypatch, caplog):
    one = loaded(tokenizer)
    from yangtuo.inference import forward, tree_attention

    def forgetful(of, sequences, num_cells, device):
        return right(sequences[::-1], num_cells, device) if len(sequences) < 2 else wrong(sequences, num_cells, device)

    right = tree_attention.OwnTokens.of

    def wrong(sequences, num_cells, device):
        shifted = [np.concatenate([row[:1], row[:-1]]) for row in sequences]
        return right(shifted, num_cells, device)

    monkeypatch.setattr(forward.OwnTokens, "of", classmethod(forgetful))
    reader = RowReader(one)
    assert reader.way.rows is Rows.PADDED
    assert "as a prefix tree" in caplog.text
    examples = rows_of(prompts_of(tokenizer))
    found = dict(pair for batch in LikelihoodReader(reader, 150).read(examples) for pair in batch)
    np.testing.assert_allclose(found[3].logps, plainly(one.model, examples, 3)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_one_prompt_after_the_other(tokenizer, kind, caplog):
    one, sampling = loaded(tokenizer, kind), Sampling(24, repetition_penalty=1.3)
    prompts = prompts_of(tokenizer)
    alone = Generator(one, ALPACA_ZH, sampling)
    expected = [alone.answer(prompt) for prompt in prompts]
    generator = BatchGenerator(RowReader(one), ALPACA_ZH, sampling, 1000)
    found = dict(pair for batch in generator.answer_all(prompts) for pair in batch)
    assert len({answer.text for answer in expected}) > 2
    for i, answer in enumerate(expected):
        assert (found[i].text, found[i].stopped_by, found[i].num_tokens) == (
            answer.text,
            answer.stopped_by,
            answer.num_tokens,
        )
    assert ("one by one" in caplog.text) == (kind == "qwen3_next")
    if kind != "qwen3_next":
        assert generator.work.num_cells < generator.work.num_tokens == sum(map(len, prompts))


def test_answers_that_end_leave_the_batch(tokenizer):
    one = loaded(tokenizer)
    with torch.no_grad():  # the end token is likely
        one.model.lm_head.weight[2] += one.model.lm_head.weight.std() * 2
    sampling, prompts = Sampling(40), prompts_of(tokenizer)
    expected = [Generator(one, ALPACA_ZH, sampling).answer(prompt) for prompt in prompts]
    found = dict(p for b in BatchGenerator(RowReader(one), ALPACA_ZH, sampling, 1000).answer_all(prompts) for p in b)
    lengths = {answer.num_tokens for answer in expected}
    assert any(answer.is_whole for answer in expected)
    assert len(lengths) > 1
    assert [found[i].text for i in range(len(prompts))] == [answer.text for answer in expected]
    assert [found[i].is_whole for i in range(len(prompts))] == [answer.is_whole for answer in expected]


def test_draws_do_not_depend_on_the_batch(tokenizer):
    one, sampling, prompts = loaded(tokenizer), Sampling(8, temperature=1.0, seed=3), prompts_of(tokenizer)
    reader = RowReader(one)

    def answers(chosen):
        generator = BatchGenerator(reader, ALPACA_ZH, sampling, 1000)
        return [a.text for _, a in sorted(pair for batch in generator.answer_all(chosen) for pair in batch)]

    assert answers(prompts)[:2] == answers(prompts[:2])


def test_an_answer_ends_where_the_model_has_no_position_left(tokenizer):
    one = loaded(tokenizer, max_position_embeddings=70)
    prompt = prompts_of(tokenizer)[4]
    assert len(prompt) < 70
    generator = BatchGenerator(RowReader(one), ALPACA_ZH, Sampling(100), 1000)
    ((_, answer),) = next(generator.answer_all([prompt]))
    assert answer.num_tokens <= 70 - len(prompt)


def test_numbers_that_are_none_are_a_failure(tokenizer):
    one = loaded(tokenizer)
    reader = RowReader(one)
    with torch.no_grad():
        one.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(RunFailure, match="no numbers"):
        list(BatchGenerator(reader, ALPACA_ZH, Sampling(4), 1000).answer_all(prompts_of(tokenizer)))


def test_memory_that_does_not_do_is_shared_by_fewer_rows(tokenizer, monkeypatch):
    one, prompts = loaded(tokenizer), prompts_of(tokenizer)
    generator = BatchGenerator(RowReader(one), ALPACA_ZH, Sampling(4), 1000)
    whole = dict(pair for batch in generator.answer_all(prompts) for pair in batch)
    answers = generator._answers

    def full(prompts, batch):
        if len(batch) > limit:
            raise torch.OutOfMemoryError("full")
        return answers(prompts, batch)

    monkeypatch.setattr(generator, "_answers", full)
    limit = 2
    parts = list(generator.answer_all(prompts))
    assert max(map(len, parts)) == 2
    assert {i: a.text for part in parts for i, a in part} == {i: a.text for i, a in whole.items()}
    limit = 0
    with pytest.raises(OutOfMemoryError, match="--max_new_tokens"):
        list(generator.answer_all(prompts))


def test_batches_keep_their_limits_and_prompts_that_begin_alike_together():
    prompts = [[1, 2, 3, i] for i in range(6)] + [[9] * 50, [1, 2]]
    batches = plan_batches(prompts, 10, BatchLimits(max_cells=8, max_rows=4, max_kept=1000))
    assert sorted(i for batch in batches for i in batch) == list(range(8))
    assert [7, 0, 1, 2] in batches
    assert [6] in batches  # larger than a batch, and alone
    assert plan_batches(prompts, 10, BatchLimits(1000, 100, 30)) != plan_batches(
        prompts, 10, BatchLimits(1000, 9, 9999)
    )
    assert plan_batches([], 10, BatchLimits(8, 4, 100)) == []


def test_predictions_are_found_again_by_row(tokenizer):
    reader, examples = RowReader(loaded(tokenizer)), rows_of(prompts_of(tokenizer))
    layout = reader.lay_out(examples, [5, 0, 6])
    for row, places in zip((5, 0, 6), places_of_rows(layout, examples), strict=True):
        ids, supervised = examples.row(row)
        assert layout.targets[places].tolist() == ids[1:][supervised[1:]].tolist()
