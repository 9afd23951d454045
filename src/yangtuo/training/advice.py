"""Will it learn? What published work recommends for LoRA on a base, beside what a run would do. Values in, words out.

Nothing here decides anything but a refusal of rates a hundred times too high; what is published is a place to start
from, and a sweep on the user's own rows is worth more. Sources, and what is taken from each:

- tinker-cookbook, `get_lr` of `tinker_cookbook/hyperparam_utils.py` in 2025: 5e-5 * 10 * (2000 / H) ** P, with H the
  hidden size, P 0.781 for Llama and 0.0775 for Qwen. Its later versions have a table in its place, of rates
  measured model by model (tulu3, 128 rows a step, 780 steps), which knows no LLaMA of 2023 and no Chinese one. For the
  models of the table the two differ up to threefold (a test compares them), so that only ten times off is told.
- Tinker's documentation (https://tinker-docs.thinkingmachines.ai), pages "hyperparameters" and "LoRA primer": rank 32,
  about 128 rows a step, at least 100 steps and better 1,000, "not confident" of the latter two; matrices with no fewer
  parameters than there are trained tokens; large steps and LoRA on attention alone cost loss that no rank makes up.
- LoRA Without Regret (Schulman et al. 2025, https://thinkingmachines.ai/blog/lora/): alpha 32 at every rank, so that
  the best rate does not depend on the rank; ten times the best rate of full training; a parameter holds about 2 bits, a
  trained token brings about 1.
- Unsloth's guide to LoRA's hyperparameters (https://unsloth.ai/docs): 1 to 3 epochs.

All of it was measured with Adam. Of LoRA+ nothing is published there: the rate is that of its A matrices.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from yangtuo.i18n import Listed, Message
from yangtuo.training.learning_rate import (
    ALPHA,
    LORA_TO_FULL,
    Base,
    Plan,
    basis_of,
    far_off,
    rate,
    rate_of,
    recommended_learning_rate,
)

POST = "LoRA Without Regret"
DOCUMENTATION, GUIDE = Message("Tinker's documentation"), Message("Unsloth's guide")
_RANK = 32
_ROWS, _MANY_ROWS = 128, 512  # of a step; beyond four times the published number it is said, a choice of ours
_STEPS, _GOOD_STEPS = 100, 1000
# A rule of thumb: few rows are known by heart after so many epochs. Not told of runs that need them for 100 steps.
_MANY_EPOCHS, _FEW_ROWS = 10, 1000
_BITS_A_PARAMETER, _BITS_A_TOKEN = 2, 1
_OF_ATTENTION = {
    *("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "W_pack", "wqkv", "query_key_value", "c_attn"),
    *("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"),
}


@dataclass(frozen=True)
class Row:
    """One published value beside the run's; `fits` unless a person should look at it."""

    name: str
    published: str
    yours: str
    source: str
    fits: bool


@dataclass(frozen=True)
class Advice:
    """What published work recommends for a run.

    Attributes:
        learning_rate: the one that it recommends.
        basis: where that is from.
        rows: values beside each other.
        findings: what is far off, in sentences.
        notes: what else belongs to the values.
    """

    learning_rate: float
    basis: str
    rows: tuple[Row, ...]
    findings: tuple[str, ...]
    notes: tuple[str, ...]


def advise(base: Base, plan: Plan) -> Advice | None:
    """All advice for a run; None where the base does not say its hidden size."""
    best = recommended_learning_rate(base.model_type, base.hidden_size)
    if best is None:
        return None
    off, small = list(far_off(best, basis_of(base), plan)), _small_rank(plan)
    few, large, repeated = plan.num_steps < _STEPS, plan.rows_per_step > _MANY_ROWS, _is_repeated(plan)
    rows = (
        Row(Message("learning rate"), rate(best), rate_of(plan), basis_of(base), not off),
        Row(Message("rank"), f"{_RANK}, alpha {ALPHA}", _rank_of(plan), Listed([DOCUMENTATION, POST], "; "), not small),
        *_capacity(plan),
        Row(
            Message("batch"),
            Message("about {rows} rows a step, or fewer", rows=_ROWS),
            f"{plan.rows_per_step:,}",
            DOCUMENTATION,
            not large,
        ),
        Row(
            Message("steps"),
            Message("at least {few}, better {good:,}", few=_STEPS, good=_GOOD_STEPS),
            f"{plan.num_steps:,}",
            DOCUMENTATION,
            not few,
        ),
        Row(
            Message("epochs"),
            Message("{least} to {most}", least=1, most=3),
            Message("{epochs:.3g} of {num_rows:,} rows", epochs=plan.num_epochs, num_rows=plan.num_rows),
            GUIDE,
            not repeated,
        ),
    )
    found = [*off, *filter(None, [small, _without_mlp(plan)])]
    if large:
        found.append(
            Message(
                "{rows_per_step:,} rows a step: LoRA loses more by large steps than full training does, at "
                "any rank ({post}); {documentation} recommends about {rows}",
                rows_per_step=plan.rows_per_step,
                post=POST,
                documentation=DOCUMENTATION,
                rows=_ROWS,
            )
        )
    if repeated:
        fewer = max(3, math.ceil(_STEPS / plan.steps_an_epoch))
        found.append(
            Message(
                "{num_rows:,} rows {num_epochs:.3g} times over: so few are soon learned by heart, at a cost "
                "to all else (a rule of thumb; {guide} has 1 to 3 epochs); --num_train_epochs {fewer} gives "
                "{steps:,} steps",
                num_rows=plan.num_rows,
                num_epochs=plan.num_epochs,
                guide=GUIDE,
                fewer=fewer,
                steps=fewer * plan.steps_an_epoch,
            )
        )
    return Advice(best, basis_of(base), rows, tuple(found), tuple(_notes(best, plan)))


def told(advice: Advice, plan: Plan) -> str:
    """The line at the start of a run whose rate is not far off."""
    return Message(
        "learning rate {yours}; published work recommends about {published} for LoRA on this base ({basis})",
        yours=rate_of(plan),
        published=rate(advice.learning_rate),
        basis=advice.basis,
    )


def _rank_of(plan: Plan) -> str:
    return f"{plan.rank}, alpha {plan.alpha:g}" + ", rsLoRA" * plan.use_rslora


def _capacity(plan: Plan) -> Iterator[Row]:
    """Where it can be counted; only twice as many tokens as parameters are said in a sentence."""
    if plan.num_parameters and not plan.in_full:
        fits = plan.num_parameters >= plan.num_tokens
        yours = Message(
            "{num_parameters}; {num_tokens} tokens",
            num_parameters=_short(plan.num_parameters),
            num_tokens=_short(plan.num_tokens),
        )
        published = Message("one a trained token, or more")
        yield Row(Message("parameters"), published, yours, DOCUMENTATION, fits)


def _short(count: int) -> str:
    return f"{count / 1e6:,.1f} M" if count >= 1e6 else f"{count:,}"


def _small_rank(plan: Plan) -> str:
    """What is said of matrices that cannot hold the rows; what modules trained in full hold is not published."""
    if not plan.num_parameters or plan.in_full:
        return ""
    times = plan.num_tokens * _BITS_A_TOKEN / (plan.num_parameters * _BITS_A_PARAMETER)
    if times <= 1:
        return ""
    enough = 2 ** math.ceil(math.log2(plan.rank * times))
    return Message(
        "rank {rank}: {num_parameters:,} parameters hold about {bits_a_parameter} bits each, and "
        "{num_tokens:,} trained tokens bring about {bits_a_token} each, more than fits ({post}); "
        "--lora_rank {enough} would hold them, at the same rate",
        rank=plan.rank,
        num_parameters=plan.num_parameters,
        bits_a_parameter=_BITS_A_PARAMETER,
        num_tokens=plan.num_tokens,
        bits_a_token=_BITS_A_TOKEN,
        post=POST,
        enough=enough,
    )


def _without_mlp(plan: Plan) -> str:
    if not plan.trainable or not _OF_ATTENTION.issuperset(plan.trainable):
        return ""
    return Message(
        "only attention gets LoRA ({trainable}): worse than LoRA on all linear layers, also at a "
        "rank that gives as many parameters ({post}); leave --trainable out, or give all-linear",
        trainable=",".join(plan.trainable),
        post=POST,
    )


def _is_repeated(plan: Plan) -> bool:
    return plan.num_epochs > _MANY_EPOCHS and plan.num_rows < _FEW_ROWS and plan.num_steps > _STEPS


def _notes(best: float, plan: Plan) -> Iterator[str]:
    if plan.in_full:
        yield Message(
            "{in_full}: trained in full at LoRA's rate; full training has its best at a tenth of it, "
            "{best} here ({post})",
            in_full=",".join(plan.in_full),
            best=rate(best / LORA_TO_FULL),
            post=POST,
        )
