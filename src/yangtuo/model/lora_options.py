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
from yangtuo.config.words import did_you_mean
from yangtuo.errors import AdapterError, UsageError
from yangtuo.i18n import Message
from yangtuo.model import lora_targets
from yangtuo.model.adapter_files import SavedAdapter
from yangtuo.model.architecture import Published, parts_without_text
from yangtuo.model.lora_targets import ALL_LINEAR, Targets, layers
from yangtuo.model.lora_targets import split as names

logger = logging.getLogger(__name__)

# From the base's own weights, which change by what the adapter begins with.
_FROM_THE_BASE = re.compile(r"pissa(_niter_\d+)?|olora")
_BEGINNINGS = re.compile(rf"true|gaussian|orthogonal|{_FROM_THE_BASE.pattern}")


def begins_from_the_base(lora: LoraArguments) -> bool:
    """Whether `--init_lora_weights` takes the adapter's beginning out of the base's weights (PiSSA, OLoRA)."""
    return _FROM_THE_BASE.fullmatch(lora.init_lora_weights.lower()) is not None


def pattern(option: str, text: str | None) -> dict[str, float]:
    """`q_proj:16,layers.0.v_proj:4` as a dictionary.

    Raises:
        UsageError: a part that is not a name and a positive number.
    """
    found = {}
    for part in names(text):
        name, _, number = part.rpartition(":")
        try:
            value = float(number)
        except ValueError:
            value = 0.0
        if not name or not value > 0 or (option == "rank_pattern" and not value.is_integer()):
            raise UsageError(
                "--{option} {part}: expected name:number, such as q_proj:16, separated by commas",
                option=option,
                part=part,
            )
        found[name.strip()] = value
    return found


def check_options(lora: LoraArguments, modules: Mapping[str, nn.Module]) -> None:
    """Check the options of a new LoRA against the base, before any weight is loaded.

    Raises:
        AdapterError: every name that no module has (PEFT would say nothing as long as one name fits), and every
            combination that would not be what it says.
        UsageError: an option that cannot be read.
    """
    of_names = [*_of_names(lora, modules), *_of_patterns(lora, modules), *_of_full_modules(lora, modules)]
    problems = [*of_names, *_of_numbers(lora, modules), *_of_variants(lora), *_of_experts(lora, modules)]
    if problems:
        raise AdapterError.of_problems(Message("LoRA options that cannot be used"), problems)


def _of_names(lora: LoraArguments, modules: Mapping[str, nn.Module]) -> Iterator[str]:
    found, fused = lora_targets.resolve(lora, modules), lora_targets.fused_experts(modules)
    linear = {lora_targets.last(name) for name, module in modules.items() if isinstance(module, nn.Linear)}
    linear |= set(fused.values())
    targets = [] if lora.trainable == ALL_LINEAR else names(lora.trainable)
    if not targets and lora.trainable != ALL_LINEAR:
        yield Message("--trainable is empty; name the modules that get LoRA matrices")
    for name in found.missing:
        yield Message("--trainable: the base has no module {name!r}; {offer}", name=name, offer=_offer(name, linear))
    for option, wanted, offered in (
        ("modules_to_save", names(lora.modules_to_save), {lora_targets.last(name) for name in modules if name}),
        ("rank_pattern", list(pattern("rank_pattern", lora.rank_pattern)), linear),
        ("alpha_pattern", list(pattern("alpha_pattern", lora.alpha_pattern)), linear),
    ):
        for name in wanted:
            if not any(each == name or each.endswith(f".{name}") for each in (*modules, *fused)):
                hint = _offer(name, offered, linear)
                yield Message(
                    "--{option}: the base has no module {name!r}; {hint}", option=option, name=name, hint=hint
                )
    for name in sorted(set(targets) & set(names(lora.modules_to_save))):
        yield Message("{name!r} is in --trainable and in --modules_to_save; a module is trained in one way", name=name)
    if lora.train_new_tokens_only:
        for name in names(lora.modules_to_save):
            if name in ("embed_tokens", "lm_head"):
                yield Message(
                    "{name!r} is in --modules_to_save, which trains all of its rows; leave --train_new_tokens_only out",
                    name=name,
                )


def _offer(name: str, offered: Collection[str], linear: Collection[str] = ()) -> str:
    return did_you_mean(name, offered, Message("it has {linear}", linear=", ".join(sorted(linear or offered))))


def _of_full_modules(lora: LoraArguments, modules: Mapping[str, nn.Module]) -> Iterator[str]:
    """PEFT goes by the end of a name, and not by whole words."""
    for name in names(lora.modules_to_save):
        others = sorted(
            {
                module.rsplit(".", 1)[-1]
                for module in modules
                if module.endswith(name) and module != name and not module.endswith(f".{name}")
            }
        )
        if others:
            whole = next((module for module in modules if module.endswith(f".{name}")), name)
            yield Message(
                "--modules_to_save {name}: PEFT would train {others} too; write {whole}",
                name=name,
                others=", ".join(others),
                whole=whole,
            )


def _of_patterns(lora: LoraArguments, modules: Mapping[str, nn.Module]) -> Iterator[str]:
    targets = lora_targets.resolve(lora, modules).names | {lora_targets.last(name) for name in names(lora.trainable)}
    for option in ("rank_pattern", "alpha_pattern"):
        for name in pattern(option, getattr(lora, option)):
            if lora.trainable != ALL_LINEAR and name.rsplit(".", 1)[-1] not in targets:
                yield Message(
                    "--{option} {name}: it gets no LoRA matrices, since --trainable does not name it",
                    option=option,
                    name=name,
                )


def _of_numbers(lora: LoraArguments, modules: Mapping[str, nn.Module]) -> Iterator[str]:
    lists = [module for module in modules.values() if isinstance(module, nn.ModuleList)]
    num_layers = len(max(lists, key=lambda each: sum(p.numel() for p in each.parameters()))) if lists else 0
    wanted = layers(lora.layers_to_transform)
    if wanted is not None and (not wanted or wanted[-1] >= num_layers):
        yield Message(
            "--layers_to_transform {layers_to_transform}: the base has the layers 0-{num_layers}",
            layers_to_transform=lora.layers_to_transform,
            num_layers=num_layers - 1,
        )
    if lora.loraplus_lr_ratio is not None and not lora.loraplus_lr_ratio > 0:
        yield Message(
            "--loraplus_lr_ratio {loraplus_lr_ratio:g}: expected a number above 0",
            loraplus_lr_ratio=lora.loraplus_lr_ratio,
        )


def _of_variants(lora: LoraArguments) -> Iterator[str]:
    if not _BEGINNINGS.fullmatch(lora.init_lora_weights.lower()):
        yield Message(
            "--init_lora_weights {init_lora_weights}: expected true, gaussian, orthogonal, pissa, pissa_niter_16 "
            "or olora",
            init_lora_weights=lora.init_lora_weights,
        )
    if lora.use_dora and begins_from_the_base(lora):
        yield Message(
            "--use_dora with --init_lora_weights {init_lora_weights}: both decompose the weight; give one",
            init_lora_weights=lora.init_lora_weights,
        )
    in_vocabulary = sorted({"embed_tokens", "lm_head"} & set(names(lora.trainable)))
    if in_vocabulary and begins_from_the_base(lora):
        yield Message(
            "--init_lora_weights {init_lora_weights} on {in_vocabulary} is not possible; take it out",
            init_lora_weights=lora.init_lora_weights,
            in_vocabulary=in_vocabulary[0],
        )
    if lora.init_lora_weights.lower() == "orthogonal" and lora.lora_rank % 2:
        yield Message("--init_lora_weights orthogonal needs an even rank; now {lora_rank}", lora_rank=lora.lora_rank)
    if lora.use_dora and any(name in ("embed_tokens",) for name in names(lora.trainable)):
        yield Message(
            "--use_dora on embed_tokens cannot be merged; take it out of --trainable, or leave --use_dora out"
        )


def _of_experts(lora: LoraArguments, modules: Mapping[str, nn.Module]) -> Iterator[str]:
    """PEFT adds B A to a parameter before it is used, and knows nothing else there."""
    parameters = lora_targets.resolve(lora, modules).parameters
    odd = [option for option in ("use_dora",) if getattr(lora, option)]
    odd += ["init_lora_weights"] if lora.init_lora_weights.lower() not in ("true", "gaussian") else []
    for option in odd if parameters else ():
        yield Message(
            "--{option} {value} is not possible on {parameters}: PEFT has plain LoRA only for the experts' "
            "tensors; name modules of the attention alone with --trainable, or leave the option out",
            option=option,
            value=getattr(lora, option),
            parameters=", ".join(parameters),
        )


def check_contradictions(
    saved: SavedAdapter, lora: LoraArguments, given: Collection[str], modules: Mapping[str, nn.Module]
) -> None:
    """Compare LoRA options with the adapter that is to be continued; equal ones are fine.

    Raises:
        AdapterError: every option whose value is not the adapter's.
    """
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
    different = [name for name, value in of_options.items() if name in given and value != of_adapter[name]]
    problems = []
    for name in different:
        asked, there = of_options[name], of_adapter[name]
        if name != "modules_to_save":
            problems.append(
                Message(
                    "--{name} {asked}: the adapter has {there}", name=name, asked=_shown(asked), there=_shown(there)
                )
            )
        elif not _full(saved) <= set(names(lora.modules_to_save)):  # more are added
            problems.append(
                Message(
                    "--modules_to_save {asked}: the adapter has {there}; to leave modules out or to freeze them, give "
                    "--modules_to_save_policy",
                    asked=_shown(asked),
                    there=_shown(there),
                )
            )
    if problems:
        raise AdapterError.of_problems(
            Message("options contradict the adapter {folder}, which decides; remove the line", folder=saved.folder),
            problems,
        )


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
