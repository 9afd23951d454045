"""An adapter with modules_to_save as two: a base that has those inside, and a plain LoRA that vLLM and others take.

vLLM knows no `modules_to_save`, no new rows and no DoRA, and one rank and one scale for all modules. Rank and scale are
made one by arithmetic: small ranks are filled up with zeros, and B takes the scale in. A function of a merge's plan.
"""

import copy
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import save_file

from yangtuo import output
from yangtuo.errors import AdapterError, WriteError
from yangtuo.i18n import Listed, Message
from yangtuo.merging.edits import BiasDelta, LowRank, WeightEdits
from yangtuo.merging.plan import Plan, Step
from yangtuo.model.adapter_names import under_both
from yangtuo.model.architecture import Published
from yangtuo.model.provenance import METADATA_KEY, PROVENANCE_FILE, WEIGHTS_FILE, to_text

# What vLLM takes as --max-lora-rank, beside 1. Source: `MaxLoRARanks` in its vllm/config/lora.py.
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True)
class PlainLora:
    """LoRA matrices alone, of one rank and scale."""

    config: LoraConfig
    tensors: Mapping[str, torch.Tensor]


def base_of(plan: Plan) -> WeightEdits:
    """What becomes of the base's tensors without the last adapter's LoRA matrices."""
    edits = {}
    for name, done in plan.chain.edits.items():
        num_last = len(plan.last.edits.get(name, ()))
        before, last = done[: len(done) - num_last], done[len(done) - num_last :]
        kept = (*before, *(edit for edit in last if not isinstance(edit, LowRank | BiasDelta)))
        if kept:
            edits[name] = kept
    return replace(plan.chain, edits=edits)


def lora_of(step: Step, base: str, published: Published | None = None) -> PlainLora:
    """The adapter's LoRA matrices; `base` is the name of the base that they are for.

    Raises:
        AdapterError: a kind of LoRA that vLLM does not load, or none at all.
    """
    saved = step.saved
    odd = {
        "DoRA": saved.config.use_dora,
        Message("LoRA on the embedding"): any("lora_embedding_" in key for key in saved.tensors),
        Message("LoRA on the experts' tensors"): bool(saved.config.target_parameters),
        Message("a bias of LoRA"): any(key.endswith("lora_B.bias") for key in saved.tensors),
    }
    refused = [name for name, is_so in odd.items() if is_so]
    if refused:
        raise AdapterError(
            "{folder}: --pure_lora: vLLM does not load {refused}; export it merged",
            folder=saved.folder,
            refused=Listed(refused, " or "),
        )
    modules = [key.removesuffix(".lora_A.weight") for key in saved.tensors if key.endswith(".lora_A.weight")]
    if not modules:
        raise AdapterError(
            "{folder}: --pure_lora: there is no LoRA matrix in it; export it merged", folder=saved.folder
        )
    layers: dict[str, Any] = {name: step.model.get_submodule(name) for name in modules}
    scales = {name: float(layer.scaling["default"]) for name, layer in layers.items()}
    rank = max(len(saved.tensors[f"{name}.lora_A.weight"]) for name in modules)
    is_one_scale = len(set(scales.values())) == 1
    tensors: dict[str, torch.Tensor] = {}
    for name in modules:
        down, up = (saved.tensors[f"{name}.lora_{which}.weight"].float() for which in ("A", "B"))
        missing = rank - len(down)
        tensors[f"{name}.lora_A.weight"] = torch.nn.functional.pad(down, (0, 0, 0, missing)).contiguous()
        up = up if is_one_scale else up * scales[name]
        tensors[f"{name}.lora_B.weight"] = torch.nn.functional.pad(up, (0, missing)).contiguous()
    if published:
        tensors = under_both(tensors, published.of_text, published.of_whole)
    config = copy.deepcopy(saved.config)
    config.r, config.lora_alpha = rank, next(iter(scales.values())) * rank if is_one_scale else rank
    config.use_rslora, config.rank_pattern, config.alpha_pattern = False, {}, {}
    config.modules_to_save, config.trainable_token_indices, config.ensure_weight_tying = None, None, False
    config.base_model_name_or_path, config.inference_mode = base, True
    return PlainLora(config, tensors)


def vllm_rank(rank: int) -> int | None:
    """The least that vLLM has to be started for; None where the rank is larger than it knows."""
    return next((size for size in VLLM_RANKS if rank <= size), None)


def write_lora(lora: PlainLora, folder: Path, known: Mapping[str, Any]) -> None:
    """A PEFT folder with its provenance.

    Raises:
        WriteError: it cannot be written.
    """
    text = to_text(known)
    try:
        folder.mkdir()
        save_file(
            {key: value.clone() for key, value in lora.tensors.items()},
            folder / WEIGHTS_FILE,
            metadata={"format": "pt", METADATA_KEY: text},
        )
        (folder / PROVENANCE_FILE).write_text(text, encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lora.config.save_pretrained(str(folder))
        config = folder / "adapter_config.json"  # vLLM wants whole numbers where they are whole
        values = json.loads(config.read_text(encoding="utf-8"))
        alpha = values["lora_alpha"]
        values["lora_alpha"] = int(alpha) if float(alpha).is_integer() else alpha
        config.write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise WriteError("{folder}: cannot be written: {reason}", folder=folder, reason=output.reason(error)) from error
