"""`yangtuo report`: what a run has written, as one page that opens offline; several runs beside each other.

The page has the verdict and the proof, curves, the evaluation, answers before and after, the plan beside what was
measured, the data, every option and where it came from. Nothing is computed anew, and nothing is sent anywhere.
"""

import argparse
import logging
from pathlib import Path

from yangtuo import output
from yangtuo.errors import UsageError
from yangtuo.report import page

logger = logging.getLogger(__name__)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The runs, and where the page goes."""
    parser.add_argument("run", nargs="+", help="Folder of a run (its --output_dir); several are compared on one page.")
    parser.add_argument(
        "--output",
        help=f"File of the page. Default: {page.FILE} in the folder of the run, of several runs in the current folder.",
    )


def run(options: argparse.Namespace) -> None:
    """Write the page.

    Raises:
        UsageError: a folder is no run or is named twice; the place of the page cannot be written or is taken.
        WriteError: the page cannot be written.
    """
    folders = [Path(name) for name in options.run]
    for i, folder in enumerate(folders):
        if folder.absolute() in [other.absolute() for other in folders[:i]]:
            raise UsageError("{folder}: named twice; name each run once", folder=folder)
    path = Path(options.output or (folders[0] / page.FILE if len(folders) == 1 else page.FILE))
    if options.output:
        output.check_place(path, "output")
    num_bytes = page.write(folders, path)
    logger.info("report: %s (%s kB); it opens in any browser, offline", path, f"{num_bytes / 1000:,.0f}")
