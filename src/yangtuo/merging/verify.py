"""The second proof that a merged folder is its base with its adapters: logits.

The first, `tensor_proof`, takes the arithmetic at its word. This one doubts it: it compares logits with PEFT's own
layers on the base, a layer at a time.
"""

import functools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import nn
from tqdm import tqdm
from transformers import PreTrainedModel

from yangtuo.errors import ProofError
from yangtuo.i18n import Message
from yangtuo.merging.edits import Grow, WeightEdits
from yangtuo.merging.plan import Plan
from yangtuo.merging.tensor_proof import SUMMING, blocks
from yangtuo.model.adapter_names import PREFIX, plain_name
from yangtuo.model.architecture import empty_model
from yangtuo.model.dtypes import ROUNDING
from yangtuo.model.lora_targets import routers
from yangtuo.model.stored_weights import StoredWeights

_LEAST_SHAKING = 2.0**-20  # the same, of a whole model
_TIMES = 3  # see `LogitProof`
_MOST_PROBE_TOKENS = 24
_MOST_SHAKEN = 4


@dataclass(frozen=True)
class LogitProof:
    """Logits of the merged model against base and adapter, float32 arithmetic on both sides.

    What may differ follows from rounding the merged weights to their dtype, and how far that carries depends on the
    model's depth and weights. So it is measured: the merged weights are rounded once more, at random, and the merged
    model may be off by three times that (one rounding against another is a matter of luck). Measured, the first
    rounding does half to a tenth of what is allowed. In float32 the second rounding is 16 times the dtype's,
    for sums in another order.

    Where experts are chosen, any rounding moves single tokens to other experts, and their logits by far: there the
    median position is compared, which a wrong merge would move as well.

    Attributes:
        num_prompts: how many probe prompts.
        num_tokens: tokens in all of them.
        max_difference: the largest difference of a logit; with experts, at the median position.
        limit: the largest allowed.
        max_logit: the largest absolute logit, for comparison.
        same_choice: part of the positions where both models rank the same token first.
    """

    num_prompts: int
    num_tokens: int
    max_difference: float
    limit: float
    max_logit: float
    same_choice: float


def prove_logits(
    base: StoredWeights,
    plan: Plan,
    merged: StoredWeights,
    probes: Sequence[Sequence[int]],
) -> LogitProof:
    """Run probe prompts through base with adapter and through the merged model, a layer at a time.

    The last adapter runs in PEFT's own layers; those before it are folded into the base in float32.

    Args:
        base: the base's files.
        plan: what was merged.
        merged: the merged files.
        probes: token ids; each is repeated or cut to one length.

    Raises:
        ProofError: the logits differ by more than rounding explains, or are not finite.
    """
    ids = _equal_lengths(probes)
    reference = _logits(plan.last.model, _with_adapter(base, plan), ids, "proof by logits 1/3")
    model = empty_model(merged.config, trust_remote_code=merged.trust_remote_code)
    found = _logits(model, _stored(merged, plan.chain), ids, "proof by logits 2/3")

    def shaken(seed: int) -> torch.Tensor:
        return _logits(model, _perturbed(base, merged, plan.chain, seed), ids, "proof by logits 3/3")

    return _compared(reference, found, shaken, Message("the merged model"), _chooses(base.model))


def _compared(
    reference: torch.Tensor, found: torch.Tensor, shaken: Callable[[int], torch.Tensor], what: str, chooses: bool
) -> LogitProof:
    """`shaken` gives the logits of `found` with another rounding, by a seed; `chooses`: see `_chooses`."""
    apart, largest = (found - reference).abs().amax(-1), float(reference.abs().max())
    difference, limit = _taken(apart, chooses), 0.0
    for seed in range(_MOST_SHAKEN):  # one drawing may by chance move the logits less than the rounding did
        limit = max(limit, _TIMES * _taken((shaken(seed) - found).abs().amax(-1), chooses) + SUMMING * 4 * largest)
        if difference <= limit:
            break
    if not difference <= limit:
        raise ProofError(
            "proof failed: logits of {what} and of base with adapter differ by {difference:.3g}, rounding explains "
            "{limit:.3g} (largest logit {largest:.3g})",
            what=what,
            difference=difference,
            limit=limit,
            largest=largest,
        )
    same = float((found.argmax(-1) == reference.argmax(-1)).float().mean())
    return LogitProof(len(found), apart.numel(), difference, limit, largest, same)


def _taken(by_position: torch.Tensor, chooses: bool) -> float:
    return float(by_position.quantile(0.5) if chooses else by_position.max())


def _chooses(model: PreTrainedModel) -> bool:
    """Whether parts of it are chosen by the largest of some numbers: experts, or the tokens that attention looks at."""
    modules = dict(model.named_modules())
    return bool(routers(modules)) or any(name.endswith(".indexer") for name in modules)


def prove_split(
    base: StoredWeights, plan: Plan, new_base: StoredWeights, new_plan: Plan, probes: Sequence[Sequence[int]]
) -> LogitProof:
    """Run probe prompts through base with adapter, and through the base and the LoRA that were made of them.

    Args:
        base: the base's files.
        plan: of the base and the adapter.
        new_base: files of the base that has the adapter's modules_to_save inside.
        new_plan: of that base and the plain LoRA.
        probes: token ids; each is repeated or cut to one length.

    Raises:
        ProofError: the logits differ by more than rounding explains, or are not finite.
    """
    ids = _equal_lengths(probes)
    reference = _logits(plan.last.model, _with_adapter(base, plan), ids, "proof by logits 1/3")
    exact = _with_adapter(new_base, new_plan)
    found = _logits(new_plan.last.model, exact, ids, "proof by logits 2/3")

    def perturbed(name: str, generator: torch.Generator) -> torch.Tensor:
        weight = exact(name).clone()
        stored = plain_name(name)
        spec = new_base.specs.get(new_plan.before.stored_name(stored))
        size = max(ROUNDING[spec.dtype] if spec and stored in plan.chain.edits else 0.0, _LEAST_SHAKING)
        return _shake(weight, size, generator)

    def shaken(seed: int) -> torch.Tensor:
        value = functools.partial(perturbed, generator=torch.Generator().manual_seed(seed))
        return _logits(new_plan.last.model, value, ids, "proof by logits 3/3")

    return _compared(reference, found, shaken, Message("base with plain LoRA"), _chooses(base.model))


def _equal_lengths(probes: Sequence[Sequence[int]]) -> torch.Tensor:
    length = min(_MOST_PROBE_TOKENS, max(map(len, probes)))
    return torch.tensor([[probe[i % len(probe)] for i in range(length)] for probe in probes])


Value = Callable[[str], torch.Tensor]


def _with_adapter(base: StoredWeights, plan: Plan) -> Value:
    step = plan.last

    def value(name: str) -> torch.Tensor:
        if name in step.keys:
            return step.saved.tensors[step.keys[name]].float()
        plain = plain_name(name)
        if PREFIX + plain in step.beside:
            return step.saved.tensors[PREFIX + plain].float()
        weight = plan.before.value(base, plain)
        for edit in step.edits.get(plain, ()):
            # What PEFT's layers do not do: rows that training had added before PEFT came.
            if isinstance(edit, Grow):
                weight = edit.apply(weight)
        return weight

    return value


def _stored(merged: StoredWeights, chain: WeightEdits) -> Value:
    return lambda name: merged.get(chain.stored_name(name)).float()


def _perturbed(base: StoredWeights, merged: StoredWeights, chain: WeightEdits, seed: int) -> Value:
    """The merged weights with a second rounding at random, where there was a first."""
    generator = torch.Generator().manual_seed(seed)

    def value(name: str) -> torch.Tensor:
        stored = chain.stored_name(name)
        weight = merged.get(stored)
        exact = weight.float() if weight.dtype is not torch.float32 else weight.clone()
        was_rounded = stored in chain.edits or weight.dtype != base.specs[chain.sources[stored]].dtype
        if was_rounded or weight.dtype is torch.float32:
            _shake(exact, max(ROUNDING[weight.dtype], _LEAST_SHAKING), generator)
        return exact

    return value


def _shake(weight: torch.Tensor, size: float, generator: torch.Generator) -> torch.Tensor:
    """Each value times 1 - size to 1 + size, in place."""
    for block in blocks(weight):
        block *= torch.rand(block.shape, generator=generator).sub_(0.5).mul_(2 * size).add_(1)
    return weight


def _logits(model: nn.Module, value: Value, ids: torch.Tensor, title: str) -> torch.Tensor:
    """float32 [prompts, tokens, vocabulary]; the weights of one part of the model are there at a time.

    Of a model that uses a weight outside of its own part, all of them at once.
    """
    _put_placeholders(model)
    logits = _run(model, list(_parts(model)), value, ids, title)
    return logits if torch.isfinite(logits).all() else _run(model, [model], value, ids, title)


@torch.no_grad()
def _run(model: nn.Module, parts: list[nn.Module], value: Value, ids: torch.Tensor, title: str) -> torch.Tensor:
    names = {id(module): name for name, module in model.named_modules()}
    bar = tqdm(total=len(parts), desc=title, unit="part", leave=False, disable=None, file=sys.stderr)
    taken: list[tuple[dict[str, Any], str, torch.Tensor]] = []

    def fill(part: nn.Module, _inputs: object) -> None:
        for owner in _owners(part):
            for kind, own, empty in _own(owner):
                taken.append((kind, own, empty))
                weight = value(f"{names[id(owner)]}.{own}")
                is_weight = kind is owner._parameters
                kind[own] = nn.Parameter(weight, requires_grad=False) if is_weight else weight.to(empty.dtype)

    def clear(_part: nn.Module, _inputs: object, _output: object) -> None:
        while taken:
            kind, own, empty = taken.pop()
            kind[own] = empty
        bar.update()

    hooks = [
        hook for part in parts for hook in (part.register_forward_pre_hook(fill), part.register_forward_hook(clear))
    ]
    try:
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
        return logits.float()
    finally:
        bar.close()
        for hook in hooks:
            hook.remove()


def _own(module: nn.Module) -> Iterator[tuple[dict[str, Any], str, torch.Tensor]]:
    """Its weights, and the buffers that lie in files."""
    for kind in (module._parameters, module._buffers):
        for name, value in list(kind.items()):
            if value is not None and name not in module._non_persistent_buffers_set:
                yield kind, name, value


def _put_placeholders(model: nn.Module) -> None:
    """Put weights without memory on the processor in place of those on the meta device.

    Some models ask a weight that is not there yet for its device, and would send their input to that. Not a number,
    so that one which is computed with does not go unseen.
    """
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None and weight.is_meta:
                nothing = torch.full((), math.nan, dtype=weight.dtype).expand(weight.shape)
                module._parameters[name] = nn.Parameter(nothing, requires_grad=False)


def _parts(model: nn.Module) -> Iterator[nn.Module]:
    """The layers of the largest list of layers, and whatever else owns weights, whole with PEFT's wrapping."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    layers = max(lists, key=lambda each: sum(p.numel() for p in each.parameters()))
    yield from layers
    covered = {id(module) for module in layers.modules()}
    for module in model.modules():  # parents come first
        is_wrapping = isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
        if id(module) not in covered and (any(_own(module)) or is_wrapping):
            yield module
            covered |= {id(inner) for inner in module.modules()}


def _owners(part: nn.Module) -> list[nn.Module]:
    """Modules with weights of their own that a forward uses: not the originals of `modules_to_save`."""
    unused = {id(each.original_module) for each in part.modules() if isinstance(each, ModulesToSaveWrapper)}
    return [module for module in part.modules() if any(_own(module)) and id(module) not in unused]
