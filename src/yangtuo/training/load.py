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
from yangtuo.config.settings import Settings
from yangtuo.data.template_json import to_values
from yangtuo.i18n import Message
from yangtuo.model import adapters, base, fingerprint, generation_config, provenance
from yangtuo.model.adapter_state import Adapter
from yangtuo.model.architecture import published
from yangtuo.model.base import Precision
from yangtuo.model.hubs import hub_of
from yangtuo.model.mergeable import check_mergeable
from yangtuo.model.narrow import keep_narrow
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
        keep_narrow(adapter.model, adapter.model.get_base_model(), base.computed_in(precision))
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
    of_modelscope = hub_of(settings.model.hub) is Hub.MODELSCOPE and not Path(known["base"]["name"]).is_dir()
    order = [*(one["folder"] for one in known["stack"]), str(saved)]
    words = [
        "--model_name_or_path",
        known["base"]["name"],
        "--peft_path",
        ",".join(order),
    ]
    trust = ["--trust_remote_code"] if settings.model.trust_remote_code else []
    last = shlex.join([*(["--hub", Hub.MODELSCOPE] if of_modelscope else []), *trust])
    both, last = shlex.join(words), f" {last}" if last else ""
    ask = shlex.quote(str(saved)) + (" --trust_remote_code" if trust else "")
    return [
        Message("to ask it: yangtuo chat {words}", words=ask),
        Message(
            "to serve it (Ollama, vLLM, llama.cpp): yangtuo export {words} --output_dir served{last}",
            words=both,
            last=last,
        ),
        Message("to merge it: yangtuo merge {words} --output_dir merged{last}", words=both, last=last),
    ]
