"""Measure models: the user's own rows, general ability, multiple choice; base against tuned, and a verdict."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yangtuo import output
from yangtuo.api.arguments import Option, one_of, options_of
from yangtuo.api.evaluated_models import EvaluateOptions, all_places, each_model
from yangtuo.api.process import as_library
from yangtuo.config.choices import ChoicesBy, Hub
from yangtuo.config.json_values import object_of
from yangtuo.errors import MissingDependencyError, UsageError
from yangtuo.i18n import Message
from yangtuo.inference.places import Places
from yangtuo.logs import quiet

if TYPE_CHECKING:
    from yangtuo.evaluation.job import Request
    from yangtuo.evaluation.results import Evaluation
    from yangtuo.training.validation_rows import ValidationRows

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluateResult:
    """What was found.

    Attributes:
        folder: that results.json and answers.jsonl are in.
        outcome: "better", "no_difference" or "broken"; None with one model.
        verdict: one line that says why; None with one model.
        measures: of each its values by the names of the models.
        report: all of it as JSON values, as results.json has it.
    """

    folder: Path
    outcome: str | None
    verdict: str | None
    measures: Mapping[str, Mapping[str, float]]
    report: Mapping[str, Any]


def evaluate(
    *targets: Option,
    probe_file: Sequence[str | os.PathLike[str]] = (),
    choices: Sequence[str | os.PathLike[str]] = (),
    **options: Option,
) -> EvaluateResult:
    """Measure models, as `yangtuo eval` does; a verdict of "broken" is no exception here.

    Args:
        targets: adapters, output folders of runs, merged models or bases; others are compared with the first.
        probe_file: files of questions in place of the built-in ones.
        choices: folders with the files of C-Eval or CMMLU.
        options: the others of `EvaluateOptions`, and those of its `rows` (`validation_file` and the like).

    Raises:
        UserError: something that was named cannot be used.
    """
    from yangtuo.training.validation_rows import OF_FILES, OF_ROWS

    of_rows = (*OF_FILES, *OF_ROWS)
    rows = {name: _word(value) for name, value in options.items() if name in of_rows and value is not None}
    others = {name: value for name, value in options.items() if name not in of_rows}
    for name in ("targets", "rows", "gate"):
        if name in others:
            raise UsageError(
                "yangtuo.evaluate: {name} is not a keyword; give models as positional arguments, and rows by "
                "options such as validation_file",
                name=name,
            )
    chosen = options_of(
        EvaluateOptions,
        "yangtuo.evaluate",
        others,
        given={
            "targets": tuple(os.fspath(one) if isinstance(one, os.PathLike) else str(one) for one in targets),
            "rows": rows,
            "probe_file": tuple(map(os.fspath, probe_file)),
            "choices": tuple(map(os.fspath, choices)),
        },
        also=of_rows,
    )
    one_of("yangtuo.evaluate", "hub", chosen.hub, [str(hub) for hub in Hub])
    one_of("yangtuo.evaluate", "choices_by", chosen.choices_by, [str(by) for by in ChoicesBy])
    with as_library(computes=False):
        folder, found, report = run(chosen)
    measures = {one["name"]: dict(one["values"]) for one in report["measures"]}
    verdict = found.verdict
    outcome, text = (str(verdict.outcome), verdict.text) if verdict else (None, None)
    return EvaluateResult(folder, outcome, text, measures, report)


def _word(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return ",".join(os.fspath(one) if isinstance(one, os.PathLike) else str(one) for one in value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def run(options: EvaluateOptions) -> tuple[Path, "Evaluation", dict[str, Any]]:
    """Measure and write; returns the folder, what was found, and what results.json holds.

    Raises:
        UserError: something that was named cannot be used.
        RunFailure: a model computes no numbers, or memory does not do.
    """
    _check(options)
    models = all_places(options)
    request, rows = _request(options)
    from yangtuo.evaluation.job import evaluate as measure_all
    from yangtuo.evaluation.results import RESULTS_FILE
    from yangtuo.training.run_folder import make
    from yangtuo.training.run_record import versions

    with quiet():
        prepared = _prepared(options, models, request, rows)
        folder = request.folder
        make(folder)
        others = Message(
            "--output_dir {folder}: another process is measuring into it; wait for it, or choose another folder",
            folder=folder,
        )
        with output.alone(folder / ".lock", others):
            found = measure_all(request, each_model(options, models), prepared, versions())
            _tell_the_run(list(models.values())[-1], folder, found)
    return folder, found, json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))


def _check(options: EvaluateOptions) -> None:
    targets = options.targets
    if not targets and options.model_name_or_path is None:
        raise UsageError("name the folder of an adapter, of a run or of a model")
    least = {"num_answers": 0, "max_new_tokens": 1, "shots": 0, "choices_per_subject": 1, "micro_batch_tokens": 1}
    for name, smallest in least.items():
        if (value := getattr(options, name)) is not None and value < smallest:
            raise UsageError(
                "--{name} {value}: expected at least {smallest}", name=name, value=value, smallest=smallest
            )
    if options.gate and not options.compare and len(targets) < 2:
        raise UsageError("--gate: a verdict compares two models; add --compare, or name a second one")
    if options.no_probe and options.probe_file:
        raise UsageError("--no_probe and --probe_file: give one of them")
    if not options.choices and (options.choices_per_subject or options.choices_by != str(ChoicesBy.LIKELIHOOD)):
        raise UsageError("--choices_by and --choices_per_subject: no --choices folder is given")


def _tell_the_run(places: Places, folder: Path, found: "Evaluation") -> None:
    """Put the verdict into the run's page and the adapter's README, where the evaluation lies in the run's folder."""
    from yangtuo.evaluation.results import FOLDER
    from yangtuo.model.model_card import put_verdict
    from yangtuo.report import page
    from yangtuo.training.run_folder import ADAPTER_FOLDER, run_of

    run = run_of(places.adapter) if places.adapter else None
    if not (found.verdict and places.adapter and run):
        return
    if places.adapter.resolve() == (run / ADAPTER_FOLDER).resolve() and folder.resolve() == (run / FOLDER).resolve():
        put_verdict(places.adapter, found.verdict.text)
        page.write_at_end(run)


# ---- what is asked


def _request(options: EvaluateOptions) -> tuple["Request", "ValidationRows | None"]:
    """All that is asked, and the own rows of it; loads no torch, so that a wrong path is refused at once."""
    from yangtuo.evaluation.text_scores import check_packages

    rows = _own_rows(options)
    items, benchmarks = _items(options), _benchmarks(options)
    if rows is None and not items and not benchmarks:
        raise UsageError("nothing to measure: no own rows (--validation_file), no probe and no --choices")
    if rows is None:
        logger.warning("own data: none; --validation_file names rows, or give the folder of a run that had some")
    elif options.num_answers:
        try:
            check_packages()
        except MissingDependencyError as error:
            logger.warning("left out: ROUGE, BLEU and chrF: %s", error)
    folder = _folder(options)
    from yangtuo.evaluation.job import Request

    return Request(
        folder=folder,
        rows=rows.encoded if rows else None,
        data=[],
        num_answers=options.num_answers,
        max_new_tokens=options.max_new_tokens,
        items=items,
        benchmarks=benchmarks,
        max_cells=options.micro_batch_tokens,
    ), rows


def _prepared(
    options: EvaluateOptions, models: dict[str, Places], request: "Request", rows: "ValidationRows | None"
) -> dict[Any, Any]:
    """What is asked in the ids of each model's tokenizer; what is wrong with it is said before weights load."""
    from yangtuo.evaluation.job import key_of, questions_of
    from yangtuo.inference import load

    kwargs = object_of("chat_template_kwargs", options.chat_template_kwargs)
    prepared = {}
    for found in models.values():
        tokenizer = load.find_tokenizer(found, options.model)
        template = load.find_template(found, tokenizer, options.template, kwargs, is_tuned=found.adapter is not None)
        if (key := key_of(tokenizer, template)) not in prepared:
            questions = questions_of(request, tokenizer, template)
            prepared[key] = questions
            if rows and questions.own:
                request.data[:] = rows.told(questions.own.rows.examples)
    if len({template for _, template in prepared}) > 1:
        logger.warning("templates: each model is asked in its own, and they differ; --template names one for all")
    return prepared


def _own_rows(options: EvaluateOptions) -> "ValidationRows | None":
    """The rows that were named, else those that the last run among the targets was evaluated on."""
    from yangtuo.training.run_folder import run_of
    from yangtuo.training.validation_rows import rows_of

    runs = [run for target in options.targets if (run := run_of(Path(target).expanduser()))]
    return rows_of(runs[-1] if runs else None, dict(options.rows))


def _items(options: EvaluateOptions) -> Any:
    from yangtuo.evaluation.probe_items import bundled_items, read_items

    if options.no_probe:
        return ()
    return read_items(map(Path, options.probe_file)) if options.probe_file else bundled_items()


def _benchmarks(options: EvaluateOptions) -> list[Any]:
    from yangtuo.evaluation.benchmarks import benchmark_of
    from yangtuo.evaluation.choice_files import licence, read_choice_folder

    found = []
    for folder in options.choices or ():
        read = read_choice_folder(Path(folder).expanduser())
        for note in read.notes:
            logger.warning("%s", note)
        logger.info("%s", licence(read.benchmark))
        by = ChoicesBy(options.choices_by)
        found.append(benchmark_of(read, by, options.shots, options.choices_per_subject))
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        raise UsageError("--choices: two folders hold {names}; give one folder for each benchmark", names=names[0])
    return found


def _folder(options: EvaluateOptions) -> Path:
    from yangtuo.evaluation.results import FOLDER
    from yangtuo.training.run_folder import ADAPTER_FOLDER, run_of

    if options.output_dir:
        return Path(options.output_dir).expanduser()
    for target in reversed(options.targets):
        place = Path(target).expanduser()
        if run := run_of(place):  # another adapter of the run, such as best/, has a folder of its own
            return run / FOLDER if place == run or place.name == ADAPTER_FOLDER else run / FOLDER / place.name
    return Path(FOLDER)
