"""Our own options of how a run behaves; the others are in `schema`."""

from dataclasses import dataclass
from typing import ClassVar

from yangtuo.config.choices import LossReduction
from yangtuo.config.option_field import Decides, option


@dataclass(frozen=True)
class RunArguments:
    """How the run behaves."""

    group: ClassVar[str] = "the run"

    loss_reduction: LossReduction = option(
        LossReduction.TOKEN,
        "token: mean over the step's supervised tokens; device_batch: as the 2023 script, the mean over each group "
        "of per_device_train_batch_size rows, then over groups.",
        decides=Decides.RESULT,
    )
    micro_batch_tokens: str = option(
        "auto",
        "Most tokens of one forward and backward, prefixes that rows share counted once; changes speed and memory, "
        "not the result. auto: from the free memory, and halved when it runs out.",
        decides=Decides.NOTHING,
    )
    save_minutes: float = option(
        10.0,
        "Also save a checkpoint when this many minutes have passed since the last one; 0 for never.",
        decides=Decides.NOTHING,
    )
    watchdog_minutes: float = option(
        10.0,
        "With several processes: end the run, naming who is missing, when one has waited this long for another that "
        "does not go on or does not answer; 0 for never.",
        decides=Decides.NOTHING,
    )
    early_stopping_patience: int | None = option(
        None,
        "End the run when this many evaluations in a row have not bettered the best one before them (by "
        "--metric_for_best_model, else the loss). Default: all steps are made.",
        decides=Decides.RESULT,
    )
    early_stopping_threshold: float = option(
        0.0,
        "With --early_stopping_patience: by how much at least an evaluation has to be better.",
        decides=Decides.RESULT,
    )
    extend: bool = option(
        False,
        "Go on from the last checkpoint of a finished run in the output folder, with the larger --max_steps or "
        "--num_train_epochs given now; the schedule is that of the longer run from there on.",
        decides=Decides.NOTHING,
    )
    sample_prompts: str | None = option(
        None,
        "Answer a few prompts greedily before the first step and at each evaluation, for log.jsonl and the screen: a "
        "file (.txt with a prompt a line; .json, .jsonl with rows), or validation, or validation:8 for 8 of its rows.",
        decides=Decides.NOTHING,
    )
    sample_tokens: int = option(128, "Most tokens of an answer of --sample_prompts.", decides=Decides.NOTHING)
    overwrite_output_dir: bool = option(
        False,
        "Start although the output folder holds another run: that folder is renamed, never deleted. An unfinished "
        "run of the same recipe is resumed with or without this flag.",
        decides=Decides.NOTHING,
    )
    force_learning_rate: bool = option(
        False, "Train at a rate over a hundred times the published one. Default: an error.", decides=Decides.NOTHING
    )
    report: bool = option(
        True,
        "Write report.html into the output folder when the run ends: the whole run as one page, see yangtuo report.",
        decides=Decides.NOTHING,
    )
