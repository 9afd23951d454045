"""The words that options take, where there are only some."""

from enum import StrEnum

# Of transformers, beside kernels of the hub ("owner/name"); which work depends on the model and on what is installed.
ATTENTIONS = ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3", "flash_attention_4")


class Hub(StrEnum):
    """Where a model that is given by name is fetched."""

    AUTO = "auto"
    HUGGINGFACE = "huggingface"
    MODELSCOPE = "modelscope"


class Truncation(StrEnum):
    """What happens to an example longer than `max_seq_length`."""

    KEEP_ANSWER = "keep_answer"
    RIGHT = "right"
    DROP = "drop"
    ERROR = "error"


class DataFormat(StrEnum):
    """How a row spells a dialogue."""

    AUTO = "auto"
    ALPACA = "alpaca"
    SHAREGPT = "sharegpt"
    MESSAGES = "messages"
    PROMPT_COMPLETION = "prompt_completion"


class BadRows(StrEnum):
    """What happens to rows that cannot be used."""

    ERROR = "error"
    DROP = "drop"


class TrainTurns(StrEnum):
    """Which answers of a dialogue carry a loss."""

    ALL = "all"
    LAST = "last"


class History(StrEnum):
    """What becomes of answers that a chat template renders otherwise in the history than when they are asked for."""

    AS_SERVED = "as_served"
    ONE_EXAMPLE = "one_example"


class ChoicesBy(StrEnum):
    """How a model is asked a question with four options."""

    LIKELIHOOD = "likelihood"
    GENERATION = "generation"
    BOTH = "both"


class Deduplicate(StrEnum):
    """Which repeated rows are left out."""

    OFF = "off"
    EXACT = "exact"
    NEAR = "near"


class LossReduction(StrEnum):
    """How the loss of a step is averaged."""

    TOKEN = "token"
    DEVICE_BATCH = "device_batch"


class ModulesToSavePolicy(StrEnum):
    """What becomes of the modules that an adapter holds in full, when it is continued."""

    KEEP = "keep"
    DROP = "drop"
    FREEZE = "freeze"
    RESET = "reset"


class DataOrder(StrEnum):
    """In which order an epoch visits the rows."""

    SHUFFLED = "shuffled"
    SEQUENTIAL = "sequential"
