"""The command that installs an optional part, in a checkout and of an installed package."""

from pathlib import Path

import pytest

import yangtuo
from yangtuo import installing
from yangtuo.installing import pip_install


@pytest.fixture
def lies_in(tmp_path, monkeypatch):
    """Have the program lie in a folder below `tmp_path`."""

    def put(*parts, project):
        package = tmp_path.joinpath(*parts, "yangtuo")
        package.mkdir(parents=True)
        if project:
            (package.parents[1] / "pyproject.toml").touch()
        monkeypatch.setattr(yangtuo, "__file__", str(package / "__init__.py"))
        return package.parents[1]

    return put


def test_an_installed_package_is_named(lies_in):
    lies_in("lib", "site-packages", project=False)
    assert pip_install("qlora") == "pip install 'yangtuo[qlora]'"


def test_a_folder_called_src_is_no_checkout_without_the_project_file(lies_in):
    lies_in("app", "src", project=False)
    assert pip_install("qlora") == "pip install 'yangtuo[qlora]'"


def test_a_project_that_has_the_package_installed_beside_it_is_no_checkout(lies_in):
    lies_in("app", "vendor", project=True)
    assert pip_install("qlora") == "pip install 'yangtuo[qlora]'"


def test_a_checkout_is_installed_from_its_folder(lies_in, monkeypatch, tmp_path):
    root = lies_in("my code", "src", project=True)
    monkeypatch.chdir(tmp_path)
    assert pip_install("eval") == f"pip install -e '{root}[eval]'"
    monkeypatch.chdir(root)
    assert pip_install("eval") == "pip install -e '.[eval]'"


def test_every_extra_that_a_message_names_is_one_of_the_project():
    import re
    import tomllib

    root = Path(installing.__file__).parents[2]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    sources = [path.read_text(encoding="utf-8") for path in (root / "src").rglob("*.py")]
    named = {name for text in sources for name in re.findall(r"(?:pip_install|package_with)\(['\"](\w+)['\"]\)", text)}
    assert {"qlora", "deepspeed", "data", "eval", "modelscope"} <= named <= set(extras)
    assert not [text for text in sources if "pip install -e '.[" in text or "pip install 'yangtuo[" in text]
