"""Prompt templates: the text around a user's words. One implementation for training, evaluation and chat."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Template:
    """A single-turn prompt: `before` + the user's text + `after`; the answer and the end token follow.

    The two parts are kept apart so that a prompt that is too long can lose user text and never its frame.
    """

    name: str
    before: str
    after: str

    def prompt(self, user: str) -> str:
        """The text that the model reads before it answers."""
        return f"{self.before}{user}{self.after}"


# Source: scripts/training/build_dataset.py of ymcui/Chinese-LLaMA-Alpaca, v5. The blank at the very end belongs to it.
ALPACA_ZH = Template(
    name="alpaca_zh",
    before=(
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n"
    ),
    after="\n\n### Response: ",
)
