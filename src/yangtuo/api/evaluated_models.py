"""Which models an evaluation measures: where they lie, what they are called in its results, each loaded in its turn."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yangtuo.api.chat import ModelOptions
from yangtuo.config.choices import ChoicesBy
from yangtuo.config.json_values import object_of
from yangtuo.errors import UsageError
from yangtuo.inference.places import Places, model_folder, places_of

if TYPE_CHECKING:
    from yangtuo.evaluation.measuring import Asked
    from yangtuo.inference.load import Opened


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ModelOptions):
    """What is measured, by the names of the command line; see `yangtuo eval --help`.

    Attributes:
        targets: adapters, output folders of runs, merged models or bases; others are compared with the first.
        compare: whether the base is measured too, first.
        rows: options that say which own rows are read, and how; of those not given, the run's own hold.
        num_answers: how many of the own rows are answered at most.
        max_new_tokens: of an answer.
        no_probe: whether the built-in questions are left out.
        probe_file: files of questions in place of them.
        choices: folders with the files of C-Eval or CMMLU.
        choices_by: a word of `ChoicesBy`.
        shots: questions with answers before each.
        choices_per_subject: how many of each subject, its first; None for all.
        micro_batch_tokens: distinct tokens that are computed at once; None to choose by the memory.
        output_dir: where results are written; None for evaluation/ in the folder of the last run.
        gate: whether the caller wants a verdict that is better; it needs two models.
    """

    targets: Sequence[str] = ()
    compare: bool = False
    rows: Mapping[str, Any] = field(default_factory=dict)
    num_answers: int = 100
    max_new_tokens: int = 256
    no_probe: bool = False
    probe_file: Sequence[str] = ()
    choices: Sequence[str] = ()
    choices_by: str = str(ChoicesBy.LIKELIHOOD)
    shots: int = 5
    choices_per_subject: int | None = None
    micro_batch_tokens: int | None = None
    output_dir: str | None = None
    gate: bool = False


def all_places(options: EvaluateOptions) -> dict[str, Places]:
    """By the names that models have in the results.

    Raises:
        UserError: a model is not there, or is to be compared with itself.
    """
    targets = options.targets or tuple(filter(None, [options.model_name_or_path]))
    found = [places_of(target, options.model) for target in targets]
    if len({(_same(places.base), _same(places.adapter)) for places in found}) < len(found):
        raise UsageError("{targets}: the same folder twice", targets=" ".join(targets))
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


def _check_base(places: Places, options: EvaluateOptions) -> None:
    """Of a model without an adapter beside it, which --compare compares with the base that is named."""
    named = options.model_name_or_path
    if named is None:
        raise UsageError("--compare: a model without an adapter beside it; give its base as --model_name_or_path")
    if _same(model_folder(named, options.model)) == _same(places.base):
        raise UsageError(
            "--compare: {named} would be compared with itself; name the tuned model, and its base as "
            "--model_name_or_path",
            named=named,
        )


def _same(folder: Path | None) -> str:
    return "" if folder is None else os.path.realpath(folder)


def _name_of(target: str) -> str:
    """The folder's name, or that of the run whose adapter it is."""
    from yangtuo.training.run_folder import ADAPTER_FOLDER

    place = Path(os.path.abspath(Path(target).expanduser()))
    return (place.parent.name if place.name == ADAPTER_FOLDER else place.name) or "model"


def each_model(options: EvaluateOptions, places_by_name: dict[str, Places]) -> Iterator["Asked"]:
    """Each model in turn; with --compare the base of the first before it."""
    from yangtuo.evaluation.measuring import asked_of
    from yangtuo.inference import load
    from yangtuo.model.processor import detect_hardware

    hardware, model = detect_hardware(options.use_cpu), options.model
    kwargs = object_of("chat_template_kwargs", options.chat_template_kwargs)
    for number, (name, places) in enumerate(places_by_name.items()):
        is_first = number == 0 and options.compare
        opened = load.open_model(places, model, options.template, hardware, options.lora, kwargs)
        if is_first:
            yield _base_of(opened, options)
        yield asked_of(name, opened, opened.loaded, places.adapter)
        del opened  # the next one needs its memory


def _base_of(opened: "Opened", options: EvaluateOptions) -> "Asked":
    from yangtuo.evaluation.measuring import asked_of
    from yangtuo.inference import load
    from yangtuo.model.processor import detect_hardware

    if opened.loaded_base is not None:
        return asked_of("base", opened, opened.loaded_base, None)
    assert options.model_name_or_path is not None  # see `_check_base`
    folder = model_folder(options.model_name_or_path, options.model)
    alone = load.open_base(folder, options.model, opened, detect_hardware(options.use_cpu))
    beside = load.Opened(Places(folder, None), opened.config, opened.template, alone, None)
    return asked_of("base", beside, alone, None)
