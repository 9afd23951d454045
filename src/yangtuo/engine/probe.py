"""Which shortcuts a model bears is tried on it before the first step, in the run's own dtype, by the gradient.

Two short rows with a common beginning are computed in the model's own way: padded, with its own head, with PEFT's own
LoRA layers. Then each shortcut is switched on, and is used where the gradient of the trained weights stays the same
within rounding. The loss alone does not tell: in bfloat16, recurrent layers that ran from one row into the next moved
it by less than 2 %, and the gradient by 4 to 170 %.

So a model with a convolution, a recurrent layer, learned positions or something done to its logits is right all the
same; it is only slower.
"""

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from yangtuo.data.examples import Examples
from yangtuo.engine.attention import PREFIX_SHARED
from yangtuo.engine.comparison import Comparison, Result, distance
from yangtuo.engine.compiled import are_computed_twice, as_they_were, compile_each, has_one_graph, with_norm
from yangtuo.engine.layer_kinds import reason_not_to_share
from yangtuo.engine.layout import pad, share
from yangtuo.engine.loss import SupervisedLoss
from yangtuo.engine.processes import largest
from yangtuo.engine.steps import Execution
from yangtuo.errors import AdapterError, ModelError, is_out_of_memory, one_line
from yangtuo.i18n import Listed, Message
from yangtuo.model.dtypes import name_of
from yangtuo.model.lora import FusedLinear

logger = logging.getLogger(__name__)

HEAD, LORA, SHARING = Message("own head"), Message("fused LoRA"), Message("shared prefixes")
PADDING, COMPILED = Message("padded rows"), Message("compiled layers")
_WEIGHTS = np.array([1.0, 0.7])  # so that rows that are mixed up do not add up to the same
# Of models that refuse another attention, or do not hand its arguments on.
_REFUSALS = (RuntimeError, ValueError, TypeError, ImportError, LookupError, AttributeError)
_MOST_NAMED = 4
_OWN = re.compile(r"\.lora_|\.modules_to_save\.|\.token_adapter\.")  # behind a module's name
_INSTEAD: dict[str, Message] = {
    HEAD: Message("the logits of all positions are computed at once"),
    LORA: Message("PEFT's own LoRA layers compute"),
    SHARING: Message("rows are padded"),
    PADDING: Message("rows are computed one by one"),
    COMPILED: Message("layers are not compiled"),
}


@dataclass(frozen=True)
class Shortcuts:
    """What was tried on a model, and what is used.

    Attributes:
        shares_prefixes: rows may be laid out as a prefix tree.
        pads_exactly: rows beside each other on padded lines have the gradient of rows computed one by one.
        is_compiled: each decoder layer is a compiled graph.
        compared: "gradient", or "token losses" where an engine holds parts of the weights.
        dtype: in which the model computes.
        limit: the largest distance that rounding explains.
        distances: relative, from the model's own way; None where the model refused.
        refused: shortcuts that are not used, and why.
    """

    shares_prefixes: bool
    pads_exactly: bool
    is_compiled: bool
    compared: str
    dtype: str
    limit: float
    distances: Mapping[str, float | None] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    def allowed(self, wish: Execution) -> Execution:
        """The wish, as far as the model bears it; one whose rows change beside padding is computed a row at a time."""
        if not self.pads_exactly:
            wish = replace(wish, max_cells=1, is_auto=False)
        return replace(wish, shares_prefixes=self.shares_prefixes, compiles=self.is_compiled)


def choose_shortcuts(
    model: nn.Module, base: PreTrainedModel, loss: SupervisedLoss, examples: Examples, wish: Execution
) -> Shortcuts:
    """Set `loss.uses_own_head`, the LoRA layers, the base's attention, compiled layers; tell how rows may be laid out.

    Called by all processes, which choose alike.

    Args:
        model: as the engine has wrapped it.
        base: the causal language model inside.
        loss: its loss function.
        examples: the data set; two rows are made of its first ones.
        wish: whether rows may share prefixes (not where the user has named an attention code, or the run needs rows
            on lines of their own), and whether layers are to be compiled.

    Raises:
        AdapterError: trained modules on which the loss does not depend; they are named.
    """
    trial = _Trial(model, base, loss, two_rows(examples))
    with trial.compared.on_the_model():
        trial.try_lora()
        trial.try_head()
        shares = wish.shares_prefixes and trial.try_sharing()
        pads = not wish.shares_prefixes or shares or trial.try_padding()
        is_compiled = wish.compiles and trial.try_compiled(shares=shares)
    dtype = name_of(trial.compared.dtype)
    how = (trial.compared.kind, dtype, trial.compared.limit, trial.distances, trial.refused)
    found = Shortcuts(shares, pads, is_compiled, *how)
    _tell(found)
    return found


def _check_reached(unreached: Sequence[str]) -> None:
    """Of a mixture of experts, some may have seen none of the few tokens that are tried."""
    modules = sorted({_OWN.split(name)[0] for name in unreached if "experts" not in name})
    if modules:
        raise AdapterError(
            "{num_modules} trained modules have no gradient, since the loss of text does not depend on them: "
            "{modules}{what}; leave them out of --trainable and --modules_to_save, or continue an adapter without "
            "them",
            num_modules=len(modules),
            modules=", ".join(modules[:_MOST_NAMED]),
            what=", ..." if len(modules) > _MOST_NAMED else "",
        )


class _Trial:
    """One shortcut after the other, on two rows."""

    def __init__(self, model: nn.Module, base: PreTrainedModel, loss: SupervisedLoss, rows: Examples):
        self.compared = Comparison(model, base, loss, rows)
        self.distances: dict[str, float | None] = {}
        self.refused: dict[str, str] = {}
        self._base, self._loss, self._rows = base, loss, rows
        self._fused = [module for module in base.modules() if isinstance(module, FusedLinear)]
        self._padded = pad(rows, [0, 1], _WEIGHTS)
        self._expected: Result = []

    def try_lora(self) -> None:
        """The model's own way first, which sets the standard; then our LoRA layers in place of PEFT's."""
        self._loss.uses_own_head = False
        self._fuse(False)
        self._expected = self._in_its_own_way()
        _check_reached(self.compared.unreached)
        self._fuse(True)
        used = any(module.is_common_case() for module in self._fused)
        if used and not self._agrees(LORA, lambda: self.compared.result(self._padded)):
            self._fuse(False)

    def _in_its_own_way(self) -> Result:
        """The standard; positions count from 0 in every layout, which no shortcut would show to be wrong (RoBERTa)."""
        try:
            found = self.compared.result(self._padded)
            counted = self.compared.result(self._padded, tells_positions=False)
        except _REFUSALS as error:
            if is_out_of_memory(error):
                raise
            raise self._untrainable(
                Message("does not compute the loss of two short rows: {error}", error=one_line(error, 160))
            ) from error
        if distance(counted, found) > self.compared.limit:
            raise self._untrainable(Message("counts positions otherwise than from 0"))
        return found

    def _untrainable(self, why: str) -> ModelError:
        kind, name = self._base.config.model_type, type(self._base).__name__
        return ModelError(
            "a {kind} base cannot be trained here: {name} of transformers {why}", kind=kind, name=name, why=why
        )

    def _fuse(self, is_on: bool) -> None:
        for module in self._fused:
            module.may_fuse = is_on

    def try_head(self) -> None:
        """The head on supervised positions only, in chunks."""
        if not self._loss.knows_decoder:
            self.refused[HEAD] = Message("transformers does not name this model's decoder")
            return
        expected = self.compared.result_of_head(self._padded)
        self._loss.uses_own_head = True
        if not self._agrees(HEAD, lambda: self.compared.result_of_head(self._padded), expected):
            self._loss.uses_own_head = False

    def try_sharing(self) -> bool:
        """Both rows on one line, in our attention."""
        if reason := reason_not_to_share(self._base):
            self.refused[SHARING] = reason
            return False
        before = self._base.config._attn_implementation

        def shared() -> Result:
            self._base.set_attn_implementation(PREFIX_SHARED)
            return self.compared.result(share(self._rows, [0, 1], _WEIGHTS))

        agrees = self._agrees(SHARING, shared)
        if not agrees:
            self._base.set_attn_implementation(before)
        return agrees

    def try_padding(self) -> bool:
        """Each row by itself: what becomes of a row must not depend on the rows beside it."""

        def one_by_one() -> Result:
            first, second = (self.compared.result(pad(self._rows, [i], _WEIGHTS[i : i + 1])) for i in (0, 1))
            is_sum = self.compared.kind == "gradient"
            return [a + b for a, b in zip(first, second, strict=True)] if is_sum else [*first, *second]

        return self._agrees(PADDING, one_by_one)

    def try_compiled(self, *, shares: bool) -> bool:
        """Layers and the loss as compiled graphs, on rows as they will be laid out."""
        layers = with_norm(self._base)
        is_twice = are_computed_twice(self._base)
        if shares and is_twice and not has_one_graph(self._base, self.compared.device, self.compared.dtype):
            self.refused[COMPILED] = Message(
                "with gradient checkpointing they need a kernel for rows of all lengths, which NVIDIA GPUs have from "
                "Ampere on, in 16 bits, for attention without windows, soft-capping and dropout"
            )
            return False
        self._fuse(False)  # a function of many kernels, of which a compiler makes few
        compile_each(layers)
        self._loss.compile()
        layout = share(self._rows, [0, 1], _WEIGHTS) if shares else self._padded

        def compiled() -> Result:
            self._base.train()  # other graphs, with dropout, whose numbers tell nothing; they have to be there
            self.compared.result(layout)
            self._base.eval()
            return self.compared.result(layout)

        agrees = self._agrees(COMPILED, compiled)
        self._base.eval()
        if not agrees:
            self._loss.compile(is_on=False)
            as_they_were(layers)
            self._fuse(LORA not in self.refused)
        return agrees

    def _agrees(self, name: str, compute: Callable[[], Result], expected: Result | None = None) -> bool:
        reason = ""
        try:
            off = distance(compute(), self._expected if expected is None else expected)
        except _REFUSALS as error:
            off, reason = math.inf, one_line(error, 120)
        (off,) = largest([off], self.compared.device)
        self.distances[name] = off if math.isfinite(off) else None
        if off > self.compared.limit:
            told = Message(
                "the {kind} would be off by {off:.2g}, rounding explains {limit:.2g}",
                kind=self.compared.kind,
                off=off,
                limit=self.compared.limit,
            )
            self.refused[name] = reason or told
        return off <= self.compared.limit


def _tell(found: Shortcuts) -> None:
    for name, reason in found.refused.items():
        logger.warning("engine: %s: %s", _INSTEAD[name], reason)
    tried = [
        Message("{name} {value:.2g}", name=name, value=value)
        for name, value in found.distances.items()
        if value is not None
    ]
    if tried:
        logger.info(
            "engine: shortcuts tried by the %s in %s; difference from the model's own way: %s (limit %.2g)",
            found.compared,
            found.dtype,
            Listed(tried),
            found.limit,
        )


def two_rows(examples: Examples) -> Examples:
    """16 and 20 tokens of the data, all but the first supervised; the second begins as the first and ends otherwise."""
    ids = np.resize(examples.input_ids[:64], 64)
    a, b = ids[:16], np.concatenate([ids[:8], ids[30:42]])
    if b[8] == a[8]:  # data that repeats itself: the second row would go on as the first
        b[8] = 0 if a[8] else 1
    return Examples.of_rows([a, b], [np.ones(len(a)), np.ones(len(b))])
