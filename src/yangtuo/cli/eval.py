"""Measure models: the user's own rows, general ability, multiple choice; base against tuned, and a verdict.

Names adapters, output folders of runs, merged models or bases. Of a run's folder, the run's own validation rows are
measured. With --compare the base is measured too, and the end is a verdict: better, no difference shown (both exit
code 0) or broken (exit code 1).
"""

import argparse
import logging
from dataclasses import fields
from typing import TYPE_CHECKING

from yangtuo.api.evaluate import run as evaluate
from yangtuo.api.evaluated_models import EvaluateOptions
from yangtuo.cli.model_options import add_model_options
from yangtuo.config.choices import ChoicesBy
from yangtuo.config.options import OPTIONS
from yangtuo.config.options import add as add_option
from yangtuo.errors import RunFailure
from yangtuo.evaluation.results import RESULTS_FILE

if TYPE_CHECKING:
    from yangtuo.evaluation.results import Evaluation

logger = logging.getLogger(__name__)

_DEFAULTS = EvaluateOptions()


def add_options(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    from yangtuo.training.validation_rows import OF_FILES, OF_ROWS

    add = parser.add_argument
    add(
        "targets",
        nargs="*",
        metavar="FOLDER",
        help="Adapters, output folders of runs, merged models or bases. The first is what others are compared with.",
    )
    add("--compare", action="store_true", help="Measure the base too, first. A merged model: name its base.")
    for name in (*OF_FILES, *OF_ROWS):
        add_option(parser, OPTIONS[name])
    parser.set_defaults(**dict.fromkeys((*OF_FILES, *OF_ROWS)))  # what is not given is the run's
    add(
        "--num_answers",
        type=int,
        default=_DEFAULTS.num_answers,
        help="How many of the own rows are answered at most, evenly spread; 0 for none. Default: %(default)s.",
    )
    add(
        "--max_new_tokens",
        type=int,
        default=_DEFAULTS.max_new_tokens,
        help="Longest answer to them. Default: %(default)s.",
    )
    add("--no_probe", action="store_true", help="Leave out the built-in questions on general ability.")
    add(
        "--probe_file",
        action="append",
        metavar="FILE",
        help="Ask these instead, in the same form (docs/evaluation.md).",
    )
    add("--choices", action="append", metavar="DIR", help="Folder with the files of C-Eval or CMMLU; may be repeated.")
    add(
        "--choices_by",
        choices=[str(kind) for kind in ChoicesBy],
        default=str(ChoicesBy.LIKELIHOOD),
        help="likelihood: of the letters; generation: the letter of a written answer. Default: %(default)s.",
    )
    add("--shots", type=int, default=_DEFAULTS.shots, help="Questions with answers before each. Default: %(default)s.")
    add("--choices_per_subject", type=int, help="Ask this many of each subject, its first. Default: all.")
    add("--micro_batch_tokens", type=int, help="Distinct tokens that are computed at once. Default: by the memory.")
    add("--output_dir", help="Where results are written. Default: evaluation/ in the folder of the last run.")
    add("--gate", action="store_true", help="Exit code 1 unless the verdict is better; needs --compare or two models.")
    add("--json", action="store_true", help="Print results.json instead of the table.")
    add_model_options(parser)


def run(options: argparse.Namespace) -> None:
    """Measure, write, print.

    Raises:
        UserError: something that was named cannot be used.
        RunFailure: the verdict is broken, or with --gate not better; all was written and printed before.
    """
    from yangtuo.training.validation_rows import OF_FILES, OF_ROWS

    of_rows = (*OF_FILES, *OF_ROWS)
    names = {field.name for field in fields(EvaluateOptions)} - {"rows"}
    values = {name: value for name in names if (value := getattr(options, name)) is not None}
    rows = {name: value for name in of_rows if (value := getattr(options, name)) is not None}
    folder, found, _ = evaluate(EvaluateOptions(**values, rows=rows))
    if options.json:
        print((folder / RESULTS_FILE).read_text(encoding="utf-8"), end="")  # noqa: T201  # the answer
    else:
        from yangtuo.cli.eval_screen import show

        show(found)
        logger.info("written: %s", folder)
    end(found, gate=options.gate)


def end(found: "Evaluation", *, gate: bool) -> None:
    """Fail where the verdict says so.

    Raises:
        RunFailure: it does.
    """
    from yangtuo.evaluation.verdict import Outcome

    if found.verdict is None:
        return
    if found.verdict.outcome is Outcome.BROKEN:
        raise RunFailure("verdict: {text}", text=found.verdict.text)
    if gate and found.verdict.outcome is not Outcome.BETTER:
        raise RunFailure("--gate: the verdict is not better: {text}", text=found.verdict.text)
