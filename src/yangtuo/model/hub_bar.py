"""The bar of a model that is fetched from Hugging Face."""

import sys
from typing import Any, ClassVar

from tqdm import tqdm

from yangtuo.logs import rank


class Bar(tqdm):  # type: ignore[type-arg]  # generic for type checkers alone
    """Of huggingface_hub: one rank's, and where it is no terminal that reads, a line of it each half minute."""

    _open: ClassVar[list["Bar"]] = []

    def __init__(self, *args: Any, **how: Any) -> None:
        from huggingface_hub.utils import are_progress_bars_disabled  # type: ignore[attr-defined]

        how["disable"] = rank() != 0 or are_progress_bars_disabled()
        if not sys.stderr.isatty():
            how["mininterval"] = 30.0
        super().__init__(*args, **how)
        self._open.append(self)

    @classmethod
    def close_all(cls) -> None:
        """The library leaves them open, so that they were drawn once more at the end of the process, below all else."""
        while cls._open:
            cls._open.pop().close()
