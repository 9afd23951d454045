"""`yangtuo train`: train a LoRA, or continue one."""

import argparse

from yangtuo import logs
from yangtuo.api.train import run as train
from yangtuo.config.settings import Settings
from yangtuo.training.paths import check_paths


def add_options(parser: argparse.ArgumentParser) -> None:
    """It has none of its own: every option of a run is one of `yangtuo.config`."""


def run(settings: Settings, options: argparse.Namespace | None = None) -> None:
    """See `yangtuo.training.run.train`."""
    check_paths(settings)
    logs.quiet_libraries()
    train(settings)
