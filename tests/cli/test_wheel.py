"""What a package holds, built as a release is: everything that the program reads beside its code, and who wrote it."""

import email
import re
import shutil
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import yangtuo
from tests.command import REPOSITORY, run

PACKAGE = REPOSITORY / "src" / "yangtuo"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """sdist and wheel, the wheel from the sdist; without the network, from a copy: a build leaves folders behind."""
    pytest.importorskip("setuptools", minversion="77", reason="setuptools 77 or newer builds the wheel")
    pytest.importorskip("build", reason="build is not installed (extra dev)")
    copy, out = tmp_path_factory.mktemp("project") / "copy", tmp_path_factory.mktemp("dist")
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, copy)
    shutil.copytree(PACKAGE, copy / "src" / "yangtuo", ignore=shutil.ignore_patterns("__pycache__"))
    done = run([sys.executable, "-m", "build", "--no-isolation", "--outdir", out, copy], cwd=out)
    assert done.code == 0, done.said
    return out


@pytest.fixture(scope="module")
def wheel(built):
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The Python of an environment with the wheel alone; what it depends on is that of the tests, behind it."""
    folder = tmp_path_factory.mktemp("bare") / "environment"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    options = ["--no-deps", "--no-index", "--quiet", "--python", python]
    done = run([sys.executable, "-m", "pip", *options[3:], "install", *options[:3], wheel])
    assert done.code == 0, done.said
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_every_file_of_the_package_is_in_it(wheel):
    files = {path.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.rglob("*") if path.is_file()}
    files = {name for name in files if "__pycache__" not in name}
    parts = ("demo_data/valid/demo_zh_valid.json", "report/templates/run.html", "report/vendor/uplot/uPlot.min.css")
    assert {f"yangtuo/{part}" for part in (*parts, "report/texts.json", "py.typed")} <= files
    assert any(name.startswith("yangtuo/evaluation/probe_set/") for name in files)
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("yangtuo/")}
    assert held == files


def test_the_sdist_holds_the_same(built, wheel):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("yangtuo/")}
    assert {f"src/{name}" for name in held} <= names
    assert {"pyproject.toml", "README.md", "LICENSE"} <= names


def test_what_an_index_shows(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    told = email.message_from_bytes(archive.read(name))
    assert (told["Name"], told["Version"]) == ("yangtuo", yangtuo.__version__)
    assert told["License-Expression"] == "Apache-2.0 AND MIT"
    assert told["Description-Content-Type"] == "text/markdown"
    assert set(told.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    assert len(told.get_all("Project-URL")) == len(PROJECT["urls"]) > 0
    licences = [name for name in archive.namelist() if ".dist-info/licenses/" in name]
    texts = b"".join(map(archive.read, licences))
    assert b"Apache License" in texts
    assert b"Leon Sorokin" in texts  # uPlot's, which is inside each report
    assert "yangtuo = yangtuo.cli:program" in archive.read(name.replace("METADATA", "entry_points.txt")).decode()


def test_the_version_stands_in_one_place():
    assert "version" in PROJECT["dynamic"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", yangtuo.__version__)
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == yangtuo.__version__
    assert citation["license"] in PROJECT["license"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()


def test_the_demo_is_there_without_a_checkout(installed, tmp_path):
    done = run([installed.parent / "yangtuo", "demo", "--help"], cwd=tmp_path, env={"PYTHONPATH": ""})
    assert done.code == 0, done.said
    assert "--max_steps" in done.out


def test_an_installed_package_finds_its_data_and_names_itself(installed, inputs, tmp_path):
    code = "import json; from yangtuo.cli import demo; from yangtuo.installing import pip_install; import yangtuo;"
    code += "print(json.dumps([str(demo.DATA), pip_install('qlora'), yangtuo.__file__]))"
    place, command, file = yaml.safe_load(run([installed, "-c", code], env={"PYTHONPATH": ""}, cwd=tmp_path).out)
    site = Path(file).parents[1]
    assert site.name == "site-packages"
    assert installed.parents[1] in site.parents
    assert place == str(site / "yangtuo" / "demo_data")
    assert command == "pip install 'yangtuo[qlora]'"
    words = [installed.parent / "yangtuo", "check", "--tokenizer_name_or_path", inputs.base]
    words += ["--dataset_dir", place, "--validation_file", f"{place}/valid/demo_zh_valid.json", "--do_eval"]
    done = run([*words, "--data_cache_dir", tmp_path / "cache"], env={"PYTHONPATH": ""}, cwd=tmp_path)
    assert "train: 123 of 123 rows" in done.out, done.said
    assert "validation: 8 of 8 rows" in done.out


def test_every_extra_is_used():
    """By an option or a message of the program, or by those who work on it."""
    sources = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    used = set(re.findall(r"(?:pip_install|package_with)\(['\"](\w+)['\"]\)", sources))
    of_developers = {"dev", "gguf", "docs"}  # tests, the tests of GGUF files with llama.cpp, the site
    assert set(PROJECT["optional-dependencies"]) - of_developers == used - of_developers
