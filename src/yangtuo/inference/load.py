"""Models to be asked, not trained: a base, a base with an adapter on it, or a merged folder.

Opened as training has it: the same vocabulary rows, the same dtypes, the adapter's own tokenizer and template.
An adapter leaves the base beside it in memory, so that both can be asked with one set of weights.
"""

import contextlib
import functools
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from yangtuo.config.schema import LoraArguments, ModelArguments
from yangtuo.data.encoding import prompt_ids
from yangtuo.data.records import Turn
from yangtuo.data.templates import Template
from yangtuo.data.tokenizer import Tokenizer, is_tokenizer_folder, open_tokenizer
from yangtuo.errors import AdapterError, UsageError, one_line
from yangtuo.model import adapter_files, architecture, base, fingerprint, provenance
from yangtuo.model.adapter_config import CONFIG_FILE
from yangtuo.model.adapter_files import SavedAdapter
from yangtuo.model.adapters import attach_saved, merge_in
from yangtuo.model.base import Hardware
from yangtuo.model.folders import local_folder
from yangtuo.model.hubs import source_of

logger = logging.getLogger(__name__)

_PROBE = (Turn("user", "?", trained=False),)


@dataclass(frozen=True)
class Places:
    """Where the parts of a model lie.

    Attributes:
        base: folder of the weights; a merged model is its own.
        adapter: folder of the adapter on it; None without one.
    """

    base: Path
    adapter: Path | None

    @property
    def travelling(self) -> Path:
        """The folder in which tokenizer and template travel."""
        return self.adapter or self.base


@dataclass(frozen=True)
class LoadedModel:
    """A model that can be asked.

    Attributes:
        model: as transformers runs it, adapter layers inside.
        tokenizer: its own.
        num_rows: rows of the vocabulary that it knows; later ones are never chosen.
        in_place: a context in which the weights are this model's.
    """

    model: PreTrainedModel
    tokenizer: Tokenizer
    num_rows: int
    in_place: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext


@dataclass(frozen=True)
class Opened:
    """A model with all that it needs to answer.

    Attributes:
        places: where it lies.
        config: of the base.
        template: of training, see `provenance.find_template`.
        loaded: the tuned model, or the model itself where nothing was tuned.
        loaded_base: the base alone, in the same memory; None without an adapter.
    """

    places: Places
    config: PreTrainedConfig
    template: Template
    loaded: LoadedModel
    loaded_base: LoadedModel | None

    @property
    def num_positions(self) -> int | None:
        """Tokens that prompt and answer may have together; None where the configuration does not say."""
        found = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        return int(found) if found else None


def find_adapter(target: str | None, peft_path: str | None, run_adapter: str) -> Path | None:
    """The adapter that was named, by its own folder or by that of its run; None where a model was named.

    Args:
        target: the folder of an adapter, of a run or of a model, or the hub name of a model; None for the option.
        peft_path: the adapter, as an option.
        run_adapter: name of the folder in which a run leaves its adapter.

    Raises:
        UsageError: named twice.
    """
    if target is None:
        return None if peft_path is None else Path(os.path.expanduser(peft_path))
    if peft_path is not None:
        raise UsageError(
            f"{target} and --peft_path {peft_path}: name one of them; an adapter's base is --model_name_or_path"
        )
    folder = Path(os.path.expanduser(target))
    if (folder / CONFIG_FILE).is_file():
        return folder
    if (folder / run_adapter / CONFIG_FILE).is_file():
        logger.info("adapter: %s, of the run in %s", folder / run_adapter, folder)
        return folder / run_adapter
    if folder.is_dir() and not (folder / "config.json").is_file():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:6]) or "nothing"
        raise UsageError(
            f"{target}: neither {CONFIG_FILE} nor config.json in that folder (found: {found})"
            f"{adapter_files.meant(folder)}"
        )
    return None


def places_of_adapter(adapter: Path, model: ModelArguments) -> Places:
    """An adapter and its base: the one that was named, else the one that it was trained on.

    Raises:
        AdapterError: no adapter there, or one whose base is not here.
        ModelError: the base that was named is not there.
    """
    if not (adapter / CONFIG_FILE).is_file():
        adapter_files.read(str(adapter), is_optional=False)  # says what is wrong with it
    named = model.model_name_or_path
    if named is None:
        named = str(_read_object(adapter / CONFIG_FILE).get("base_model_name_or_path") or "")
        # A hub name is not followed: an adapter does not decide that gigabytes are fetched.
        if not named or not os.path.isdir(os.path.expanduser(named)):
            told = f"its base {named} is not a folder here" if named else f"its {CONFIG_FILE} names no base"
            raise AdapterError(f"{adapter}: {told}; name the base with --model_name_or_path")
        logger.info("base: %s, named by the adapter", named)
    return Places(model_folder(named, model), adapter)


def model_folder(named: str, model: ModelArguments) -> Path:
    """The folder of a model with its weights.

    Raises:
        ModelError: it is not there.
    """
    return local_folder(
        named,
        option="model_name_or_path",
        must_hold=["config.json"],
        source=source_of(model),
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(f"{path}: cannot be read: {one_line(error, 160)}") from error
    if not isinstance(value, dict):
        raise AdapterError(f"{path}: expected an object")
    return value


def open_model(
    places: Places,
    model: ModelArguments,
    template: str | None,
    hardware: Hardware,
    lora: LoraArguments | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Opened:
    """Load what lies in these places, frozen and ready to answer.

    Args:
        places: of the weights.
        model: dtype, tokenizer, and how to load.
        template: the user's choice, None for the one that travels along.
        hardware: see `base.detect_hardware`.
        lora: says whether an adapter of another base, or one that is not whole, is taken; None for neither.
        kwargs: what a chat template is given beside the messages; None for what it was given in training.

    Raises:
        UserError: a part cannot be used, or does not fit the others.
    """
    lora = lora or LoraArguments()
    config = architecture.read_config(places.base, trust_remote_code=model.trust_remote_code)
    saved = adapter_files.read(str(places.adapter), is_optional=False) if places.adapter else None
    below = provenance.below(places.adapter, fingerprint.merged_into(places.base)) if places.adapter else []
    told = None
    if saved:
        merged = [provenance.sha256_of(folder) for folder in below]
        told = fingerprint.check(saved.folder, places.base, config, merged=merged, force=lora.force_base)
    tokenizer = find_tokenizer(places, model)
    fingerprint.check_tokenizer(told, places.travelling, tokenizer, force=lora.force_base)
    chosen = find_template(places, tokenizer, template, kwargs, is_tuned=saved is not None)
    loaded, dtype, num_new = _load(places.base, config, model, tokenizer, hardware)
    for folder in below:
        loaded = merge_in(loaded, adapter_files.read(str(folder), is_optional=False), lora)
    num_rows = _num_rows(loaded)
    if saved is None:
        known = min(num_rows - num_new, tokenizer.num_tokens)
        return Opened(places, config, chosen, LoadedModel(_ready(loaded, dtype, hardware), tokenizer, known), None)
    if num_new and not saved.holds_more_than_lora:
        logger.warning("vocabulary: the adapter brings no weights for the %d rows added", num_new)
    ready, base_alone = _with_adapter(loaded, saved, lora, dtype, hardware)
    of_base = _tokenizer_of_base(places.base, chosen, tokenizer) if num_new else tokenizer
    return Opened(
        places,
        config,
        chosen,
        LoadedModel(ready, tokenizer, min(num_rows, tokenizer.num_tokens)),
        LoadedModel(ready, of_base, min(num_rows - num_new, of_base.num_tokens), base_alone),
    )


def find_tokenizer(places: Places, model: ModelArguments) -> Tokenizer:
    """The tokenizer that was named, else the one that travels with the adapter, else the base's.

    Raises:
        UsageError: there is none.
    """
    folders = (places.travelling, places.base)
    tokenizer = provenance.find_tokenizer(folders, model.tokenizer_name_or_path, source_of(model))
    if tokenizer is None:
        raise UsageError(
            f"neither {places.travelling} nor {places.base} has a tokenizer; name --tokenizer_name_or_path"
        )
    return tokenizer


def find_template(
    places: Places, tokenizer: Tokenizer, template: str | None, kwargs: Mapping[str, Any] | None, *, is_tuned: bool
) -> Template:
    """The template that was named, else the one that travels with the model; said.

    Raises:
        UserError: it does not fit the tokenizer.
    """
    chosen, why = provenance.find_template([places.travelling], tokenizer, template, None, kwargs)
    prompt_ids(tokenizer, chosen, _PROBE)  # it fits the tokenizer, or the error comes before the weights
    logger.info("template: %s (%s)", chosen.name, why)
    if template is not None:
        provenance.tell_other([places.travelling], chosen)
    elif is_tuned and provenance.template_of(places.travelling) is None:
        logger.warning("template: none travels with the adapter; name the one of its training with --template")
    return chosen


def _with_adapter(
    loaded: PreTrainedModel, saved: SavedAdapter, lora: LoraArguments, dtype: torch.dtype, hardware: Hardware
) -> tuple[PreTrainedModel, Callable[[], AbstractContextManager[None]]]:
    """The model with the adapter in it, and the context in which it is the base alone."""
    replaced = [weight for weight in _embeddings(loaded) if saved.holds_more_than_lora]
    originals = [weight.detach().clone() for weight in replaced]
    adapter = attach_saved(loaded, saved, lora, ())
    ready = _ready(adapter.model, dtype, hardware)
    # Embeddings that came with null modules_to_save were put in the place of the base's own; PEFT knows of none.
    kept = zip(replaced, originals, strict=True) if adapter.kept else ()
    swaps = [(weight, original.to(weight.device)) for weight, original in kept]
    return ready.get_base_model(), functools.partial(_base_alone, ready, swaps)


def open_base(folder: Path, model: ModelArguments, tuned: Opened, hardware: Hardware) -> LoadedModel:
    """The base of a merged model, in memory of its own, asked in the merged model's template.

    Raises:
        UserError: it cannot be used.
    """
    config = architecture.read_config(folder, trust_remote_code=model.trust_remote_code)
    tokenizer = tuned.loaded.tokenizer
    if config.get_text_config().vocab_size < tokenizer.num_tokens:
        tokenizer = _tokenizer_of_base(folder, tuned.template, tokenizer)
    loaded, dtype, num_new = _load(folder, config, model, tokenizer, hardware)
    known = min(_num_rows(loaded) - num_new, tokenizer.num_tokens)
    return LoadedModel(_ready(loaded, dtype, hardware), tokenizer, known)


def _load(
    folder: Path, config: PreTrainedConfig, model: ModelArguments, tokenizer: Tokenizer, hardware: Hardware
) -> tuple[PreTrainedModel, torch.dtype, int]:
    """The weights with a row for every token; also their dtype, and how many of the rows are new."""
    precision = base.choose_precision(model.torch_dtype, fp16=False, bf16=False, stored=config.dtype, hardware=hardware)
    loaded = base.load(folder, precision, model, torch.device(hardware.device))
    # What is said of rows that are not trained is advice for a training run.
    num_new = base.fit_vocabulary(loaded, tokenizer.num_tokens, are_trained=True)
    return loaded, precision.weights, num_new


def _num_rows(model: PreTrainedModel) -> int:
    return int(model.get_input_embeddings().weight.shape[0])


def _embeddings(model: PreTrainedModel) -> list[nn.Parameter]:
    """Of embedding and head, which may be one."""
    layers = [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None]
    return list({id(layer.weight): layer.weight for layer in layers}.values())


def _ready(model: Any, dtype: torch.dtype, hardware: Hardware) -> Any:
    """Frozen, in one dtype, and where it is computed."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)  # an adapter's, which training keeps in float32
        parameter.requires_grad_(False)
    return model.to(hardware.device).eval()


def _tokenizer_of_base(folder: Path, template: Template, tokenizer: Tokenizer) -> Tokenizer:
    """The base's own, since it knows no token that came later; the tuned model's where the base has none that fits."""
    if is_tokenizer_folder(folder):
        own = open_tokenizer(folder)
        if all(own.id_of(token) is not None for token in template.control_tokens):
            logger.info("the base is asked with its own tokenizer: it has no rows for the tokens added to it")
            return own
    logger.warning("the base is asked with tokens that it has no rows for; its answers say little")
    return tokenizer


@contextlib.contextmanager
def _base_alone(model: Any, swaps: Sequence[tuple[nn.Parameter, torch.Tensor]]) -> Iterator[None]:
    with model.disable_adapter():
        tuned = [weight.data for weight, _ in swaps]
        for weight, original in swaps:
            weight.data = original
        try:
            yield
        finally:
            for (weight, _), values in zip(swaps, tuned, strict=True):
                weight.data = values
    model.requires_grad_(False)  # PEFT makes the adapter trainable where it switches it on again
