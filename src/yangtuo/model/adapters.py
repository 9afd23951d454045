"""The LoRA beside the base: a new one, or one to continue; and its folder on disk.

Trained weights are float32 whatever the base is in: with float16 ones, the loss scaler stops with "Attempting to
unscale FP16 gradients", and PEFT's own autocast leaves `modules_to_save` as they are. Under ZeRO-3 they are in the
base's dtype, beside float32 masters of DeepSpeed's.
"""

import difflib
import logging
import math
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.utils import get_peft_model_state_dict
from torch import nn
from transformers import PreTrainedModel

from yangtuo.arguments import LoraArguments
from yangtuo.data.tokenizer import Tokenizer
from yangtuo.errors import AdapterError
from yangtuo.model.adapter_files import SavedAdapter, check_written
from yangtuo.model.lora import use_fused
from yangtuo.model.sharding import gathered, shape_of, whole

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adapter:
    """The base with its LoRA.

    Attributes:
        model: PEFT's model.
        keeps_embeddings: embeddings that came in an adapter whose `modules_to_save` is null. They are used and
            frozen, and have to be written again with the LoRA.
    """

    model: PeftModel
    keeps_embeddings: bool = False

    def num_trainable(self) -> int:
        """Number of weights that the optimizer sees."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def describe(self) -> str:
        """One line for the screen."""
        config, trainable = self.model.peft_config["default"], self.num_trainable()
        total = sum(math.prod(shape_of(p)) for p in self.model.parameters())
        full = f", in full: {', '.join(sorted(config.modules_to_save))}" if config.modules_to_save else ""
        rows = next(iter((config.trainable_token_indices or {}).values()), ())
        new = f", the {len(rows)} new rows of the vocabulary" if rows else ""
        frozen = ", embeddings of the adapter frozen" if self.keeps_embeddings else ""
        return (
            f"adapter: rank {config.r}, alpha {config.lora_alpha:g}, dropout {config.lora_dropout:g} on "
            f"{', '.join(sorted(config.target_modules))}{full}{new}{frozen}; "
            f"{trainable:,} trained weights in float32 ({trainable / total:.2%} of all)"
        )


def names(text: str | None) -> list[str]:
    """A comma-separated option as a list."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def check_options(lora: LoraArguments, modules: Mapping[str, nn.Module]) -> None:
    """Check the names in `--trainable` and `--modules_to_save` against the base, before any weight is loaded.

    Raises:
        AdapterError: every name that no module has (PEFT would say nothing as long as one name fits).
    """
    linear = {name.rsplit(".", 1)[-1] for name, module in modules.items() if isinstance(module, nn.Linear)}
    problems = []
    targets = [] if lora.trainable == "all-linear" else names(lora.trainable)
    if not targets and lora.trainable != "all-linear":
        problems.append("--trainable is empty; name the modules that get LoRA matrices")
    for option, wanted, offered in (
        ("trainable", targets, linear),
        ("modules_to_save", names(lora.modules_to_save), {name.rsplit(".", 1)[-1] for name in modules if name}),
    ):
        for name in wanted:
            if not any(module == name or module.endswith(f".{name}") for module in modules):
                near = difflib.get_close_matches(name, offered, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(linear))}"
                problems.append(f"--{option}: the base has no module {name!r}; {hint}")
    problems += [
        f"{name!r} is in --trainable and in --modules_to_save; a module is trained in one way"
        for name in sorted(set(targets) & set(names(lora.modules_to_save)))
    ]
    if lora.train_new_tokens_only:
        problems += [
            f"{name!r} is in --modules_to_save, which trains all of its rows; leave --train_new_tokens_only out"
            for name in names(lora.modules_to_save)
            if name in ("embed_tokens", "lm_head")
        ]
    if problems:
        raise AdapterError.of_problems("LoRA options", problems)


def check_contradictions(saved: SavedAdapter, lora: LoraArguments, given: Collection[str]) -> None:
    """Compare LoRA options with the adapter that is to be continued; equal ones are fine.

    Raises:
        AdapterError: every option whose value is not the adapter's.
    """
    config = saved.config
    targets = config.target_modules
    of_adapter = {
        "lora_rank": config.r,
        "lora_alpha": float(config.lora_alpha),
        "trainable": targets if isinstance(targets, str) else set(targets or ()),
        "modules_to_save": set(config.modules_to_save or ()),
        "train_new_tokens_only": bool(config.trainable_token_indices),
    }
    of_options = {
        "lora_rank": lora.lora_rank,
        "lora_alpha": lora.lora_alpha,
        "trainable": lora.trainable if lora.trainable == "all-linear" else set(names(lora.trainable)),
        "modules_to_save": set(names(lora.modules_to_save)),
        "train_new_tokens_only": lora.train_new_tokens_only,
    }
    different = [name for name, value in of_options.items() if name in given and value != of_adapter[name]]
    if different:
        raise AdapterError.of_problems(
            f"options contradict the adapter {saved.folder}, which decides; remove the line",
            [f"--{name} {_shown(of_options[name])}: the adapter has {_shown(of_adapter[name])}" for name in different],
        )


def _shown(value: Any) -> str:
    if isinstance(value, set):
        return ",".join(sorted(value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def attach_new(model: PreTrainedModel, lora: LoraArguments, new_tokens: Sequence[int] = ()) -> Adapter:
    """A new LoRA on the base; its B matrices are zero, so the first loss is the base's.

    `new_tokens` are rows of embedding and head that are trained too, all others of theirs being frozen.
    """
    tied = bool(getattr(model.config, "tie_word_embeddings", False))
    full = names(lora.modules_to_save)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora.lora_rank,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules="all-linear" if lora.trainable == "all-linear" else names(lora.trainable),
        modules_to_save=full or None,
        # Embedding and head of such a base are one matrix; trained apart, one of them would be lost at the merge.
        ensure_weight_tying=tied and bool({"embed_tokens", "lm_head"} & set(full)),
        trainable_token_indices=_rows_of(model, new_tokens, tied=tied) if new_tokens else None,
    )
    if not getattr(model, "is_quantized", False):  # PEFT has layers of its own for those
        use_fused(config)
    return _checked(Adapter(get_peft_model(model, config)))


def _rows_of(model: PreTrainedModel, tokens: Sequence[int], *, tied: bool) -> dict[str, list[int]]:
    """PEFT's `trainable_token_indices`; of tied matrices it takes the first and follows it in the other."""
    found = [name.rsplit(".", 1)[-1] for name in _embedding_names(model)]
    return {name: list(tokens) for name in (found[:1] if tied else found)}


def attach_saved(model: PreTrainedModel, saved: SavedAdapter, lora: LoraArguments, given: Collection[str]) -> Adapter:
    """Put a saved adapter on the base, ready to be trained further.

    Raises:
        AdapterError: tensors missing, left over or of another shape; all of them are named.
    """
    config = saved.config
    config.inference_mode = False
    config.base_model_name_or_path = model.name_or_path
    if "lora_dropout" in given and lora.lora_dropout != config.lora_dropout:
        logger.warning("lora_dropout: %g as asked for, the adapter had %g", lora.lora_dropout, config.lora_dropout)
        config.lora_dropout = lora.lora_dropout
    _check_rows(saved, num_rows=shape_of(model.get_input_embeddings().weight)[0])
    if not getattr(model, "is_quantized", False):  # PEFT has layers of its own for those
        use_fused(config)
    peft_model = get_peft_model(model, config)
    trained = trained_parameters(Adapter(peft_model))
    places: dict[str, torch.Tensor] = {key: trained[name] for name, key in file_keys(Adapter(peft_model)).items()}
    embeddings = kept_parameters(Adapter(peft_model, keeps_embeddings=True))
    kept = {key: value for key, value in embeddings.items() if key in saved.tensors and key not in places}
    places |= kept
    _compare(saved, {key: shape_of(place) for key, place in places.items()})
    with torch.no_grad():
        for key, place in places.items():
            with gathered([place], writes=True):
                place.copy_(saved.tensors[key])
    if kept:
        logger.warning(
            "adapter: modules_to_save is null, but the file holds %s: used, frozen, and saved again",
            " and ".join(sorted(key.split(".")[-2] for key in kept)),
        )
    return _checked(Adapter(peft_model, keeps_embeddings=bool(kept)))


def _check_rows(saved: SavedAdapter, num_rows: int) -> None:
    given = saved.config.trainable_token_indices or []
    lists = given.values() if isinstance(given, dict) else [given]
    last = max((max(rows, default=-1) for rows in lists), default=-1)
    if last >= num_rows:
        raise AdapterError(
            f"{saved.folder}: it has a row for token {last}, this base and tokenizer have {num_rows} rows; use the "
            "tokenizer that it was trained with"
        )


def _embedding_names(model: PreTrainedModel) -> list[str]:
    wanted = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    return [name for name, module in model.named_modules() if id(module) in wanted]


def _compare(saved: SavedAdapter, expected: Mapping[str, Sequence[int]]) -> None:
    found = {key: tuple(value.shape) for key, value in saved.tensors.items()}
    problems = [f"{key} is missing" for key in sorted(expected.keys() - found.keys())]
    problems += [f"{key} belongs to nothing in this base" for key in sorted(found.keys() - expected.keys())]
    problems += [
        f"{key} has shape {list(found[key])}, this base needs {list(expected[key])}"
        for key in sorted(found.keys() & expected.keys())
        if found[key] != tuple(expected[key])
    ]
    if problems:
        raise AdapterError.of_problems(f"{saved.folder} does not fit this base and tokenizer", problems, shown=6)


def _checked(adapter: Adapter) -> Adapter:
    # ZeRO-3 computes in the dtype of what it is given, without autocast, and keeps float32 masters itself.
    base = [p for p in adapter.model.parameters() if not p.requires_grad]
    dtype = base[0].dtype if any(hasattr(p, "ds_id") for p in base) else torch.float32
    for parameter in adapter.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    if adapter.num_trainable() == 0:
        raise AdapterError("no weight would be trained; a run that trains nothing is not started")
    return adapter


def checksums(adapter: Adapter) -> dict[str, int]:
    """CRC-32 of every trained weight, to tell afterwards whether a run has changed it."""
    return {
        name: zlib.crc32(whole(parameter).cpu().contiguous().view(torch.uint8).numpy().data)
        for name, parameter in trained_parameters(adapter).items()
    }


def trained_parameters(adapter: Adapter) -> dict[str, nn.Parameter]:
    """By name, without what an engine's wrappers put into the names."""
    return {_plain(name): p for name, p in adapter.model.named_parameters() if p.requires_grad}


def kept_parameters(adapter: Adapter) -> dict[str, nn.Parameter]:
    """Frozen ones that are saved with the trained."""
    if not adapter.keeps_embeddings:
        return {}
    embeddings = {f"base_model.model.{name}.weight" for name in _embedding_names(adapter.model.get_base_model())}
    return {_plain(name): p for name, p in adapter.model.named_parameters() if _plain(name) in embeddings}


def _plain(name: str) -> str:
    return name.replace("_fsdp_wrapped_module.", "").replace("_checkpoint_wrapped_module.", "")


def file_keys(adapter: Adapter) -> dict[str, str]:
    """Names of trained parameters -> their keys in the adapter's file, as PEFT names them."""
    return {name: key for key, name in _names_of_keys(adapter).items()}


def _names_of_keys(adapter: Adapter) -> dict[str, str]:
    """All keys of the trained parameters; a weight that is tied has several."""
    stand_ins = {name: torch.empty(0) for name in trained_parameters(adapter)}
    state = _under_all_names(adapter, stand_ins)
    saved = get_peft_model_state_dict(adapter.model, state_dict=state, save_embedding_layers=False)
    names = {id(value): name for name, value in stand_ins.items()}
    return {key: names[id(value)] for key, value in saved.items() if id(value) in names}


def _under_all_names(adapter: Adapter, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`values` by parameter name; of a weight that is tied, PEFT asks for each name."""
    name_of = {id(p): name for name, p in (trained_parameters(adapter) | kept_parameters(adapter)).items()}
    names = [(_plain(name), name_of.get(id(p))) for name, p in adapter.model.named_parameters(remove_duplicate=False)]
    return {name: values[first] for name, first in names if first is not None and first in values}


def save(adapter: Adapter, folder: Path, tokenizer: Tokenizer, weights: Mapping[str, torch.Tensor]) -> None:
    """Write a PEFT folder and the tokenizer into `folder`, and read it again to see that it is what it should be.

    `weights` has the values of `trained_parameters` and `kept_parameters`, since the engine may hold parts of them.

    Raises:
        RunFailure: it is not, see `adapter_files.check_written`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    adapter.model.save_pretrained(
        str(folder),
        safe_serialization=True,
        save_embedding_layers=adapter.keeps_embeddings,
        state_dict=_under_all_names(adapter, weights),
    )
    names = _names_of_keys(adapter) | {name: name for name in kept_parameters(adapter)}
    check_written(folder, {key: weights[name] for key, name in names.items()})
    tokenizer.save(folder)
