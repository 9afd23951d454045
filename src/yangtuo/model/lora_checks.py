"""Options of a LoRA: how they are read, and what they cannot be for a base whose modules are known."""

import re
from collections.abc import Collection, Iterator, Mapping

from torch import nn

from yangtuo.config.schema import LoraArguments
from yangtuo.config.words import did_you_mean
from yangtuo.errors import AdapterError, UsageError
from yangtuo.i18n import Message
from yangtuo.model import lora_targets
from yangtuo.model.lora_targets import ALL_LINEAR, layers
from yangtuo.model.lora_targets import split as names

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
