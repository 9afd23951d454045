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

SOURCE, POST, DOCUMENTATION, GUIDE = (
    "tinker-cookbook",
    "LoRA Without Regret",
    "Tinker's documentation",
    "Unsloth's guide",
)
_FULL_RATE, _LORA_TO_FULL, _WIDTH = 5e-5, 10, 2000
_LLAMA, _QWEN = 0.781, 0.0775
_LLAMA_SHAPED = (
    *("llama", "mistral", "ministral", "mixtral", "yi", "baichuan", "internlm", "internlm2", "internlm3", "aquila"),
    *("xverse", "deepseek", "smollm3", "minicpm", "minicpm3", "orion"),
)
_OWN_SIZES = (2048, 8192)  # of Tinker's own models
# Smaller ones are not tuned but in tests; the formula would go on to rates at which nothing was ever tried.
_SMALLEST = 512
_ALPHA, _RANK = 32, 32
_FAR, _REFUSED = 10, 100  # times off
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
class Base:
    """What of a base the advice goes by."""

    model_type: str
    hidden_size: int


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        learning_rate: at its highest.
        rank: of the LoRA matrices.
        alpha: of the LoRA, `use_rslora` beside it.
        use_rslora: the scale is alpha / sqrt(rank), not alpha / rank.
        num_parameters: of all LoRA matrices; None where they are not counted without the model.
        trainable: last names of the modules that get LoRA; empty where an adapter decides them.
        in_full: modules that are trained beside LoRA, in full.
        rows_per_step: of all processes together.
        num_steps: of the run.
        steps_an_epoch: 0 where there are too few rows for one.
        num_rows: of an epoch.
        num_tokens: trained ones, each counted once.
    """

    learning_rate: float
    rank: int
    alpha: float
    use_rslora: bool
    num_parameters: int | None
    trainable: tuple[str, ...]
    in_full: tuple[str, ...]
    rows_per_step: int
    num_steps: int
    steps_an_epoch: int
    num_rows: int
    num_tokens: int

    @property
    def num_epochs(self) -> float:
        """How often a row is trained on."""
        return self.num_steps / self.steps_an_epoch if self.steps_an_epoch else 0.0

    @property
    def rate_at_alpha_32(self) -> float:
        """The rate that changes the base as fast with the published alpha.

        At first B is zero, and a step changes the base by scale * rate; so alpha counts as the rate does. rsLoRA's
        scale alpha / sqrt(r) is that of an alpha sqrt(r) times as large. Source: LoRA Without Regret, parametrization.
        """
        return self.learning_rate * self.alpha * (math.sqrt(self.rank) if self.use_rslora else 1) / _ALPHA


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


def recommended_learning_rate(model_type: str, hidden_size: int) -> float | None:
    """The rate for LoRA with Adam by tinker-cookbook's formula; None where the hidden size is not known.

    Args:
        model_type: of config.json; of families that are neither Qwen nor LLaMA in shape, LLaMA's exponent is a guess.
        hidden_size: of the text's layers; one below 512 counts as 512.
    """
    if hidden_size < 1:
        return None
    exponent = _QWEN if _is_qwen(model_type) else _LLAMA
    return float(_FULL_RATE * _LORA_TO_FULL * (_WIDTH / max(hidden_size, _SMALLEST)) ** exponent)


def refusal(learning_rate: float, base: Base) -> str:
    """Why a rate is refused, which nobody means: more than a hundred times too high; "" where it is not.

    Adam moves each weight by about the rate in each step whatever the scale is, so alpha does not count here.
    """
    best = recommended_learning_rate(base.model_type, base.hidden_size)
    if best is None or not learning_rate > _REFUSED * best:
        return ""
    return (
        f"--learning_rate {rate(learning_rate)} is {_times(learning_rate, best)} the {rate(best)} that published "
        f"work recommends for LoRA on this base ({_basis(base)}); --force_learning_rate takes it all the same"
    )


def advise(base: Base, plan: Plan) -> Advice | None:
    """All advice for a run; None where the base does not say its hidden size."""
    best = recommended_learning_rate(base.model_type, base.hidden_size)
    if best is None:
        return None
    off, small = list(_of_rate(best, _basis(base), plan)), _small_rank(plan)
    few, large, repeated = plan.num_steps < _STEPS, plan.rows_per_step > _MANY_ROWS, _is_repeated(plan)
    rows = (
        Row("learning rate", rate(best), _rate_of(plan), _basis(base), not off),
        Row("rank", f"{_RANK}, alpha {_ALPHA}", _rank_of(plan), f"{DOCUMENTATION}; {POST}", not small),
        *_capacity(plan),
        Row("batch", f"about {_ROWS} rows a step, or fewer", f"{plan.rows_per_step:,}", DOCUMENTATION, not large),
        Row("steps", f"at least {_STEPS}, better {_GOOD_STEPS:,}", f"{plan.num_steps:,}", DOCUMENTATION, not few),
        Row("epochs", "1 to 3", f"{plan.num_epochs:.3g} of {plan.num_rows:,} rows", GUIDE, not repeated),
    )
    found = [*off, *filter(None, [small, _without_mlp(plan)])]
    if large:
        found.append(
            f"{plan.rows_per_step:,} rows a step: LoRA loses more by large steps than full training does, at any rank "
            f"({POST}); {DOCUMENTATION} recommends about {_ROWS}"
        )
    if repeated:
        fewer = max(3, math.ceil(_STEPS / plan.steps_an_epoch))
        found.append(
            f"{plan.num_rows:,} rows {plan.num_epochs:.3g} times over: so few are soon learned by heart, at a cost to "
            f"all else (a rule of thumb; {GUIDE} has 1 to 3 epochs); --num_train_epochs {fewer} gives "
            f"{fewer * plan.steps_an_epoch:,} steps"
        )
    return Advice(best, _basis(base), rows, tuple(found), tuple(_notes(best, plan)))


def told(advice: Advice, plan: Plan) -> str:
    """The line at the start of a run whose rate is not far off."""
    return (
        f"learning rate {_rate_of(plan)}; published work recommends about {rate(advice.learning_rate)} for LoRA on "
        f"this base ({advice.basis})"
    )


def rate(value: float) -> str:
    """A learning rate in two figures, as people write it: 2.9e-4, 0.01."""
    if value == 0 or 0.01 <= value < 1000:
        return f"{value:.2g}" if value < 100 else f"{value:.0f}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def _is_qwen(model_type: str) -> bool:
    return model_type.lower().startswith("qwen")


def _basis(base: Base) -> str:
    least, most = _OWN_SIZES
    family = "Qwen" if _is_qwen(base.model_type) else "LLaMA"
    text = f"{SOURCE}'s formula for a {family} of hidden size {base.hidden_size:,}"
    if family == "LLaMA" and base.model_type.lower() not in _LLAMA_SHAPED:
        text += f", a guess for {base.model_type or 'this family'}"
    if base.hidden_size < _SMALLEST:
        text += f", which counts as {_SMALLEST}, extrapolated from models of {least:,} to {most:,}"
    elif not least <= base.hidden_size <= most:
        text += f", extrapolated from models of {least:,} to {most:,}"
    return text


def _times(above: float, below: float) -> str:
    return f"{above / below:,.0f} times"


def _of_rate(best: float, basis: str, plan: Plan) -> Iterator[str]:
    given, scaled = plan.learning_rate, plan.rate_at_alpha_32
    shown = f"--learning_rate {rate(given)}"
    if given != scaled:
        scale = f"--lora_alpha {plan.alpha:g}" + f" at rank {plan.rank} with --use_rslora" * plan.use_rslora
        shown_scaled = f"{shown} with {scale} works as {rate(scaled)} does with the published alpha of {_ALPHA}, which"
    else:
        shown_scaled = shown
    published = f"the {rate(best)} that published work recommends for LoRA on this base ({basis})"
    if given > _FAR * best:
        yield f"{shown} is {_times(given, best)} {published}: the model may well become worse"
    elif scaled > _FAR * best:
        yield f"{shown_scaled} is {_times(scaled, best)} {published}: the model may well become worse"
    elif 0 < scaled * _FAR < best:
        yield f"{shown_scaled} is 1/{best / scaled:,.0f} of {published}: it may teach little"


def _rate_of(plan: Plan) -> str:
    given, scaled = rate(plan.learning_rate), rate(plan.rate_at_alpha_32)
    return given if given == scaled else f"{given} (as {scaled} with alpha {_ALPHA})"


def _rank_of(plan: Plan) -> str:
    return f"{plan.rank}, alpha {plan.alpha:g}" + ", rsLoRA" * plan.use_rslora


def _capacity(plan: Plan) -> Iterator[Row]:
    """Where it can be counted; only twice as many tokens as parameters are said in a sentence."""
    if plan.num_parameters and not plan.in_full:
        fits = plan.num_parameters >= plan.num_tokens
        yours = f"{_short(plan.num_parameters)}; {_short(plan.num_tokens)} tokens"
        yield Row("parameters", "one a trained token, or more", yours, DOCUMENTATION, fits)


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
    return (
        f"rank {plan.rank}: {plan.num_parameters:,} parameters hold about {_BITS_A_PARAMETER} bits each, and "
        f"{plan.num_tokens:,} trained tokens bring about {_BITS_A_TOKEN} each, more than fits ({POST}); --lora_rank "
        f"{enough} would hold them, at the same rate"
    )


def _without_mlp(plan: Plan) -> str:
    if not plan.trainable or not _OF_ATTENTION.issuperset(plan.trainable):
        return ""
    return (
        f"only attention gets LoRA ({','.join(plan.trainable)}): worse than LoRA on all linear layers, also at a rank "
        f"that gives as many parameters ({POST}); leave --trainable out, or give all-linear"
    )


def _is_repeated(plan: Plan) -> bool:
    return plan.num_epochs > _MANY_EPOCHS and plan.num_rows < _FEW_ROWS and plan.num_steps > _STEPS


def _notes(best: float, plan: Plan) -> Iterator[str]:
    if plan.in_full:
        yield (
            f"{','.join(plan.in_full)}: trained in full at LoRA's rate; full training has its best at a tenth of it, "
            f"{rate(best / _LORA_TO_FULL)} here ({POST})"
        )
