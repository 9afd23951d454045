"""The base with its LoRA: the names of its weights in the model, their keys in the file, and the folder written."""

import copy
import math
import re
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from peft.utils.other import ModulesToSaveWrapper
from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers
from safetensors.torch import save_file
from torch import nn

from yangtuo.errors import CheckpointError, ProofError
from yangtuo.i18n import Listed, Message
from yangtuo.model.adapter_files import check_written
from yangtuo.model.adapter_names import under_both
from yangtuo.model.architecture import Published
from yangtuo.model.prompt_files import PromptFiles
from yangtuo.model.provenance import METADATA_KEY, PROVENANCE_FILE, WEIGHTS_FILE, to_text
from yangtuo.model.sharding import shape_of, whole

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Adapter:
    """The base with its LoRA.

    Attributes:
        model: PEFT's model.
        kept: names of frozen parameters that are saved with the trained ones.
        published: how the base is named in the class that other programs load, where that is another one.
        start: of a LoRA that began from the base's own weights, its A and B matrices as they were then.
    """

    model: PeftModel
    kept: frozenset[str] = frozenset()
    start: Mapping[str, torch.Tensor] = field(default_factory=dict)
    published: Published | None = None

    def num_trainable(self) -> int:
        """Number of weights that the optimizer sees."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def describe(self) -> str:
        """One line for the screen."""
        config, trainable = self.model.peft_config["default"], self.num_trainable()
        total = sum(math.prod(shape_of(p)) for p in self.model.parameters())
        ranks = sorted({config.r, *(config.rank_pattern or {}).values()})
        dropouts = {getattr(m.lora_dropout["default"], "p", 0.0) for m in self.model.modules() if _has_lora(m)}
        dropout = " or ".join(f"{value:g}" for value in sorted(dropouts))
        rank = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]}-{ranks[-1]}"
        kinds = [name for name, is_on in (("rsLoRA", config.use_rslora), ("DoRA", config.use_dora)) if is_on]
        dtypes = Listed(sorted({str(p.dtype)[6:] for p in self.model.parameters() if p.requires_grad}), " and ")
        targets = config.target_modules
        if not isinstance(targets, str):
            targets = ", ".join([*sorted(targets), *sorted(config.target_parameters or ())])
        frozen_modules = {name.split(".modules_to_save.")[0].rsplit(".", 1)[-1] for name in self.kept}
        # Of a tied weight, PEFT lists a name with its path beside the short one.
        full = sorted({name.rsplit(".", 1)[-1] for name in config.modules_to_save or ()} - frozen_modules)
        rows = next(iter((config.trainable_token_indices or {}).values()), ())
        parts = [
            *kinds,
            Message("rank {rank}", rank=rank),
            Message("alpha {alpha:g}", alpha=config.lora_alpha),
            Message("dropout {dropout} on {targets}", dropout=dropout, targets=targets),
            *([Message("begun as {how}", how=config.init_lora_weights)] if self.start else []),
            *([Message("in full: {modules}", modules=", ".join(full))] if full else []),
            *([Message("the {num_rows} new rows of the vocabulary", num_rows=len(rows))] if rows else []),
            *([Message("{num} modules_to_save of the adapter frozen", num=len(self.kept))] if self.kept else []),
        ]
        return Message(
            "adapter: {parts}; {trainable:,} trained weights in {dtypes} ({share:.2%} of all)",
            parts=Listed(parts),
            trainable=trainable,
            dtypes=dtypes,
            share=trainable / total,
        )


def trained_parameters(adapter: Adapter) -> dict[str, nn.Parameter]:
    """By name, without what an engine's wrappers put into the names."""
    return {_plain(name): p for name, p in adapter.model.named_parameters() if p.requires_grad}


def kept_parameters(adapter: Adapter) -> dict[str, nn.Parameter]:
    """Frozen ones that are saved with the trained."""
    return {_plain(name): p for name, p in adapter.model.named_parameters() if _plain(name) in adapter.kept}


def module_of(name: str) -> str:
    """The module of the base that a trained tensor belongs to, by the tensor's name."""
    return re.split(r"\.lora_|\.modules_to_save\.|\.token_adapter\.", name.removeprefix("base_model.model."))[0]


def checksums(weights: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """CRC-32 of every weight as float32, to tell afterwards whether a run has changed it; called by all processes.

    A master in float32 begins as its 16-bit copy, but may change by less than the copy can show.
    """
    return {
        name: zlib.crc32(whole(weight).float().cpu().contiguous().view(torch.uint8).numpy().data)
        for name, weight in weights.items()
    }


def names_of_keys(adapter: Adapter) -> dict[str, str]:
    """Keys in the adapter's file -> names of the saved parameters; a weight that is tied has several keys."""
    parameters = trained_parameters(adapter) | kept_parameters(adapter)
    stand_ins = {name: torch.empty(0) for name in parameters}
    state = _under_all_names(adapter, stand_ins)
    saved = get_peft_model_state_dict(adapter.model, state_dict=state, save_embedding_layers=False)
    names = {id(value): name for name, value in stand_ins.items()}
    found = {key: names[id(value)] for key, value in saved.items() if id(value) in names}
    # Embeddings beside a configuration that does not tell of them have no key of PEFT's.
    return found | {name: name for name in adapter.kept - set(found.values())}


def expected_shapes(adapter: Adapter) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of LoRA matrices and modules_to_save in the file, by formula, not by PEFT's code.

    A layer of in x out with rank r has A [r, in] and B [out, r] (an embedding of rows x width: A [r, rows] and
    B [width, r]), with DoRA a length for each of its out rows, with a trained bias one for B; the experts of a layer
    have theirs side by side, r for each; a full module has all of its own weights.
    """
    times = 2 if adapter.start else 1
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in adapter.model.named_modules():
        key = _plain(name)
        if isinstance(module, LoraLayer) and "default" in module.r:
            rank = times * module.r["default"] * getattr(module, "num_experts", 1)
            kind = "lora_embedding_" if "default" in module.lora_embedding_A else "lora_"
            end = "" if kind == "lora_embedding_" else ".weight"
            shapes[f"{key}.{kind}A{end}"] = (rank, module.in_features)
            shapes[f"{key}.{kind}B{end}"] = (module.out_features, rank)
            if module.lora_bias.get("default"):
                shapes[f"{key}.lora_B.bias"] = (module.out_features,)
            if module.use_dora.get("default"):
                shapes[f"{key}.lora_magnitude_vector"] = (module.out_features,)
        elif isinstance(module, ModulesToSaveWrapper) and "default" in module.modules_to_save:
            own = module.modules_to_save["default"].named_parameters()
            shapes |= {f"{key}.{_plain(part)}": shape_of(weight) for part, weight in own}
    return shapes


def against_formula(adapter: Adapter, found: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What differs between the shapes of an adapter's file and the formula: keys too many or too few, other shapes."""
    expected = expected_shapes(adapter)
    problems: list[str] = [Message("{key} is missing", key=key) for key in sorted(expected.keys() - found.keys())]
    problems += [
        Message("{key} fits no layer", key=key) for key in sorted(found.keys() - expected.keys()) if ".lora_" in key
    ]
    problems += [
        Message(
            "{key} has shape {found}, the formula gives {expected}",
            key=key,
            found=list(found[key]),
            expected=list(expected[key]),
        )
        for key in sorted(expected.keys() & found.keys())
        if found[key] != expected[key]
    ]
    return problems


def file_shapes(adapter: Adapter) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the file that this adapter will be saved in."""
    parameters = trained_parameters(adapter) | kept_parameters(adapter)
    shapes: dict[str, tuple[int, ...]] = {}
    for key, name in names_of_keys(adapter).items():
        rows, *rest = shape_of(parameters[name])
        if name in adapter.start:  # see `to_file`
            rows, rest = (2 * rows, rest) if ".lora_A." in name else (rows, [2 * rest[0]])
        shapes[key] = (rows, *rest)
    return shapes


def without_a_place(adapter: Adapter) -> list[str]:
    """Trained parameters that would not be in the file."""
    return sorted(trained_parameters(adapter).keys() - set(names_of_keys(adapter).values()))


def renamed_by_peft(adapter: Adapter) -> list[str]:
    """Keys of the file that PEFT, when it loads them, takes for others."""
    keys = {key: torch.empty(0) for key in names_of_keys(adapter) if ".lora_" in key}
    config = adapter.model.peft_config["default"]
    found = convert_peft_adapter_state_dict_for_transformers(adapter.model, config, dict(keys))
    return sorted(keys.keys() - found.keys())


def to_file(adapter: Adapter, weights: Mapping[str, torch.Tensor]) -> Tensors:
    """Weights by parameter name -> tensors by their key in the file, where a LoRA fits the base as it is on disk.

    One that began from the base's own weights (W = residual + s B0 A0) has twice the rank there:
    B A - B0 A0 = [B, -B0] [A; A0]. Source: https://arxiv.org/abs/2404.02948, appendix C.
    """
    tensors: Tensors = {}
    for key, name in names_of_keys(adapter).items():
        value = weights[name]
        if name in adapter.start:
            first = adapter.start[name]
            value = torch.cat([value, first]) if ".lora_A." in name else torch.cat([value, -first], dim=1)
        tensors[key] = value
    return tensors


def from_file(adapter: Adapter, tensors: Mapping[str, torch.Tensor], names: Mapping[str, str]) -> Tensors:
    """The opposite, float32; `names` as from `names_of_keys`, which sharded engines need on all processes at once.

    Raises:
        CheckpointError: a LoRA that began from the base's weights otherwise than this machine computes it.
    """
    weights: Tensors = {}
    for key, name in names.items():
        value = tensors[key].float()
        if name in adapter.start:
            first, is_a = adapter.start[name], ".lora_A." in name
            rank = first.shape[0 if is_a else 1]
            begun, value = (value[rank:], value[:rank]) if is_a else (-value[:, rank:], value[:, :rank])
            if not torch.allclose(begun, first, rtol=1e-3, atol=1e-5):
                raise CheckpointError(
                    "{key}: the saved LoRA began with other matrices than this machine takes out of the base "
                    "(--init_lora_weights); go on with the machine and the base that it was begun with",
                    key=key,
                )
        weights[name] = value.contiguous()
    return weights


def file_config(adapter: Adapter) -> LoraConfig:
    """PEFT's configuration as it is written."""
    config = copy.deepcopy(adapter.model.peft_config["default"])
    config.inference_mode = True
    if adapter.start:
        config.init_lora_weights = True
        config.r *= 2
        config.rank_pattern = {name: 2 * rank for name, rank in config.rank_pattern.items()}
        times = math.sqrt(2) if config.use_rslora else 2  # so that the scale stays
        config.lora_alpha *= times
        config.alpha_pattern = {name: times * alpha for name, alpha in config.alpha_pattern.items()}
    return config


def save(
    adapter: Adapter,
    folder: Path,
    prompt_files: PromptFiles,
    weights: Mapping[str, torch.Tensor],
    provenance: Mapping[str, Any],
) -> None:
    """Write a PEFT folder and how it is asked into `folder`, and read it again to see that it is what it should be.

    `weights` has the values of `trained_parameters` and `kept_parameters`, since the engine may hold parts of them;
    `provenance` is what the adapter was trained on.

    Raises:
        ProofError: it is not, see `against_formula` and `adapter_files.check_written`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = to_file(adapter, weights)
    problems = against_formula(adapter, {key: tuple(value.shape) for key, value in tensors.items()})
    if problems:
        raise ProofError(
            "proof failed: the adapter to be saved is not whole: {problems}", problems=Listed(problems[:6], "; ")
        )
    if adapter.published:
        tensors = under_both(tensors, adapter.published.of_text, adapter.published.of_whole)
    text = to_text(provenance)
    save_file(_unshared(tensors), folder / WEIGHTS_FILE, metadata={"format": "pt", METADATA_KEY: text})
    (folder / PROVENANCE_FILE).write_text(text, encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PEFT, on what was refused or said before
        file_config(adapter).save_pretrained(str(folder))
        adapter.model.create_or_update_model_card(str(folder))
    check_written(folder, tensors)
    prompt_files.save(folder)


def _unshared(tensors: Tensors) -> Tensors:
    """Contiguous, and no two of them one: the format knows no sharing."""
    seen: set[int] = set()
    result: Tensors = {}
    for key, value in tensors.items():
        result[key] = value.clone() if value.data_ptr() in seen else value.contiguous()
        seen.add(value.data_ptr())
    return result


def _under_all_names(adapter: Adapter, values: Mapping[str, torch.Tensor]) -> Tensors:
    """`values` by parameter name; of a weight that is tied, PEFT asks for each name."""
    name_of = {id(p): name for name, p in (trained_parameters(adapter) | kept_parameters(adapter)).items()}
    names = [(_plain(name), name_of.get(id(p))) for name, p in adapter.model.named_parameters(remove_duplicate=False)]
    return {name: values[first] for name, first in names if first is not None and first in values}


def _has_lora(module: nn.Module) -> bool:
    return isinstance(module, LoraLayer) and "default" in module.lora_dropout


def _plain(name: str) -> str:
    return name.replace("_fsdp_wrapped_module.", "").replace("_checkpoint_wrapped_module.", "")
