"""PEFT's copies of what `modules_to_save` trains, as it was: nothing reads them in training."""

import torch
from peft.utils import ModulesToSaveWrapper
from torch import nn

from yangtuo.model.sharding import is_sharded


def to_main_memory(model: nn.Module) -> None:
    """Take them off the device, where they are nobody else's and whole; in 8B they are 2 GB.

    Done when the engine is there: DDP wants all weights on one device when it is made, and looks at trained ones only
    from then on.
    """
    for weight in unused_originals(model):
        weight.data = weight.data.cpu()


def unused_originals(model: nn.Module) -> list[torch.Tensor]:
    """Frozen weights that nothing but PEFT's wrappers has; a tied head, for one, has the embedding's."""
    wrappers = [module for module in model.modules() if isinstance(module, ModulesToSaveWrapper)]
    inside = {id(module) for wrapper in wrappers for module in wrapper.original_module.modules()}
    used = {id(p) for module in model.modules() if id(module) not in inside for p in module.parameters(recurse=False)}
    originals = {id(p): p for wrapper in wrappers for p in wrapper.original_module.parameters()}
    return [p for number, p in originals.items() if number not in used and not is_sharded(p)]
