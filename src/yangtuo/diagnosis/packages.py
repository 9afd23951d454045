"""Versions of Python and of packages against the tested ones, and whether packages work at all.

Imports none of them: a package that cannot be imported is a finding. Those that only some options need are tried in
processes of their own, meanwhile; a broken library can end the process that loads it.
"""

import importlib
import importlib.util
import platform
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from yangtuo import __version__
from yangtuo.config.trainer_values import TO_INSTALL, TRACKERS
from yangtuo.diagnosis.finding import Finding, note, ok, problem
from yangtuo.errors import one_line
from yangtuo.installing import package_with

TESTED = Path(__file__).with_name("tested_versions.txt")
LIBRARIES = ("torch", "transformers", "accelerate", "peft")  # that a run imports, each after those that it needs
_OLDEST_PYTHON = (3, 11)
_PATIENCE_S = 60.0
_SHOWN = 200  # letters of what a package says


def tested() -> dict[str, str]:
    """The tested version of each package."""
    lines = TESTED.read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def installed(names: Sequence[str]) -> dict[str, str]:
    """The version of each package that is installed."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def required() -> dict[str, str]:
    """The range of versions that may work of each package that yangtuo needs, as pip writes it: ">=5.23,<6".

    Empty where yangtuo runs from its source without having been installed.
    """
    try:
        lines = metadata.requires("yangtuo") or []
    except metadata.PackageNotFoundError:
        return {}
    parts = [re.fullmatch(r"([\w-]+)([^;]*)", line) for line in lines]  # none with a condition, as extras have one
    return {part[1]: part[2] for part in parts if part}


def of_python(version: tuple[int, int], full: str) -> Finding:
    """Of the interpreter."""
    if version < _OLDEST_PYTHON:
        return problem("Python", full, "install Python 3.11 or newer, and make a new environment with it")
    return ok("Python", f"{full}; yangtuo {__version__}")


def of_versions(
    found: Mapping[str, str], known: Mapping[str, str], ranges: Mapping[str, str], needed: Sequence[str]
) -> Iterator[Finding]:
    """Of each package that is needed and is missing, outside of its range or of another version than the tested one.

    Args:
        found: versions that are installed.
        known: versions that were tested.
        ranges: see `required`.
        needed: names, the most important first.
    """
    as_tested = []
    for name in needed:
        install = f"pip install {name}=={known[name]}"
        if name not in found:
            yield problem(name, "not installed", install)
        elif not _is_within(found[name], ranges.get(name, "")):
            yield problem(name, f"{found[name]}, where {ranges[name]} is needed", install)
        elif _numbers(found[name])[:2] != _numbers(known[name])[:2]:
            age = "newer" if _numbers(found[name]) > _numbers(known[name]) else "older"
            yield note(name, f"{found[name]}, {age} than the tested {known[name]}", f"should a run fail: {install}")
        else:
            as_tested.append(f"{name} {found[name]}")
    if as_tested:
        more = f" and {len(as_tested) - 4} more" if len(as_tested) > 4 else ""
        yield ok("as tested", f"{', '.join(as_tested[:4])}{more}")


def _numbers(version: str) -> tuple[int, ...]:
    """2.13.0+cu126 -> (2, 13, 0); what follows the numbers, as of a release candidate, is left out."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def _is_within(version: str, given: str) -> bool:
    """Whether a version is in a range of pip's, as far as ">=" and "<" go."""
    number = _numbers(version)
    least = [_numbers(text) for text in re.findall(r">=\s*([\d.]+)", given)]
    ends = [_numbers(text) for text in re.findall(r"<\s*([\d.]+)", given)]
    return all(number >= one for one in least) and all(number < one for one in ends)


@dataclass(frozen=True)
class ImportFailure:
    """Of a library: what was said, and the package in whose code that happened, which may be another one."""

    said: str
    package: str


def import_failure(name: str) -> ImportFailure | None:
    """Import a library; what went wrong, if anything did."""
    try:
        importlib.import_module(name)
    except Exception as error:  # of any package: a broken installation raises whatever it happens to meet
        said = f"{type(error).__name__}: {one_line(error, _SHOWN)}"
        first: BaseException = error
        while first.__cause__ is not None:  # transformers wraps what its parts fail with
            first = first.__cause__
        modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(first.__traceback__)]
        packages = [module.partition(".")[0] for module in modules if not module.startswith(("importlib", "yangtuo"))]
        return ImportFailure(said, packages[-1] if packages else name)
    return None


def of_import(name: str, failure: ImportFailure, found: Mapping[str, str], known: Mapping[str, str]) -> Finding:
    """Of a library that is installed and cannot be imported; PEFT, for one, imports bitsandbytes where that is."""
    wrong = failure.package if failure.package in found else name
    remedy = f"pip install --force-reinstall {wrong}=={known.get(wrong, found[wrong])}"
    if wrong in {one.name for one in OPTIONAL}:
        remedy += f", or pip uninstall {wrong}, which only some options need"
    where = "" if wrong == name else f" (in {wrong} {found[wrong]})"
    return problem(name, f"{found[name]} is installed and cannot be imported: {failure.said}{where}", remedy)


@dataclass(frozen=True)
class OptionalPackage:
    """A package that some options need.

    Attributes:
        name: of the package.
        needed_by: those options.
        install: what pip is told.
        trial: a program that fails where the package does not work; "" where there is none.
    """

    name: str
    needed_by: str
    install: str
    trial: str = ""


_QUANTISE = """
import torch
from bitsandbytes import functional
device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
ones = torch.ones(64, 64, device=device)
if not functional.dequantize_4bit(*functional.quantize_4bit(ones, quant_type="nf4")).equal(ones):
    raise RuntimeError(f"4-bit numbers are wrong on {device}")
"""
OPTIONAL = (
    OptionalPackage("deepspeed", "--deepspeed", package_with("deepspeed"), "import deepspeed"),
    OptionalPackage("bitsandbytes", "--load_in_4bit, --load_in_8bit", package_with("qlora"), _QUANTISE),
    OptionalPackage("flash_attn", "--attn_implementation flash_attention_2", "flash-attn", "import flash_attn"),
    OptionalPackage("modelscope-hub", "--hub modelscope", package_with("modelscope")),
    OptionalPackage("pyarrow", "Parquet and Arrow files", package_with("data")),
    OptionalPackage("zstandard", ".zst files", package_with("data")),
    OptionalPackage("python-calamine", ".xlsx files", package_with("data")),
)


class Trials:
    """The programs of packages that are installed, each in a process of its own, all at once; ended with the block."""

    def __init__(self, packages: Sequence[OptionalPackage], found: Mapping[str, str]):
        self._started = {
            one.name: subprocess.Popen(
                [sys.executable, "-c", one.trial], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, text=True, errors="replace",
            )
            for one in packages
            if one.trial and one.name in found
        }  # fmt: skip

    def __enter__(self) -> "Trials":
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._started.values():
            process.kill()
            process.communicate()

    def result(self, name: str) -> str:
        """What it failed with; "" where it worked, or where there was nothing to try."""
        if name not in self._started:
            return ""
        process = self._started[name]
        try:
            _, said = process.communicate(timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return f"no answer within {_PATIENCE_S:.0f} s"
        lines = said.strip().splitlines() or [f"its process ended with code {process.returncode}"]
        return one_line(lines[-1], _SHOWN) if process.returncode else ""


def of_optional(package: OptionalPackage, version: str | None, known: str | None, failed: str | None) -> Finding:
    """Of one that only some options need; `failed` is what its trial said, None where it was not tried."""
    name, needed_by = package.name, package.needed_by
    if version is None:
        return ok(name, f"not installed; for {needed_by} only: pip install {package.install}")
    wanted = package.install if known is None else f"{name}=={known}"
    if failed:
        remedy = f"pip install --force-reinstall {wanted}, or go without {needed_by}"
        return note(name, f"{version} does not work here: {failed}", remedy)
    if known is not None and _numbers(version)[:2] != _numbers(known)[:2]:
        return note(name, f"{version}, tested with {known}", f"should {needed_by} fail: pip install {wanted}")
    return ok(name, f"{version}{', works here' if package.trial and failed == '' else ''}")


def trackers() -> dict[str, str]:
    """The trackers of `--report_to` whose packages are all there, with the version of the first."""
    found = {}
    for name, needs in TRACKERS.items():
        modules = [one.split("|") for one in needs.split()]
        present = [[each for each in either if importlib.util.find_spec(each)] for either in modules]
        if modules and all(present):
            first = present[0][0]
            package = TO_INSTALL.get(first, first)
            found[name] = installed([package]).get(package, "of unknown version")
    return found


def _package_of(tracker: str) -> str:
    first = TRACKERS.get(tracker, tracker).split()[0].split("|")[0]
    return TO_INSTALL.get(first, first)


def of_trackers(found: Mapping[str, str], taken: Sequence[str]) -> list[Finding]:
    """Of trackers that are installed; `taken` are those that transformers takes in these versions."""
    refused = {name: version for name, version in found.items() if name not in taken}
    good = [f"{name} {version}" for name, version in found.items() if name in taken]
    findings = [
        note(name, f"{version}, which this transformers does not take", f"pip install --upgrade {_package_of(name)}")
        for name, version in refused.items()
    ]
    none = "none installed; log.jsonl has every step, and --report_to takes e.g. tensorboard: pip install tensorboard"
    return [*findings, ok("trackers", ", ".join(good) or none)] if good or not refused else findings


def python_version() -> tuple[tuple[int, int], str]:
    """Its two numbers, and in full."""
    return sys.version_info[:2], f"{platform.python_version()} ({sys.executable})"
