"""The base with the LoRA that is trained, what asks it, and what travels with the adapter."""

import logging
import shlex
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

import yangtuo
from yangtuo.config.choices import Hub, ModulesToSavePolicy
from yangtuo.config.schema import ModelArguments
from yangtuo.config.settings import Settings
from yangtuo.data.template_json import to_values
from yangtuo.i18n import Message
from yangtuo.model import adapters, base, fingerprint, generation_config, processor, provenance
from yangtuo.model.adapter_state import Adapter
from yangtuo.model.architecture import published
from yangtuo.model.hubs import hub_of
from yangtuo.model.mergeable import check_mergeable
from yangtuo.model.narrow import keep_narrow
from yangtuo.model.processor import Precision
from yangtuo.model.prompt_files import PromptFiles, prompt_files_of
from yangtuo.training.inputs import Inputs

logger = logging.getLogger(__name__)


def load_base(
    settings: Settings, inputs: Inputs, precision: Precision, device: torch.device | None = None
) -> PreTrainedModel:
    """The base below the LoRA that is trained, on the device where one is given."""
    saved, lora = inputs.adapter, settings.lora
    model = base.load(inputs.base, precision, settings.model, device)
    num_tokens = inputs.tokenizer.num_tokens
    brings = saved and saved.holds_more_than_lora and lora.modules_to_save_policy is not ModulesToSavePolicy.DROP
    are_trained = bool(lora.modules_to_save or lora.train_new_tokens_only or brings)
    base.fit_vocabulary(model, num_tokens, are_trained=are_trained)
    for below in inputs.merged_in:
        model = adapters.merge_in(model, below, lora)
    return model


def load_adapter(
    settings: Settings, inputs: Inputs, precision: Precision, seed: int, device: torch.device | None = None
) -> Adapter:
    """The base with the LoRA that is trained, see `load_base`; the seed decides how a new one begins."""
    torch.manual_seed(seed)
    saved, lora = inputs.adapter, settings.lora
    model = load_base(settings, inputs, precision, device)
    known = published(inputs.config, trust_remote_code=settings.model.trust_remote_code)
    if saved and not lora.new_adapter:
        adapter = replace(adapters.attach_saved(model, saved, lora, settings.origins), published=known)
    else:
        new_tokens = range(inputs.config.get_text_config().vocab_size, inputs.tokenizer.num_tokens)
        adapter = adapters.attach_new(model, lora, new_tokens if lora.train_new_tokens_only else (), known)
    check_mergeable(inputs.base, adapter.model, trust_remote_code=settings.model.trust_remote_code)
    if precision.bf16 or precision.fp16:
        keep_narrow(adapter.model, adapter.model.get_base_model(), processor.computed_in(precision))
    logger.info(base.describe(inputs.config, model, precision, settings.model))
    logger.info(adapter.describe())
    return adapter


def prompt_files_for(inputs: Inputs, *, tries: bool) -> PromptFiles:
    """What is saved beside the weights for other programs; tried by the processes that save."""
    folders = [inputs.adapter.folder] if inputs.adapter else []
    found = generation_config.first_of([*folders, inputs.base])
    prompt_files = prompt_files_of(inputs.template, inputs.tokenizer, found[1] if found else None)
    return prompt_files.tried() if tries else prompt_files


def provenance_of(settings: Settings, inputs: Inputs, recipe: dict[str, Any]) -> dict[str, Any]:
    """What travels with the adapter: its base, what lies between it and the base, its tokenizer and its prompt."""
    return {
        "yangtuo": yangtuo.__version__,
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "base": fingerprint.of_base(str(settings.model.model_name_or_path), inputs.base, inputs.config),
        "stack": [{"sha256": each.sha256, "folder": str(each.folder.resolve())} for each in inputs.merged_in],
        "continued": _continued(settings, inputs),
        "num_bits": base.num_bits(settings.model),
        "tokenizer": {"sha256": inputs.tokenizer.sha256(), "num_tokens": inputs.tokenizer.num_tokens},
        "template": to_values(inputs.template),
        "data": recipe["data"],
    }


def _continued(settings: Settings, inputs: Inputs) -> list[dict[str, str]]:
    """The adapters that the trained one has in it, oldest first: the one that it continues, and those before that."""
    saved = inputs.adapter
    if saved is None or settings.lora.new_adapter:
        return []
    before = (provenance.read(saved.folder) or {}).get("continued", [])
    return [*before, {"sha256": saved.sha256, "folder": str(saved.folder.resolve())}]


def next_commands(settings: Settings, known: dict[str, Any], saved: Path) -> list[str]:
    """What a person does with an adapter, for the end of a run: a line each."""
    name, adapter = known["base"]["name"], shlex.quote(str(saved))
    order = ",".join([*(one["folder"] for one in known["stack"]), str(saved)])
    more = _model_words(settings.model, is_folder=Path(name).is_dir())
    both = shlex.join(["--model_name_or_path", name, "--peft_path", order])
    # Of a base by its hub name, an adapter does not decide that it is fetched: it is named again.
    alone = more if Path(name).is_dir() else f" {shlex.join(['--model_name_or_path', name])}{more}"
    served = Message(
        "to serve it (Ollama, vLLM, llama.cpp): yangtuo export {words} --output_dir served{more}", words=both, more=more
    )
    return [
        Message("to ask it: yangtuo chat {words}", words=f"{adapter}{alone}"),
        Message("to measure it against its base: yangtuo eval {words}", words=f"{adapter} --compare{alone}"),
        served,
        Message("to merge it: yangtuo merge {words} --output_dir merged{more}", words=both, more=more),
    ]


def _model_words(model: ModelArguments, *, is_folder: bool) -> str:
    """How the base was found, where another command would not find it so by itself; begins with a blank or is empty."""
    is_usual = Hub.HUGGINGFACE == hub_of(model.hub) == hub_of(Hub.AUTO)
    of_hub = [] if is_folder or is_usual else ["--hub", str(hub_of(model.hub))]
    of_cache = ["--cache_dir", model.cache_dir] if model.cache_dir and not is_folder else []
    words = [*of_hub, *of_cache, *(["--trust_remote_code"] if model.trust_remote_code else [])]
    return f" {shlex.join(words)}" if words else ""
