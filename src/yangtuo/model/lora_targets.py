"""Which layers get LoRA matrices: the names of `--trainable` on the base at hand, as PEFT has to be told them.

Families call the same layers by other names. transformers 5 keeps the experts of a layer as one tensor each, which PEFT
takes as a target parameter, not as a module; and in some families PEFT 0.21 makes parameters of the names `gate_proj`,
`up_proj`, `down_proj` and `gate` wherever they stand, so that dense layers and shared experts would be left out.
Here each of them is named so that PEFT, also when it loads the adapter, has nothing left to change.
"""

import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peft import LoraConfig
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from yangtuo.config.schema import LoraArguments
from yangtuo.errors import UsageError
from yangtuo.model.mixers import carries_state

logger = logging.getLogger(__name__)

ALL_LINEAR = "all-linear"
_LINEAR = (nn.Linear, Conv1D)
_ROUTER = re.compile(r"(?:gate|router|classifier|\w+_gate)(?:\.|$)")
# Layers whose weight the mixer reads past their forward, so that PEFT refuses them, or that would learn nothing.
_PAST_FORWARD = {
    **dict.fromkeys(("mamba", "falcon_mamba"), ("out_proj", "dt_proj")),
    **dict.fromkeys(("mamba2", "falcon_h1", "nemotron_h"), ("out_proj",)),
    "jamba": ("dt_proj",),
}
# Of DeepSeek's sparse attention: it chooses tokens, and the loss has no gradient there.
_CHOOSES = "indexer"
# What the projections of one expert are called in other families, and the tensor that has them for all experts.
_OF_EXPERTS = {
    **dict.fromkeys(("gate_proj", "up_proj", "w1", "w3"), "gate_up_proj"),
    "w2": "down_proj",
}


@dataclass(frozen=True)
class Targets:
    """What PEFT is told.

    Attributes:
        modules: ends of names of modules.
        parameters: ends of names of parameters, or whole names.
        exclude: names of modules that the ends fit, and that get none.
        missing: names of `--trainable` that the base does not have.
        is_replaced: the default names do not tell this base's layers: all its linear layers are taken, or, where some
            layers have recurrent mixers in place of attention, those too.
    """

    modules: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    is_replaced: bool = False

    @property
    def names(self) -> set[str]:
        """All, without their paths."""
        return {last(name) for name in self.modules} | {last(name.removesuffix(".weight")) for name in self.parameters}


def last(name: str) -> str:
    """The last part of a dotted name, with the one before it where it is a number."""
    parts = name.split(".")
    return ".".join(parts[-2:]) if parts[-1].isdigit() else parts[-1]


def split(text: str | None) -> list[str]:
    """A comma-separated option as a list."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def fused_experts(modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """Whole name of each tensor that holds one projection of all experts of a layer -> its last part."""
    return {
        f"{name}.{own}": own
        for name, module in modules.items()
        for own, weight in module.named_parameters(recurse=False)
        if len(getattr(weight, "ds_shape", weight.shape)) == 3 and own.endswith("_proj")
    }


def routers(modules: Mapping[str, nn.Module]) -> set[str]:
    """Names of the modules that deal tokens to experts, and of the gates of shared ones."""
    blocks = {name.rpartition(".")[0] for name in modules if last(name) == "experts"}
    return {
        name
        for name, module in modules.items()
        if getattr(module, "weight", None) is not None
        and any(name.startswith(f"{block}.") and _ROUTER.match(name[len(block) + 1 :]) for block in blocks)
    }


def linear_layers(modules: Mapping[str, nn.Module], beside: Collection[str] = ()) -> set[str]:
    """Names of all linear layers but the head and the routers, and of what lies in the parts `beside`."""
    root: Any = modules[""]
    head = root.get_output_embeddings() if hasattr(root, "get_output_embeddings") else None
    left_out, kind = routers(modules), getattr(getattr(root, "config", None), "model_type", "")
    return {
        name
        for name, module in modules.items()
        if isinstance(module, _LINEAR)
        and module is not head
        and last(name) != "lm_head"
        and name not in left_out
        and last(name) not in _PAST_FORWARD.get(kind, ())
        and _CHOOSES not in name.split(".")
        and "Grouped" not in type(module).__name__  # of DeepSeek-V4: its output is not its input times its weight
        and not any(part in name.split(".") for part in beside)
    }


def resolve(lora: LoraArguments, modules: Mapping[str, nn.Module], beside: Collection[str] = ()) -> Targets:
    """The names of `--trainable` on this base.

    Args:
        lora: the options.
        modules: of the base by name, "" being the base itself.
        beside: names of parts that get none: a vision tower.
    """
    linear, fused = linear_layers(modules, beside), fused_experts(modules)
    of_all = {last(name) for name in linear} | set(fused.values())
    wanted = of_all if lora.trainable == ALL_LINEAR else set(split(lora.trainable))
    is_default = wanted == set(split(LoraArguments.trainable))
    known = {name for name in wanted if _has_module(name, modules) or _expert_name(name, fused)}
    covers = {_expert_name(name, fused) or name for name in known} | known
    in_mixers = {last(name) for name in linear if _lies_in_a_mixer(name, modules)} - covers
    is_replaced = is_default and bool(wanted - known or in_mixers)
    if is_replaced:
        wanted = known = of_all if wanted - known else known | in_mixers
    taken = {name for name in known if _is_taken(name, modules[""])}
    of_modules, of_parameters = set[str](), set[str]()
    for name in known:
        if expert := _expert_name(name, fused):
            of_parameters |= _parameter_ends(expert, fused, lora, beside)
        if _has_module(name, modules):
            if name in taken or not _is_wrapped_whole(name, modules):
                weights = [f"{full}.weight" for full in _with_end(modules, name)]
                is_named = lora.trainable != ALL_LINEAR and not is_replaced
                kept = weights if is_named else [w for w in weights if w.removesuffix(".weight") in linear]
                of_parameters |= _ends(kept, weights, lora, beside)
            else:
                of_modules.add(name)
    chosen_by_kind = lora.trainable == ALL_LINEAR or is_replaced
    exclude = routers(modules) if chosen_by_kind else ()
    return Targets(
        tuple(sorted(of_modules)),
        tuple(sorted(of_parameters)),
        tuple(sorted(name for name in exclude if last(name) in of_modules)),
        tuple(sorted(wanted - known)),
        is_replaced,
    )


def layers(text: str | None) -> list[int] | None:
    """`0-3,7` as [0, 1, 2, 3, 7]; None for all.

    Raises:
        UsageError: a part that is neither a number nor a range.
    """
    if text is None:
        return None
    found: set[int] = set()
    for part in split(text):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise UsageError("--layers_to_transform {part}: expected numbers and ranges, such as 0-15,31", part=part)
        found |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    return sorted(found)


def _has_module(name: str, modules: Mapping[str, nn.Module]) -> bool:
    return any(True for _ in _with_end(modules, name))


def _with_end(names: Iterable[str], end: str) -> Iterator[str]:
    return (name for name in names if name == end or name.endswith(f".{end}"))


def _expert_name(name: str, fused: Mapping[str, str]) -> str:
    """The tensor of all experts that a name means, "" where there is none."""
    own = last(name)
    for candidate in (own, _OF_EXPERTS.get(own, "")):
        if candidate in fused.values() and (own == name or any(True for _ in _with_end(fused, name))):
            return candidate
    return ""


def _parameter_ends(own: str, fused: Mapping[str, str], lora: LoraArguments, beside: Collection[str]) -> set[str]:
    whole = [name for name, each in fused.items() if each == own]
    return _ends(whole, whole, lora, beside)


def _ends(wanted: Sequence[str], alike: Sequence[str], lora: LoraArguments, beside: Collection[str]) -> set[str]:
    """Short ends of these names where they fit no others, else the names; PEFT knows no layers for parameters."""
    chosen = layers(lora.layers_to_transform)
    kept = [
        name
        for name in wanted
        if not any(part in name.split(".") for part in beside)
        and (chosen is None or any(f".{number}." in name for number in chosen))
    ]
    if len(kept) < len(alike):
        return set(kept)
    return {".".join(name.split(".")[-2:]) for name in kept}


def _lies_in_a_mixer(name: str, modules: Mapping[str, nn.Module]) -> bool:
    parts = name.split(".")[:-1]
    above = [modules[".".join(parts[:n])] for n in range(1, len(parts) + 1)]
    return any(carries_state(each) or any(map(carries_state, each.children())) for each in above[-2:] if _is_part(each))


def _is_part(module: nn.Module) -> bool:
    """Whether it is less than a layer: no norm stands in it beside other parts of that size."""
    return not isinstance(module, nn.ModuleList) and not re.search(r"Model|Layer$|Block$", type(module).__name__)


def _is_wrapped_whole(name: str, modules: Mapping[str, nn.Module]) -> bool:
    """Whether PEFT has a layer for the modules of that name; a router of its own class is a bare weight to it."""
    return all(
        isinstance(modules[full], (*_LINEAR, nn.Embedding)) or getattr(modules[full], "weight", None) is None
        for full in _with_end(modules, name)
    )


def _is_taken(name: str, root: nn.Module) -> bool:
    """Whether PEFT makes a parameter of that name on this base."""
    config = LoraConfig(target_modules=[name])
    try:
        convert_peft_config_for_transformers(config, root, None)
    except ValueError:  # it wants others of the experts' projections beside it
        return True
    return name not in (config.target_modules or ())
