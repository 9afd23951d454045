"""LoRA options: what they mean, and whether they fit the base, or the adapter that is continued."""

import logging
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from peft import LoraConfig, TaskType
from torch import nn
from transformers import PreTrainedModel

from yangtuo.config.schema import LoraArguments
from yangtuo.errors import AdapterError
from yangtuo.i18n import Message
from yangtuo.model import lora_targets
from yangtuo.model.adapter_files import SavedAdapter
from yangtuo.model.architecture import Published, parts_without_text
from yangtuo.model.lora_checks import pattern
from yangtuo.model.lora_targets import Targets, layers
from yangtuo.model.lora_targets import split as names

logger = logging.getLogger(__name__)


def check_contradictions(
    saved: SavedAdapter, lora: LoraArguments, given: Collection[str], modules: Mapping[str, nn.Module]
) -> None:
    """Compare LoRA options with the adapter that is to be continued; equal ones are fine.

    Raises:
        AdapterError: every option whose value is not the adapter's.
    """
    problems: list[str] = []
    for name, asked, there in _differing(saved, lora, given, modules):
        told = Message("--{name} {asked}: the adapter has {there}", name=name, asked=_shown(asked), there=_shown(there))
        if name != "modules_to_save":
            problems.append(told)
        elif not there <= asked:  # more are added
            problems.append(
                Message("{told}; to leave modules out or to freeze them, give --modules_to_save_policy", told=told)
            )
    if problems:
        raise AdapterError.of_problems(
            Message("options contradict the adapter {folder}, which decides; remove the line", folder=saved.folder),
            problems,
        )


def _differing(
    saved: SavedAdapter, lora: LoraArguments, given: Collection[str], modules: Mapping[str, nn.Module]
) -> Iterator[tuple[str, Any, Any]]:
    """Options that were given and have another value than the adapter: each with its value and the adapter's."""
    config = saved.config
    targets = config.target_modules
    asked: Any = set(names(lora.trainable))
    if not isinstance(targets, str):
        targets = set(targets or ())
        if targets != asked or config.target_parameters:
            # Of all-linear, PEFT writes each layer's name.
            of_parameters = [name.removesuffix(".weight") for name in config.target_parameters or ()]
            asked = lora_targets.resolve(lora, modules).names
            targets = {lora_targets.last(name) for name in (*targets, *of_parameters)}
    of_adapter = {
        "lora_rank": config.r,
        "lora_alpha": float(config.lora_alpha),
        "trainable": targets,
        "modules_to_save": _full(saved),
        "train_new_tokens_only": bool(config.trainable_token_indices),
        "use_rslora": bool(config.use_rslora),
        "use_dora": bool(config.use_dora),
        "rank_pattern": _floats(config.rank_pattern),
        "alpha_pattern": _floats(config.alpha_pattern),
        "layers_to_transform": _listed(config.layers_to_transform),
        "init_lora_weights": "true",
    }
    of_options = {
        "lora_rank": lora.lora_rank,
        "lora_alpha": lora.lora_alpha,
        "trainable": asked,
        "modules_to_save": set(names(lora.modules_to_save)),
        "train_new_tokens_only": lora.train_new_tokens_only,
        "use_rslora": lora.use_rslora,
        "use_dora": lora.use_dora,
        "rank_pattern": pattern("rank_pattern", lora.rank_pattern),
        "alpha_pattern": pattern("alpha_pattern", lora.alpha_pattern),
        "layers_to_transform": layers(lora.layers_to_transform),
        "init_lora_weights": lora.init_lora_weights.lower(),
    }
    for name, value in of_options.items():
        if name in given and value != of_adapter[name]:
            yield name, value, of_adapter[name]


def _full(saved: SavedAdapter) -> set[str]:
    return set(saved.config.modules_to_save or ())


def _floats(values: Mapping[str, Any] | None) -> dict[str, float]:
    return {name: float(value) for name, value in (values or {}).items()}


def _listed(value: Any) -> list[int] | None:
    return None if value is None else [value] if isinstance(value, int) else sorted(value)


def _shown(value: Any) -> str:
    if isinstance(value, set | list):
        return ",".join(map(str, sorted(value))) or "none"
    if isinstance(value, dict):
        return ",".join(f"{name}:{number:g}" for name, number in value.items()) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def new_config(
    model: PreTrainedModel, lora: LoraArguments, new_tokens: Sequence[int], published: Published | None = None
) -> LoraConfig:
    """PEFT's configuration of a new LoRA on this base."""
    tied, full = is_tied(model), names(lora.modules_to_save)
    parts = parts_without_text(model)
    targets = lora_targets.resolve(lora, dict(model.named_modules()), parts)
    _tell(lora, targets, model, parts)
    ranks = {name: int(rank) for name, rank in pattern("rank_pattern", lora.rank_pattern).items()}
    chosen = layers(lora.layers_to_transform)
    begin: Any = lora.init_lora_weights.lower()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # PEFT would convert PiSSA with rsLoRA to another scale; here that is done right
        return LoraConfig(
            task_type=TaskType.CAUSAL_LM,
            r=lora.lora_rank,
            lora_alpha=lora.lora_alpha,
            lora_dropout=0.0 if targets.parameters else lora.lora_dropout,  # see `adapters.attach_new`
            target_modules=list(targets.modules),
            target_parameters=list(targets.parameters) or None,
            exclude_modules=_pattern_of([*parts, *(published.parts if published else ()), *targets.exclude]),
            layers_to_transform=chosen,
            rank_pattern=ranks,
            alpha_pattern=pattern("alpha_pattern", lora.alpha_pattern),
            use_rslora=lora.use_rslora,
            use_dora=lora.use_dora,
            init_lora_weights=True if begin == "true" else begin,
            modules_to_save=full or None,
            ensure_weight_tying=ties(model, full),
            trainable_token_indices=_rows_of(model, new_tokens, tied=tied) if new_tokens else None,
        )


def is_tied(model: PreTrainedModel) -> bool:
    """Whether embedding and head are one matrix."""
    return bool(getattr(model.config, "tie_word_embeddings", False))


def ties(model: PreTrainedModel, full: Collection[str]) -> bool:
    """Whether PEFT has to keep them one; trained apart, one of them would be lost at the merge."""
    return is_tied(model) and any(name.rsplit(".", 1)[-1] in full for name in embedding_names(model))


def _tell(lora: LoraArguments, targets: Targets, model: PreTrainedModel, parts: Sequence[str]) -> None:
    kind = model.config.model_type
    if targets.is_replaced:
        found = ", ".join(sorted(targets.names))
        logger.warning("adapter: a %s base has other layers than --trainable names; LoRA is on %s", kind, found)
    asked = targets.names | set(names(lora.trainable))
    named = {
        part
        for part in parts
        for name, module in model.named_modules()
        if part in name.split(".") and isinstance(module, nn.Linear) and lora_targets.last(name) in asked
    }
    if named:
        logger.warning("adapter: no LoRA in %s, which the loss of text does not depend on", ", ".join(sorted(named)))
    if targets.parameters and lora.lora_dropout:
        logger.warning(
            "lora_dropout: none on %s, whose tensors PEFT changes as a whole; %g on the other layers",
            ", ".join(targets.parameters),
            lora.lora_dropout,
        )


def _pattern_of(parts: Sequence[str]) -> str | None:
    """PEFT's `exclude_modules` for these parts of the model, wherever they stand."""
    return rf"(?:.*\.)?(?:{'|'.join(map(re.escape, parts))})(?:\..*)?" if parts else None


def _rows_of(model: PreTrainedModel, tokens: Sequence[int], *, tied: bool) -> dict[str, list[int]]:
    """PEFT's `trainable_token_indices`; of tied matrices it takes the first and follows it in the other."""
    found = [name.rsplit(".", 1)[-1] for name in embedding_names(model)]
    return {name: list(tokens) for name in (found[:1] if tied else found)}


def embedding_names(model: PreTrainedModel) -> list[str]:
    """Of the embedding and the head."""
    wanted = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    return [name for name, module in model.named_modules() if id(module) in wanted]
