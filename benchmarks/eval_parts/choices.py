"""Who reads questions with four options: yangtuo, lm-eval's HFLM, plain forwards of transformers.

Each finds the log-probability of every letter behind every prompt, in nats, by "subject/number/letter". Contenders
that compute each question by itself may be given a part of them, since their rate does not depend on the others.
"""

import functools
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from eval_parts.measure import Contender, Found, run
from eval_parts.model import Model
from yangtuo.errors import MissingDependencyError, RunFailure
from yangtuo.evaluation import benchmarks
from yangtuo.evaluation.benchmarks import Benchmark
from yangtuo.evaluation.choice_files import LETTERS
from yangtuo.evaluation.tasks import LikelihoodTask

INSTALL = "pip install --no-deps --target FOLDER lm-eval, and PYTHONPATH=FOLDER"


def has_lm_eval() -> bool:
    """Whether it can be imported here."""
    return importlib.util.find_spec("lm_eval") is not None


@dataclass(frozen=True)
class Choices:
    """Questions and the model that reads them.

    Attributes:
        model: shared by all.
        benchmark: the questions.
        task: their rows, one a letter, as yangtuo encodes them.
    """

    model: Model
    benchmark: Benchmark
    task: LikelihoodTask

    @classmethod
    def of(cls, model: Model, asked: Benchmark) -> "Choices":
        """Encode the questions."""
        task = benchmarks.task_of(model.opened.loaded.tokenizer, model.opened.template, asked).read
        assert task
        return cls(model, asked, task)

    def row_ids(self, question: int) -> list[list[int]]:
        """Prompt and letter, for each letter."""
        first = question * len(LETTERS)
        return [self.task.examples.row(first + n)[0].tolist() for n in range(len(LETTERS))]

    def keys(self, question: int) -> tuple[str, ...]:
        """Of its four rows."""
        first = question * len(LETTERS)
        return self.task.keys[first : first + len(LETTERS)]

    # ---- contenders

    def ours(self) -> Found:
        """From the texts on: encoded, planned, read, written."""
        again = Choices.of(self.model, self.benchmark)
        return {key: -float(entry["nll"]) for key, entry in self.model.ask(again.task).items()}

    def plain(self, questions: Sequence[int]) -> Found:
        """A forward a row, logits of all positions, as a first script would do it."""
        found = {}
        for question in questions:
            for key, ids in zip(self.keys(question), self.row_ids(question), strict=True):
                with torch.no_grad():
                    logits = self.model.network(input_ids=torch.tensor([ids[:-1]]), use_cache=False).logits
                found[key] = float(logits[0, -1].log_softmax(-1)[ids[-1]])
        return found

    def lm_eval(self, reader: Any, questions: Sequence[int]) -> Found:
        """`loglikelihood` of the same pairs of texts; it computes the four letters of a prompt once."""
        from lm_eval.api.instance import Instance

        pairs = [(key, self.benchmark.prompts[i], key[-1]) for i in questions for key in self.keys(i)]
        requests = [
            Instance(request_type="loglikelihood", doc={}, arguments=(text, letter), idx=n)
            for n, (_, text, letter) in enumerate(pairs)
        ]
        answers = reader.loglikelihood(requests, disable_tqdm=True)
        return {key: logp for (key, _, _), (logp, _) in zip(pairs, answers, strict=True)}


def lm_eval_reader(choices: Choices, batch_size: int) -> Any:
    """lm-eval's reader of Hugging Face models around the shared model.

    Raises:
        MissingDependencyError: it is not installed.
        RunFailure: it cuts a text into other tokens, so that the work would not be the same.
    """
    if not has_lm_eval():
        raise MissingDependencyError(f"lm-eval is not installed; {INSTALL}")
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(choices.model.folder)
    reader = HFLM(pretrained=choices.model.network, tokenizer=tokenizer, backend="causal", batch_size=batch_size)
    for i, prompt in enumerate(choices.benchmark.prompts):
        for key, ids in zip(choices.keys(i), choices.row_ids(i), strict=True):
            before, after = reader._encode_pair(prompt, key[-1])
            if [*before, *after] != ids or len(after) != 1:
                raise RunFailure(f"{key}: lm-eval reads other tokens than yangtuo; compare with another model")
    return reader


def contenders_of(
    choices: Choices, every: int, plain_questions: int, batch_sizes: Sequence[int], tried: int
) -> tuple[dict[str, Contender], list[dict[str, Any]]]:
    """Contenders by name, and the trials of lm-eval's batch sizes.

    Args:
        choices: what is read.
        every: of the questions, lm-eval reads each so-manieth.
        plain_questions: read by plain forwards, spread over all.
        batch_sizes: of lm-eval; 1 competes, and the fastest of the others.
        tried: questions on which these others are tried.
    """
    number = len(choices.benchmark.questions)
    part = range(0, number, every)
    found: dict[str, Contender] = {"ours": choices.ours}
    trials = []
    if has_lm_eval() and batch_sizes:
        sample = range(0, number, max(1, number // tried))
        readers = {size: lm_eval_reader(choices, size) for size in batch_sizes}
        for size, reader in readers.items() if len(readers) > 1 else ():
            one = run(f"lm_eval, {size}", functools.partial(choices.lm_eval, reader, sample), choices.model.network)
            trials.append({"batch_size": size, "rows": one.rows, "processor_seconds": one.processor_seconds})
        fastest = sorted(trials, key=lambda trial: trial["processor_seconds"])
        others = [trial["batch_size"] for trial in fastest if trial["batch_size"] != 1][:1]
        for size in [*(size for size in batch_sizes if size == 1), *others]:
            found[f"lm_eval, {size} a batch"] = functools.partial(choices.lm_eval, readers[size], part)
    if plain_questions:
        spread = range(0, number, max(1, number // plain_questions))[:plain_questions]
        found["plain forwards"] = functools.partial(choices.plain, spread)
    return found, trials
