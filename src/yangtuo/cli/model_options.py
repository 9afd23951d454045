"""The options by which the verbs that ask a model find it: chat, generate, eval."""

import argparse
from typing import TYPE_CHECKING

from yangtuo.config.choices import Hub
from yangtuo.config.options import OPTIONS, add
from yangtuo.config.schema import LoraArguments, ModelArguments

if TYPE_CHECKING:
    from yangtuo.inference.places import Places


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Base, tokenizer, template, dtype, device, and where models come from."""
    option = parser.add_argument
    option("--model_name_or_path", help="Base model. Default: the one that the adapter names.")
    option(
        "--tokenizer_name_or_path", help="Tokenizer. Default: the one that travels with the adapter, else the base's."
    )
    option("--template", help="Name or file. Default: the one that travels with the model, else by the tokenizer.")
    option(
        "--chat_template_kwargs",
        metavar="JSON",
        help="As --chat_template_kwargs of train. Default: those of the training.",
    )
    option("--torch_dtype", help="Dtype: auto (as stored), float32, bfloat16 or float16. Default: auto.")
    option("--use_cpu", action="store_true", help="Do not use an accelerator.")
    option("--cache_dir", help="Where hub models are kept. Default: the hub's own cache.")
    add(parser, OPTIONS["hub"])
    option("--trust_remote_code", action="store_true", help="Run Python code that comes with the model.")
    option("--force_base", action="store_true", help="Take an adapter though it was trained on another base.")
    option("--allow_partial_adapter", action="store_true", help="Take what fits of an adapter that is not whole.")


def model_arguments(options: argparse.Namespace) -> ModelArguments:
    """What they say of the base."""
    return ModelArguments(
        model_name_or_path=options.model_name_or_path,
        tokenizer_name_or_path=options.tokenizer_name_or_path,
        torch_dtype=options.torch_dtype,
        hub=Hub(options.hub),
        cache_dir=options.cache_dir,
        trust_remote_code=options.trust_remote_code,
    )


def lora_arguments(options: argparse.Namespace) -> LoraArguments:
    """What they say of the adapter."""
    return LoraArguments(force_base=options.force_base, allow_partial_adapter=options.allow_partial_adapter)


def places_of(target: str, options: argparse.Namespace) -> "Places":
    """Where a model lies that was named by the folder of an adapter, of a run or of a model, or by its hub name.

    Raises:
        UserError: it is not there.
    """
    from yangtuo.inference import places

    return places.places_of(target, model_arguments(options))
