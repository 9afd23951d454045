"""The user's pages: both languages say the same, quoted messages are said, generated parts are as they are made."""

import importlib.util
import json
import re
from collections import Counter

import pytest

from tests.docs.messages import is_said
from tests.docs.test_docs import REPOSITORY, code_of, flags_of, headings_of, prose_of, text_of
from yangtuo.config.old_options import GONE, RENAMED, WITHOUT_EFFECT
from yangtuo.logs import notes_with_chinese

CHINESE = sorted(path.name for path in (REPOSITORY / "docs").glob("*.zh.md"))
ENGLISH = [name.replace(".zh.md", ".md") for name in CHINESE]
PAIRS = list(zip(ENGLISH, CHINESE, strict=True))
ENGLISH_ONLY = {
    *("architecture.md", "data.md", "dependencies.md", "doctor.md", "engine.md"),
    *("gpu.md", "log.md", "models.md", "scaling.md", "trackers.md"),
    "glossary.md",  # both languages in one table
}


def doc(name: str) -> str:
    return text_of(f"docs/{name}")


def script(name: str):
    """A module of scripts/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks_of(text: str) -> list[str]:
    return re.findall(r"^```.*?^```", text, flags=re.M | re.S)


def spans_of(text: str) -> Counter:
    return Counter(re.findall(r"`([^`\n]+)`", prose_of(text)))


def figures_of(text: str) -> Counter:
    """Numbers of the prose, outside of code and links."""
    prose = re.sub(r"`[^`\n]+`|\]\([^)]*\)|<!--.*?-->", " ", prose_of(text))
    return Counter(re.findall(r"(?<![A-Za-z\d-])\d[\d,.]*(?:e-\d+)?", re.sub(r"[.,](?!\d)", " ", prose)))


def links_of(text: str) -> Counter:
    return Counter(re.findall(r"\]\(([^)\s]+)\)", prose_of(text)))


def pictures_of(text: str) -> Counter:
    return Counter(re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", text))


def tables_of(text: str) -> list[int]:
    """Columns of each row of each table."""
    lines = [re.sub(r"`[^`\n]+`|\\\|", "", line) for line in prose_of(text).splitlines()]
    return [line.count("|") for line in lines if line.startswith("|")]


def without_chinese_of_messages(text: str) -> str:
    """A Chinese page without the Chinese that stands before a quoted message, which the English page has not."""
    return re.sub(r"^\| `[^`\n]+`<br>`", "| `", text, flags=re.M)


def differences(english: str, chinese: str) -> list[str]:
    """In what two pages are not in step."""
    chinese = without_chinese_of_messages(chinese)
    looks = {
        "headings": [[level for level, _ in headings_of(text)] for text in (english, chinese)],
        "blocks": [blocks_of(text) for text in (english, chinese)],
        "code": [spans_of(text) for text in (english, chinese)],
        "figures": [figures_of(text) for text in (english, chinese)],
        "links": [links_of(text) for text in (english, chinese)],
        "pictures": [pictures_of(text) for text in (english, chinese)],
        "tables": [tables_of(text) for text in (english, chinese)],
    }
    return [f"{what}: {told(one, other)}" for what, (one, other) in looks.items() if one != other]


def told(one, other) -> str:
    if isinstance(one, Counter):
        return f"English alone {dict(one - other)}, Chinese alone {dict(other - one)}"
    return f"{one} and {other}"


def test_every_page_has_a_twin_or_is_named_as_english_only():
    pages = {path.name for path in (REPOSITORY / "docs").glob("*.md") if not path.name.endswith(".zh.md")}
    assert pages == {*ENGLISH, *ENGLISH_ONLY}
    assert len(PAIRS) > 12


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=ENGLISH)
def test_both_languages_are_in_step(english, chinese):
    assert not differences(doc(english), doc(chinese))


def test_pages_out_of_step_are_seen():
    page = "# A\n\nSee `--x`, 12 of them, [there](b.md).\n\n| a | b |\n\n```bash\nls\n```\n"
    twin = "# 甲\n\n见 `--x`，共 12 个，[那里](b.md)。\n\n| 甲 | 乙 |\n\n```bash\nls\n```\n"
    assert not differences(page, twin)
    assert not differences(f"{page}\n| `x` | b |\n", f"{twin}\n| `甲`<br>`x` | 乙 |\n")
    changes = {
        "headings": ("# 甲", "## 甲"),
        "blocks": ("\nls", "\nls -l"),
        "code": ("--x", "--y"),
        "figures": ("12", "13"),
        "links": ("b.md", "c.md"),
        "tables": ("| 甲 | 乙 |", "| 甲 |"),
    }
    for what, (old, new) in changes.items():
        assert [line.split(":")[0] for line in differences(page, twin.replace(old, new))] == [what]


@pytest.mark.parametrize("name", CHINESE)
def test_chinese_pages_are_chinese(name):
    text = doc(name)
    for _, title in headings_of(text):
        is_name = re.fullmatch(r"[\w.\- ]+", title.replace("`", ""), flags=re.A)  # "Ollama", "dataset_info.json"
        assert is_name or re.search(r"[\u4e00-\u9fff]", title), title
    if name == "cli.zh.md":  # its rows have names of options and values; see the next test
        return
    for line in prose_of(text).splitlines():
        words = re.sub(r"`[^`\n]+`|\]\([^)]*\)|<!--.*?-->", "", line)
        letters = len(re.findall(r"[A-Za-z]", words))
        if letters > 20:  # names of models and programs stay as they are
            assert len(re.findall(r"[\u4e00-\u9fff]", words)) * 8 > letters, line


def sentences_in_english(text: str) -> list[str]:
    """Last cells of rows without a Chinese character: sentences that the catalogue did not give."""
    cells = re.findall(r"^\|.*\| ([^|]+) \|$", re.sub(r"\\\|", "", text), flags=re.M)
    return [cell for cell in cells if not re.search(r"[\u4e00-\u9fff]", cell)]


def test_sentences_of_the_chinese_reference_are_chinese():
    assert len(re.findall(r"^\| `--", doc("cli.zh.md"), flags=re.M)) > 200
    assert not sentences_in_english(doc("cli.zh.md"))
    assert sentences_in_english("| `--a` |  | The rank. |\n| `--b` | `2` | 秩 r。 |") == ["The rank."]


@pytest.mark.parametrize("text", ["the server takes --served-model-name NAME", "(--served-model-name)"])
def test_a_name_with_dashes_is_one_span(text):
    made = script("cli_reference")._cell(text)
    assert re.findall("`([^`]+)`", made) == ["--served-model-name"]
    assert script("cli_reference")._cell("--rank-, --a_b.") == "`--rank`-, `--a_b`."


@pytest.mark.parametrize("name", [name for pair in PAIRS for name in pair])
def test_json_of_pages_can_be_read(name):
    for block in re.findall(r"^```json[^\n]*\n(.*?)^```", doc(name), flags=re.M | re.S):
        json.loads(block)


def quoted_messages() -> list[str]:
    """The first cells of the tables of messages."""
    rows = [line for line in doc("troubleshooting.md").splitlines() if line.startswith("| `")]
    return [re.match(r"\| `([^`]+)` \|", row)[1] for row in rows]


def test_there_are_messages():
    assert len(quoted_messages()) > 50


@pytest.mark.parametrize("quoted", quoted_messages())
def test_the_program_says_what_is_explained(quoted):
    assert is_said(quoted)


def test_a_message_that_nobody_says_is_seen():
    assert is_said("unknown option …; did you mean …?")
    assert not is_said("unknown option …; did you think of …?")
    assert not is_said("did you mean …? unknown option …")


def test_messages_of_the_chinese_page_are_those_of_the_catalogue():
    text = doc("troubleshooting.zh.md")
    made = script("messages_table").page(text)
    assert text == made, "stale: python scripts/messages_table.py writes it anew"
    assert re.findall(r"^\| `[^`\n]+`<br>`([^`\n]+)` \|", text, flags=re.M) == quoted_messages()


@pytest.mark.parametrize(
    ("quoted", "chinese"),
    [
        ("proof failed: …", "校验失败：…"),  # the shortest of many that begin so
        ("… GB are needed, … GB are free", "--… …：需要 … GB，那里空闲 … GB"),
        ("unknown option …; did you mean …?", "未知选项 …；是不是 …？"),  # one message in a place of another
    ],
)
def test_the_chinese_of_a_quoted_message(quoted, chinese):
    made = script("messages_table").page(f"| `{quoted}` | a | b |")
    assert made == f"| `{chinese}`<br>`{quoted}` | a | b |"
    assert script("messages_table").page(made.replace("：", "；")) == made  # what stood there is replaced


def test_a_message_without_chinese_is_seen():
    with pytest.raises(LookupError):
        script("messages_table").chinese_of("unknown option …; did you think of …?")


def test_names_of_chinese_texts_in_files_are_those_that_are_written():
    sources = [path for path in sorted((REPOSITORY / "src").rglob("*.py")) if path.parent.name != "evaluation"]
    written = {name for path in sources for name in re.findall(r"with_chinese\(\"(\w+)\"", path.read_text("utf-8"))}
    named = {name for name in spans_of(doc("running.md")) if re.fullmatch("[a-z]+_zh", name)}
    assert named == {f"{name}_zh" for name in {*written, *notes_with_chinese()} if not name.endswith("_zh")}
    assert {"text_zh", "problems_zh", "notes_zh"} <= {*re.findall(r"\w+_zh", doc("report.md"))} <= named


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_reference_of_the_command_line_is_up_to_date(language):
    reference = script("cli_reference")
    found, made = doc(reference.PAGES[language]), reference.page(language)
    assert found == made, "stale: python scripts/cli_reference.py writes it anew"


def test_the_reference_has_every_option(options):
    assert options - {"help"} <= {
        *flags_of(doc("cli.md")),
        *spelled_otherwise(options),
        *RENAMED,
        *WITHOUT_EFFECT,
        *GONE,
    }


def spelled_otherwise(options: set[str]) -> set[str]:
    """Second spellings: with dashes, switched off, other tools' names."""
    return {name for name in options if "-" in name or name.startswith("no_")} | {"dtype", "format"}


@pytest.mark.parametrize("name", ["from-other-tools.md", "from-other-tools.zh.md"])
def test_the_table_of_other_names_is_up_to_date(name):
    made = script("other_tools_table").page(name, doc(name))
    assert doc(name) == made, "stale: python scripts/other_tools_table.py writes it anew"


@pytest.mark.parametrize("name", ["from-2023.md", "from-2023.zh.md"])
def test_old_options_are_all_told(name):
    text = doc(name)
    assert set(re.findall(r"^\| `--(\w+)` \| `--(\w+)` \|$", text, flags=re.M)) == set(RENAMED.items())
    (ignored,) = [line for line in text.splitlines() if "--keep_linebreaks" in line]
    assert flags_of(ignored) == set(WITHOUT_EFFECT)
    refused = text.split("--keep_linebreaks")[1].split("## ")[0]
    assert set(GONE) <= flags_of(refused)


@pytest.mark.parametrize("name", ["from-2023.md", "from-2023.zh.md"])
def test_every_variable_and_flag_of_the_script_is_told(name):
    script_text = text_of("scripts/run_sft.sh")
    block, command = script_text.split("启动命令")
    variables = set(re.findall(r"^(\w+)=\$\{\1-", block.split("多机多卡")[0], flags=re.M))
    spans = {word for code in code_of(doc(name)) for word in code.split()}
    assert len(variables) > 12
    assert variables <= spans
    run = command.split("run_clm_sft_with_peft.py")[1] + " ".join(re.findall(r"^optional (--\w+)", command, flags=re.M))
    assert flags_of(run) <= flags_of(doc(name))
