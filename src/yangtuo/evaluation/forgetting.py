"""What a tuned model lost of what its base could do: accuracies and losses on a probe set, of both, and by how much.

Pure: from scores to measures. Asking the models is done elsewhere, and how an interval is made is
`evaluation.statistics`' to say, whose functions are handed in.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from yangtuo.evaluation.comparison import Comparison, PairedDifference, is_finite
from yangtuo.evaluation.probe_items import LANGUAGES, CheckedItem, ChoiceItem, Item, Passage

_Kind = TypeVar("_Kind", ChoiceItem | CheckedItem, Passage)
PairedShare = Callable[[Sequence[bool], Sequence[bool]], PairedDifference]
PairedRatio = Callable[[Sequence[float], Sequence[float], Sequence[float]], PairedDifference]


@dataclass(frozen=True)
class PassageLoss:
    """A model on one passage.

    Attributes:
        total: sum of the cross-entropies of its tokens, in nats.
        num_tokens: tokens with a loss, from 1.
    """

    total: float
    num_tokens: int


@dataclass(frozen=True)
class Probed:
    """A model on a probe set.

    Attributes:
        passed: by the id of a question or an instruction, whether the answer was right.
        losses: by the id of a passage.
    """

    passed: Mapping[str, bool]
    losses: Mapping[str, PassageLoss]


@dataclass(frozen=True)
class Forgetting:
    """Base against tuned.

    Attributes:
        measures: probe/accuracy and probe/loss over all, then by language, then by language and kind; those without
            an item are left out.
        lost: ids of what the base does and the tuned model fails, in the order of the set.
        gained: the other way round.
    """

    measures: tuple[Comparison, ...]
    lost: tuple[str, ...]
    gained: tuple[str, ...]


def compare(
    items: Iterable[Item], base: Probed, tuned: Probed | None, paired_share: PairedShare, paired_ratio: PairedRatio
) -> Forgetting:
    """All measures of a probe set.

    Args:
        items: the set, of which each id has to be in `passed` or `losses` of both models.
        base: the model before.
        tuned: the model after; None to measure one alone.
        paired_share: (base, tuned) as [n] of yes and no -> tuned minus base.
        paired_ratio: (sums of base, sums of tuned, tokens), [n] each -> tuned minus base, in nats a token.

    Raises:
        ValueError: an item that a model was not asked, or a passage with other tokens for one model than for the other:
            their losses a token are of different tokens and have no difference.
    """
    asked, passages = _apart(items)
    for model in (base, tuned) if tuned else (base,):
        missing = [item.id for item in asked if item.id not in model.passed]
        missing += [passage.id for passage in passages if passage.id not in model.losses]
        if missing:
            raise ValueError(f"not measured: {', '.join(missing)}")
    measures = [
        *(accuracy(name, chosen, base, tuned, paired_share) for name, chosen in _groups(asked, "accuracy")),
        *(loss(name, chosen, base, tuned, paired_ratio) for name, chosen in _groups(passages, "loss")),
    ]
    changed = [i.id for i in asked if tuned and base.passed[i.id] != tuned.passed[i.id]]
    lost = tuple(name for name in changed if base.passed[name])
    return Forgetting(tuple(measures), lost, tuple(name for name in changed if not base.passed[name]))


def accuracy(
    name: str,
    items: Sequence[ChoiceItem | CheckedItem],
    base: Probed,
    tuned: Probed | None,
    paired_share: PairedShare,
) -> Comparison:
    """Share of right answers of some items, at least one."""
    before = [base.passed[item.id] for item in items]
    if tuned is None:
        return Comparison(name, "share", "higher", len(items), _mean(before))
    after = [tuned.passed[item.id] for item in items]
    change = paired_share(before, after)
    return Comparison(name, "share", "higher", len(items), _mean(before), _mean(after), change)


def loss(
    name: str, passages: Sequence[Passage], base: Probed, tuned: Probed | None, paired_ratio: PairedRatio
) -> Comparison:
    """Cross-entropy a token of some passages, at least one: all nats divided by all tokens.

    Where a sum is not finite, the value is not either, and there is no difference.

    Raises:
        ValueError: see `compare`.
    """
    before = [base.losses[passage.id] for passage in passages]
    if tuned is None:
        return Comparison(name, "nats/token", "lower", len(passages), _per_token(before))
    after = [tuned.losses[passage.id] for passage in passages]
    tokens = [one.num_tokens for one in before]
    other = [p.id for p, n, one in zip(passages, tokens, after, strict=True) if n != one.num_tokens]
    if other:
        raise ValueError(f"passages with other tokens for the tuned model: {', '.join(other)}")
    sums = [one.total for one in before], [one.total for one in after]
    change = paired_ratio(*sums, tokens) if is_finite([*sums[0], *sums[1]]) else None
    return Comparison(name, "nats/token", "lower", len(passages), _per_token(before), _per_token(after), change)


def _apart(items: Iterable[Item]) -> tuple[list[ChoiceItem | CheckedItem], list[Passage]]:
    asked: list[ChoiceItem | CheckedItem] = []
    passages: list[Passage] = []
    for item in items:
        if isinstance(item, Passage):
            passages.append(item)
        else:
            asked.append(item)
    return asked, passages


def _groups(items: Sequence[_Kind], measure: str) -> list[tuple[str, list[_Kind]]]:
    """Names of measures with their items; none without items."""
    found = {f"probe/{measure}": list(items)}
    for language in LANGUAGES:
        found[f"probe/{language}/{measure}"] = [item for item in items if item.language == language]
    for item in items:
        if not isinstance(item, Passage):
            found.setdefault(f"probe/{item.language}/{item.kind}", []).append(item)
    return [(name, chosen) for name, chosen in found.items() if chosen]


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values)


def _per_token(losses: Sequence[PassageLoss]) -> float:
    return sum(one.total for one in losses) / sum(one.num_tokens for one in losses)
