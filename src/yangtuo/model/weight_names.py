"""Do the files of a base hold what its config.json describes? Told by the names in their headers; imports no torch.

transformers leaves out weights that the configuration does not describe, with a warning that is easily missed: the
result is another model. Training refuses by transformers' own report once the weights are loaded; this finds the usual
kinds before, where nothing may be loaded.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from yangtuo.errors import ModelError

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_LAYER = re.compile(r"\.layers\.(\d+)\.")
_BIAS = re.compile(r"\.(?:self_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj)\.bias$")
# Families whose attention and MLP have no biases unless these fields say so. Source: transformers 5.23.
_WITHOUT_BIAS = ("llama", "mistral", "qwen3", "gemma", "gemma2", "gemma3_text", "granite", "smollm3")
_FIELDS = {"self_attn": "attention_bias", "mlp": "mlp_bias"}
_MOST_SHOWN = 4


def check_described(folder: Path) -> None:
    """Compare a base's files with its config.json.

    Raises:
        ModelError: weights lie there that the model would not use; they are named.
    """
    unused = sorted(_unused(_names(folder), _config(folder)))
    if unused:
        raise not_used(folder, unused)


def not_used(folder: Path, names: Sequence[str]) -> ModelError:
    """What is said of weights that are in the files and not in the model."""
    shown = ", ".join(names[:_MOST_SHOWN]) + (", ..." if len(names) > _MOST_SHOWN else "")
    return ModelError(
        "{folder}: {num_names} weights are in the files and are not used by the model that config.json describes: "
        "{shown}. Without them it is another model; mend config.json (num_hidden_layers, attention_bias, ...), or get "
        "the base from its source again",
        folder=folder,
        num_names=len(names),
        shown=shown,
    )


def _unused(names: Sequence[str], config: Mapping[str, Any]) -> Iterator[str]:
    num_layers, kind = config.get("num_hidden_layers"), config.get("model_type")
    extra = config.get("num_nextn_predict_layers") or 0  # layers that predict further tokens, which training leaves out
    for name in names:
        layer = _LAYER.search(name)
        if isinstance(num_layers, int) and layer and int(layer[1]) >= num_layers + extra:
            yield name
        elif kind in _WITHOUT_BIAS and _BIAS.search(name):
            field = next(field for part, field in _FIELDS.items() if part in name)
            if not config.get(field):
                yield name


def num_rows_of(folder: Path) -> int:
    """Rows of the vocabulary, by a base's config.json; 0 where it does not say.

    Raises:
        ModelError: it cannot be read.
    """
    config = _read_config(folder)
    text = config.get("text_config", config)
    return int(text.get("vocab_size") or 0) if isinstance(text, dict) else 0


def _config(folder: Path) -> Mapping[str, Any]:
    value = _read_config(folder)
    return {} if "text_config" in value else value  # layers of several towers are counted apart


def _read_config(folder: Path) -> Mapping[str, Any]:
    try:
        value = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError("{folder}: cannot be read: {error}", folder=folder / "config.json", error=error) from error
    return value if isinstance(value, dict) else {}


def _names(folder: Path) -> list[str]:
    """Of all tensors; none where they lie in files of another kind, or not at all."""
    try:
        if (folder / _INDEX).is_file():
            return list(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"])
        return [name for name in header(folder / _SINGLE) if name != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []  # whoever loads them says what is wrong


_MOST_HEADER_BYTES = 100_000_000  # the limit of the safetensors library


def header(file: Path) -> dict[str, Any]:
    """The JSON at the beginning of a safetensors file; empty where there is none, which others complain of."""
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            value = json.loads(opened.read(length)) if length <= _MOST_HEADER_BYTES else {}
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
