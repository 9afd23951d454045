"""What is merged into what, as it was asked for; loads no torch."""

from dataclasses import dataclass

from yangtuo.config.choices import Hub

DTYPE_NAMES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class MergeOptions:
    """What is merged into what, by the names of the command line.

    Attributes:
        model_name_or_path: base; "" for the one that the first adapter names.
        peft_path: adapter folders or runs with commas between; None to merge nothing (`export` alone).
        output_dir: folder for the result; has to be empty or absent.
        dtype: one of DTYPE_NAMES; auto for the base's.
        allow_new_vocabulary: whether an adapter with far more vocabulary rows than the base is taken.
        force_base: whether an adapter is taken whose fingerprint names another base.
        allow_partial_adapter: whether what fits is taken of an adapter that is not whole.
        trust_remote_code: whether Python code that comes with the base is run.
        cache_dir: where hub models are kept; None for the hub's own cache.
        hub: a word of `Hub`.
    """

    model_name_or_path: str
    peft_path: str | None
    output_dir: str
    dtype: str = "auto"
    allow_new_vocabulary: bool = False
    force_base: bool = False
    allow_partial_adapter: bool = False
    trust_remote_code: bool = False
    cache_dir: str | None = None
    hub: str = Hub.AUTO
