"""The command that installs an optional part of this program here: another one in a checkout than of a package."""

import shlex
from pathlib import Path

import yangtuo


def pip_install(extra: str) -> str:
    """The command, as a person types it.

    In a checkout the name alone would fetch another copy of the program, or none, from a package index.

    Args:
        extra: of `[project.optional-dependencies]`.
    """
    return f"pip install {package_with(extra)}"


def package_with(extra: str) -> str:
    """What stands behind `pip install`."""
    root = _checkout()
    if root is None:
        return f"'yangtuo[{extra}]'"
    place = "." if root == Path.cwd() else str(root)
    return f"-e '.[{extra}]'" if place == "." else f"-e {shlex.quote(f'{place}[{extra}]')}"


def _checkout() -> Path | None:
    """The folder of the checkout that this program runs from; None where it was installed."""
    source = Path(yangtuo.__file__).resolve().parents[1]
    root = source.parent
    return root if source.name == "src" and (root / "pyproject.toml").is_file() else None
