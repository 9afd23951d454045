"""The site: built without a warning, in both languages, searchable in Chinese, and asking no other host for anything.

Skipped where the extra `docs` is not installed; the search in a browser also where chromium is not.
"""

import contextlib
import functools
import http.server
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import time

import pytest

from tests.cli.test_report_in_browser import CHROMIUM, DRIVER, opened, requests_of
from tests.command import REPOSITORY

_NEEDED = ("material", "mkdocs_static_i18n", "jieba")
pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in _NEEDED), reason="the site's packages are missing (extra docs)"
)
_TAGS = r"<(?:script|link|img|iframe|source|video)\b[^>]*?(?:src|href)=\"?((?:https?:)?//[^\s\">]+)"
_WORD_BREAK = "\u200b"  # what mkdocs-material puts between the words of Chinese


def build(folder, configuration=REPOSITORY / "mkdocs.yml"):
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(configuration), "-d", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stderr
    assert not re.search("^(WARNING|ERROR)", done.stderr, flags=re.M), done.stderr
    return folder


def page(site, name: str) -> str:
    return (site / name / "index.html").read_text(encoding="utf-8")


def test_every_page_is_in_both_languages(site):
    names = {path.parent.name for path in site.glob("*/index.html")} - {"zh"}
    assert {"quickstart", "troubleshooting", "data", "cli"} <= names
    assert names == {path.parent.name for path in site.glob("zh/*/index.html")}
    for place, language, other in ((".", "en", "zh"), ("zh", "zh", "en")):
        text = page(site, place)
        assert f'<html lang="{language}"' in text
        assert re.search(rf'<a href="[^"]*" hreflang="{other}"', text)
    assert "快速上手" in page(site, "zh/quickstart")
    assert "数据（英文）" in page(site, "zh")


def test_pages_load_nothing_from_other_hosts(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    assert not {url for path in pages for url in re.findall(_TAGS, path.read_text("utf-8"))}
    sheets = "".join(path.read_text("utf-8") for path in site.rglob("*.css"))
    assert not re.findall(r"url\(\"?(?:https?:)?//", sheets)


def test_a_foreign_script_would_be_seen():
    assert re.findall(_TAGS, '<script src="https://cdn.example.com/a.js"></script>') == ["https://cdn.example.com/a.js"]
    assert re.findall(_TAGS, '<link rel="x" href="//fonts.example.com/css">') == ["//fonts.example.com/css"]
    assert not re.findall(_TAGS, '<script src="assets/a.js"></script><a href="https://example.com">')


def test_both_colours_are_offered(site):
    schemes = re.findall(r'data-md-color-scheme="(\w+)"', page(site, "quickstart"))
    assert {"default", "slate"} <= set(schemes)


def test_names_of_pages_in_the_text_are_links(site):
    assert '<a href="../gpu/"><code>docs/gpu.md</code></a>' in page(site, "engine")


def index_of(site) -> dict:
    return json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))


def test_the_index_has_the_words_of_chinese_pages(site):
    index = index_of(site)
    assert "zh" in index["config"]["lang"]
    assert r"\u200b" in index["config"]["separator"]
    chinese = [one for one in index["docs"] if one["location"].startswith("zh/")]
    words = {word for one in chinese for word in re.split(rf"[\s{_WORD_BREAK}<>，。；：、（）]+", one["text"])}
    assert {"显存", "模板", "合并", "分词器", "梯度"} <= words


def test_a_page_in_english_only_is_found_once(site):
    places = {one["location"].split("#")[0] for one in index_of(site)["docs"]}
    assert {"data/", "quickstart/", "zh/quickstart/"} <= places
    assert "zh/data/" not in places


def test_a_broken_link_stops_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[there](gone.md)\n")
    text = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    (tmp_path / "mkdocs.yml").write_text(re.sub(r"^(nav|hooks):\n(?:[ -].*\n)+", "", text, flags=re.M))
    done = build(tmp_path / "site", tmp_path / "mkdocs.yml")
    assert done.returncode != 0
    assert "gone.md" in done.stderr


@contextlib.contextmanager
def served(folder):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed")
def test_searching_in_chinese_finds_the_page(site, tmp_path):
    (tmp_path / "blank.html").write_text("<!DOCTYPE html>")
    with served(site) as url, opened(tmp_path / "blank.html", language="zh-CN") as driver:
        driver.get(f"{url}zh/?q=显存")
        end, found = time.monotonic() + 30, []
        while not found and time.monotonic() < end:
            time.sleep(0.2)
            links = driver.find_elements("css selector", ".md-search-result__item a")
            found = [link.get_attribute("href") for link in links]
        assert found, "nothing was found"
        assert found[0].startswith(f"{url}zh/memory-and-time/")
        hosts = {one.split("/")[2] for one in requests_of(driver) if one.startswith("http")}
        assert hosts == {url.split("/")[2]}
