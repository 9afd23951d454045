"""The learning rate for LoRA that published work recommends for a base, and how far off a run's is.

Sources: see `training.advice`. All of it was measured with Adam.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from yangtuo.i18n import Listed, Message

SOURCE = "tinker-cookbook"
_FULL_RATE, LORA_TO_FULL, _WIDTH = 5e-5, 10, 2000
_LLAMA, _QWEN = 0.781, 0.0775
_LLAMA_SHAPED = (
    *("llama", "mistral", "ministral", "mixtral", "yi", "baichuan", "internlm", "internlm2", "internlm3", "aquila"),
    *("xverse", "deepseek", "smollm3", "minicpm", "minicpm3", "orion"),
)
_OWN_SIZES = (2048, 8192)  # of Tinker's own models
# Smaller ones are not tuned but in tests; the formula would go on to rates at which nothing was ever tried.
_SMALLEST = 512
ALPHA = 32  # published
_FAR, _REFUSED = 10, 100  # times off


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
        return self.learning_rate * self.alpha * (math.sqrt(self.rank) if self.use_rslora else 1) / ALPHA


def recommended_learning_rate(model_type: str, hidden_size: int) -> float | None:
    """The rate for LoRA with Adam by tinker-cookbook's formula; None where the hidden size is not known.

    Args:
        model_type: of config.json; of families that are neither Qwen nor LLaMA in shape, LLaMA's exponent is a guess.
        hidden_size: of the text's layers; one below 512 counts as 512.
    """
    if hidden_size < 1:
        return None
    exponent = _QWEN if _is_qwen(model_type) else _LLAMA
    return float(_FULL_RATE * LORA_TO_FULL * (_WIDTH / max(hidden_size, _SMALLEST)) ** exponent)


def refusal(learning_rate: float, base: Base) -> str:
    """Why a rate is refused, which nobody means: more than a hundred times too high; "" where it is not.

    Adam moves each weight by about the rate in each step whatever the scale is, so alpha does not count here.
    """
    best = recommended_learning_rate(base.model_type, base.hidden_size)
    if best is None or not learning_rate > _REFUSED * best:
        return ""
    return Message(
        "--learning_rate {given} is {times} times the {best} that published work recommends "
        "for LoRA on this base ({basis}); --force_learning_rate takes it all the same",
        given=rate(learning_rate),
        times=_times(learning_rate, best),
        best=rate(best),
        basis=basis_of(base),
    )


def rate(value: float) -> str:
    """A learning rate in two figures, as people write it: 2.9e-4, 0.01."""
    if value == 0 or 0.01 <= value < 1000:
        return f"{value:.2g}" if value < 100 else f"{value:.0f}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def _is_qwen(model_type: str) -> bool:
    return model_type.lower().startswith("qwen")


def basis_of(base: Base) -> Message:
    """Where the recommended rate is from."""
    least, most = _OWN_SIZES
    family = "Qwen" if _is_qwen(base.model_type) else "LLaMA"
    size = base.hidden_size
    text = Message("{source}'s formula for a {family} of hidden size {size:,}", source=SOURCE, family=family, size=size)
    parts = [text]
    if family == "LLaMA" and base.model_type.lower() not in _LLAMA_SHAPED:
        parts.append(Message("a guess for {model_type}", model_type=base.model_type or Message("this family")))
    if size < _SMALLEST:
        parts.append(Message("which counts as {smallest}", smallest=_SMALLEST))
    if not least <= size <= most:
        parts.append(Message("extrapolated from models of {least:,} to {most:,}", least=least, most=most))
    return Listed(parts)


def _times(above: float, below: float) -> str:
    return f"{above / below:,.0f}"


def far_off(best: float, basis: str, plan: Plan) -> Iterator[Message]:
    """A sentence where the rate is ten times off; as it is, or in the measure of the published alpha."""
    given, scaled = plan.learning_rate, plan.rate_at_alpha_32
    shown = Message("--learning_rate {given}", given=rate(given))
    shown_scaled = _as_scaled(plan) if given != scaled else shown
    if given > _FAR * best:
        yield Message(
            "{shown} is {times} times the {best} that published work recommends for LoRA on this base ({basis}); the "
            "model may become worse",
            shown=shown,
            times=_times(given, best),
            best=rate(best),
            basis=basis,
        )
    elif scaled > _FAR * best:
        yield Message(
            "{shown} is {times} times the {best} that published work recommends for LoRA on this base ({basis}); the "
            "model may become worse",
            shown=shown_scaled,
            times=_times(scaled, best),
            best=rate(best),
            basis=basis,
        )
    elif 0 < scaled * _FAR < best:
        yield Message(
            "{shown} is 1/{times} of the {best} that published work recommends for LoRA on this base ({basis}); the "
            "model may learn little",
            shown=shown_scaled,
            times=_times(best, scaled),
            best=rate(best),
            basis=basis,
        )


def _as_scaled(plan: Plan) -> Message:
    given, alpha, scaled = rate(plan.learning_rate), plan.alpha, rate(plan.rate_at_alpha_32)
    if plan.use_rslora:
        return Message(
            "--learning_rate {given} with --lora_alpha {alpha:g} at rank {rank} with --use_rslora (as {scaled} with "
            "the published alpha of {published})",
            given=given,
            alpha=alpha,
            rank=plan.rank,
            scaled=scaled,
            published=ALPHA,
        )
    return Message(
        "--learning_rate {given} with --lora_alpha {alpha:g} (as {scaled} with the published alpha of {published})",
        given=given,
        alpha=alpha,
        scaled=scaled,
        published=ALPHA,
    )


def rate_of(plan: Plan) -> str:
    """The rate, also in the measure of the published alpha where that is another."""
    given, scaled = rate(plan.learning_rate), rate(plan.rate_at_alpha_32)
    if given == scaled:
        return given
    return Message("{given} (as {scaled} with alpha {alpha})", given=given, scaled=scaled, alpha=ALPHA)
