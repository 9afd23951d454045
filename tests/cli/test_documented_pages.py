"""The commands of the user's pages, typed as they stand there, on a tiny model; what needs more is parsed.

Both languages have the same blocks (tests/docs/test_pages.py), so the English page is typed.
"""

import argparse
import contextlib
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests import tiny
from tests.cli import test_documented
from tests.cli.test_documented import without
from tests.command import REPOSITORY
from tests.unit.exporting.test_server_check import Served, running
from yangtuo.cli import OF_A_RUN, main, module_of
from yangtuo.config.parser import build_parser, parse
from yangtuo.config.words import Parser

place = test_documented.place  # the fixture: a folder with path/to/model and path/to/data

# Pages whose commands run, and those whose commands are parsed: nothing of theirs is new, or it takes long.
RUN = (
    *("quickstart", "your-data", "templates", "new-lora", "continue-lora", "serve", "from-other-tools", "from-2023"),
    "running",
)
PARSED = (
    "memory-and-time",
    "several-gpus",
    "how-it-works",
    "troubleshooting",
    "index",
    "cli",
    "where-to-look",
    "contributing",
)
SHORTER = {"train": ["--max_steps", "2"], "vocab train": ["--vocab_size", "400"]}

# What the commands of other programs may have here, from their documentation: Ollama's docs/cli, llama.cpp's
# tools/server and tools/quantize, vLLM's "Engine Arguments" and "LoRA Adapters", `transformers serve --help` of 5.23.
OTHERS = {
    "ollama create": {"-f"},
    "ollama run": set(),
    "curl": {"-H", "-d"},
    "llama-server": {"-m", "--jinja", "--port"},
    "llama-quantize": set(),
    "vllm serve": {"--served-model-name", "--port", "--enable-lora", "--max-lora-rank", "--lora-modules"},
    "transformers serve": {"--port"},
    "pip install": {"-e"},
    "pip config": set(),
    "source .venv/bin/activate": set(),
}


def text_of(page: str) -> str:
    return (REPOSITORY / "docs" / f"{page}.md").read_text(encoding="utf-8")


def lines_of(page: str) -> list[str]:
    """Every command of a page's shell blocks, in order."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text_of(page), flags=re.M | re.S)
    return [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def commands_of(page: str) -> list[list[str]]:
    """Those of this program."""
    return [words for words in map(shlex.split, lines_of(page)) if words[0] == "yangtuo"]


def write_files(page: str, folder: Path) -> None:
    """The files that a page has the reader make: blocks with a title."""
    for name, content in re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```', text_of(page), flags=re.M | re.S):
        (folder / name).write_text(content, encoding="utf-8")


def shorter(words: list[str]) -> list[str]:
    """A command with fewer steps; the first run of a pair that goes on has fewer than the second."""
    _, verb, *options = words
    extra = SHORTER.get(verb, SHORTER.get(f"{verb} {options[0]}", []))
    if "--extend" in options:
        extra = ["--max_steps", "3"]
    return [verb, *without(options, extra[::2]), *extra]


def run_page(page: str, folder: Path, capfd) -> None:
    write_files(page, folder)
    for words in commands_of(page):
        typed = shorter(words)
        with contextlib.ExitStack() as stack:
            if typed[0] == "check-deploy":
                served = Served(Path(typed[typed.index("--model_dir") + 1]))
                url, _ = stack.enter_context(running(served))
                typed = [url if word.startswith("http") else word for word in without(typed, ["--model"])]
            code = main(typed)
        out, err = capfd.readouterr()
        assert code == 0, f"{' '.join(words)}\n{out}{err}"


def check_words(words: list[str]) -> None:
    """Parse a command of ours without running it.

    Raises:
        UsageError: an option that the verb does not have.
    """
    _, verb, *options = words
    module = module_of(verb)
    if verb in OF_A_RUN:
        parse(options, build_parser(f"yangtuo {verb}", module.add_options))
        return
    parser = Parser(f"yangtuo {verb}")
    module.add_options(parser)
    assert isinstance(parser.parse_args(options), argparse.Namespace)


def test_pages_are_run_or_parsed():
    twins = {path.name.removesuffix(".zh.md") for path in (REPOSITORY / "docs").glob("*.zh.md")}
    run_by_others = {"adapters", "evaluation", "report", "python"}  # test_documented.py, test_examples.py
    with_gaps = {"distributed", "planning"}  # `yangtuo train ... --extend`
    assert twins <= {*RUN, *PARSED, *run_by_others, *with_gaps}


@pytest.fixture
def scene(place, request, monkeypatch):
    """What the pages name beside the model and the data."""
    for name in ("rows", "my_rows"):
        (place / "data").mkdir(exist_ok=True)
        tiny.write_rows(place / "data" / f"{name}.json", tiny.rows(30))
    faq = [{"问题": f"第{i}个问题", "答案": f"第{i}个答案", "设定": "你是客服。"} for i in range(5)]
    tiny.write_rows(place / "data" / "faq.json", faq)
    return place


@pytest.mark.parametrize("page", ["quickstart", "your-data", "templates", "from-other-tools"])
def test_commands_of_pages_on_data_and_first_runs(page, scene, capfd):
    if page == "quickstart":  # of the demo, which tests/cli/test_demo.py runs
        assert main(training(scene, "output_dir")) == 0
    run_page(page, scene, capfd)


def test_commands_of_the_page_on_runs(scene, capfd):
    shutil.copytree(REPOSITORY / "examples", scene / "examples", dirs_exist_ok=True)
    run_page("running", scene, capfd)
    assert (scene / "output_dir" / "report.html").is_file()
    assert (scene / "from_file" / "sft_lora_model" / "adapter_model.safetensors").is_file()
    assert len((scene / "rows.jsonl").read_text(encoding="utf-8").splitlines()) == 30


def training(folder: Path, out: str, *more: str) -> list[str]:
    model, data = folder / "path/to/model", folder / "path/to/data"
    words = ["--model_name_or_path", str(model), "--dataset_dir", str(data), "--output_dir", out, "--max_steps", "2"]
    return ["train", *words, *more]


def test_commands_of_the_page_on_a_new_lora(scene, capfd):
    base = shutil.copytree(scene / "path/to/model", scene / "path/to/llama")
    tiny.tiny_adapter(scene / "path/to/chinese-llama-lora", base, modules_to_save="embed_tokens,lm_head")
    run_page("new-lora", scene, capfd)
    assert (scene / "new_lora" / "sft_lora_model" / "adapter_model.safetensors").is_file()


def test_commands_of_the_page_on_continuing(scene, capfd):
    tiny.tiny_adapter(scene / "path/to/lora", scene / "path/to/model", modules_to_save="embed_tokens,lm_head")
    run_page("continue-lora", scene, capfd)
    assert (scene / "longer" / "sft_lora_model.step-2").is_dir()


def test_commands_of_the_page_on_serving(scene, capfd):
    assert main(training(scene, "output_dir")) == 0
    run_page("serve", scene, capfd)
    assert (scene / "exported" / "model-f16.gguf").is_file()
    assert (scene / "exported" / "Modelfile").read_text(encoding="utf-8").count("\nFROM ") == 1


def test_the_command_of_2023_runs(scene):
    (line,) = [line for line in lines_of("from-2023") if line.startswith("python scripts/")]
    _, script, *options = shlex.split(line)
    words = [sys.executable, REPOSITORY / script, *without(options, ["--max_steps"]), "--max_steps", "2"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "src")}
    done = subprocess.run(words, cwd=scene, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (scene / "like_2023" / "sft_lora_model" / "adapter_config.json").is_file()


@pytest.mark.parametrize("page", [*RUN, *PARSED])
def test_every_command_has_valid_options(page, scene):
    write_files(page, scene)
    for words in commands_of(page):
        check_words(words)


def test_a_wrong_option_is_seen():
    from yangtuo.errors import UsageError

    with pytest.raises(UsageError):
        check_words(["yangtuo", "train", "--lora_rnak", "8"])
    with pytest.raises(UsageError):
        check_words(["yangtuo", "merge", "--peft", "x"])


@pytest.mark.parametrize("page", [*RUN, *PARSED])
def test_commands_of_other_programs_are_known(page):
    for words in map(shlex.split, lines_of(page)):
        if words[0] in ("yangtuo", "python", "bash") or words[-1].endswith("run_sft.sh"):
            continue
        name = next((name for name in OTHERS if " ".join(words).startswith(name)), None)
        assert name, f"{page}: {' '.join(words)}: not one of {', '.join(OTHERS)}"
        assert {word for word in words if word.startswith("-")} <= OTHERS[name], " ".join(words)


def questions_of(lines: list[str]) -> list[tuple[str, str, str]]:
    """Of each question to a server: the program that was started last, port and model that differ from its own."""
    found, server, port, names = [], "", "", set()
    for words in map(shlex.split, lines):
        if "--port" in words:
            server, port = words[0], words[words.index("--port") + 1]
            given = [words[i + 1] for i, word in enumerate(words) if word == "--served-model-name"]
            adapters = [word.split("=")[0] for word in words if "=" in word]
            names = {*(given or [words[2]]), *adapters}
        elif words[0] == "curl":
            url, asked = words[1], json.loads(words[words.index("-d") + 1])
            assert url.endswith("/v1/chat/completions")
            assert [one["role"] for one in asked["messages"]] == ["user"]
            is_known = server == "llama-server" or asked["model"] in names  # which takes any name
            found.append((server, "" if f":{port}/" in url else url, "" if is_known else asked["model"]))
    return found


def test_each_server_is_asked_at_its_port_by_its_name():
    servers = ["llama-server", "vllm", "vllm", "transformers"]
    assert questions_of(lines_of("serve")) == [(server, "", "") for server in servers]


def test_a_question_to_another_port_or_model_is_seen():
    wrong = [line.replace(":8000", ":8080").replace("my-lora", "lora") for line in lines_of("serve")]
    wrong = [line.replace("lora=pure", "my-lora=pure") for line in wrong]
    assert [bool(url) for _, url, _ in questions_of(wrong)] == [False, True, True, True]
    assert [model for *_, model in questions_of(wrong)] == ["", "", "lora", ""]


def test_extras_that_pages_install_are_there():
    extras = set(tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"])
    named = {name for page in [*RUN, *PARSED] for name in re.findall(r"-e '\.\[(\w+)\]'", text_of(page))}
    assert named >= {"data", "qlora", "deepspeed"}
    assert named <= extras


@pytest.mark.parametrize("page", ["new-lora", "continue-lora", "several-gpus"])
def test_calls_of_the_script_give_a_run_its_options(page, scene):
    """`dry_run` prints the command of `run_sft.sh`, whose options are then parsed."""
    if not (Path(sys.prefix) / ".yangtuo-setup").is_file():
        pytest.skip("these tests do not run in an environment made by scripts/setup.sh; bash scripts/test.sh does")
    calls = [line for line in lines_of(page) if line.endswith("scripts/run_sft.sh")]
    assert calls
    for line in calls:
        values = dict(word.split("=", 1) for word in shlex.split(line)[:-2])
        environment = os.environ | {"YANGTUO_VENV": sys.prefix, "dry_run": "1"} | values
        words = ["bash", str(REPOSITORY / "scripts/run_sft.sh")]
        done = subprocess.run(words, cwd=scene, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        typed = done.stdout.splitlines()
        place = typed.index(str(REPOSITORY / "scripts/run_clm_sft_with_peft.py"))
        settings, _ = parse(typed[place + 1 :], build_parser("yangtuo train"))
        assert settings.model.model_name_or_path == values["pretrained_model"]
        assert ("--nproc_per_node", values.get("num_gpu_per_node", "1")) in itertools.pairwise(typed)
