"""A model folder with more vocabulary rows: embedding and head grown, all other tensors copied, one at a time."""

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from yangtuo import output
from yangtuo.data.tokenizer import Tokenizer, is_tokenizer_folder, open_tokenizer
from yangtuo.errors import ModelError, RunFailure, WriteError
from yangtuo.model.weight_files import (
    MOST_SHARD_BYTES,
    Spec,
    WeightFiles,
    open_weights,
    shards,
    write_index,
    write_shard,
)
from yangtuo.vocab.grow import Growth, grow, plan_growth

logger = logging.getLogger(__name__)

_EMBEDDING, _HEAD = "embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class Plan:
    """What is to be written.

    Attributes:
        base: the old weights.
        config: the new config.json.
        tokenizer: the new tokenizer.
        growth: which rows embedding and head get.
        specs: shape and dtype of every tensor to be written.
        grown: names of the tensors that grow.
    """

    base: WeightFiles
    config: dict[str, Any]
    tokenizer: Tokenizer
    growth: Growth
    specs: dict[str, Spec]
    grown: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        """Of the weights to be written."""
        return sum(spec.num_bytes for spec in self.specs.values())


def plan(model: Path, tokenizer_folder: Path, *, from_pieces: bool) -> Plan:
    """Look at model and tokenizer; reads headers, the small files, and a tied head that is stored apart.

    Args:
        model: model folder, safetensors or `.bin`.
        tokenizer_folder: the grown tokenizer.
        from_pieces: new rows are means over the pieces of the model's own tokenizer, where its folder has one.

    Raises:
        ModelError: the model cannot be used, or has enough rows.
        TokenizerError: a tokenizer cannot be used, or does not continue the model's own.
    """
    config = _config(model)
    new = open_tokenizer(tokenizer_folder)
    base = open_weights(model)
    embedding = _only(base, _EMBEDDING, model)
    heads = [name for name in base.specs if name.endswith(_HEAD)]
    if len(heads) > 1 or any(name.endswith("lm_head.bias") for name in base.specs):
        raise ModelError(
            "{model}: several heads, or a head with a bias; only one plain lm_head can be grown", model=model
        )
    grown = [embedding, *heads]
    num_rows = base.specs[embedding].shape[0]
    for name in grown:
        if base.specs[name].shape[0] != num_rows:
            raise ModelError(
                "{model}: {name} has {shape:,} rows, {embedding} {num_rows:,}",
                model=model,
                name=name,
                shape=base.specs[name].shape[0],
                embedding=embedding,
                num_rows=num_rows,
            )
    if num_rows >= new.num_tokens:
        raise ModelError(
            "{model}: it has {num_rows:,} rows, and {tokenizer_folder} needs {num_tokens:,}; nothing to do (rows are "
            "never taken away)",
            model=model,
            num_rows=num_rows,
            tokenizer_folder=tokenizer_folder,
            num_tokens=new.num_tokens,
        )
    dropped: list[str] = []
    if heads and config.get("tie_word_embeddings", False):
        if torch.equal(base.get(heads[0]), base.get(embedding)):
            dropped = heads  # transformers gives it the embedding's values
        else:
            raise ModelError(
                "{model}: config.json ties head and embedding, but the files hold two different ones; correct "
                '"tie_word_embeddings" first',
                model=model,
            )
    grown = [name for name in grown if name not in dropped]
    growth = plan_growth(new, _own_tokenizer(model, num_rows) if from_pieces else None, num_rows)
    specs = {
        name: Spec((growth.num_rows, *spec.shape[1:]), spec.dtype) if name in grown else spec
        for name, spec in base.specs.items()
        if name not in dropped
    }
    holder = config.get("text_config")
    holder = holder if isinstance(holder, dict) and "vocab_size" not in config else config
    holder["vocab_size"] = growth.num_rows
    return Plan(base, config, new, growth, specs, tuple(grown))


def _config(model: Path) -> dict[str, Any]:
    path = model / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError("{model}: no config.json there; name the folder of a model", model=model) from None
    except (OSError, ValueError) as error:
        raise ModelError("{path}: cannot be read: {error}", path=path, error=error) from error
    if not isinstance(config, dict):
        raise ModelError("{path}: no JSON object", path=path)
    if "quantization_config" in config:
        raise ModelError("{model}: quantised weights; give the 16-bit or float32 model", model=model)
    return config


def _only(base: WeightFiles, ending: str, model: Path) -> str:
    found = [name for name in base.specs if name.endswith(ending)]
    if len(found) != 1:
        raise ModelError(
            "{model}: {num_found} tensors named ...{ending}; one is needed, as LLaMA's models have it",
            model=model,
            num_found=len(found),
            ending=ending,
        )
    return found[0]


def _own_tokenizer(model: Path, num_rows: int) -> Tokenizer | None:
    if not is_tokenizer_folder(model):
        logger.warning("%s: no tokenizer in it; new rows are the mean of all %s old ones", model, f"{num_rows:,}")
        return None
    own = open_tokenizer(model)
    if own.num_tokens > num_rows:
        raise ModelError(
            "{model}: its tokenizer has {num_tokens:,} tokens, its weights {num_rows:,} rows; put its own tokenizer "
            "there, or use --init mean",
            model=model,
            num_tokens=own.num_tokens,
            num_rows=num_rows,
        )
    return own


def write(plan: Plan, folder: Path, *, most_shard_bytes: int = MOST_SHARD_BYTES) -> None:
    """Write the grown model into an existing folder, then reopen it and compare.

    Holds one tensor in memory: the grown embedding.

    Raises:
        RunFailure: writing failed, or what was written is not what was meant.
    """
    files = shards(plan.specs, most_shard_bytes)

    def value(name: str) -> torch.Tensor:
        tensor = plan.base.get(name)
        return grow(tensor, plan.growth) if name in plan.grown else tensor

    for file, names in files.items():
        write_shard(folder / file, plan.specs, names, value)
    try:
        write_index(folder, plan.specs, files)
        plan.tokenizer.save(folder)
        old = plan.base.folder / "generation_config.json"
        if old.is_file():
            shutil.copyfile(old, folder / old.name)
        text = json.dumps(plan.config, ensure_ascii=False, indent=2) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")
    except OSError as error:
        raise WriteError("{folder}: cannot be written: {reason}", folder=folder, reason=output.reason(error)) from error
    _prove(plan, open_weights(folder))


def _prove(plan: Plan, written: WeightFiles) -> None:
    if dict(written.specs) != plan.specs:
        raise RunFailure("{folder}: the written tensors are not those that were meant", folder=written.folder)
    for name in plan.grown:
        new, num_kept = written.get(name), plan.growth.num_kept
        same = torch.equal(new[:num_kept], plan.base.get(name)[:num_kept])
        if not same or not torch.isfinite(new[num_kept:]).all():
            raise RunFailure(
                "{folder}: {name} lost old rows, or has new ones that are not finite", folder=written.folder, name=name
            )
