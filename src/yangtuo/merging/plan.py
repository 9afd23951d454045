"""Which tensor of the base each adapter changes, and how; or why the adapter does not fit.

PEFT itself decides: the adapter's configuration is put on the model without weights (torch's meta device), and its
layers are asked for their targets, ranks and scales. So patterns, excluded layers and rsLoRA mean what they meant in
training.
"""

import copy
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import ParamWrapper

from yangtuo.errors import AdapterError, ModelError
from yangtuo.i18n import Message
from yangtuo.merging.edits import BiasDelta, Edit, ExpertsLowRank, Grow, LowRank, Replace, ReplaceRows, WeightEdits
from yangtuo.merging.fit import Allowed, check_kind, rows_after
from yangtuo.model.adapter_config import PEFT_REFUSALS, refusal
from yangtuo.model.adapter_files import SavedAdapter, check_fit
from yangtuo.model.adapter_names import PREFIX, fitted, name_in_use
from yangtuo.model.adapter_state import Adapter, names_of_keys
from yangtuo.model.architecture import empty_model
from yangtuo.model.mergeable import odd_layers
from yangtuo.model.stored_weights import StoredWeights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """One adapter on the model that it finds.

    Attributes:
        saved: the adapter.
        model: PEFT's model, without weights.
        keys: PEFT's parameter names -> names in the adapter's file.
        edits: what it does, by the base's tensor names.
        beside: whole tensors in the file that its configuration does not tell of (2023's `modules_to_save: null`).
    """

    saved: SavedAdapter
    model: PeftModel
    keys: Mapping[str, str]
    edits: Mapping[str, tuple[Edit, ...]]
    beside: frozenset[str]


@dataclass(frozen=True)
class Plan:
    """`before`: the chain without the last adapter. `last`: that adapter. `chain`: with it."""

    before: WeightEdits
    last: Step
    chain: WeightEdits


def start(base: StoredWeights) -> WeightEdits:
    """The chain of no adapter.

    Raises:
        ModelError: a quantised base, or files that hold something else than config.json says.
    """
    config, model = base.model.config, base.model
    if getattr(base.config, "quantization_config", None):
        raise ModelError(
            "{folder}: its weights are quantised; merge onto the 16-bit model that it was made from (an adapter of "
            "QLoRA fits that too)",
            folder=base.folder,
        )
    names = {id(module): name for name, module in model.named_modules()}
    embedding = f"{names[id(model.get_input_embeddings())]}.weight"
    head = f"{names[id(model.get_output_embeddings())]}.weight"
    needed = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    is_tied = bool(getattr(config, "tie_word_embeddings", False))
    if is_tied and head in base.specs and not torch.equal(base.get(head), base.get(embedding)):
        logger.warning("base: config.json ties head and embedding, but the files hold two; both are kept, untied")
        is_tied = False
    left_out = {head} if is_tied else set()
    problems = [Message("{name} is not in the files", name=name) for name in base.missing]
    problems += [Message("{name} is in the files, not in the model", name=name) for name in base.unused]
    problems += [
        Message(
            "{name} has shape {shape}, config.json means {needed}",
            name=name,
            shape=list(spec.shape),
            needed=list(needed[name]),
        )
        for name, spec in base.specs.items()
        if name not in left_out and spec.shape != needed[name]
    ]
    if not is_tied and head not in base.specs and head not in base.missing:
        problems.append(Message("{head} is not in the files", head=head))
    if problems:
        raise ModelError.of_problems(
            Message("{folder}: weights and config.json differ", folder=base.folder), problems, shown=6
        )
    sources = {name: name for name in base.specs if name not in left_out}
    return WeightEdits(sources, {}, needed[embedding][0], embedding, head, is_tied)


def plan(base: StoredWeights, adapters: Sequence[SavedAdapter], allowed: Allowed) -> Plan:
    """What the adapters do, in order.

    Raises:
        ModelError: see `start`.
        AdapterError: an adapter that does not fit what it finds; all that differs is named.
    """
    before = chain = start(base)
    last = None
    for saved in adapters:
        before = chain
        num_rows = rows_after(saved, chain, allowed)
        last = _step(saved, base, chain, num_rows, is_partial=allowed.partial)
        chain = _extended(chain, last, num_rows)
    if last is None:
        raise AdapterError("--peft_path is empty; name the adapter to merge")
    return Plan(before, last, chain)


def _step(saved: SavedAdapter, base: StoredWeights, chain: WeightEdits, num_rows: int, *, is_partial: bool) -> Step:
    check_kind(saved)
    model = _with_peft(saved, base, chain, num_rows)
    keys = {name: name_in_use(key) or key for key, name in names_of_keys(Adapter(model)).items()}
    saved = replace(saved, tensors=fitted(saved.tensors, {*keys.values(), *(PREFIX + name for name in chain.sources)}))
    saved = replace(saved, tensors=_under_both_names(saved, chain))
    odd = _compare(saved, model, keys, chain, num_rows, is_partial=is_partial)
    if odd:
        saved = replace(saved, tensors=_completed(saved, model, keys, odd))
    beside = frozenset(saved.tensors.keys() - set(keys.values()))
    edits = _edits(saved, model, chain)
    if num_rows > chain.num_rows:
        for name in (chain.embedding, chain.head):
            if not any(isinstance(edit, Replace) for edit in edits.get(name, ())):
                edits[name] = (Grow(num_rows), *edits.get(name, ()))
    return Step(saved, model, keys, edits, beside)


def _edits(saved: SavedAdapter, model: PeftModel, chain: WeightEdits) -> dict[str, tuple[Edit, ...]]:
    edits: dict[str, tuple[Edit, ...]] = {}
    for key in sorted(saved.tensors, key=lambda key: ".lora_" in key):  # a whole weight first, a LoRA on top of it
        module, kind = _split(key.removeprefix(PREFIX))
        if kind.startswith(("lora_B", "lora_embedding_B")):
            path = key.removeprefix(PREFIX).rpartition(".lora_")[0]
            for name, edit in _low_rank(saved, model, path, kind):
                if name not in chain.sources and name != chain.head:
                    raise AdapterError(
                        "{folder}: {key} needs {name}, which the base has not", folder=saved.folder, key=key, name=name
                    )
                edits[name] = (*edits.get(name, ()), edit)
        elif kind == "trainable_tokens_delta":
            wrapper = model.get_submodule(PREFIX + module)
            rows = tuple(wrapper.token_adapter.token_indices["default"])
            edits[f"{module}.weight"] = (ReplaceRows(rows, saved.tensors[key]),)
            if chain.is_tied and _follows(model, chain.head):
                edits[chain.head] = edits[f"{module}.weight"]
        elif not kind.startswith("lora_"):
            edits[f"{module}.{kind}"] = (Replace(saved.tensors[key]),)
    return edits


def _with_peft(saved: SavedAdapter, base: StoredWeights, chain: WeightEdits, num_rows: int) -> PeftModel:
    config = copy.deepcopy(base.config)
    text = config.get_text_config()
    text.vocab_size = num_rows
    if (getattr(text, "pad_token_id", None) or 0) >= num_rows:  # an embedding would refuse it
        text.pad_token_id = 0
    config.tie_word_embeddings = text.tie_word_embeddings = chain.is_tied
    # A copy: PEFT writes into it. Nothing is initialised, since there are no weights.
    lora = LoraConfig(**{**saved.config.to_dict(), "inference_mode": False, "init_lora_weights": True})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on tied weights and rsLoRA; ours is said or refused elsewhere
            empty = empty_model(config, trust_remote_code=base.trust_remote_code)
            model = get_peft_model(empty, lora, low_cpu_mem_usage=True, autocast_adapter_dtype=False).eval()
    except PEFT_REFUSALS as error:
        raise refusal(str(saved.folder), config.model_type, error) from error
    if odd := list(odd_layers(model)):
        raise AdapterError.of_problems(f"{saved.folder}", odd, shown=6)
    return model


def _under_both_names(saved: SavedAdapter, chain: WeightEdits) -> dict[str, torch.Tensor]:
    tensors = dict(saved.tensors)
    keys = [PREFIX + chain.embedding, PREFIX + chain.head]
    present = [key for key in keys if key in tensors]
    if chain.is_tied and saved.config.ensure_weight_tying and len(present) == 1:
        tensors.update(dict.fromkeys(keys, tensors[present[0]]))  # one matrix under two names
    return tensors


def _compare(
    saved: SavedAdapter,
    model: PeftModel,
    keys: Mapping[str, str],
    chain: WeightEdits,
    num_rows: int,
    *,
    is_partial: bool,
) -> set[str]:
    """Returns keys that are missing or left over, where that is allowed."""
    last = max((max(rows, default=-1) for rows in _token_rows(saved)), default=-1)
    if last >= num_rows:
        raise AdapterError(
            "{folder}: it has a row for token {last}, base and tokenizer have {num_rows:,} rows; give the tokenizer "
            "that it was trained with",
            folder=saved.folder,
            last=last,
            num_rows=num_rows,
        )
    needed = {key: tuple(model.get_parameter(name).shape) for name, key in keys.items()}
    others = {PREFIX + name: tuple(_held(model, _wrapped(model, name)).shape) for name in chain.sources}
    others[PREFIX + chain.head] = others[PREFIX + chain.embedding]
    found = {key: tuple(value.shape) for key, value in saved.tensors.items()}
    return check_fit(saved, found, needed, others, is_partial=is_partial)


def _completed(
    saved: SavedAdapter, model: PeftModel, keys: Mapping[str, str], odd: set[str]
) -> dict[str, torch.Tensor]:
    """What is left over taken out; of a LoRA matrix that is missing, zeros, so that its pair does nothing."""
    tensors = {key: value for key, value in saved.tensors.items() if key not in odd}
    shapes = {key: model.get_parameter(name).shape for name, key in keys.items()}
    return tensors | {key: torch.zeros(shapes[key]) for key in odd & shapes.keys()}


def _token_rows(saved: SavedAdapter) -> list[Sequence[int]]:
    given: Any = saved.config.trainable_token_indices or []
    return list(given.values()) if isinstance(given, dict) else [given]


def _wrapped(model: PeftModel, name: str) -> str:
    """The parameter's name under whatever PEFT has put around its module."""
    module, kind = _split(name)
    path = PREFIX + module
    while inner := next((x for x in ("original_module", "base_layer") if hasattr(model.get_submodule(path), x)), ""):
        path = f"{path}.{inner}"
    return f"{path}.{kind}"


def _held(model: PeftModel, name: str) -> torch.Tensor:
    """A parameter, or a buffer that lies in files."""
    module, _, own = name.rpartition(".")
    value: torch.Tensor = getattr(model.get_submodule(module), own)
    return value


def _split(plain: str) -> tuple[str, str]:
    """`a.b.lora_B.weight` -> `a.b`, `lora_B.weight`; `a.b.weight` -> `a.b`, `weight`."""
    plain = plain.replace(".base_layer", "")
    for mark in (".lora_", ".token_adapter."):
        if mark in plain:
            module, _, kind = plain.rpartition(mark)
            return module, ("lora_" if mark == ".lora_" else "") + kind
    module, _, kind = plain.rpartition(".")
    return module, kind


def _follows(model: PeftModel, head: str) -> bool:
    wrapper = model.get_submodule(PREFIX + head.removesuffix(".weight"))
    token_adapter = getattr(wrapper, "token_adapter", None)
    return token_adapter is not None and token_adapter.tied_adapter is not None


def _low_rank(saved: SavedAdapter, model: PeftModel, path: str, kind: str) -> list[tuple[str, Edit]]:
    """What the matrices of one layer of PEFT's do, `path` being its place in the model, `kind` as in `lora_B.weight`.

    Source: `ParamWrapper.get_delta_weight` of PEFT 0.21.
    """
    layer: Any = model.get_submodule(PREFIX + path)
    scale, module = float(layer.scaling["default"]), path.replace(".base_layer", "")
    value = saved.tensors[f"{PREFIX}{path}.{kind}"]
    if kind == "lora_B.bias":
        return [(f"{module}.bias", BiasDelta(value, scale))]
    other = saved.tensors[f"{PREFIX}{path}.{kind.replace('_B', '_A')}"]
    if kind == "lora_embedding_B":
        return [(f"{module}.weight", LowRank(other.T, value.T, scale))]
    if isinstance(layer, ParamWrapper):
        name, num_experts = f"{module}.{layer.parameter_name}", layer.num_experts
        if num_experts == 1 and layer._param_ndim == 2:
            return [(name, LowRank(value, other, scale))]
        up = value.reshape(len(value), -1, num_experts).permute(2, 0, 1)
        down = other.reshape(num_experts, -1, other.shape[-1])
        return [(name, ExpertsLowRank(up, down, scale, not layer._did_swap_in_out_features))]
    if layer.fan_in_fan_out:
        return [(f"{module}.weight", LowRank(other.T, value.T, scale))]
    magnitude = saved.tensors.get(f"{PREFIX}{path}.lora_magnitude_vector")
    return [(f"{module}.weight", LowRank(value, other, scale, magnitude))]


def _extended(chain: WeightEdits, step: Step, num_rows: int) -> WeightEdits:
    edits, sources, is_tied = dict(chain.edits), dict(chain.sources), chain.is_tied
    of_embedding, of_head = step.edits.get(chain.embedding, ()), step.edits.get(chain.head, ())
    if is_tied and not _same(of_embedding, of_head):
        logger.warning(
            "tied weights: the adapter trained embedding and head apart; both are written, and config.json is untied"
        )
        is_tied = False
        sources[chain.head], edits[chain.head] = sources[chain.embedding], edits.get(chain.embedding, ())
    for name, added in step.edits.items():
        if not (is_tied and name == chain.head):
            edits[name] = (*edits.get(name, ()), *added)
    edits = {name: done for name, done in edits.items() if done}
    return WeightEdits(sources, edits, num_rows, chain.embedding, chain.head, is_tied)


def _same(one: Sequence[Edit], other: Sequence[Edit]) -> bool:
    return len(one) == len(other) and all(_equal(a, b) for a, b in zip(one, other, strict=True))


def _equal(one: Edit, other: Edit) -> bool:
    if isinstance(one, Replace) and isinstance(other, Replace):
        return torch.equal(one.value, other.value)
    if isinstance(one, ReplaceRows) and isinstance(other, ReplaceRows):
        return one.indices == other.indices and torch.equal(one.values, other.values)
    return isinstance(one, Grow) and one == other
