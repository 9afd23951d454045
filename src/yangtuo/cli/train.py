"""`yangtuo train`: train a LoRA, or continue one."""

import argparse

from yangtuo.config.settings import Settings


def add_options(parser: argparse.ArgumentParser) -> None:
    """It has none of its own: every option of a run is one of `yangtuo.config`."""


def run(settings: Settings, options: argparse.Namespace) -> None:
    """See `yangtuo.training.run.train`."""
    from yangtuo.training.run import train

    train(settings)
