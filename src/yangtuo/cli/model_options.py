"""The options by which the verbs that ask a model find it: chat, generate, eval."""

import argparse

from yangtuo.config.options import OPTIONS, add


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
