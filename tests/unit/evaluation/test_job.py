"""The story of an evaluation: a model is let go before the next one is loaded."""

import gc
import weakref

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests import tiny
from yangtuo.data.templates import ALPACA_ZH
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.evaluation.job import Request, evaluate
from yangtuo.evaluation.measuring import Asked
from yangtuo.evaluation.probe_items import Passage
from yangtuo.inference.load import LoadedModel


def test_one_model_at_a_time_is_in_memory(tmp_path):
    tokenizer = open_tokenizer(tiny.tiny_sentencepiece(tmp_path / "tokenizer"))
    config = AutoConfig.from_pretrained(tiny.tiny_llama(tmp_path / "base"))
    alive = []

    def models():
        for name in ("a", "b", "c"):
            gc.collect()
            assert [made for made in alive if made() is not None] == []
            torch.manual_seed(len(alive))
            model = AutoModelForCausalLM.from_config(config).eval()
            alive.append(weakref.ref(model))
            loaded = LoadedModel(model, tokenizer, tokenizer.num_tokens)
            del model
            yield Asked(name, loaded, ALPACA_ZH, 512, {"path": name}, {"base": name})
            del loaded

    items = (Passage("p", "zh", tiny.SENTENCES[1]), Passage("q", "en", tiny.SENTENCES[3]))
    (tmp_path / "out").mkdir()
    request = Request(tmp_path / "out", None, [], 0, 8, items, (), None)
    found = evaluate(request, models(), {}, {})
    assert len(alive) == 3
    assert found.names == ["a", "b", "c"]
    assert {model["template"] for model in found.models} == {"alpaca_zh"}
    assert set(found.measures[0].differences) == {"b", "c"}
