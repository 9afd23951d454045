"""Who answers dialogues with a common system prompt: yangtuo, and transformers' `generate`, one by one and in batches.

All read the same ids and take the likeliest token each time; each gives the text of every answer.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import GenerationConfig

from eval_parts.measure import Contender, Found
from eval_parts.model import Model
from yangtuo.data.encoding import end_id, prompt_ids
from yangtuo.data.prompt_rows import PromptRow
from yangtuo.data.records import Turn
from yangtuo.evaluation.tasks import AnswerTask
from yangtuo.inference.streaming import text_of


@dataclass(frozen=True)
class Dialogues:
    """Prompts and the model that answers them.

    Attributes:
        model: shared by all.
        task: the prompts' ids.
    """

    model: Model
    task: AnswerTask

    @classmethod
    def of(cls, model: Model, system: str, questions: Sequence[str], max_new_tokens: int) -> "Dialogues":
        """Encode them in the model's template."""
        opened = model.opened
        rows = []
        for question in questions:
            turns = [Turn("system", system, trained=False), Turn("user", question, trained=False)]
            rows.append(PromptRow(question, tuple(prompt_ids(opened.loaded.tokenizer, opened.template, turns))))
        keys = tuple(f"dialogue {number}" for number in range(1, len(rows) + 1))
        return cls(model, AnswerTask("dialogues", tuple(rows), keys, max_new_tokens))

    # ---- contenders

    def ours(self) -> Found:
        """As `yangtuo eval` answers."""
        return {key: str(entry["answer"]) for key, entry in self.model.ask(self.task).items()}

    def generate(self, rows_per_batch: int) -> Found:
        """Transformers' `generate`, prompts of about equal length together, filled up on the left."""
        prompts = self.task.prompts
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
        found = {}
        for begin in range(0, len(order), rows_per_batch):
            batch = order[begin : begin + rows_per_batch]
            for i, text in zip(batch, self._texts([prompts[i].ids for i in batch]), strict=True):
                found[self.task.keys[i]] = text
        return found

    def _texts(self, prompts: Sequence[Sequence[int]]) -> list[str]:
        loaded, longest = self.model.opened.loaded, max(map(len, prompts))
        ends = sorted({end_id(loaded.tokenizer, self.model.opened.template), loaded.tokenizer.eos_id})
        how = GenerationConfig(
            max_new_tokens=self.task.max_new_tokens, do_sample=False, eos_token_id=ends, pad_token_id=ends[0]
        )
        ids = torch.tensor([[ends[0]] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        with torch.no_grad():
            lines = loaded.model.generate(input_ids=ids, attention_mask=mask, generation_config=how)
        texts = []
        for line in lines[:, longest:].tolist():
            end = next((n for n, token in enumerate(line) if token in ends), None)
            texts.append(text_of(loaded.tokenizer, line[:end], is_whole=end is not None))
        return texts


def contenders_of(dialogues: Dialogues, batch_sizes: Sequence[int]) -> dict[str, Contender]:
    """Contenders by name."""
    found: dict[str, Contender] = {"ours": dialogues.ours}
    for size in batch_sizes:
        found[f"generate, {size} a batch"] = functools.partial(dialogues.generate, size)
    return found
