"""Kinds of GGUF: those that are written here, and those that llama.cpp makes of one; loads no torch."""

import shlex

from yangtuo.errors import UsageError

WRITTEN = ("f32", "f16", "q8_0")


def check_kind(kind: str | None, output_dir: str) -> None:
    """Refuse what is not written here; of what llama.cpp makes, with the commands that make it.

    Raises:
        UsageError: it is none of WRITTEN.
    """
    if kind is None or kind in WRITTEN:
        return
    from gguf import LlamaFileType

    name = kind.upper().replace("-", "_")
    if f"MOSTLY_{name}" in LlamaFileType.__members__:
        files = (f"{output_dir.rstrip('/')}/model-{one}.gguf" for one in ("f16", name.lower()))
        raise UsageError(
            "--gguf {kind}: llama.cpp makes it of an f16 file; give --gguf f16, then: {command}",
            kind=kind,
            command=shlex.join(["llama-quantize", *files, name]),
        )
    raise UsageError("--gguf {kind}: no such kind; there are {written}", kind=kind, written=", ".join(WRITTEN))
