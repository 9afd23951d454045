"""The documentation and the code say the same."""

import contextlib
import io
import json
import logging
import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

import yangtuo
from yangtuo.cli import demo, main
from yangtuo.config.parser import build_parser, parse
from yangtuo.config.schema import OUR_GROUPS
from yangtuo.config.trainer_options import TRAINING_ARGUMENTS, ArgHandling
from yangtuo.engine import planning
from yangtuo.errors import UserError, YangtuoError
from yangtuo.training.plan import step_shape

REPOSITORY = Path(__file__).resolve().parents[2]
READMES = ("README.md", "README_zh.md")
RUNNING = ("docs/running.md", "docs/running.zh.md")
MOST_LINES = 120  # of a README: what is longer is read by nobody
PAGES = [REPOSITORY / name for name in READMES] + sorted((REPOSITORY / "docs").glob("**/*.md"))
EXAMPLES = sorted(path for path in (REPOSITORY / "examples").rglob("*") if path.suffix in (".yaml", ".yml"))
FOLDERS = ("src", "scripts", "tests", "docs", "examples", "benchmarks", ".ci")
SOURCE_SUFFIXES = (".py", ".sh", ".md", ".toml", ".lock", ".yaml", ".yml")


def text_of(name) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def prose_of(text: str) -> str:
    """The text without its fenced blocks, in which '#' is no heading."""
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def code_of(text: str) -> list[str]:
    """Everything in backticks: spans and fenced blocks."""
    return re.findall(r"^```.*?\n(.*?)^```", text, flags=re.M | re.S) + re.findall(r"`([^`\n]+)`", prose_of(text))


def headings_of(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^(#+) (.+)$", prose_of(text), flags=re.M)


def flags_of(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--([A-Za-z](?:[\w-]*\w)?)(?![\w*])", text))


def paths_of(page: Path) -> set[Path]:
    """What a page names as a file of the repository, in backticks or as a link."""
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s#]+)[^)]*\)", text)
    found = {page.parent / link for link in links if "://" not in link and not link.startswith("mailto:")}
    for word in {word.strip("'\"(),;:") for code in code_of(text) for word in code.split()}:
        if word.split("/")[0] in FOLDERS and "/" in word:
            found.add(REPOSITORY / word)
    return found


def files_of(page: Path) -> set[str]:
    """Bare names of source files, without a folder, that a page has in backticks."""
    text = page.read_text(encoding="utf-8")
    words = {word for span in code_of(text) for word in span.split()}
    own = set(re.findall(r'^```\w+ title="([^"]+)"', text, flags=re.M))  # the reader's, made of a block
    return {
        word for word in words - own - OTHER_FILES if re.fullmatch(r"[\w.-]+", word) and word.endswith(SOURCE_SUFFIXES)
    }


OTHER_FILES = {"convert_hf_to_gguf.py"}  # llama.cpp's

# Programs whose command lines stand in blocks of pages beside ours, or in messages; their options are not ours to know.
OTHER_OPTIONS = {"jinja", "max-lora-rank", "nproc_per_node", "served-model-name"}  # of them, named in prose
OTHER_PROGRAMS = (
    "curl",
    "llama-quantize",
    "llama-server",
    "llamafactory-cli",
    "ollama",
    "pip",
    "swift",
    "transformers",
    "vllm",
)


def without_other_programs(text: str) -> str:
    """The text without the command lines of other programs, continued lines included."""
    return re.sub(rf"^(?:{'|'.join(OTHER_PROGRAMS)}) (?:.*\\\n)*.*$", "", text, flags=re.M)


@pytest.fixture(scope="module")
def verbs() -> set[str]:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["--help"]) == 0
    return set(re.findall(r"^  (\w+)  ", out.getvalue(), flags=re.M))


def test_both_readmes_have_the_same_headings():
    english, chinese = (headings_of(text_of(name)) for name in READMES)
    assert [level for level, _ in english] == [level for level, _ in chinese]
    assert len(english) >= 10


def test_both_readmes_have_the_same_code():
    # Commands, options and paths; a sentence in backticks would be translated, so there is none.
    english, chinese = (code_of(text_of(name)) for name in READMES)
    assert sorted(english) == sorted(chinese)


def test_chinese_headings_are_chinese():
    for _, title in headings_of(text_of("README_zh.md")):
        assert re.search(r"[\u4e00-\u9fff]", title), title


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_paths_exist(page):
    missing = [str(path.relative_to(REPOSITORY)) for path in paths_of(page) if not path.exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_source_files_exist(page):
    places = [REPOSITORY, *(REPOSITORY / folder for folder in FOLDERS)]
    missing = [name for name in files_of(page) if not any((p / name).is_file() for p in places)]
    assert not missing


@pytest.mark.parametrize("name", READMES)
def test_readme_names_files_to_look_at(name):
    assert len(paths_of(REPOSITORY / name)) > 15  # guards the search itself


@pytest.mark.parametrize("page", [*PAGES, REPOSITORY / "CHANGELOG.md"], ids=lambda page: page.name)
def test_named_options_exist(page, options):
    known = options | OTHER_OPTIONS | {"lang"}  # which is no verb's: the command line takes it before all others
    assert flags_of(without_other_programs(page.read_text(encoding="utf-8"))) <= known


@pytest.mark.parametrize("name", READMES)
def test_named_verbs_exist(name, verbs):
    used = {verb for code in code_of(text_of(name)) for verb in re.findall(r"(?:^|\s)yangtuo ([a-z]+)", code)}
    assert used == verbs


@pytest.mark.parametrize("name", READMES)
def test_environment_overrides_are_variables_of_the_script(name):
    block = text_of("scripts/run_sft.sh").split("启动命令")[0]
    offered = set(re.findall(r"^(\w+)=\$\{\1-", block, flags=re.M))
    commands = [code.replace("\\\n", " ") for code in code_of(text_of(name))]
    given = {
        variable
        for command in commands
        for line in command.splitlines()
        if line.endswith("run_sft.sh")
        for variable in re.findall(r"(?:^|\s)(\w+)=", line)
    }
    assert given
    assert given <= offered


@pytest.mark.parametrize("name", ["docs/from-2023.md", "docs/from-2023.zh.md"])
def test_refused_fields_of_transformers_are_refused(name):
    # The other old options of the page: tests/docs/test_pages.py.
    (told,) = [line for line in text_of(name).splitlines() if "`--auto_find_batch_size`" in line]
    refused = flags_of(told) - {"help"}
    assert {TRAINING_ARGUMENTS[option].handling for option in refused} == {ArgHandling.REFUSED}


@pytest.mark.parametrize("name", READMES)
def test_a_readme_is_short_and_names_what_it_replaces(name):
    lines = text_of(name).splitlines()
    assert len(lines) <= MOST_LINES
    first = next(line for line in lines if line.startswith(("yangtuo", "还记得")))
    assert "Chinese-LLaMA-Alpaca" in first
    assert "`run_sft.sh`" in first


@pytest.mark.parametrize("name", READMES)
def test_pictures_of_a_readme_are_there_and_small(name):
    shown = re.findall(r'<img src="([^"]+)"', text_of(name))
    assert {Path(picture).name.split(".")[0] for picture in shown} == {"check", "preview", "report"}
    assert all((".zh." in picture) == (name == "README_zh.md") for picture in shown)
    assert re.findall(r'<a href="([^"]+)"', text_of(name)) == shown
    for picture in shown:
        content = (REPOSITORY / picture).read_bytes()
        assert len(content) < 150_000, picture
        assert content.startswith(b"\x89PNG" if picture.endswith(".png") else b"<svg"), picture


def measured(record: dict) -> list[tuple[str, str]]:
    """Examples a second and peak GiB of each contender, as they are written."""
    rows = (record["summary"][name] for name in ("ours", "seed", "trl_packed_fast"))
    return [(f"{row['examples_per_s']['median']:.3f}", f"{row['peak_resident_gib']:.2f}") for row in rows]


@pytest.mark.parametrize("name", READMES)
def test_figures_of_speed_are_those_that_were_measured(name):
    """The table of the README beside the record of the run that it is from."""
    record = json.loads(text_of("benchmarks/results/2026-11-24-epyc-2-cores.json"))
    told = re.findall(r"^\| [^|]+ \| \**([\d.]+)\** \| \**([\d.]+)\** \|$", text_of(name), flags=re.M)
    assert told == measured(record)


@pytest.mark.parametrize("name", RUNNING)
def test_demo_says_what_the_readme_shows(name, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    settings, _ = parse([*demo.TRAINING, "--max_steps", "40"], build_parser("yangtuo demo"))
    num_rows = len(json.loads((demo.DATA / "demo_zh.json").read_text(encoding="utf-8")))
    (line,) = planning.describe(step_shape(settings), num_rows, 3, 40, drop_last=False)
    assert line in text_of(name).splitlines()
    assert demo.IDENTITY_QUESTIONS[0] in text_of(name)
    assert demo.side_by_side([], [], []).strip() in text_of(name)


@pytest.mark.parametrize("name", RUNNING)
def test_exit_codes_are_those_of_the_errors(name):
    rows = dict(re.findall(r"^\| (\d) \| (.+) \|$", text_of(name), flags=re.M))
    assert set(rows) == {"0", str(YangtuoError.exit_code), str(UserError.exit_code)}


def test_there_is_an_example():
    assert REPOSITORY / "examples" / "train.yaml" in EXAMPLES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_parse_without_a_word(path, caplog, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(logging.getLogger("yangtuo"), "propagate", True)
    settings, _ = parse([str(path)], build_parser("yangtuo train"))
    assert settings.origins
    assert not caplog.records  # an old or ineffective name would be said


def test_example_has_the_values_of_the_script():
    """Every flag that the script passes with a fixed value stands in the example with the same value."""
    command = text_of("scripts/run_sft.sh").split("$run python -m yangtuo.cli.torchrun")[1].replace("\\\n", " ")
    words = command.split("run_clm_sft_with_peft.py")[1].split("${flags")[0].strip('" ')
    fixed = [flag for flag in re.split(r"\s(?=--)", f" {words}") if flag.strip() and "$" not in flag]
    script, _ = parse([word for flag in fixed for word in flag.split()], build_parser("yangtuo train"))
    example, _ = parse([str(REPOSITORY / "examples/train.yaml")], build_parser("yangtuo train"))
    assert len(script.origins) > 15
    for group in ("model", "data", "lora", "run"):
        for option, value in vars(getattr(script, group)).items():
            if script.given(option):
                assert getattr(getattr(example, group), option) == value, option
    assert script.training.items() <= example.training.items()


@pytest.mark.parametrize("group", OUR_GROUPS, ids=lambda group: group.__name__)
def test_every_option_of_ours_has_help(group):
    for option in fields(group):
        text = option.metadata.get("help", "")
        assert text.endswith("."), f"{option.name}: help is a sentence"


def test_changelog_begins_with_this_version():
    assert re.findall(r"^## \[([^]]+)\]", text_of("CHANGELOG.md"), flags=re.M)[0] == yangtuo.__version__


def test_every_dependency_is_explained():
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    extras = project["optional-dependencies"]
    named = {re.split(r"[<>=\[ ]", spec)[0]: "required" for spec in project["dependencies"]}
    named |= {re.split(r"[<>=\[ ]", spec)[0]: f"extra `{extra}`" for extra, specs in extras.items() for spec in specs}
    rows = re.findall(r"^\| ([\w, -]+) \| .+ \| ([^|]+) \|$", text_of("docs/dependencies.md"), flags=re.M)
    told = {package: kind for packages, kind in rows for package in packages.split(", ") if package != "package"}
    assert {package: kind for package, kind in told.items() if kind != "tests only"} == named
    of_tests = {package for package, kind in told.items() if kind == "tests only"}
    assert of_tests <= set(re.findall(r"^([\w-]+)==", text_of("requirements-engines.lock"), flags=re.M))
