"""Facts -> the page: one HTML file that loads nothing from elsewhere.

`run.html` is of one run, `several.html` of some beside each other; `base.html` is around both. All values are escaped
by Jinja; data for scripts is JSON in which no tag can begin.
"""

import json
import logging
import unicodedata
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import yangtuo
from yangtuo import output
from yangtuo.errors import UsageError, one_line
from yangtuo.report import answers, compare, figures, measures, svg, texts
from yangtuo.report.charts import MOST_RUNS, charts_of
from yangtuo.report.facts import RunFacts, read_run
from yangtuo.report.summary import columns_of, summary_of
from yangtuo.report.verdict import checks_of, verdict_of

logger = logging.getLogger(__name__)

FILE = "report.html"
_MADE_BY = "yangtuo report"
_UPLOT = files("yangtuo.report") / "vendor" / "uplot"


def write(folders: Sequence[Path], path: Path) -> int:
    """Write the page of these runs; returns how many bytes it has.

    Raises:
        UsageError: a folder is no run, or there are too many; the file is there and is no page of ours.
        WriteError: it cannot be written.
    """
    if len(folders) > MOST_RUNS:
        raise UsageError(
            "{num_folders} runs: at most {most_runs} can be told apart on one page; give fewer",
            num_folders=len(folders),
            most_runs=MOST_RUNS,
        )
    check_replaceable(path)
    runs = [read_run(folder) for folder in folders]
    page = page_of(runs)
    with output.whole_file(path) as file:
        file.write(page)
    return len(page.encode("utf-8", errors="backslashreplace"))


def write_at_end(folder: Path) -> None:
    """Write a run's own page when it ends; what goes wrong is a warning, since the run itself has not failed."""
    try:
        write([folder], folder / FILE)
    except Exception as error:  # whatever it is: the model is trained, proven and on the disk
        logger.warning("report: %s could not be written: %s; yangtuo report %s tries again", FILE, _said(error), folder)
    else:
        logger.info("report: %s", folder / FILE)


def _said(error: Exception) -> str:
    return one_line(error, 200) or type(error).__name__


def check_replaceable(path: Path) -> None:
    """Refuse to write over a file that is no page of ours.

    Raises:
        UsageError: it is something else.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        is_ours = _MADE_BY.encode() in file.read(1000) or path.stat().st_size == 0
    if not is_ours:
        raise UsageError("--output {path}: there is another file of that name; choose another name", path=path)


def page_of(runs: Sequence[RunFacts]) -> str:
    """The page of one run, or of several beside each other."""
    names = compare.names_of(runs)
    charts = charts_of([run.log for run in runs], names)
    values = {"runs": runs, "names": names, "charts": charts, "made_by": _MADE_BY, "version": yangtuo.__version__}
    values["chart_data"] = script_data({"step": texts.plain("curve.step"), "charts": [one.data() for one in charts]})
    if len(runs) == 1:
        (run,) = runs
        page = (
            _environment()
            .get_template("run.html")
            .render(
                **values,
                run=run,
                verdict=verdict_of(run),
                checks=checks_of(run),
                summary=summary_of(run),
                answers=answers.of_samples(run.log),
                eval_answers=answers.of_evaluation(run.evaluation),
                groups=measures.groups_of(run.evaluation),
            )
        )
    else:
        page = (
            _environment()
            .get_template("several.html")
            .render(
                **values,
                columns=columns_of(runs),
                options=compare.options_that_differ(runs),
                versions=compare.versions_that_differ(runs),
                is_alike=compare.same_validation(runs),
                measures=measures.beside(runs),
                answers=compare.same_prompts(runs, names),
            )
        )
    return page


def script_data(value: Any) -> Markup:
    """JSON for a script element: neither a tag nor a comment can begin in it, and NaN is not in it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def shown(text: str) -> str:
    """A text without what HTML cannot hold or what would turn its direction; line breaks stay."""
    return "".join("\N{REPLACEMENT CHARACTER}" if _is_hidden(letter) else letter for letter in text)


_JOINERS = "\u200c\u200d"  # between letters of some scripts and parts of an emoji


def _is_hidden(letter: str) -> bool:
    return letter not in "\n\t" + _JOINERS and unicodedata.category(letter) in ("Cc", "Cf", "Cs")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("yangtuo.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: shown(value) if type(value) is str else value,
    )
    environment.globals.update(
        t=texts.both, either=texts.either, spoken=texts.spoken, has=texts.has, svg=svg, vendored=_vendored
    )
    for name in ("loss", "whole", "brief", "signed", "gib", "clock", "option", "moment"):
        environment.filters[name] = getattr(figures, name)
    environment.globals.update(percent=figures.percent, off=figures.off)
    return environment


def _vendored(name: str) -> Markup:
    return Markup((_UPLOT / name).read_text(encoding="utf-8"))
