"""The LoRA beside the base: a new one, one to continue, or a new one on top of another.

Trained weights are float32 whatever the base is in: with float16 ones, the loss scaler stops with "Attempting to
unscale FP16 gradients", and PEFT's own autocast leaves `modules_to_save` as they are. Under ZeRO-3 they are in the
base's dtype, beside float32 masters of DeepSpeed's.
"""

import copy
import logging
import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer, ParamWrapper
from torch import nn
from transformers import PreTrainedModel

from yangtuo.config.choices import ModulesToSavePolicy
from yangtuo.config.schema import LoraArguments
from yangtuo.errors import AdapterError, is_out_of_memory
from yangtuo.i18n import Message, gettext_noop
from yangtuo.model import adapter_state
from yangtuo.model.adapter_config import PEFT_REFUSALS, refusal
from yangtuo.model.adapter_files import SavedAdapter, check_fit
from yangtuo.model.adapter_names import fitted, name_in_use
from yangtuo.model.adapter_state import Adapter
from yangtuo.model.architecture import Published
from yangtuo.model.lora import use_fused
from yangtuo.model.lora_checks import begins_from_the_base
from yangtuo.model.lora_options import embedding_names, is_tied, new_config, ties
from yangtuo.model.lora_targets import split as names
from yangtuo.model.sharding import gathered, is_sharded, shape_of

logger = logging.getLogger(__name__)


def attach_new(
    model: PreTrainedModel, lora: LoraArguments, new_tokens: Sequence[int] = (), published: Published | None = None
) -> Adapter:
    """A new LoRA on the base; the first loss is the base's.

    `new_tokens` are rows of embedding and head that are trained too, all others of theirs being frozen.
    """
    config = new_config(model, lora, new_tokens, published)
    peft_model = _with_lora(model, config, Message("this LoRA"))
    if config.target_parameters:
        _set_dropout(peft_model, lora.lora_dropout)
    adapter = _checked(Adapter(peft_model, published=published))
    if not begins_from_the_base(lora):
        return adapter
    matrices = {
        name: value
        for name, value in adapter_state.trained_parameters(adapter).items()
        if ".lora_A." in name or ".lora_B." in name
    }
    return replace(adapter, start={name: value.detach().to("cpu", copy=True) for name, value in matrices.items()})


def attach_saved(model: PreTrainedModel, saved: SavedAdapter, lora: LoraArguments, given: Collection[str]) -> Adapter:
    """Put a saved adapter on the base, ready to be trained further; `given` are the options on the command line.

    Raises:
        AdapterError: tensors missing, left over or of another shape; all of them are named.
    """
    policy = lora.modules_to_save_policy
    leaves = policy in (ModulesToSavePolicy.DROP, ModulesToSavePolicy.RESET)
    full = set(saved.config.modules_to_save or ())
    if leaves:  # 2023's recipe: the configuration does not tell of embedding and head that the file holds
        full |= {name for name in _last(embedding_names(model)) if any(_is_of(key, {name}) for key in saved.tensors)}
    added = modules_added(full, lora, given)
    config = _config_of(saved, model, lora, given)
    wanted = added if policy is ModulesToSavePolicy.DROP else full | added
    if wanted != set(saved.config.modules_to_save or ()):
        config.modules_to_save = sorted(wanted) or None
        config.ensure_weight_tying = ties(model, wanted)
    peft_model = _with_lora(model, config, str(saved.folder))
    if config.target_parameters and "lora_dropout" in given:
        _set_dropout(peft_model, lora.lora_dropout)

    bare = Adapter(peft_model)
    trained = adapter_state.trained_parameters(bare)
    named = adapter_state.names_of_keys(bare)
    places: dict[str, torch.Tensor] = {name_in_use(key) or key: trained[name] for key, name in named.items()}
    saved = replace(saved, tensors=fitted(saved.tensors, places))
    loose = _loose(peft_model, saved, places)
    tensors = dict(saved.tensors)
    fresh = {module for module in added if not any(_is_of(key, {module}) for key in tensors)}
    if leaves:
        tensors = {key: value for key, value in tensors.items() if not _is_of(key, full)}
        fresh |= full
        loose = {}
    places = {key: place for key, place in (places | loose).items() if not _is_of(key, fresh)}
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    needed = {key: shape_of(place) for key, place in places.items()}
    check_fit(saved, found, needed, {}, is_partial=lora.allow_partial_adapter)
    loose = {key: place for key, place in loose.items() if not _holds(place, tensors[key])}
    with torch.no_grad():
        for key, place in places.items():
            with gathered([place], writes=True):
                if key in tensors:
                    place.copy_(tensors[key])
                else:  # allowed to be missing: its pair then does nothing, as when it is merged
                    place.zero_()
    kept = frozenset(name for name, p in peft_model.named_parameters() if any(p is place for place in loose.values()))
    if policy is ModulesToSavePolicy.FREEZE:
        frozen = {name for name in trained if ".modules_to_save." in name and _is_of(name, full)}
        for name in frozen:
            trained[name].requires_grad_(False)
        kept |= frozen
    _tell(policy, full, fresh & added, loose)
    return _checked(Adapter(peft_model, kept))


def modules_added(full: Collection[str], lora: LoraArguments, given: Collection[str]) -> set[str]:
    """What is trained in full beside what a saved adapter has already; `given` are the options on the command line."""
    return set(names(lora.modules_to_save)) - set(full) if "modules_to_save" in given else set()


def _set_dropout(model: PeftModel, probability: float) -> None:
    """Before the matrices of layers; PEFT refuses a configuration with dropout where it has parameters to change."""
    for module in model.modules():
        if isinstance(module, LoraLayer) and not isinstance(module, ParamWrapper) and probability:
            module.lora_dropout["default"] = nn.Dropout(probability)


def _loose(model: PeftModel, saved: SavedAdapter, places: Collection[str]) -> dict[str, torch.Tensor]:
    """Frozen embedding and head whose values are in the file, by their names there; a tied matrix has two.

    Raises:
        AdapterError: two different matrices for one.
    """
    embeddings, found = _embeddings(model), dict[str, torch.Tensor]()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        key = name_in_use(name) or ""
        if key in saved.tensors and key not in places and _is_of(key, embeddings):
            for other, same in found.items():
                if same is parameter and not torch.equal(saved.tensors[other], saved.tensors[key]):
                    raise AdapterError(
                        "{folder}: {other} and {key} differ, and are one matrix in this base (tied); give the base "
                        "that it was trained on",
                        folder=saved.folder,
                        other=other,
                        key=key,
                    )
            found[key] = parameter
    return found


def _holds(place: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether it has these values already; not looked at where only a part is here."""
    return not is_sharded(place) and torch.equal(place, value.to(place))


def _config_of(saved: SavedAdapter, model: PreTrainedModel, lora: LoraArguments, given: Collection[str]) -> LoraConfig:
    _check_rows(saved, num_rows=shape_of(model.get_input_embeddings().weight)[0])
    config = copy.deepcopy(saved.config)
    config.inference_mode = False
    config.init_lora_weights = True  # its matrices are read, not begun
    config.base_model_name_or_path = model.name_or_path
    if "lora_dropout" in given and lora.lora_dropout != config.lora_dropout and not config.target_parameters:
        logger.warning("lora_dropout: %g as asked for, the adapter had %g", lora.lora_dropout, config.lora_dropout)
        config.lora_dropout = lora.lora_dropout
    return config


def _embeddings(model: PeftModel) -> set[str]:
    return _last(embedding_names(model.get_base_model()))


def _last(names: Iterable[str]) -> set[str]:
    return {name.rsplit(".", 1)[-1] for name in names}


def _is_lora_of(key: str, modules: Collection[str]) -> bool:
    return ".lora_" in key and any(part in modules for part in key.split("."))


def _is_of(key: str, modules: Collection[str]) -> bool:
    """Whether a tensor is one of these modules' own, in the file or in the model, and no LoRA matrix."""
    return ".lora_" not in key and any(part in modules for part in key.split("."))


def merge_in(model: PreTrainedModel, saved: SavedAdapter, lora: LoraArguments) -> PreTrainedModel:
    """The base with a saved adapter inside, in the base's dtype, for another LoRA on top.

    Raises:
        AdapterError: see `attach_saved`.
    """
    below = LoraArguments(allow_partial_adapter=lora.allow_partial_adapter)
    dtype = model.dtype
    if is_tied(model) and any(_is_lora_of(key, _last(embedding_names(model))) for key in saved.tensors):
        raise AdapterError(
            "{folder}: its LoRA on a head or embedding that are one matrix cannot be merged in memory; merge it with "
            "yangtuo merge, and give the merged folder",
            folder=saved.folder,
        )
    adapter = attach_saved(model, saved, below, ())
    plain: PreTrainedModel = adapter.model.merge_and_unload(safe_merge=True)
    for parameter in plain.parameters():
        parameter.data = parameter.data.to(dtype)
        parameter.requires_grad_(False)
    logger.warning("adapter: %s is merged into the base in memory; another LoRA comes on top", saved.folder)
    return plain


def _tell(policy: ModulesToSavePolicy, full: set[str], added: set[str], loose: Collection[str]) -> None:
    what = {
        ModulesToSavePolicy.DROP: gettext_noop(
            "adapter: its modules_to_save {names} are left out; the base's are used"
        ),
        ModulesToSavePolicy.FREEZE: gettext_noop(
            "adapter: its modules_to_save {names} are used, frozen and saved again"
        ),
        ModulesToSavePolicy.RESET: gettext_noop(
            "adapter: its modules_to_save {names} are trained again from the base's"
        ),
    }
    if policy is not ModulesToSavePolicy.KEEP and not full and not loose:
        logger.warning("--modules_to_save_policy has no effect: the adapter has no modules_to_save")
    if full and policy in what:
        logger.warning(Message(what[policy], names=", ".join(sorted(_last(full)))))
    if added:
        logger.warning("adapter: %s is trained in full from the base's, new to this adapter", ", ".join(sorted(added)))
    if loose:
        logger.warning(
            "adapter: modules_to_save is null, but the file holds %s: used, frozen, and saved again",
            " and ".join(sorted(key.split(".")[-2] for key in loose)),
        )


def _with_lora(model: PreTrainedModel, config: LoraConfig, whose: str) -> PeftModel:
    if not getattr(model, "is_quantized", False):  # PEFT has layers of its own for those
        use_fused(config)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on tied weights, and on what is converted when it is saved
            return get_peft_model(model, config)
    except PEFT_REFUSALS as error:
        if is_out_of_memory(error):
            raise
        raise refusal(whose, model.config.model_type, error) from error


def _check_rows(saved: SavedAdapter, num_rows: int) -> None:
    given = saved.config.trainable_token_indices or []
    lists: Iterable[Sequence[int]] = given.values() if isinstance(given, dict) else [given]
    last = max((max(rows, default=-1) for rows in lists), default=-1)
    if last >= num_rows:
        raise AdapterError(
            "{folder}: it has a row for token {last}, this base and tokenizer have {num_rows} rows; use the tokenizer "
            "that it was trained with",
            folder=saved.folder,
            last=last,
            num_rows=num_rows,
        )


def _checked(adapter: Adapter) -> Adapter:
    # ZeRO-3 computes in the dtype of what it is given, without autocast, and keeps float32 masters itself.
    base = [p for p in adapter.model.parameters() if not p.requires_grad and p.is_floating_point()]
    dtype = base[0].dtype if any(hasattr(p, "ds_id") for p in base) else torch.float32
    for parameter in adapter.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    if adapter.num_trainable() == 0:
        raise AdapterError("no weight would be trained; name modules with --trainable or --modules_to_save")
    lost = adapter_state.without_a_place(adapter)
    if lost:
        raise AdapterError("this PEFT would train but not save {lost}; train other modules", lost=", ".join(lost[:4]))
    if renamed := adapter_state.renamed_by_peft(adapter):
        raise AdapterError(
            "this PEFT would not find {renamed} again in the adapter's file, since it renames them for this "
            "{model_type} base; train other modules (--trainable)",
            renamed=", ".join(renamed[:4]),
            model_type=adapter.model.config.model_type,
        )
    odd = adapter_state.against_formula(adapter, adapter_state.file_shapes(adapter))
    if odd:
        raise AdapterError.of_problems(
            Message("this adapter could not be saved whole; train other modules"), odd, shown=6
        )
    return adapter
