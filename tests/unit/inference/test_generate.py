import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from tests import tiny
from yangtuo.data.encoding import prompt_ids
from yangtuo.data.records import Turn
from yangtuo.data.templates import ALPACA_ZH, CHATML
from yangtuo.errors import RunFailure
from yangtuo.inference.generate import Generator, Sampling, sampling_of
from yangtuo.inference.load import LoadedModel

GREEDY = Sampling(max_new_tokens=12)
DRAWN = Sampling(max_new_tokens=12, temperature=1.5, top_p=0.95, seed=3)
QUESTION = (Turn("user", "请介绍一下长城。", trained=False),)
DIALOGUE = (*QUESTION, Turn("assistant", "长城很长。", trained=False), Turn("user", "为什么？", trained=False))
SMALL = {
    "vocab_size": 480,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
FAMILY = {
    "llama": {"model_type": "llama"},
    "windows that slide": {"model_type": "mistral", "sliding_window": 16},
    "some windows slide": {"model_type": "gemma3_text", "sliding_window": 16, "vocab_size": 480},
}


class Scripted(nn.Module):
    """Says these tokens, one after the other; remembers what it was given."""

    def __init__(self, tokens, num_rows=480):
        super().__init__()
        self.embedding, self.tokens, self.num_rows, self.given = nn.Embedding(1, 1), list(tokens), num_rows, []

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, input_ids, past_key_values=None, use_cache=True):
        self.given += input_ids[0].tolist()
        token = self.tokens.pop(0)
        if isinstance(token, BaseException):
            raise token
        scores = functional.one_hot(torch.tensor([[token]]), self.num_rows).float() * 50
        return SimpleNamespace(logits=scores, past_key_values=past_key_values or SimpleNamespace())


def scripted(tokenizer, tokens, sampling=GREEDY, template=ALPACA_ZH):
    model = Scripted(tokens)
    return model, Generator(LoadedModel(model, tokenizer, 480), template, sampling)


@pytest.fixture(params=FAMILY)
def loaded(request, sentencepiece_tokenizer):
    values = {**SMALL, **FAMILY[request.param]}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
        for weight in model.parameters():
            if weight.dim() > 1:
                nn.init.normal_(weight, std=0.3)  # so that what was said decides what follows
    return LoadedModel(model.eval(), sentencepiece_tokenizer, 480)


# ---- what is said


def test_greedy_answers_are_those_of_transformers(loaded):
    generator = Generator(loaded, ALPACA_ZH, GREEDY)
    for turns in (QUESTION, DIALOGUE, QUESTION):
        prompt = generator.prompt(turns)
        ids = torch.tensor([prompt])
        expected = loaded.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=2
        )[0, ids.shape[1] :].tolist()
        answer = generator.answer(prompt)
        assert answer.text == loaded.tokenizer.decode(expected).rstrip("\ufffd")
        assert answer.num_tokens == len(expected)


def test_what_is_kept_of_the_last_prompt_changes_no_answer(loaded):
    prompts = [prompt_ids(loaded.tokenizer, ALPACA_ZH, turns) for turns in (DIALOGUE, QUESTION, DIALOGUE, QUESTION)]
    prompts += [prompts[0] + prompts[1][1:], prompts[0]]  # longer, and shorter than what is kept
    one = Generator(loaded, ALPACA_ZH, GREEDY)
    assert [one.answer(prompt).text for prompt in prompts] == [
        Generator(loaded, ALPACA_ZH, GREEDY).answer(prompt).text for prompt in prompts
    ]


def test_a_second_turn_computes_only_what_is_new(sentencepiece_tokenizer, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny.tiny_llama(tmp_path / "base")).eval()
    read = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    generator = Generator(
        LoadedModel(model, sentencepiece_tokenizer, 480), ALPACA_ZH, replace(GREEDY, max_new_tokens=1)
    )
    first, second = generator.prompt(QUESTION), generator.prompt(DIALOGUE)
    generator.answer(first)
    generator.answer(second)
    generator.answer(second)
    assert second[: len(first)] == first
    assert read == [len(first), len(second) - len(first), 1]


def test_the_prompt_is_that_of_training(sentencepiece_tokenizer):
    _, generator = scripted(sentencepiece_tokenizer, [])
    assert generator.prompt(DIALOGUE) == prompt_ids(sentencepiece_tokenizer, ALPACA_ZH, DIALOGUE)


def test_text_is_told_as_it_grows_in_whole_characters(sentencepiece_tokenizer):
    said = "龘长城🦙很长。"
    tokens = sentencepiece_tokenizer.encode([said])[0]
    _, generator = scripted(sentencepiece_tokenizer, [*tokens, 2], replace(GREEDY, max_new_tokens=100))
    told = []
    answer = generator.answer([1, 5], told.append)
    assert answer.text == "".join(told) == said
    assert len(told) > 3
    assert "\ufffd" not in "".join(told)
    assert (answer.stopped_by, answer.is_whole) == ("</s>", True)
    assert (answer.num_tokens, answer.num_prompt_tokens) == (len(tokens) + 1, 2)


# ---- where it ends


def test_the_templates_end_token_ends_an_answer_and_so_does_the_tokenizers(json_tokenizer):
    end = json_tokenizer.id_of("<|im_end|>")
    _, generator = scripted(json_tokenizer, [70, end, 71], template=CHATML)
    assert generator.answer([5]).stopped_by == "<|im_end|>"
    own = replace(json_tokenizer, eos_id=json_tokenizer.id_of("<think>"))
    _, generator = scripted(own, [70, own.eos_id, 71], template=CHATML)
    answer = generator.answer([5])
    assert (answer.stopped_by, answer.num_tokens) == ("<think>", 2)


def test_an_answer_is_cut_at_the_limit_without_a_part_of_a_character(sentencepiece_tokenizer):
    tokens = sentencepiece_tokenizer.encode(["a🦙"])[0]
    _, generator = scripted(sentencepiece_tokenizer, tokens, replace(GREEDY, max_new_tokens=len(tokens) - 1))
    answer = generator.answer([5])
    assert (answer.text, answer.stopped_by, answer.is_whole) == ("a", "max_new_tokens", False)


def test_an_interrupted_answer_is_kept_where_asked(sentencepiece_tokenizer):
    tokens = sentencepiece_tokenizer.encode(["长城很长"])[0]
    script = [*tokens[:2], KeyboardInterrupt(), *tokens, 2]
    model, generator = scripted(sentencepiece_tokenizer, script)
    answer = generator.answer([5, 6], keeps_interrupted=True)
    assert answer.text == sentencepiece_tokenizer.decode(tokens[:2])
    assert (answer.stopped_by, answer.is_whole) == ("Ctrl-C", False)
    model.given.clear()
    assert generator.answer([5, 6, 7]).text == "长城很长"
    assert model.given[:3] == [5, 6, 7]  # what was kept may be in some layers only
    _, generator = scripted(sentencepiece_tokenizer, script[2:])
    with pytest.raises(KeyboardInterrupt):
        generator.answer([5, 6])


# ---- drawing


def test_draws_are_those_of_the_seed(loaded):
    def answers(sampling):
        generator = Generator(loaded, ALPACA_ZH, sampling)
        prompt = generator.prompt(QUESTION)
        drawn = [generator.answer(prompt).text, generator.answer(prompt).text]
        generator.reseed()
        return [*drawn, generator.answer(prompt).text]

    one = answers(DRAWN)
    assert one == answers(DRAWN)
    assert one[0] == one[2] != one[1]
    assert one != answers(replace(DRAWN, seed=4))


def test_a_repetition_penalty_keeps_tokens_from_coming_again_but_not_the_end(sentencepiece_tokenizer):
    class Stubborn(Scripted):
        def forward(self, input_ids, past_key_values=None, use_cache=True):
            scores = torch.zeros(1, 1, self.num_rows)
            scores[..., 70], scores[..., 71], scores[..., 2] = 3.0, 2.5, 2.0
            return SimpleNamespace(logits=scores, past_key_values=SimpleNamespace())

    def said(penalty):
        loaded = LoadedModel(Stubborn([]), sentencepiece_tokenizer, 480)
        return Generator(loaded, ALPACA_ZH, replace(GREEDY, repetition_penalty=penalty)).answer([1, 5, 2, 6])

    assert said(1.0).num_tokens == GREEDY.max_new_tokens
    assert (said(2.0).num_tokens, said(2.0).stopped_by) == (3, "</s>")


def test_top_p_leaves_the_unlikely_out(sentencepiece_tokenizer):
    class Even(Scripted):
        def forward(self, input_ids, past_key_values=None, use_cache=True):
            scores = torch.zeros(1, 1, self.num_rows)
            scores[..., 300] = 6.0
            return SimpleNamespace(logits=scores, past_key_values=SimpleNamespace())

    loaded = LoadedModel(Even([]), sentencepiece_tokenizer, 480)
    few = Generator(loaded, ALPACA_ZH, replace(DRAWN, top_p=0.3, temperature=1.0)).answer([5])
    many = Generator(loaded, ALPACA_ZH, replace(DRAWN, top_p=1.0, temperature=1.0)).answer([5])
    assert few.text == sentencepiece_tokenizer.decode([300] * DRAWN.max_new_tokens)
    assert many.text != few.text


def test_rows_that_the_voice_does_not_know_are_never_said(sentencepiece_tokenizer):
    model = Scripted([500, 501, 2], num_rows=512)
    answer = Generator(LoadedModel(model, sentencepiece_tokenizer, 480), ALPACA_ZH, GREEDY).answer([490, 5])
    assert answer.stopped_by == "</s>"
    assert answer.num_tokens == 3


def test_a_model_that_computes_no_numbers_is_told(sentencepiece_tokenizer):
    class Broken(Scripted):
        def forward(self, input_ids, past_key_values=None, use_cache=True):
            return SimpleNamespace(logits=torch.full((1, 1, 480), float("nan")), past_key_values=None)

    with pytest.raises(RunFailure, match="try --torch_dtype float32"):
        Generator(LoadedModel(Broken([]), sentencepiece_tokenizer, 480), ALPACA_ZH, GREEDY).answer([5])


def test_top_k_leaves_all_but_the_likeliest_out(loaded):
    prompt = prompt_ids(loaded.tokenizer, ALPACA_ZH, QUESTION)
    greedy = Generator(loaded, ALPACA_ZH, GREEDY).answer(prompt)
    assert Generator(loaded, ALPACA_ZH, replace(DRAWN, top_k=1, top_p=1.0)).answer(prompt).text == greedy.text
    assert Generator(loaded, ALPACA_ZH, replace(DRAWN, top_k=400, top_p=1.0)).answer(prompt).text != greedy.text


# ---- how answers are chosen, where nothing was asked for


@pytest.fixture
def folders(tmp_path):
    def write(adapter=None, base=None):
        found = []
        for name, values in (("adapter", adapter), ("base", base)):
            found.append(tmp_path / name)
            found[-1].mkdir()
            if values is not None:
                (found[-1] / "generation_config.json").write_text(json.dumps(values))
        return found

    return write


def test_answers_are_greedy_without_a_penalty(folders, caplog):
    caplog.set_level("INFO")
    assert sampling_of(folders(), 12) == GREEDY == Sampling(12, temperature=0, top_p=1, top_k=0, repetition_penalty=1)
    assert sampling_of([], 12, {"top_p": 0.5}, seed=3) == replace(GREEDY, top_p=0.5, seed=3)
    assert caplog.text == ""


def test_what_the_folder_says_is_taken_and_told_in_one_line(folders, caplog):
    caplog.set_level("INFO")
    found = folders(adapter={"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.1})
    assert sampling_of(found, 12) == replace(GREEDY, temperature=0.7, top_p=0.8, top_k=20)
    told, left_out = caplog.messages
    assert told == f"answers: temperature 0.7, top_p 0.8, top_k 20, taken from {found[0] / 'generation_config.json'}"
    assert left_out == f"answers: min_p is not used here, though it stands in {found[0] / 'generation_config.json'}"


def test_the_adapters_file_comes_before_the_bases_and_options_before_both(folders, caplog):
    caplog.set_level("INFO")
    found = folders(adapter={"repetition_penalty": 1.2}, base={"do_sample": True, "top_p": 0.5})
    assert sampling_of(found, 12) == replace(GREEDY, repetition_penalty=1.2)
    assert sampling_of(found[1:], 12) == replace(GREEDY, temperature=1, top_p=0.5)
    assert sampling_of(found[1:], 12, {"top_p": 0.6}) == replace(GREEDY, temperature=1, top_p=0.6)
    caplog.clear()
    assert sampling_of(found[1:], 12, {"temperature": 0.0}) == GREEDY
    assert sampling_of(found, 12, {"repetition_penalty": 1.0}) == GREEDY
    assert caplog.text == ""
