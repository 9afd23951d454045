"""Greedy answers to single questions, with the prompt of training."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from yangtuo.data.templates import Template
from yangtuo.data.tokenizer import Tokenizer


def answer(
    model: PreTrainedModel, tokenizer: Tokenizer, template: Template, questions: Sequence[str], *, max_new_tokens: int
) -> list[str]:
    """One answer a question, cut at the end token or after `max_new_tokens`."""
    model.eval()
    answers = []
    for prompt in tokenizer.encode([template.prompt(question) for question in questions]):
        start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        ids = torch.tensor([start + prompt], device=model.device)
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            use_cache=True,
            eos_token_id=tokenizer.eos_id,
            pad_token_id=tokenizer.eos_id,
        )
        answers.append(tokenizer.decode(output[0, ids.shape[1] :].tolist()).strip())
    return answers
