"""Train a LoRA, or continue one; see `training/run.py` for the story of a run."""

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yangtuo import logs
from yangtuo.api.arguments import Option, settings_of
from yangtuo.api.process import as_library
from yangtuo.config.settings import Settings
from yangtuo.errors import ProofError
from yangtuo.training.paths import check_paths

_STYLE = (
    "svg.yangtuo{max-width:640px}.yangtuo .line{fill:none;stroke-width:1.5;stroke:#2a78d6}.yangtuo .s1{stroke:#eb6834}"
    ".yangtuo .grid{stroke:#8884;fill:none}.yangtuo text{fill:currentColor;font:11px sans-serif}"
    ".yangtuo .dot{fill:#eb6834}"
)


@dataclass(frozen=True)
class TrainResult:
    """What a run has left in its folder; Jupyter shows the loss as a curve.

    Attributes:
        output_dir: the run's folder.
        adapter: the folder of the LoRA; None of a run that only evaluated.
        num_steps: that were made.
        losses: (step, loss) of every step, nats a trained token.
        eval_losses: (step, loss) of every evaluation, in the same unit.
        metrics: of train_results.json and eval_results.json.
        proof: proof.json, what was looked at again on the disk; None of a run that only evaluated.
        report: the page of the run; None where none was written.
        notes: everything that was said at warning level.
        next_commands: what can be done with the adapter on a command line.
    """

    output_dir: Path
    adapter: Path | None
    num_steps: int
    losses: tuple[tuple[int, float], ...]
    eval_losses: tuple[tuple[int, float], ...]
    metrics: Mapping[str, float]
    proof: Mapping[str, Any] | None
    report: Path | None
    notes: tuple[str, ...]
    next_commands: tuple[str, ...]

    def _repr_html_(self) -> str:
        from yangtuo.report import svg
        from yangtuo.report.series import Series

        curves = [
            svg.Line(Series(tuple(float(step) for step, _ in points), tuple(loss for _, loss in points)), number)
            for number, points in enumerate((self.losses, self.eval_losses))
            if points
        ]
        drawing = str(svg.lines(curves, f"loss of {self.num_steps} steps"))
        drawing = drawing.replace('class="drawing"', 'class="yangtuo"')
        told = f"{self.num_steps} steps; the LoRA is in {html.escape(str(self.adapter))}"
        return f"<style>{_STYLE}</style><div>{told}</div>{drawing}"


def train(**options: Option) -> TrainResult:
    """Train a LoRA in this process, as `yangtuo train` does: same options, same checks, same folder, same proof.

    A finished run is not trained again, and one that was stopped goes on from its last checkpoint. Several processes
    are started by `torchrun`, see `docs/distributed.md`.

    Args:
        options: by the names of `yangtuo train --help all`, without dashes; None counts as not given. `do_train` is
            True here, also beside `do_eval`.

    Returns:
        What the run has left in its folder.

    Raises:
        UserError: an option, the data or the base cannot be used; nothing was trained.
        RunFailure: the run failed; its `ProofError` says that what was saved is not what was trained.
        StoppedError: Ctrl-C, or a kernel that is interrupted; the same call goes on from the checkpoint.
    """
    settings = settings_of("yangtuo.train", {"do_train": True, **options})
    check_paths(settings)
    with as_library():
        return run(settings)


def run(settings: Settings) -> TrainResult:
    """The same, of settings; the run's page is written where it ends, with or without a proof.

    Raises:
        YangtuoError: see `train`.
    """
    from yangtuo.training.run import train as of_settings

    try:
        of_settings(settings)
    except ProofError:  # such a run wants its page most
        _report(settings)
        raise
    _report(settings)
    return result_of(Path(str(settings.trainer.output_dir)))


def _report(settings: Settings) -> None:
    if settings.run.report and settings.trainer.output_dir and logs.rank() == 0:
        from yangtuo.report import page

        page.write_at_end(Path(settings.trainer.output_dir))


def result_of(folder: Path) -> TrainResult:
    """What a run has left in its folder."""
    from yangtuo.report import page
    from yangtuo.report.run_log import read_log
    from yangtuo.training import run_folder

    log, recorded = read_log(folder / "log.jsonl")[0], run_folder.read_run(folder) or {}
    adapter, report = folder / run_folder.ADAPTER_FOLDER, folder / page.FILE
    return TrainResult(
        output_dir=folder,
        adapter=adapter if adapter.is_dir() else None,
        num_steps=log.num_steps,
        losses=_points(log.curves["loss"]),
        eval_losses=_points(log.curves["eval_loss"]),
        metrics={**_read(folder / "train_results.json"), **_read(folder / "eval_results.json")},
        proof=_read(folder / "proof.json") or None,
        report=report if report.is_file() else None,
        notes=tuple(recorded.get("notes", ())),
        next_commands=tuple(recorded.get("next_commands", ())),
    )


def _points(series: Any) -> tuple[tuple[int, float], ...]:
    return tuple((int(x), y) for x, y in zip(series.x, series.y, strict=True) if y is not None)


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
