"""`yangtuo eval`'s engine side by side with lm-eval and transformers: one process, one model, in turns.

Questions with four options behind five exemplars, by the likelihood of the letters; and answers to dialogues with a
common system prompt. Texts are made up. What the contenders find is compared: log-probabilities within 1e-3 nats, the
same letters, the same answers; where they differ, the exit code is 1.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from circumstances import commit, computer, versions, without_folders
from eval_parts import answers, choices, questions, summary
from eval_parts.measure import Run, rounds
from eval_parts.model import Model

from yangtuo.cli.demo import cache_folder, fetch_model
from yangtuo.config.choices import ChoicesBy
from yangtuo.errors import YangtuoError
from yangtuo.evaluation.benchmarks import benchmark_of
from yangtuo.evaluation.choice_files import read_choice_folder

_PACKAGES = ("yangtuo", "numpy", "torch", "transformers", "tokenizers", "lm-eval")


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser("benchmarks/eval.py", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--model", type=Path, help="Hugging Face folder. Default: the demo's model.")
    add("--template", help="Of dialogues. Default: the model's own.")
    add("--parts", default="choices,answers", help="Default: %(default)s.")
    add("--subjects", type=int, choices=range(1, 5), default=4, help="Default: %(default)s.")
    add("--questions", type=int, default=20, help="Of each subject. Default: %(default)s.")
    add("--every", type=int, default=1, help="lm-eval reads each so-manieth question. Default: %(default)s.")
    add("--plain_questions", type=int, default=8, help="Read by plain forwards; 0 for none. Default: %(default)s.")
    add("--lm_eval_batches", default="1,4,8", help="Batch sizes; the fastest besides 1 is kept. Default: %(default)s.")
    add("--tried", type=int, default=8, help="Questions on which batch sizes are tried. Default: %(default)s.")
    add("--dialogues", type=int, default=32, help="Default: %(default)s.")
    add("--max_new_tokens", type=int, default=32, help="Of an answer. Default: %(default)s.")
    add("--generate_batches", default="1,8,32", help="Of transformers' generate. Default: %(default)s.")
    add("--micro_batch_tokens", type=int, help="Of yangtuo. Default: by the memory.")
    add("--rounds", type=int, default=2, help="Default: %(default)s.")
    add("--json", type=Path, help="File for the record.")
    return parser.parse_args(words)


def compare_choices(model: Model, options: argparse.Namespace) -> tuple[list[list[Run]], dict[str, Any]]:
    """Multiple choice; also what was asked, for the record.

    Raises:
        YangtuoError: texts that cannot be compared.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = read_choice_folder(questions.write_folder(Path(name), options.subjects, options.questions))
    asked = benchmark_of(folder, ChoicesBy.LIKELIHOOD, questions.SHOTS, None)
    found = choices.Choices.of(model, asked)
    if not choices.has_lm_eval():
        say(f"lm-eval is not installed and left out; {choices.INSTALL}")
    contenders, trials = choices.contenders_of(
        found, options.every, options.plain_questions, _numbers(options.lm_eval_batches), options.tried
    )
    lengths = found.task.examples.lengths()
    told = {"questions": len(asked.questions), "rows": len(lengths), "tokens": int(lengths.sum())}
    told |= {"shortest": int(lengths.min()), "longest": int(lengths.max()), "trials_of_batch_sizes": trials}
    say(f"{told['rows']} rows of {told['shortest']} to {told['longest']} tokens; batch sizes tried: {trials}")
    return rounds(contenders, options.rounds, model.network, say), told


def compare_answers(model: Model, options: argparse.Namespace) -> tuple[list[list[Run]], dict[str, Any]]:
    """Dialogues; also what was asked, for the record."""
    asked = questions.dialogues(options.dialogues)
    found = answers.Dialogues.of(model, questions.SYSTEM, asked, options.max_new_tokens)
    lengths = [len(prompt.ids) for prompt in found.task.prompts]
    told = {"prompts": len(lengths), "tokens": sum(lengths), "max_new_tokens": options.max_new_tokens}
    say(f"{told['prompts']} prompts, {told['tokens']} tokens")
    contenders = answers.contenders_of(found, _numbers(options.generate_batches))
    return rounds(contenders, options.rounds, model.network, say), told


def say(line: str) -> None:
    """Progress."""
    print(line, file=sys.stderr, flush=True)


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word]


def main(words: Sequence[str]) -> int:
    """Measure, print, write the record; the exit code.

    Raises:
        YangtuoError: what was given cannot be used.
    """
    options = parse(words)
    model = Model.open(
        (options.model or fetch_model(cache_folder())).resolve(), options.template, options.micro_batch_tokens
    )
    record: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": ["python", "benchmarks/eval.py", *map(without_folders, words)],
        "commit": commit(),
        "versions": versions(_PACKAGES),
        "machine": computer() | {"threads": torch.get_num_threads(), "load_average": os.getloadavg()},
    }
    faults = []
    parts = {"choices": (compare_choices, "letters"), "answers": (compare_answers, "answers")}
    for part in options.parts.split(","):
        compare, what = parts[part]
        done, told = compare(model, options)
        of_part = summary.summarise(done, are_choices=part == "choices")
        faults += summary.faults(of_part, what)
        print(f"{part}\n{summary.table(of_part)}", flush=True)
        runs = [[asdict(run) | {"found": None} for run in of_round] for of_round in done]
        record[part] = {"asked": told, "summary": of_part, "rounds": runs}
        if options.json:
            options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for line in faults:
        print(f"fault: {line}")
    return 1 if faults else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except YangtuoError as error:
        sys.exit(f"benchmarks/eval.py: {error}")
