"""CONTRIBUTING.md in both languages: what it names is there, and the limits that it tells are the house's."""

import ast
import re
import shlex
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tests.docs.test_docs import OTHER_PROGRAMS, REPOSITORY, code_of, files_of, flags_of, headings_of, paths_of, text_of
from tests.docs.test_pages import ENGLISH_ONLY, PAIRS, blocks_of, doc, links_of, script, spans_of, tables_of
from yangtuo.data.templates import TEMPLATES

GUIDES = ("CONTRIBUTING.md", "CONTRIBUTING_zh.md")
MOST_LINES = 150  # of a guide
# A name in capitals stands for the reader's own: docs/NAME.md.
OWN = re.compile(r"\b(?:NAME|VERB|FILE)\b")
MOST_LINES_OF_A_MODULE, MOST_LINES_OF_A_FUNCTION = 350, 60


def commands_of(text: str) -> list[list[str]]:
    """Command lines, in blocks and in spans, of the programs that the guide speaks of."""
    lines = [line.strip() for code in code_of(text) for line in code.splitlines()]
    found = [shlex.split(line) for line in lines if re.match(r"(bash|python|source|pip|pre-commit) ", line)]
    return [[word for word in words if not OWN.search(word)] for words in found]


def absent(words: list[str]) -> list[str]:
    """Files that a command line names and there are not, and options that the named scripts do not have."""
    program, *rest = words
    files = [word for word in rest if "/" in word and not word.startswith(("-", ".venv"))]
    scripts = [REPOSITORY / word for word in files if (REPOSITORY / word).is_file()]
    known = "".join(path.read_text(encoding="utf-8") for path in [*scripts, REPOSITORY / "tests" / "conftest.py"])
    lacks = [word for word in files if not (REPOSITORY / word).exists()]
    if program in ("bash", "python") and rest[:2] != ["-m", "mkdocs"]:
        lacks += [word for word in rest if word.startswith("--") and f'"{word}"' not in known and word not in known]
    return lacks


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_is_short(name):
    assert len(text_of(name).splitlines()) <= MOST_LINES


@pytest.mark.parametrize("name", GUIDES)
def test_named_files_exist(name):
    paths = {path for path in paths_of(REPOSITORY / name) if not OWN.search(str(path))}
    assert len(paths) > 40
    assert [str(path) for path in paths if not path.exists()] == []
    places = [REPOSITORY, REPOSITORY / "src" / "yangtuo"]
    bare = {one for one in files_of(REPOSITORY / name) if not OWN.search(one)} - {"utils.py"}  # which is forbidden
    assert [one for one in bare if not any((place / one).is_file() for place in places)] == []


@pytest.mark.parametrize("name", GUIDES)
def test_named_commands_exist(name):
    commands = commands_of(text_of(name))
    assert len(commands) > 10
    assert [lack for words in commands for lack in absent(words)] == []


def test_what_a_command_lacks_is_seen():
    assert absent(["bash", "scripts/gone.sh"]) == ["scripts/gone.sh"]
    assert absent(["python", "scripts/catalogue.py", "--chekc"]) == ["--chekc"]
    assert absent(["python", "-m", "pytest", "tests/gone/test_a.py"]) == ["tests/gone/test_a.py"]
    assert absent(["python", "scripts/catalogue.py", "--check"]) == []


@pytest.mark.parametrize("name", GUIDES)
def test_named_options_are_options_of_something(name, options):
    """Ours, or of a command line or a script that the guide names, which the test before looks at."""
    text = text_of(name)
    of_others = {word[2:] for words in commands_of(text) for word in words if word.startswith("--")}
    assert flags_of(text) <= options | of_others | {"help"}


def test_names_of_the_code_are_there():
    """Python names in backticks stand in the file that the same item names, or in one of the package's."""
    sources = "".join(path.read_text("utf-8") for path in (REPOSITORY / "src").rglob("*.py"))
    spans = {span for name in GUIDES for span in spans_of(text_of(name)) if re.fullmatch(r"_?[A-Za-z]+_?\w*", span)}
    words = {span for span in spans if re.search(r"[A-Z_]", span)} - {"NAME", "VERB", "FILE", "num_"}
    assert {"FrameTemplate", "TEMPLATES", "VERBS", "_HELP", "UserError", "RunFailure", "add_options"} <= words
    in_files = sources + text_of("mkdocs.yml") + text_of("tests/cli/test_documented_pages.py")
    assert [word for word in words if not re.search(rf"\b{word}\b", in_files)] == []


def test_both_guides_are_in_step():
    english, chinese = map(text_of, GUIDES)
    for look in (blocks_of, spans_of, tables_of):
        assert look(english) == look(chinese)
    assert [level for level, _ in headings_of(english)] == [level for level, _ in headings_of(chinese)]
    steps = [re.findall(r"^(?:\d\.|-) ", text, flags=re.M) for text in (english, chinese)]
    assert steps[0] == steps[1]
    plain = [[re.sub(r"\.zh\.md|_zh\.md", ".md", link) for link in links_of(text)] for text in (english, chinese)]
    assert sorted(plain[0]) == sorted(plain[1])


def test_the_limits_are_those_that_are_checked():
    rules = tomllib.loads(text_of("pyproject.toml"))["tool"]["ruff"]
    select, lint = rules["lint"]["select"], rules["lint"]
    assert {"C901", "PLR0913", "PLR0915"} <= set(select)
    # What is not set in pyproject.toml is ruff's own: 50 statements, complexity 10.
    told = {
        "English": re.search(
            r"at most (\d+) lines, functions (\d+) lines and 50 .*, 10 .*, (\d) .* (\d+) char", text_of(GUIDES[0])
        ),
        "Chinese": re.search(
            r"最多 (\d+) 行，函数最多 (\d+) 行、50 条语句、10 个分支、(\d) 个参数；每行最多 (\d+) 个",
            text_of(GUIDES[1]),
        ),
    }
    limits = (MOST_LINES_OF_A_MODULE, MOST_LINES_OF_A_FUNCTION, lint["pylint"]["max-args"], rules["line-length"])
    for language, found in told.items():
        assert found, language
        assert tuple(map(int, found.groups())) == limits
    assert lint["pylint"].keys() == {"max-args"}
    assert "mccabe" not in lint


def too_long(name: str, source: str) -> list[str]:
    """Modules and functions of more lines than the house has; a docstring does not count as a function's."""
    found = [name] if len(source.splitlines()) > MOST_LINES_OF_A_MODULE else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            begin = node.body[0] if ast.get_docstring(node) else None
            of_docstring = begin.end_lineno - begin.lineno + 1 if begin else 0
            if node.end_lineno - node.lineno + 1 - of_docstring > MOST_LINES_OF_A_FUNCTION:
                found.append(f"{name}: {node.name}")
    return found


def test_modules_and_functions_have_the_size_of_the_house():
    paths = [*(REPOSITORY / "src").rglob("*.py"), *(REPOSITORY / "scripts").glob("*.py")]
    found = {one for path in paths for one in too_long(path.name, path.read_text("utf-8"))}
    assert found == set()


def test_what_is_too_long_is_seen():
    assert too_long("a.py", "x = 1\n" * 351) == ["a.py"]
    body = "    x = 1\n" * 60
    assert too_long("a.py", f"def f():\n{body}") == ["a.py: f"]
    assert too_long("a.py", f'def f():\n    """Long.\n\n    Text.\n    """\n{body[:-10]}') == []


def nav_of(text: str) -> set[str]:
    """Pages of the site's contents."""
    return set(re.findall(r": ([\w-]+\.md)$", text.split("\nnav:\n")[1].split("\nvalidation:")[0], flags=re.M))


def test_every_page_is_in_the_contents_of_the_site():
    assert nav_of(text_of("mkdocs.yml")) == {*(english for english, _ in PAIRS), *ENGLISH_ONLY}


def test_every_title_of_the_contents_is_there_in_chinese():
    text = text_of("mkdocs.yml")
    contents = text.split("\nnav:\n")[1].split("\nvalidation:")[0]
    titles = [title.strip("\"' ") for title in re.findall(r"^ *- (.+?):(?: [\w-]+\.md)?$", contents, flags=re.M)]
    translated = yaml.safe_load(re.search(r"nav_translations:\n((?: {12}.*\n)+)", text)[1])
    assert len(titles) > 30
    assert set(titles) == set(translated)
    assert all(re.search(r"[\u4e00-\u9fff]", chinese) for chinese in translated.values())


@pytest.mark.parametrize("name", ["index.md", "index.zh.md"])
def test_the_first_page_leads_to_every_page_for_users(name):
    in_depth = {"adapters.md", "planning.md", "distributed.md", "how-it-works.md", "index.md"}  # led to by others
    assert {english for english, _ in PAIRS} - in_depth <= set(links_of(doc(name)))


@pytest.mark.parametrize("page", ["templates.md", "templates.zh.md", "data.md"])
def test_every_template_is_told(page, options):
    rows = set(re.findall(r"^\| `(\w+)` \|", doc(page), flags=re.M))
    assert {*TEMPLATES, "tokenizer"} <= rows
    assert "template" in options


def test_the_help_of_template_names_them_all():
    from yangtuo.config.options import OPTIONS

    assert [name for name in TEMPLATES if name not in (OPTIONS["template"].help or "")] == []


@pytest.mark.parametrize(("stub", "guide"), [("contributing.md", GUIDES[0]), ("contributing.zh.md", GUIDES[1])])
def test_the_site_shows_the_guide(stub, guide):
    """What the hook makes of the page, without mkdocs: the guide, whose links lead to pages."""
    page = SimpleNamespace(file=SimpleNamespace(src_uri=stub), meta={})
    configuration = {"docs_dir": str(REPOSITORY / "docs"), "theme": {"language": "zh" if ".zh." in stub else "en"}}
    shown = script("docs_hooks").on_page_markdown(doc(stub), page=page, config=configuration)
    assert [title for _, title in headings_of(shown)] == [title for _, title in headings_of(text_of(guide))]
    assert "_zh.md)" not in shown
    links = [link for link in links_of(shown) if "://" not in link]
    assert len(links) > 3
    assert [link for link in links if not (REPOSITORY / "docs" / link).is_file()] == []
    assert not page.meta


def test_the_programs_of_the_guide_are_known():
    programs = {words[0] for name in GUIDES for words in commands_of(text_of(name))}
    assert programs <= {"bash", "python", "source", "pre-commit", *OTHER_PROGRAMS}
    assert Path(REPOSITORY / ".venv").name in text_of(".gitignore")
