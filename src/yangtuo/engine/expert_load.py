"""How evenly a mixture of experts deals out the tokens of a step, for `log.jsonl`."""

from typing import Any

import torch
from torch import nn

from yangtuo.model.lora_targets import fused_experts


class ExpertLoad:
    """Counts which experts the routers choose while the model trains; nothing where it has none.

    Of the tokens of this process. A layer that gradient checkpointing computes twice is counted twice, and its shares
    stay what they are.
    """

    def __init__(self, model: nn.Module):
        self._counts: dict[int, torch.Tensor] = {}
        modules = dict(model.named_modules())
        for name in dict.fromkeys(name.rpartition(".")[0] for name in fused_experts(modules)):
            weights = modules[name].parameters(recurse=False)
            num = next(shape[0] for w in weights if len(shape := getattr(w, "ds_shape", w.shape)) == 3)
            modules[name].register_forward_pre_hook(_Counter(self._counts, num), with_kwargs=True)

    def reset(self) -> None:
        """Call when a step begins."""
        self._counts.clear()

    def shares(self) -> dict[str, float]:
        """Of the step.

        `experts_busiest`: the tokens of a layer's busiest expert by the mean of its experts, mean over layers.
        `experts_idle`: part of all experts that had no token.
        """
        if not self._counts:
            return {}
        counts = [count.double().cpu() for count in self._counts.values()]
        busiest = sum(float(count.max() / count.mean()) for count in counts) / len(counts)
        idle = sum(int((count == 0).sum()) for count in counts) / sum(map(len, counts))
        return {"experts_busiest": busiest, "experts_idle": idle}


class _Counter:
    """Of one layer; transformers hands the chosen experts to them as whole numbers."""

    def __init__(self, counts: dict[int, torch.Tensor], num_experts: int):
        self._counts, self._num_experts = counts, num_experts

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        chosen = next((value for value in given if not value.is_floating_point()), None)
        if chosen is not None and module.training:
            found = torch.bincount(chosen.detach().reshape(-1), minlength=self._num_experts)[: self._num_experts]
            self._counts[id(self)] = self._counts[id(self)] + found if id(self) in self._counts else found
