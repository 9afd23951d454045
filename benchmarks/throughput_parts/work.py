"""Rows, the steps they are trained in, and the FLOP that those steps cannot do without: values in, values out."""

from collections.abc import Sequence
from dataclasses import dataclass

from throughput_parts.settings import IGNORED_LABEL


@dataclass(frozen=True)
class Row:
    """An example as all contenders train on it, written by `yangtuo encode`."""

    input_ids: list[int]
    labels: list[int]

    @property
    def num_supervised(self) -> int:
        """Tokens with a loss."""
        return sum(label != IGNORED_LABEL for label in self.labels)


@dataclass(frozen=True)
class ModelShape:
    """What decides the cost of a token: weights of the linear layers (the head apart), the head, the attention."""

    linear_weights: int
    hidden_size: int
    vocabulary: int
    num_layers: int
    num_heads: int
    head_dim: int


def plan_steps(rows: Sequence[Row], batch: int, num_steps: int) -> list[list[Row]]:
    """The rows of each step: in order, a short last step in each epoch, then from the first row again."""
    epoch = [list(rows[begin : begin + batch]) for begin in range(0, len(rows), batch)]
    return [epoch[step % len(epoch)] for step in range(num_steps)]


def packed_steps(batch: int, num_steps: int, num_rows: int, num_packs: int) -> dict[str, int]:
    """Packs of a step and number of steps, as arguments of TRL.

    A step gets as many packs as hold `batch` rows on average, so that the optimizer's batch stays the same, and
    training takes one warm-up step and then whole epochs: at least as many rows as the others are measured on.
    """
    packs_per_step = max(1, round(batch * num_packs / num_rows))
    num_warm_up = 1 if num_steps > 1 else 0
    num_epochs = max(1, -(-(num_steps - num_warm_up) * batch // num_rows))
    steps_per_epoch = -(-num_packs // packs_per_step)
    return {"per_device_train_batch_size": packs_per_step, "max_steps": num_warm_up + num_epochs * steps_per_epoch}


def distinct_prefixes(sequences: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Tokens that differ in themselves or in what precedes them, and the tokens that all of these attend to.

    A token's activations depend on its prefix alone, so a prefix that several rows share needs computing only once.
    """
    children: dict[tuple[int, int], int] = {}  # (node, token) -> node; node 0 is the empty prefix
    num_pairs = 0
    for sequence in sequences:
        node = 0
        for depth, token in enumerate(sequence, start=1):
            before = len(children)
            node = children.setdefault((node, token), before + 1)
            if len(children) > before:
                num_pairs += depth
    return len(children), num_pairs


def useful_flop(rows: Sequence[Row], shape: ModelShape) -> int:
    """What one step on these rows cannot do without, when the base and the head are frozen.

    linear layers: 2 a weight and token forward, 2 for the gradient of the input; frozen weights need none.
    head: the same, on supervised tokens only.
    attention: two products forward (queries x keys, weights x values), four backward, 2 x head_dim each for every
    head and every pair of a token and one that it attends to (itself and those before it).
    LoRA's own products (3 % of the demo model's), norms and softmax are left out.
    """
    num_tokens, num_pairs = distinct_prefixes([row.input_ids for row in rows])
    linear = 4 * shape.linear_weights * num_tokens
    head = 4 * shape.hidden_size * shape.vocabulary * sum(row.num_supervised for row in rows)
    attention = 12 * shape.num_layers * shape.num_heads * shape.head_dim * num_pairs
    return linear + head + attention
