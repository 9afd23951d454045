"""Measure models: the user's own rows, general ability, multiple choice; base against tuned, and a verdict.

Names adapters, output folders of runs, merged models or bases. Of a run's folder, the run's own validation rows are
measured. With --compare the base is measured too, and the end is a verdict: better, no difference shown (both exit
code 0) or broken (exit code 1).
"""

import argparse
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yangtuo import output
from yangtuo.cli.model_options import add_model_options, lora_arguments, model_arguments, places_of
from yangtuo.config.choices import ChoicesBy
from yangtuo.config.json_values import object_of
from yangtuo.config.options import OPTIONS
from yangtuo.config.options import add as add_option
from yangtuo.errors import MissingDependencyError, RunFailure, UsageError

if TYPE_CHECKING:
    from yangtuo.evaluation.job import Request
    from yangtuo.evaluation.measuring import Asked
    from yangtuo.evaluation.results import Evaluation
    from yangtuo.inference.load import Opened, Places
    from yangtuo.training.validation_rows import ValidationRows

logger = logging.getLogger(__name__)

_MAX_NEW_TOKENS, _NUM_ANSWERS, _SHOTS = 256, 100, 5


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
        default=_NUM_ANSWERS,
        help="How many of the own rows are answered at most, evenly spread; 0 for none. Default: %(default)s.",
    )
    add("--max_new_tokens", type=int, default=_MAX_NEW_TOKENS, help="Longest answer to them. Default: %(default)s.")
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
    add("--shots", type=int, default=_SHOTS, help="Questions with answers before each. Default: %(default)s.")
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
    _check(options)
    from yangtuo.evaluation.job import evaluate
    from yangtuo.evaluation.results import RESULTS_FILE
    from yangtuo.training.run_folder import make, versions

    places = _all_places(options)
    request, asked_beforehand = _prepared(options, places)
    folder = request.folder
    make(folder)
    others = f"--output_dir {folder}: another process is measuring into it; wait for it, or choose another folder"
    with output.alone(folder / ".lock", others):
        found = evaluate(request, _models(options, places), asked_beforehand, versions())
        _tell_the_run(list(places.values())[-1], folder, found)
    if options.json:
        print((folder / RESULTS_FILE).read_text(encoding="utf-8"), end="")  # noqa: T201  # the answer
    else:
        from yangtuo.cli.eval_screen import show

        show(found)
        logger.info("written: %s", folder)
    end(found, gate=options.gate)


def _tell_the_run(places: "Places", folder: Path, found: "Evaluation") -> None:
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


def end(found: "Evaluation", *, gate: bool) -> None:
    """Fail where the verdict says so.

    Raises:
        RunFailure: it does.
    """
    from yangtuo.evaluation.verdict import Outcome

    if found.verdict is None:
        return
    if found.verdict.outcome is Outcome.BROKEN:
        raise RunFailure(f"verdict: broken: {found.verdict.text}")
    if gate and found.verdict.outcome is not Outcome.BETTER:
        raise RunFailure(f"--gate: the verdict is not better: {found.verdict.text}")


def _check(options: argparse.Namespace) -> None:
    targets = options.targets
    if not targets and options.model_name_or_path is None:
        raise UsageError("name the folder of an adapter, of a run or of a model")
    least = {"num_answers": 0, "max_new_tokens": 1, "shots": 0, "choices_per_subject": 1, "micro_batch_tokens": 1}
    for name, smallest in least.items():
        if (value := getattr(options, name)) is not None and value < smallest:
            raise UsageError(f"--{name} {value}: expected at least {smallest}")
    if options.gate and not options.compare and len(targets) < 2:
        raise UsageError("--gate: a verdict compares two models; add --compare, or name a second one")
    if options.no_probe and options.probe_file:
        raise UsageError("--no_probe and --probe_file: give one of them")
    if not options.choices and (options.choices_per_subject or options.choices_by != str(ChoicesBy.LIKELIHOOD)):
        raise UsageError("--choices_by and --choices_per_subject: no --choices folder is given")


# ---- what is asked


def _prepared(options: argparse.Namespace, places_by_name: dict[str, "Places"]) -> tuple["Request", dict[Any, Any]]:
    """All that is asked, in the ids of each target's tokenizer; what is wrong with it is said before weights load."""
    from yangtuo.evaluation.job import Request, key_of, questions_of
    from yangtuo.evaluation.text_scores import check_packages
    from yangtuo.inference import load

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
    request = Request(
        folder=_folder(options),
        rows=rows.encoded if rows else None,
        data=[],
        num_answers=options.num_answers,
        max_new_tokens=options.max_new_tokens,
        items=items,
        benchmarks=benchmarks,
        max_cells=options.micro_batch_tokens,
    )
    model, kwargs = model_arguments(options), object_of("chat_template_kwargs", options.chat_template_kwargs)
    prepared = {}
    for places in places_by_name.values():
        tokenizer = load.find_tokenizer(places, model)
        template = load.find_template(places, tokenizer, options.template, kwargs, is_tuned=places.adapter is not None)
        if (key := key_of(tokenizer, template)) not in prepared:
            questions = questions_of(request, tokenizer, template)
            prepared[key] = questions
            if rows and questions.own:
                request.data[:] = rows.told(questions.own.rows.examples)
    if len({template for _, template in prepared}) > 1:
        logger.warning("templates: each model is asked in its own, and they differ; --template names one for all")
    return request, prepared


def _own_rows(options: argparse.Namespace) -> "ValidationRows | None":
    """The rows that were named, else those that the last run among the targets was evaluated on."""
    from yangtuo.training.run_folder import run_of
    from yangtuo.training.validation_rows import OF_FILES, OF_ROWS, rows_of

    runs = [run for target in options.targets if (run := run_of(Path(target).expanduser()))]
    given = {name: getattr(options, name) for name in (*OF_FILES, *OF_ROWS) if getattr(options, name) is not None}
    return rows_of(runs[-1] if runs else None, given)


def _items(options: argparse.Namespace) -> Any:
    from yangtuo.evaluation.probe_items import bundled_items, read_items

    if options.no_probe:
        return ()
    return read_items(map(Path, options.probe_file)) if options.probe_file else bundled_items()


def _benchmarks(options: argparse.Namespace) -> list[Any]:
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
        raise UsageError(f"--choices: two folders of {names[0]}; give one of each")
    return found


def _folder(options: argparse.Namespace) -> Path:
    from yangtuo.evaluation.results import FOLDER
    from yangtuo.training.run_folder import ADAPTER_FOLDER, run_of

    if options.output_dir:
        return Path(options.output_dir).expanduser()
    for target in reversed(options.targets):
        place = Path(target).expanduser()
        if run := run_of(place):  # another adapter of the run, such as best/, has a folder of its own
            return run / FOLDER if place == run or place.name == ADAPTER_FOLDER else run / FOLDER / place.name
    return Path(FOLDER)


# ---- whom


def _all_places(options: argparse.Namespace) -> dict[str, "Places"]:
    """By the names that models have in the results.

    Raises:
        UserError: a model is not there, or is to be compared with itself.
    """
    targets = options.targets or [options.model_name_or_path]
    found = [places_of(target, options) for target in targets]
    if len({(_same(places.base), _same(places.adapter)) for places in found}) < len(found):
        raise UsageError(f"{' '.join(targets)}: the same folder twice")
    if options.compare and found[0].adapter is None:
        _check_base(found[0], options)
    if len(targets) == 1:
        is_tuned = found[0].adapter is not None or options.compare
        return {"tuned" if is_tuned else "model": found[0]}
    names = [_name_of(target) for target in targets]
    taken = ("answers", *(("base",) if options.compare else ()))  # answers.jsonl has its name already
    if len({*names, *taken}) < len(names) + len(taken):
        names = [f"{number}-{name}" for number, name in enumerate(names, start=1)]
    return dict(zip(names, found, strict=True))


def _check_base(places: "Places", options: argparse.Namespace) -> None:
    """Of a model without an adapter beside it, which --compare compares with the base that is named."""
    from yangtuo.inference import load

    named = options.model_name_or_path
    if named is None:
        raise UsageError("--compare: a model without an adapter beside it; give its base as --model_name_or_path")
    if _same(load.model_folder(named, model_arguments(options))) == _same(places.base):
        raise UsageError(f"--compare: {named} would be compared with itself; name the tuned model, and its base so")


def _same(folder: Path | None) -> str:
    return "" if folder is None else os.path.realpath(folder)


def _name_of(target: str) -> str:
    """The folder's name, or that of the run whose adapter it is."""
    from yangtuo.training.run_folder import ADAPTER_FOLDER

    place = Path(os.path.abspath(Path(target).expanduser()))
    return (place.parent.name if place.name == ADAPTER_FOLDER else place.name) or "model"


def _models(options: argparse.Namespace, places_by_name: dict[str, "Places"]) -> Iterator["Asked"]:
    """Each model in turn; with --compare the base of the first before it."""
    from yangtuo.evaluation.measuring import asked_of
    from yangtuo.inference import load
    from yangtuo.model.base import detect_hardware

    hardware, model = detect_hardware(options.use_cpu), model_arguments(options)
    kwargs = object_of("chat_template_kwargs", options.chat_template_kwargs)
    for number, (name, places) in enumerate(places_by_name.items()):
        is_first = number == 0 and options.compare
        opened = load.open_model(places, model, options.template, hardware, lora_arguments(options), kwargs)
        if is_first:
            yield _base_of(opened, options)
        yield asked_of(name, opened, opened.loaded, places.adapter)
        del opened  # the next one needs its memory


def _base_of(opened: "Opened", options: argparse.Namespace) -> "Asked":
    from yangtuo.evaluation.measuring import asked_of
    from yangtuo.inference import load
    from yangtuo.model.base import detect_hardware

    if opened.loaded_base is not None:
        return asked_of("base", opened, opened.loaded_base, None)
    folder = load.model_folder(options.model_name_or_path, model_arguments(options))
    alone = load.open_base(folder, model_arguments(options), opened, detect_hardware(options.use_cpu))
    beside = load.Opened(load.Places(folder, None), opened.config, opened.template, alone, None)
    return asked_of("base", beside, alone, None)
