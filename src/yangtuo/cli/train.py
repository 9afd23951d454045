"""`yangtuo train`: train a LoRA, or continue one."""

import argparse
from pathlib import Path

from yangtuo import logs
from yangtuo.config.settings import Settings
from yangtuo.errors import ProofError


def add_options(parser: argparse.ArgumentParser) -> None:
    """It has none of its own: every option of a run is one of `yangtuo.config`."""


def run(settings: Settings, options: argparse.Namespace | None = None) -> None:
    """See `yangtuo.training.run.train`; its page is written where it ends, with or without a proof."""
    from yangtuo.training.run import train

    try:
        train(settings)
    except ProofError:  # such a run wants its page most
        _report(settings)
        raise
    _report(settings)


def _report(settings: Settings) -> None:
    if settings.run.report and settings.trainer.output_dir and logs.rank() == 0:
        from yangtuo.report import page

        page.write_at_end(Path(settings.trainer.output_dir))
