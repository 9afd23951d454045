"""Makes the pictures of README.md and README_zh.md: screens of real commands, and the page of a real run.

python scripts/pictures.py                        the screens, of the demo's model and data
python scripts/pictures.py --run output_dir       the screens, and the report of that run (needs chromium)
"""

import argparse
import html
import io
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from yangtuo.cli.demo import DATA, fetch_model
from yangtuo.model.folders import cache_folder

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
LANGUAGES = {"en": "", "zh": ".zh"}  # and what stands in a file's name
COLUMNS = 96
# Verb -> the paragraphs that are shown, from 0; a mark stands where some are left out.
PARAGRAPHS = {"check": (0, 4, 5, 6), "preview": (0, 1, 2, 3, 4)}
WINDOW = (1100, 1240)  # of the report, in pixels of the page
SCALE = 0.8  # of the picture: below the 150 kB that a README should ask for
_FONT_FACE = re.compile(r"@font-face \{.*?\}\s*", flags=re.S)
_TEXT = re.compile(
    r'<text class="(?P<style>[^"]+-r\d+)" x="(?P<x>[\d.]+)" y="(?P<y>[\d.]+)" [^>]*>(?P<text>[^<]*)</text>'
)
_CELL = 12.2  # width of a cell in rich's drawings, in their units
_FONTS = 'ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", "Noto Sans Mono CJK SC", monospace'


def screen(words: Sequence[str], place: Path, language: str) -> str:
    """What a command prints at a terminal of COLUMNS, colours included.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    colours = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "yangtuo", *words, "--lang", language]
    done = subprocess.run(
        command, cwd=place, env=os.environ | colours, stdout=subprocess.PIPE, encoding="utf-8", check=True
    )
    return done.stdout


def shortened(text: str, shown: Sequence[int]) -> str:
    """Some of a screen's paragraphs, with a mark where others stood."""
    paragraphs = text.strip("\n").split("\n\n")
    kept: list[str] = []
    for i, paragraph in enumerate(paragraphs):
        if i in shown:
            kept.append(paragraph)
        elif not kept or kept[-1] != "…":
            kept.append("…")
    return "\n\n".join(kept)


def drawing(text: str, title: str, name: str) -> str:
    """A screen as SVG, in the reader's own fonts: a picture asks no other host for anything."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(text))
    drawn = _TEXT.sub(_placed, _FONT_FACE.sub("", console.export_svg(title=title, unique_id=name)))
    return re.sub(r"Fira Code(, ?monospace)?", _FONTS, drawn)


def _placed(match: re.Match[str]) -> str:
    """A text as runs of narrow and of wide characters, each in its own place.

    Rich gives a text the width of as many narrow characters (rich 15, `Console.export_svg`), which squeezes Chinese;
    and in few fonts a Chinese character is as wide as two others, so what follows it would not be in its column.
    """
    x, runs = float(match["x"]), []
    for _, letters in itertools.groupby(html.unescape(match["text"]).rstrip("\n"), cell_len):
        run = "".join(letters)
        width = _CELL * cell_len(run)
        shown = html.escape(run, quote=False).replace("\xa0", "&#160;")
        place = f'x="{x:.1f}" y="{match["y"]}" textLength="{width:.1f}"'
        runs.append(f'<text class="{match["style"]}" {place}>{shown}</text>')
        x += width
    return "".join(runs)


def draw_screens(model: Path, rows: Path, out: Path) -> list[Path]:
    """`check` and `preview` of these rows on this model, in both languages; returns the files."""
    written = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / model.name).symlink_to(model.resolve())
        (place / rows.name).symlink_to(rows.resolve())
        for verb, shown in PARAGRAPHS.items():
            words = [verb, "--model_name_or_path", model.name, "--dataset_dir", rows.name]
            own = ["--num_rows", "1"] if verb == "preview" else []
            for language, ending in LANGUAGES.items():
                text = shortened(screen([*words, *own], place, language), shown)
                typed = f"$ yangtuo {' '.join([*words, *own])}"
                target = out / f"{verb}{ending}.svg"
                drawn = drawing(f"{typed}\n\n{text}", f"yangtuo {verb}", f"{verb}-{language}")
                target.write_text(drawn, encoding="utf-8")
                written.append(target)
    return written


def photograph_report(run: Path, out: Path) -> list[Path]:
    """The top of a run's report.html in both languages, by chromium without a window; returns the files.

    Raises:
        FileNotFoundError: chromium is not installed, or the run has no report.
        subprocess.CalledProcessError: it failed.
    """
    browser, page = shutil.which("chromium"), (run / "report.html").resolve(strict=True)
    if browser is None:
        raise FileNotFoundError("chromium: not installed")
    written = []
    for language, ending in LANGUAGES.items():
        target = out / f"report{ending}.png"
        spoken = {"en": "en-US", "zh": "zh-CN"}[language]
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        options += [f"--accept-lang={spoken}", f"--lang={spoken}", "--virtual-time-budget=8000"]
        options += [
            f"--window-size={WINDOW[0]},{WINDOW[1]}",
            f"--force-device-scale-factor={SCALE}",
            f"--screenshot={target.resolve()}",
        ]
        subprocess.run([browser, *options, page.as_uri()], check=True, stderr=subprocess.DEVNULL)
        written.append(target)
    return written


def main(argv: Sequence[str] | None = None) -> None:
    """Make the pictures that were asked for and name them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="Folder of a model. Default: the demo's.")
    parser.add_argument("--rows", type=Path, default=DATA / "demo_zh.json", help="A file of rows. Default: the demo's.")
    parser.add_argument("--run", type=Path, help="Folder of a finished run, for the pictures of its report.")
    parser.add_argument("--out", type=Path, default=PICTURES, help="Where to. Default: docs/pictures.")
    options = parser.parse_args(argv)
    written = draw_screens(options.model or fetch_model(cache_folder()), options.rows, options.out)
    if options.run:
        written += photograph_report(options.run, options.out)
    for path in written:
        print(f"written: {path} ({path.stat().st_size:,} bytes)")


if __name__ == "__main__":
    main()
