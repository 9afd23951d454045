"""Whether what a LoRA learns can be put into its base: asked before the first step, and again by the merge."""

from collections.abc import Iterator
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora import Embedding, Linear, LoraLayer, ParamWrapper
from peft.utils.other import ModulesToSaveWrapper
from torch import nn

from yangtuo.errors import ModelError
from yangtuo.i18n import Message
from yangtuo.model.adapter_names import plain_name
from yangtuo.model.stored_weights import Group, StoredWeights, open_stored


def check_mergeable(folder: Path, model: PeftModel, *, trust_remote_code: bool) -> None:
    """Refuse to train what `yangtuo merge` would refuse afterwards; headers of the base's files only are read.

    Raises:
        ModelError: which layers, and why.
    """
    base = open_stored(folder, trust_remote_code=trust_remote_code)
    if getattr(base.config, "quantization_config", None):
        return  # merged into the 16-bit model that it was made from
    rescales = getattr(base.config, "rescale_every", 0)  # RWKV
    changing = [Message("its weights change while it computes (rescale_every in config.json)")] if rescales else []
    # What is trained on 4 or 8 bits is merged into the base as it is on the disk.
    odd = () if getattr(model.get_base_model(), "is_quantized", False) else odd_layers(model)
    problems = [*changing, *odd, *base.missing, *_one_way(base, changed_weights(model))]
    if problems:
        raise ModelError.of_problems(
            Message(
                "{folder}: what would be trained could not be merged into this base; train other modules", folder=folder
            ),
            problems,
            shown=6,
        )


def odd_layers(model: PeftModel) -> Iterator[str]:
    """LoRA layers of kinds that a merge does not know."""
    for path, module in model.named_modules():
        name = plain_name(path)
        if not isinstance(module, LoraLayer):
            continue
        base = module.get_base_layer()
        if not isinstance(module, Linear | Embedding | ParamWrapper):
            yield Message(
                "LoRA on {name} ({type_module__name}) cannot be merged",
                name=name,
                type_module__name=type(module).__name__,
            )
        elif isinstance(module, Linear) and module.fan_in_fan_out and module.lora_variant:
            yield Message("DoRA on {name}, which is stored transposed, cannot be merged", name=name)
        elif isinstance(module, Embedding) and module.lora_variant:
            yield Message("DoRA on the embedding {name} cannot be merged", name=name)
        elif isinstance(module, Linear) and not isinstance(getattr(base, "weight", None), torch.Tensor):
            yield Message(
                "LoRA on {name} ({type_base__name}) cannot be merged", name=name, type_base__name=type(base).__name__
            )


def changed_weights(model: nn.Module) -> Iterator[str]:
    """Names of the base's weights that LoRA or a full copy changes."""
    for path, module in model.named_modules():
        if isinstance(module, ParamWrapper):
            yield f"{plain_name(path)}.{module.parameter_name}"
        elif isinstance(module, LoraLayer):
            yield f"{plain_name(path)}.weight"
        elif isinstance(module, ModulesToSaveWrapper):
            own = module.original_module.named_parameters()
            yield from (f"{plain_name(path)}.{name}" for name, _ in own)


def _one_way(base: StoredWeights, names: Iterator[str]) -> Iterator[str]:
    seen = set[int]()
    for name in names:
        group = base.group_of.get(name)
        if group is None or group.rule is None or id(group) in seen:
            continue
        seen.add(id(group))
        try:
            _taken_apart(base, group)
        except ModelError as error:
            yield error.text


def _taken_apart(base: StoredWeights, group: Group) -> None:
    tensors = {
        name: torch.empty(base.specs[name].shape, dtype=base.specs[name].dtype, device="meta") for name in group.targets
    }
    for name, value in group.taken_apart(tensors, base.model).items():
        if tuple(value.shape) != base.files.specs[name].shape:
            raise ModelError(
                "{name} would have the shape {shape}, not {wanted}",
                name=name,
                shape=list(value.shape),
                wanted=base.files.specs[name].shape,
            )
