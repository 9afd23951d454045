"""Greedy answers to single questions, with the prompt of training."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from yangtuo.data.encoding import end_id, prompt_ids
from yangtuo.data.records import Turn
from yangtuo.data.templates import Template
from yangtuo.data.tokenizer import Tokenizer


def answer(
    model: PreTrainedModel, tokenizer: Tokenizer, template: Template, questions: Sequence[str], *, max_new_tokens: int
) -> list[str]:
    """One answer a question, cut at the end token or after `max_new_tokens`."""
    model.eval()
    answers = []
    end = end_id(tokenizer, template)
    for question in questions:
        prompt = prompt_ids(tokenizer, template, [Turn("user", question, trained=False)])
        ids = torch.tensor([prompt], device=model.device)
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            use_cache=True,
            eos_token_id=end,
            pad_token_id=end,
        )
        answers.append(tokenizer.decode([i for i in output[0, ids.shape[1] :].tolist() if i != end]).strip())
    return answers
