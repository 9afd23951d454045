"""What the wheel holds: everything that the program reads beside its code."""

import shutil
import sys
import zipfile

import pytest

from tests.command import REPOSITORY, run

PACKAGE = REPOSITORY / "src" / "yangtuo"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built as pip builds it, without the network, from a copy: a build leaves folders behind."""
    pytest.importorskip("setuptools", minversion="77", reason="setuptools 77 or newer builds the wheel")
    copy, out = tmp_path_factory.mktemp("project") / "copy", tmp_path_factory.mktemp("wheel")
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, copy)
    shutil.copytree(PACKAGE, copy / "src" / "yangtuo", ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", out]
    done = run([sys.executable, "-m", "pip", "wheel", *options, copy])
    assert done.code == 0, done.said
    (found,) = out.glob("*.whl")
    return found


def test_every_file_of_the_package_is_in_it(wheel):
    files = {path.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.rglob("*") if path.is_file()}
    files = {name for name in files if "__pycache__" not in name}
    assert "yangtuo/demo_data/valid/demo_zh_valid.json" in files
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("yangtuo/")}
    assert held == files


def test_the_demo_finds_its_data_without_a_checkout(wheel, inputs, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = "from yangtuo.cli import demo; print(demo.DATA)"
    env = {"PYTHONPATH": str(tmp_path / "site")}
    place = run([sys.executable, "-c", code], env=env, cwd=tmp_path).out.strip()
    assert place == str(tmp_path / "site" / "yangtuo" / "demo_data")
    words = [sys.executable, "-m", "yangtuo", "check", "--tokenizer_name_or_path", inputs.base]
    words += ["--dataset_dir", place, "--validation_file", f"{place}/valid/demo_zh_valid.json", "--do_eval"]
    done = run([*words, "--data_cache_dir", tmp_path / "cache"], env=env, cwd=tmp_path)
    assert "train: 123 of 123 rows" in done.out, done.said
    assert "validation: 8 of 8 rows" in done.out
