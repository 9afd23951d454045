"""scripts/pictures.py: screens of real commands as drawings that ask nobody for a font."""

import re
import xml.etree.ElementTree as ET

import pytest

from tests import tiny
from tests.docs.test_docs import REPOSITORY
from tests.docs.test_pages import script

SCREENS = ("check.svg", "check.zh.svg", "preview.svg", "preview.zh.svg")


@pytest.fixture(scope="module")
def pictures():
    return script("pictures")


def text_of(svg: str) -> str:
    """The letters of a drawing, without what lies between them."""
    return re.sub(r"\s", "", "".join(ET.fromstring(svg).itertext()))


def test_the_script_draws_real_screens(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = tiny.tiny_llama(tmp_path / "tiny-model")
    tiny.tiny_sentencepiece(model)
    rows = tmp_path / "rows.json"
    tiny.write_rows(rows, tiny.rows(12))
    out = tmp_path / "out"
    out.mkdir()
    pictures.main(["--model", str(model), "--rows", str(rows), "--out", str(out)])
    assert sorted(path.name for path in out.iterdir()) == sorted(SCREENS)
    drawn = {name: text_of((out / name).read_text(encoding="utf-8")) for name in SCREENS}
    command = "$yangtuo{}--model_name_or_pathtiny-model--dataset_dirrows.json"
    assert all(command.format(name.split(".")[0]) in text for name, text in drawn.items())
    assert "12of12rows" in drawn["check.svg"]
    assert "结论：" in drawn["check.zh.svg"]
    assert "参与训练" in drawn["preview.zh.svg"]
    assert all(str(tmp_path) not in text for text in drawn.values())


def test_some_paragraphs_are_left_out_with_a_mark(pictures):
    assert pictures.shortened("a\nb\n\nc\n\nd\n\ne\n", (0, 3)) == "a\nb\n\n…\n\ne"
    assert pictures.shortened("a\n\nb", (0, 1)) == "a\n\nb"


def test_chinese_characters_take_two_cells_and_keep_the_columns(pictures):
    svg = pictures.drawing("a汉字 <b>&", "title", "x")
    found = re.findall(r'x="([\d.]+)" y="[\d.]+" textLength="([\d.]+)">([^<]+)</text>', svg)
    assert found == [("0.0", "12.2", "a"), ("12.2", "48.8", "汉字"), ("61.0", "61.0", "&#160;&lt;b&gt;&amp;")]


@pytest.mark.parametrize("name", SCREENS)
def test_drawings_ask_no_other_host(name):
    svg = (REPOSITORY / "docs" / "pictures" / name).read_text(encoding="utf-8")
    assert "@font-face" not in svg
    assert not re.findall(r"(?:href|src|url)\W{1,2}https?:", svg)
    assert {element.tag.split("}")[1] for element in ET.fromstring(svg).iter()} <= {
        *("svg", "style", "defs", "clipPath", "rect", "text", "g", "circle")
    }


def test_a_foreign_font_would_be_seen(pictures):
    from rich.console import Console

    console = Console(record=True, width=20, quiet=True)
    console.print("x")
    svg = console.export_svg()
    assert "@font-face" in svg
    assert re.findall(r"(?:href|src|url)\W{1,2}https?:", svg)


def test_no_report_is_no_picture(pictures, tmp_path):
    with pytest.raises(FileNotFoundError):
        pictures.photograph_report(tmp_path, tmp_path)
