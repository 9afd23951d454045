"""Models to be asked, not trained: a base, a base with an adapter on it, or a merged folder.

Opened as training has it: the same vocabulary rows, the same dtypes, the adapter's own tokenizer and template.
An adapter leaves the base beside it in memory, so that both can be asked with one set of weights.
"""

import contextlib
import functools
import logging
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
from yangtuo.errors import UsageError
from yangtuo.inference.places import Places as Places  # these three: for those who find a model and load it
from yangtuo.inference.places import model_folder as model_folder
from yangtuo.inference.places import places_of_adapter as places_of_adapter
from yangtuo.model import adapter_files, architecture, base, fingerprint, processor, provenance
from yangtuo.model.adapter_files import SavedAdapter
from yangtuo.model.adapters import attach_saved, merge_in
from yangtuo.model.hubs import source_of
from yangtuo.model.processor import Hardware

logger = logging.getLogger(__name__)

_PROBE = (Turn("user", "?", trained=False),)


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
        hardware: see `processor.detect_hardware`.
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
            "neither {travelling} nor {base} has a tokenizer; name --tokenizer_name_or_path",
            travelling=places.travelling,
            base=places.base,
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
    precision = processor.choose_precision(
        model.torch_dtype, fp16=False, bf16=False, stored=config.dtype, hardware=hardware
    )
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
