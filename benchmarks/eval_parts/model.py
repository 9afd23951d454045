"""The model that all contenders share, and how `yangtuo eval` asks it."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yangtuo.config.schema import ModelArguments
from yangtuo.evaluation.measuring import Asked, asked_of, measure
from yangtuo.evaluation.records import Entry, Records
from yangtuo.evaluation.tasks import AnswerTask, LikelihoodTask
from yangtuo.inference.load import Opened, Places, open_model
from yangtuo.model.processor import detect_hardware


@dataclass(frozen=True)
class Model:
    """A model on the CPU in float32.

    Attributes:
        folder: where it lies.
        opened: as yangtuo opens it.
        asked: as `yangtuo eval` asks it.
        max_cells: of a micro-batch; None to choose by the memory.
    """

    folder: Path
    opened: Opened
    asked: Asked
    max_cells: int | None

    @classmethod
    def open(cls, folder: Path, template: str | None, max_cells: int | None) -> "Model":
        """Load it.

        Raises:
            UserError: it cannot be used.
        """
        arguments = ModelArguments(model_name_or_path=str(folder), torch_dtype="float32")
        opened = open_model(Places(folder, None), arguments, template, detect_hardware(use_cpu=True))
        return cls(folder, opened, asked_of("base", opened, opened.loaded, None), max_cells)

    @property
    def network(self) -> Any:
        """As transformers runs it."""
        return self.opened.loaded.model

    def ask(self, task: LikelihoodTask | AnswerTask) -> dict[str, Entry]:
        """What `yangtuo eval` does with a task: the trial of the model, all batches, the lines on the disk."""
        with tempfile.TemporaryDirectory() as folder:
            records = Records(Path(folder) / "base.jsonl", self.asked.identity)
            measure(self.asked, [task], records, self.max_cells)
            return {key: records.get(task.identity, key) for key in task.keys}
