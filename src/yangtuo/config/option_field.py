"""A field of a dataclass that is also a command-line option, and what an option decides."""

from dataclasses import field
from enum import StrEnum
from typing import Any


class Decides(StrEnum):
    """What an option decides of a run's result. A run of the same result is the same run: it goes on, or is finished.

    A run's recipe is computed from this, see `training.recipe.record_recipe`.
    """

    RESULT = "result"  # by its value
    CONTENT = "content"  # by what it leads to: the bytes of files, the text of the template, the rows of a step
    EVALUATION = "evaluation"  # by its value, where anything is evaluated: the log, and which weights are the best
    FINAL = "final"  # by its value, where the best weights become the final ones (--load_best_model_at_end)
    NOTHING = "nothing"  # how the result is computed, shown or kept; what is allowed to go into it


def option(default: Any, help: str, *, decides: Decides, **metadata: Any) -> Any:
    """A dataclass field that is also a command-line option; `help` is its only documentation."""
    return field(default=default, metadata={"help": help, "decides": decides, **metadata})
