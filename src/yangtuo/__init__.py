"""yangtuo (羊驼): instruction-tune Chinese LLaMA-family models with LoRA.

    import yangtuo

    run = yangtuo.train(model_name_or_path="path/to/model", train_file="rows.json", output_dir="out")
    print(yangtuo.load(run.output_dir).ask("你好").text)

Options are keyword arguments with the names of the command line; errors are exceptions of `yangtuo.errors`. Nothing is
printed: what is said goes to the standard logger `yangtuo`. Importing this loads no torch; a function does, when it is
called. The command line is `yangtuo` (`cli/`, a file a verb); the story of a training run is `training/run.py`.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from yangtuo.api.chat import Chat, load
    from yangtuo.api.check import CheckResult, check
    from yangtuo.api.encode import EncodedRow, encode
    from yangtuo.api.evaluate import EvaluateResult, evaluate
    from yangtuo.api.export import ExportResult, export
    from yangtuo.api.merge import MergeResult, merge
    from yangtuo.api.preview import PreviewRow, preview
    from yangtuo.api.train import TrainResult, train
    from yangtuo.errors import RunFailure, UserError, YangtuoError

__all__ = [
    "Chat",
    "CheckResult",
    "EncodedRow",
    "EvaluateResult",
    "ExportResult",
    "MergeResult",
    "PreviewRow",
    "RunFailure",
    "TrainResult",
    "UserError",
    "YangtuoError",
    "check",
    "encode",
    "evaluate",
    "export",
    "load",
    "merge",
    "preview",
    "train",
]

_MODULES = {
    **dict.fromkeys(("Chat", "load"), "api.chat"),
    **dict.fromkeys(("CheckResult", "check"), "api.check"),
    **dict.fromkeys(("EncodedRow", "encode"), "api.encode"),
    **dict.fromkeys(("EvaluateResult", "evaluate"), "api.evaluate"),
    **dict.fromkeys(("ExportResult", "export"), "api.export"),
    **dict.fromkeys(("MergeResult", "merge"), "api.merge"),
    **dict.fromkeys(("PreviewRow", "preview"), "api.preview"),
    **dict.fromkeys(("TrainResult", "train"), "api.train"),
    **dict.fromkeys(("RunFailure", "UserError", "YangtuoError"), "errors"),
}


if not TYPE_CHECKING:  # a type checker would take every name for one that there is

    def __getattr__(name: str) -> Any:
        """What `import yangtuo` offers, imported when it is first asked for."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
