"""What a base's config.json describes: the class that transformers has for it, and the model without weights."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.initialization import no_init_weights
from transformers.modeling_utils import set_zero3_state

from yangtuo.errors import ModelError, one_line
from yangtuo.i18n import Message

logger = logging.getLogger(__name__)

# What the code of a family may raise for a configuration that it does not expect.
OF_MODELS = (ValueError, ImportError, OSError, LookupError, TypeError, AttributeError, RuntimeError, AssertionError)


def read_config(folder: Path, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The model's config.json.

    Raises:
        ModelError: it is broken, of a type that transformers does not know, or needs code that comes with it.
    """
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise _refused(
            folder, Message("config.json cannot be used"), error, trust_remote_code=trust_remote_code
        ) from error


def _refused(folder: Any, what: str, error: Exception, *, trust_remote_code: bool) -> ModelError:
    if not trust_remote_code and "trust_remote_code" in str(error):
        return ModelError(
            "{folder}: Python code comes with this model and is not run unless --trust_remote_code is given; read the "
            "*.py files in that folder first",
            folder=folder,
        )
    return ModelError("{folder}: {what}: {error}", folder=folder, what=what, error=one_line(error, 200))


def auto_class(config: PreTrainedConfig) -> Any:
    """The class of transformers that makes this model for text: of several towers the language model, else all."""
    brings = getattr(config, "auto_map", None) or {}
    of_text = type(config) in AutoModelForCausalLM._model_mapping or AutoModelForCausalLM.__name__ in brings
    return AutoModelForImageTextToText if not of_text and has_towers(config) else AutoModelForCausalLM


def has_towers(config: PreTrainedConfig) -> bool:
    """Whether the base is published as a class that reads more than text."""
    return type(config) in AutoModelForImageTextToText._model_mapping and config.get_text_config() is not config


def empty_model(config: PreTrainedConfig, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """The model without weights; its few buffers (of the rotary embedding) are real.

    Raises:
        ModelError: transformers has no language model for this config.json.
    """
    with init_empty_weights(include_buffers=False):
        return _made(config, trust_remote_code=trust_remote_code, dtype=torch.float32).eval()


def modules_of(config: PreTrainedConfig, *, trust_remote_code: bool = False) -> dict[str, nn.Module]:
    """All modules of the model by name, without its weights (on torch's meta device).

    Raises:
        ModelError: transformers has no language model for this config.json.
    """
    with torch.device("meta"):
        return dict(_made(config, trust_remote_code=trust_remote_code).named_modules())


def _made(config: PreTrainedConfig, *, trust_remote_code: bool, **how: Any) -> PreTrainedModel:
    try:
        # Under ZeRO-3 transformers divides every model that is made, also one without weights. And weights that are not
        # there would be drawn, each by torch's Python code: four fifths of the time.
        with set_zero3_state(), no_init_weights():
            model: PreTrainedModel = auto_class(config).from_config(config, trust_remote_code=trust_remote_code, **how)
            model.tie_weights()  # what goes with drawing them
    except OF_MODELS as error:
        what = Message(
            "transformers makes no language model of this config.json (model_type {model_type!r})",
            model_type=config.model_type,
        )
        raise _refused(config.name_or_path, what, error, trust_remote_code=trust_remote_code) from error
    return model


def beside_and_inside(names: Iterable[str], model: PreTrainedModel) -> tuple[list[str], list[str]]:
    """Tensors that the model has no place for, parted.

    First those under a name of their own (`mtp.*`: heads that predict further tokens), which it does without; then
    those that belong to a part which it has (a bias of its layers, a layer more), without which it is another model.
    """
    modules, config = {name for name, _ in model.named_modules()}, model.config.get_text_config()
    num_layers, num_more = getattr(config, "num_hidden_layers", 0), getattr(config, "num_nextn_predict_layers", 0) or 0
    further = {f"layers.{number}" for number in range(num_layers, num_layers + num_more)}
    found: tuple[list[str], list[str]] = [], []
    for name in sorted(names):
        parts = name.split(".")
        depth = next(n for n in range(len(parts), -1, -1) if not n or ".".join(parts[:n]) in modules)
        is_inside = ".".join(parts[:depth]) not in ("", model.base_model_prefix)
        is_further = ".".join(parts[max(0, depth - 1) : depth + 1]) in further
        found[is_inside and not is_further].append(name)
    return found


@dataclass(frozen=True)
class Published:
    """A base of several towers, of which transformers makes the language model alone for text.

    Attributes:
        of_text: what the names of the decoder's weights begin with in that.
        of_whole: what they begin with in the class that is published, and that other programs load.
        parts: names of the towers beside it.
    """

    of_text: str
    of_whole: str
    parts: tuple[str, ...]


def published(config: PreTrainedConfig, *, trust_remote_code: bool = False) -> Published | None:
    """How the published class differs from the one that is trained; None where they are one."""
    if not has_towers(config) or auto_class(config) is not AutoModelForCausalLM:
        return None
    try:
        with torch.device("meta"):
            whole = AutoModelForImageTextToText.from_config(config, trust_remote_code=trust_remote_code)
    except OF_MODELS as error:  # a package for pictures that is not installed
        logger.warning(
            "base: its published class, for text and more, cannot be made here (%s); programs that load that class "
            "(vLLM) do not know the names of an adapter that is saved now",
            one_line(error, 160),
        )
        return None
    text = empty_model(config, trust_remote_code=trust_remote_code)
    of_text, of_whole = (_path_of(model, model.get_decoder()) for model in (text, whole))
    return None if of_text == of_whole else Published(of_text, of_whole, tuple(parts_without_text(whole)))


def _path_of(model: nn.Module, part: nn.Module) -> str:
    return next(f"{name}." for name, module in model.named_modules() if module is part)


def parts_without_text(model: PreTrainedModel) -> list[str]:
    """Names of the parts beside the decoder, which the loss of text does not depend on: a vision tower."""
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    if decoder is None or decoder is model or isinstance(decoder, nn.Linear):  # ModernBERT calls its head so
        return []
    inside = {id(module) for module in (*decoder.modules(), *(head.modules() if head else ()))}
    path = _path_of(model, decoder).removesuffix(".")
    above = path.rpartition(".")[0]  # where the parts stand side by side
    beside = [name for name, each in model.named_modules() if isinstance(each, nn.Linear) and id(each) not in inside]
    return sorted({name.removeprefix(f"{above}.").split(".")[0] for name in beside})
