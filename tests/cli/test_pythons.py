"""The code on the other Pythons that the package is for, where they are installed, without a second torch.

Every file is compiled by each, warnings as errors; every module that needs no compiled package is imported; options
are parsed. The whole of it needs an environment each, as the workflow of .github has it.
"""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.command import REPOSITORY

SOURCE = REPOSITORY / "src"
# Packages that another Python can have too: in Python alone, with a C part that they do without, or (safetensors,
# psutil) compiled for every Python from an old one on.
SHARED = (
    *("yaml", "jinja2", "markupsafe", "rich", "markdown_it", "mdurl", "pygments", "filelock", "tqdm"),
    *("safetensors", "psutil"),
)
PROGRAM = """
import importlib, json, pathlib, sys, warnings
warnings.simplefilter("error")
source, shared = map(pathlib.Path, sys.argv[1:])
sys.path[:0] = [str(source), str(shared)]
sys.dont_write_bytecode = True
wrong, imported, lacking = [], [], {}
for path in sorted(source.rglob("*.py")):
    try:
        compile(path.read_text(encoding="utf-8"), str(path), "exec")
    except (SyntaxError, Warning) as error:
        wrong.append(f"{path}: {error}")
    name = ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
    if name.endswith("__main__"):
        continue
    try:
        importlib.import_module(name)
        imported.append(name)
    except ModuleNotFoundError as error:
        top = (error.name or "").split(".")[0]
        if top in sys.stdlib_module_names or top == source.name or (source / top).exists():
            wrong.append(f"{name}: {error}")
        lacking[name] = top
    except BaseException as error:
        wrong.append(f"{name}: {type(error).__name__}: {error}")
print(json.dumps({"version": sys.version_info[:2], "wrong": wrong, "imported": imported, "lacking": lacking}))
"""
OPTIONS = """
import sys
sys.path[:0] = sys.argv[1:3]
sys.dont_write_bytecode = True
from yangtuo.config.parser import build_parser, parse
settings, _ = parse([sys.argv[3], "--lora-rank", "4"], build_parser("yangtuo train"))
print(settings.lora.lora_rank, settings.training["learning_rate"], settings.data.template)
print(build_parser("yangtuo train").format_help()[:11])
"""


def versions() -> list[str]:
    """Those of the package, from the oldest on."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [found[1] for one in project["classifiers"] if (found := re.search(r"Python :: (3\.\d+)$", one))]


OTHERS = [version for version in versions() if version != f"{sys.version_info[0]}.{sys.version_info[1]}"]


def interpreter(version: str) -> str | None:
    """A Python of this version: on PATH, or one of pyenv's."""
    of_pyenv = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    for candidate in filter(None, [shutil.which(f"python{version}"), *map(str, of_pyenv)]):
        asked = [candidate, "-I", "-S", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.strip() == version:  # a shim of pyenv may be there without its Python
            return candidate
    return None


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder with the packages of `SHARED` alone."""
    folder = tmp_path_factory.mktemp("shared")
    for name in SHARED:
        place = Path(importlib.util.find_spec(name).origin).parent
        shutil.copytree(place, folder / name, ignore=shutil.ignore_patterns("*.cpython-*.so", "__pycache__"))
    return folder


@pytest.fixture(params=OTHERS)
def python(request):
    found = interpreter(request.param)
    if not found:
        pytest.skip(f"Python {request.param} is not installed")
    return found


def answer(python: str, program: str, *words) -> str:
    """What a program prints there; -S: without the packages of that Python."""
    done = subprocess.run(
        [python, "-I", "-S", "-c", program, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_files_are_of_this_python_and_what_needs_no_torch_is_imported(python, shared):
    found = json.loads(answer(python, PROGRAM, SOURCE, shared))
    assert found["wrong"] == []
    wanted = {"yangtuo", "yangtuo.errors", "yangtuo.i18n", "yangtuo.output", "yangtuo.logs", "yangtuo.installing"}
    config = {f"yangtuo.config.{path.stem}" for path in (SOURCE / "yangtuo" / "config").glob("[!_]*.py")}
    wanted |= {"yangtuo.data.readers.files", "yangtuo.data.readers.formats", "yangtuo.data.templates", "yangtuo.cli"}
    assert wanted | config - {"yangtuo.config.transformers_help"} <= set(found["imported"])


def test_options_are_parsed(python, shared, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("model_name_or_path: m\nlearning_rate: 2.0e-4\ntemplate: chatml\nlora_rank: 8\n", encoding="utf-8")
    assert answer(python, OPTIONS, SOURCE, shared, file).splitlines() == ["4 0.0002 chatml", "usage: yang"]


def test_what_is_not_of_a_python_is_seen(tmp_path):
    """The control, on the Python of the tests."""
    package = tmp_path / "src" / "made_up"
    package.mkdir(parents=True)
    sources = {
        "__init__": "",
        "escape": 'import re\nDIGITS = re.compile("\\d")\n',
        "broken": "def f(:\n    pass\n",
        "moved": "from made_up import gone\n",
        "missing": "import made_up.gone\n",
        "gone": "import asyncio\nasyncio.coroutine\n",
        "package": "import no_such_package\n",
        "fine": "import asyncio\n",
    }
    for name, source in sources.items():
        (package / f"{name}.py").write_text(source, encoding="utf-8")
    found = json.loads(answer(sys.executable, PROGRAM, package.parent, tmp_path))
    wrong = {re.search(r"made_up[./](\w+)", one)[1]: one for one in found["wrong"]}
    assert "invalid escape sequence" in wrong["escape"]
    assert "AttributeError" in wrong["gone"]
    assert wrong.keys() == {"escape", "broken", "moved", "missing", "gone"}
    assert (found["imported"], found["lacking"]) == (
        ["made_up", "made_up.fine"],
        {"made_up.package": "no_such_package"},
    )


def test_an_interpreter_of_another_version_is_not_taken(tmp_path, monkeypatch):
    """A shim of pyenv fails where its version is not switched on; a link may lead to another one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, program in (("python3.98", "exit 127"), ("python3.99", f'exec {sys.executable} "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{program}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert interpreter("3.98") is None
    assert interpreter("3.99") is None
