"""Is this the base that the adapter was trained on? Told by values sampled from the weights, quick on 70B too.

A few values of many tensors are compared, on the rows that both have. Of the same dtype they must be equal; of another
dtype, equal within its rounding. So the same base in another dtype, or with a grown vocabulary, is the same base, and
one that anything was merged into, or that was trained further, is not.
"""

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from yangtuo.data.tokenizer import Tokenizer, is_tokenizer_folder, open_tokenizer
from yangtuo.errors import AdapterError, ModelError
from yangtuo.i18n import Message, shortened
from yangtuo.model import provenance
from yangtuo.model.dtypes import ROUNDING, name_of
from yangtuo.model.layer_values import value_of
from yangtuo.model.weight_files import WeightFiles, open_weights

logger = logging.getLogger(__name__)

_MOST_TENSORS, _NUM_PLACES, _RUN = 256, 2, 4  # values are read in runs, each from one page of the file
_CONFIG_FIELDS = (  # what decides the computation, and is spelled alike in every version of transformers
    *("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps", "rope_theta", "sliding_window"),
)
MERGED_KEY = "yangtuo_merged"  # in a merged model's config.json, since files beside it are easily left behind
_SMALLEST_HALF = 2.0**-24  # below it float16 knows nothing


def of_base(name: str, folder: Path, config: PreTrainedConfig) -> dict[str, Any]:
    """The fingerprint of a base model's folder, JSON values.

    Raises:
        ModelError: weights that cannot be read.
    """
    weights = open_weights(folder)
    samples = {
        tensor: {
            "shape": list(weights.specs[tensor].shape),
            "dtype": name_of(weights.specs[tensor].dtype),
            "values": [float(f"{value:.9g}") for value in _sample(weights, tensor, weights.specs[tensor].shape)],
        }
        for tensor in _chosen(weights)
    }
    return {
        "name": name,
        "config": _of_config(config),
        "num_rows": config.get_text_config().vocab_size,
        "merged_before": merged_into(folder),
        "samples": samples,
    }


def merged_into(folder: Path) -> list[str]:
    """SHA-256 of the adapters that were merged into this model, in order, as its config.json tells."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return list(map(str, config.get(MERGED_KEY) or ()))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ModelError("{folder}: cannot be read: {error}", folder=folder / "config.json", error=error) from error


def check(
    adapter: Path, base: Path, config: PreTrainedConfig, *, merged: Sequence[str] = (), force: bool = False
) -> dict[str, Any] | None:
    """Compare an adapter's provenance with the base that it is to be put on; returns the provenance.

    Args:
        adapter: its folder. Without one (2023's, other programs') nothing is known, which is said.
        base: the folder of the base.
        config: of the base.
        merged: SHA-256 of adapters that are merged into the base in memory before this one.
        force: `--force_base`: say what differs instead of refusing it.

    Raises:
        AdapterError: it was trained on something else; both sides are named, and what differs.
    """
    known = provenance.read(adapter)
    if known is None:
        logger.warning(
            "%s: no fingerprint of its base in it (another program's, or of 2023); whether it belongs to %s is "
            "unverified",
            adapter,
            base,
        )
        return None
    problems = [*_of_order(known, base, merged), *_of_tokenizer(known, adapter)]
    problems += _of_sizes(known["base"], config)
    if merged_into(base) == known["base"]["merged_before"]:
        problems += _of_values(known["base"], base, config)
    elif not problems:
        logger.warning("%s: its base is told by what was merged into it, not by its values", adapter)
    if not problems:
        return known
    there, here = known["base"], of_base(str(base), base, config)
    text = Message(
        "{adapter} was trained on {name} ({num_rows:,} rows, fingerprint {there}), this is {base} ({num_rows_here:,} "
        "rows, fingerprint {here}): {problems}",
        adapter=adapter,
        name=there["name"],
        num_rows=there["num_rows"],
        there=short(there),
        base=base,
        num_rows_here=here["num_rows"],
        here=short(here),
        problems=shortened(problems, 3),
    )
    if not force:
        raise AdapterError("{text}. Give the base that it was trained on", text=text)
    logger.warning("%s; taken nevertheless (--force_base)", text)
    return known


def check_tokenizer(known: Mapping[str, Any] | None, adapter: Path, tokenizer: Tokenizer, *, force: bool) -> None:
    """Compare the tokenizer that is used with the one of the adapter's training.

    Raises:
        AdapterError: it is another one.
    """
    if known is None or tokenizer.sha256() == known["tokenizer"]["sha256"]:
        return
    text = Message(
        "{adapter} was trained with another tokenizer than the one in {folder}",
        adapter=adapter,
        folder=tokenizer.folder,
    )
    if not force:
        raise AdapterError("{text}. Give the tokenizer of its training", text=text)
    logger.warning("%s; taken nevertheless (--force_base)", text)


def short(fingerprint: Mapping[str, Any]) -> str:
    """Eight digits of a hash over it, for messages."""
    parts = [fingerprint["config"], fingerprint["samples"]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def _of_order(known: Mapping[str, Any], base: Path, merged: Sequence[str]) -> list[str]:
    """Adapters that have to be in the base already, in this order."""
    stack = [one["sha256"] for one in known.get("stack", ())]
    wanted, found = [*known["base"]["merged_before"], *stack], [*merged_into(base), *merged]
    if wanted == found:
        return []
    folders = {one["sha256"]: one["folder"] for one in known.get("stack", ())}
    missing = [sha for sha in wanted if sha not in found]
    if missing:
        listed = ", ".join(f"{folders.get(sha, 'adapter')} (SHA-256 {sha[:8]})" for sha in missing)
        return [
            Message(
                "it was trained on top of {listed}, which has to be merged first: yangtuo merge --peft_path THAT,THIS",
                listed=listed,
            )
        ]
    extra = [sha for sha in found if sha not in wanted]
    if held := provenance.continued(known, extra):
        folder = held[0]["folder"]
        return [
            Message(
                "{folder} is merged into it, which this adapter continues: what it learned would be in twice",
                folder=folder,
            )
        ]
    if extra:
        listed = ", ".join(sha[:8] for sha in extra)
        return [
            Message("adapters are merged into it that were not there in training (SHA-256 {listed})", listed=listed)
        ]
    return [Message("the same adapters are merged into it in another order")]


def _of_tokenizer(known: Mapping[str, Any], adapter: Path) -> list[str]:
    if not is_tokenizer_folder(adapter) or open_tokenizer(adapter).sha256() == known["tokenizer"]["sha256"]:
        return []
    return [Message("the tokenizer in {adapter} is not the one that it was trained with", adapter=adapter)]


def _of_sizes(there: Mapping[str, Any], config: PreTrainedConfig) -> list[str]:
    here = _of_config(config)
    return [
        Message("{key} is {value} there, {here} here", key=key, value=value, here=here[key])
        for key, value in there["config"].items()
        if key in here and here[key] != value
    ]


def _of_values(there: Mapping[str, Any], base: Path, config: PreTrainedConfig) -> Iterator[str]:
    weights = open_weights(base)
    tied = getattr(config, "tie_word_embeddings", False)
    for name, sample in there["samples"].items():
        spec = weights.specs.get(name)
        if spec is None:
            if not (tied and name.startswith("lm_head")):
                yield Message("no {name} here", name=name)
        elif list(spec.shape[1:]) != sample["shape"][1:] or (
            spec.shape[0] != sample["shape"][0] and len(spec.shape) < 2
        ):
            yield Message(
                "{name} has shape {shape} there, {here} here",
                name=name,
                shape=sample["shape"],
                here=list(spec.shape),
            )
        elif not _agree(sample, _sample(weights, name, sample["shape"]), spec.dtype):
            yield Message("{name} has other values", name=name)


def _agree(sample: Mapping[str, Any], found: Sequence[float | None], dtype: torch.dtype) -> bool:
    """Equal as far as both have the row; of two dtypes, within the coarser one's rounding."""
    same = sample["dtype"] == name_of(dtype)
    other: torch.dtype = getattr(torch, sample["dtype"])
    size = 0.0 if same else 2 * max(ROUNDING[dtype], ROUNDING[other])
    least = 0.0 if same else _SMALLEST_HALF
    return all(
        here is None
        or (math.isnan(here) and math.isnan(value))
        or abs(here - value) <= 1e-8 * abs(value) + size * abs(value) + least
        for here, value in zip(found, sample["values"], strict=True)
    )


def _chosen(weights: WeightFiles) -> list[str]:
    """Tensors from all over the model: in the order of a hash, so that no kind of layer is left out by its number."""
    names = [name for name, spec in weights.specs.items() if spec.dtype in ROUNDING and "rotary_emb" not in name]
    ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    chosen = set(ranked[:_MOST_TENSORS])
    return [name for name in weights.specs if name in chosen]  # in the order of the files, each opened once


def _sample(weights: WeightFiles, name: str, shape: Sequence[int]) -> list[float | None]:
    """Values of a tensor at places that follow from its name and `shape`; None where it lacks the row."""
    rows, width = (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))
    num_here = weights.specs[name].shape[0] if len(shape) > 1 else 1
    values: list[float | None] = []
    for place in range(_NUM_PLACES):
        digest = hashlib.sha256(f"{name} {place}".encode()).digest()
        row = int.from_bytes(digest[:8], "little") % rows
        column = int.from_bytes(digest[8:16], "little") % max(1, width - _RUN + 1)
        taken = min(_RUN, width)
        if row < num_here:
            line = weights.row(name, row) if len(shape) > 1 else weights.get(name)
            values += line.reshape(-1)[column : column + taken].float().tolist()
        else:
            values += [None] * taken
    return values


def _of_config(config: PreTrainedConfig) -> dict[str, Any]:
    text = config.get_text_config()
    values = {name: value_of(text, name) for name in _CONFIG_FIELDS}
    rope = getattr(text, "rope_parameters", None) or {}
    values["rope_theta"] = values["rope_theta"] or rope.get("rope_theta")
    values["rope_type"] = rope.get("rope_type")
    return {name: value for name, value in values.items() if isinstance(value, int | float | str)}
