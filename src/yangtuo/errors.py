"""Everything that can go wrong by a cause outside this code, as one tree.

    YangtuoError                 one line on the screen, never a traceback
    ├── UserError                exit code 2: something that the user gave
    │   ├── UsageError             an option: unknown, contradictory, not possible here
    │   ├── DataError              a data file or a row of it
    │   ├── TokenizerError         a tokenizer folder
    │   ├── ModelError             a base model folder
    │   ├── AdapterError           a LoRA folder, or LoRA options that do not fit the base
    │   ├── RunFolderError         an output folder that holds another run
    │   └── MissingDependencyError an optional package that the options ask for
    └── RunFailure               exit code 1: the run itself failed
        ├── NonFiniteLossError     the loss became NaN or infinite
        ├── OutOfMemoryError       a step does not fit, however it is cut
        ├── CheckpointError        a checkpoint cannot be written
        ├── WriteError             another file cannot be written, as on a full disk
        ├── ProofError             what was made is not what it should be
        ├── PeerLostError          another process of the run is gone, or does not answer
        └── StoppedError           exit code 128 + signal: asked to stop, and did so with a checkpoint

A message says what was found, where, what is allowed and what to do next. Any other exception is a bug of ours and
shows its traceback.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from yangtuo.i18n import Listed, Message


class YangtuoError(Exception):
    """A failure with a known cause; `exit_code` is what the process returns.

    Its text is English; of `UsageError("--rank {rank}: at least 1", rank=0)` the screen says it in the reader's
    language. A text without values stands as it is, braces too.

    `is_second_hand` is True if the error happened on another rank, which reports it first.
    """

    exit_code = 1
    is_second_hand = False

    def __init__(self, text: str, /, **values: Any):
        super().__init__(Message(text, **values) if values else text)

    @property
    def text(self) -> str:
        """The English text, which `tr` says in another language where it is a `Message`."""
        text: str = self.args[0]
        return text


class UserError(YangtuoError):
    """Something that the user gave cannot be used."""

    exit_code = 2

    @classmethod
    def of_problems(cls, title: str, problems: Sequence[str], *, shown: int = 20) -> "UserError":
        """One error for all problems found, the first `shown` of them spelled out."""
        if len(problems) == 1:
            return cls("{title}: {problem}", title=title, problem=problems[0])
        lines = [Message("{title} ({num} problems):", title=title, num=len(problems))]
        lines += [Message("  {problem}", problem=problem) for problem in problems[:shown]]
        if len(problems) > shown:
            lines.append(Message("  ... and {num} more", num=len(problems) - shown))
        return cls(Listed(lines, "\n"))


class UsageError(UserError):
    """An option is unknown, contradicts another, or cannot be honoured here."""


class DataError(UserError):
    """A data file or a row of it cannot be used."""


class TokenizerError(UserError):
    """A tokenizer folder cannot be used."""


class ModelError(UserError):
    """A base model folder cannot be used."""


class AdapterError(UserError):
    """A LoRA folder cannot be used, or LoRA options do not fit the base."""


class RunFolderError(UserError):
    """The output folder holds something that this run may not touch."""


class MissingDependencyError(UserError):
    """An optional package is not installed."""


class RunFailure(YangtuoError):
    """The run started and failed."""


class NonFiniteLossError(RunFailure):
    """The loss of a step is NaN or infinite."""


class OutOfMemoryError(RunFailure):
    """A step does not fit in memory, and cannot be cut any further."""


class CheckpointError(RunFailure):
    """A checkpoint cannot be written or read; those that were complete before still are."""


class WriteError(RunFailure):
    """A file cannot be written; what was there before still is."""


class ProofError(RunFailure):
    """What was trained, merged or written, looked at again, is not what it should be."""


class PeerLostError(RunFailure):
    """Another process of the run is gone, or has not answered for long."""

    is_second_hand = True


class StoppedError(RunFailure):
    """A signal asked for the end, and the run has saved a checkpoint."""

    def __init__(self, text: str, signal_number: int):
        super().__init__(text)
        self.exit_code = 128 + signal_number


_SHOWN, _PART = 70, 34  # characters of a value


def one_line(error: object, most: int | None = None) -> str:
    """What a library says, line breaks and indents taken out, at most so many characters of it."""
    return " ".join(str(error).split())[:most]


def differences(old: Mapping[str, Any], new: Mapping[str, Any], of_old: str, of_new: str) -> list[str]:
    """What differs between two mappings of JSON values, each with both; of lists of pairs, the pairs that differ."""
    return [
        Message("{name}: {a} {of_old}, {b} {of_new}", name=name, a=_short(a), of_old=of_old, b=_short(b), of_new=of_new)
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
        for a, b in [_apart(old.get(name), new.get(name))]
    ]


def _apart(old: Any, new: Any) -> tuple[Any, Any]:
    if isinstance(old, list) and isinstance(new, list) and old and new:
        return [one for one in old if one not in new], [one for one in new if one not in old]
    return old, new


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_PART]}...{text[-_PART:]}"


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out, or that is what led to the error; Ascend's and Apple's have no type of their own.

    Also where a library has caught it and raised something else, as transformers does while it quantises.
    """
    while error is not None:
        names = {kind.__name__ for kind in type(error).__mro__}
        text = str(error).lower()
        is_told = "OutOfMemoryError" in names or "out of memory" in text or "alloc_failed" in text  # the last of cuBLAS
        if isinstance(error, RuntimeError) and is_told:
            return True
        error = error.__cause__ or error.__context__
    return False
