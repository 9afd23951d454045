"""What the scripts say, in English and in Chinese, where every program that they call is a fake."""

import os
import re
import subprocess

import pytest

from tests.command import REPOSITORY
from yangtuo import i18n

SCRIPTS = REPOSITORY / "scripts"
_TEXT = r'"((?:[^"\\$]|\$\([^()]*\)|\$)*)"'
_SAID = re.compile(rf"\bsay {_TEXT} \\\n\s+{_TEXT}")
_LOCALE = ("YANGTUO_LANG", "LC_ALL", "LC_MESSAGES", "LANG", "LANGUAGE")

# A Python of any version that can do everything, but what FAILS names.
PYTHON = """#!/bin/sh
case "$*" in
    --version) echo "Python ${VERSION:-3.12.1}" ;;
    *find_spec*) exit "${NO_TORCH:-1}" ;;
    *version_info*) [ -z "${VERSION:-}" ] ;;
    *ensurepip*) [ -z "${NO_VENV:-}" ] ;;
    *) exit 0 ;;
esac
"""


def messages(script: str) -> list[tuple[str, str]]:
    return _SAID.findall((SCRIPTS / script).read_text(encoding="utf-8"))


def values_of(text: str) -> list[str]:
    """Variables and settings in a message."""
    return sorted(re.findall(r"\$\{?(\w+?)(?:_zh)?\b", text) + re.findall(r"[A-Z_]{4,}=\S+|apt install [\w-]+", text))


@pytest.mark.parametrize(("script", "num"), [("setup.sh", 6), ("run_sft.sh", 2)])
def test_every_message_is_there_in_both(script, num):
    text = (SCRIPTS / script).read_text(encoding="utf-8")
    said = messages(script)
    assert len(said) == num == len(re.findall(r"^\s+say ", text, flags=re.M))
    assert not re.search(r'^\s*echo "[A-Za-z_.]+:', text, flags=re.M)  # a message past `say`
    for english, chinese in said:
        assert re.search(r"[\u4e00-\u9fff]", chinese)
        assert not re.search(r"[\u4e00-\u9fff]", english)
        assert values_of(english) == values_of(chinese)


def test_a_message_that_lacks_a_value_is_seen():
    assert values_of("$free GiB free; YANGTUO_VENV=/path") == values_of("空闲 ${free} GiB；YANGTUO_VENV=/path")
    assert values_of("$free GiB free; YANGTUO_VENV=/path") != values_of("空闲 ${free} GiB")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": ""}, "zh"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_TW"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "YANGTUO_LANG": "en"}, "en"),
        ({"LANG": "C", "YANGTUO_LANG": "ZH"}, "zh"),
        ({"LANG": "zh_CN", "YANGTUO_LANG": "auto"}, "zh"),
        ({"LANG": "de_DE", "YANGTUO_LANG": "auto"}, "en"),
    ],
)
def test_the_language_is_that_of_the_program(words, expected, monkeypatch):
    for name in _LOCALE:
        monkeypatch.delenv(name, raising=False)
    for name, value in words.items():
        monkeypatch.setenv(name, value)
    text = (SCRIPTS / "setup.sh").read_text(encoding="utf-8")
    function = text[text.index("say() {") : text.index("\n}\n", text.index("say() {")) + 3]
    done = subprocess.run(["bash", "-euc", f"{function}say en zh"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{expected}\n"
    assert i18n.of_machine() == expected


@pytest.fixture
def said(tmp_path):
    """Start a script among fakes, in a language; returns exit code, and what it said."""
    fakes = {
        **dict.fromkeys(("python", "python3", "python3.11", "python3.12", "python3.13"), PYTHON),
        "df": '#!/bin/sh\necho head\necho x 1 1 "${FREE:-99999999}" 1% /\n',
        "nvidia-smi": '#!/bin/sh\necho "7.0, 550.54.15"\n',
    }
    (tmp_path / "bin").mkdir()
    for name, text in fakes.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)

    def start(script, language, **words):
        environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "YANGTUO_LANG": language}
        environment |= {"YANGTUO_VENV": str(tmp_path / "venv"), **words}
        command = ["bash", str(SCRIPTS / script)]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
        )
        return done.returncode, done.stdout + done.stderr

    return start


def stamped(folder):
    """An environment that `setup.sh` takes for one that it made."""
    made = 'echo "$(cat pyproject.toml requirements.lock | cksum) $PWD"'
    stamp = subprocess.run(["bash", "-c", made], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    (folder / "venv").mkdir()
    (folder / "venv" / ".yangtuo-setup").write_text(stamp)


@pytest.mark.parametrize(
    ("words", "code", "english", "chinese"),
    [
        ({"VERSION": "3.8.10"}, 2, "is needed; found Python 3.8.10.", "找到的是 Python 3.8.10。"),
        ({"NO_VENV": "1"}, 2, "Python 3.12.1 has no venv module", "Python 3.12.1 没有 venv 模块"),
        ({"FREE": "1048576"}, 2, "1 GiB free where", "空闲 1 GiB"),
        ({}, 1, "venv with Python 3.12.1, once;", "用 Python 3.12.1 安装到"),
        ({}, 1, "GPU (driver 550.54.15, compute capability 7.0)", "GPU（驱动 550.54.15，计算能力 7.0）"),
    ],
)
def test_the_setup_says_it_in_both(words, code, english, chinese, said):
    for language, told, other in (("en", english, chinese), ("zh", chinese, english)):
        ended, text = said("setup.sh", language, **words)
        assert (ended == code, told in text, other in text) == (True, True, False), text


def test_an_active_environment_is_told_in_both(said, tmp_path):
    for language, sentence in (("en", "using the active environment"), ("zh", "使用当前已激活的环境")):
        (tmp_path / language).mkdir()
        active = {"YANGTUO_VENV": "", "VIRTUAL_ENV": str(tmp_path / language), "NO_TORCH": "0"}
        code, text = said("setup.sh", language, **active)
        assert (code, sentence in text, str(tmp_path / language) in text) == (0, True, True), text


@pytest.mark.parametrize(
    ("words", "code", "english", "chinese"),
    [
        ({"dry_run": "1"}, 0, "so the demo runs", "因此运行演示"),
        (
            {"pretrained_model": "x", "num_nodes": "2"},
            2,
            "num_nodes=2 needs master_addr",
            "num_nodes=2 需要 master_addr",
        ),
    ],
)
def test_the_script_says_it_in_both(words, code, english, chinese, said, tmp_path):
    stamped(tmp_path)
    for language, told, other in (("en", english, chinese), ("zh", chinese, english)):
        ended, text = said("run_sft.sh", language, **words)
        assert (ended == code, told in text, other in text) == (True, True, False), text
