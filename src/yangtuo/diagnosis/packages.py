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
from yangtuo.i18n import Message, gettext_noop
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
        return problem("Python", full, Message("install Python 3.11 or newer, and make a new environment with it"))
    return ok("Python", Message("{full}; yangtuo {version}", full=full, version=__version__))


_NEWER = gettext_noop("{found}, newer than the tested {known}")
_OLDER = gettext_noop("{found}, older than the tested {known}")


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
            yield problem(name, Message("not installed"), install)
        elif not _is_within(found[name], ranges.get(name, "")):
            yield problem(
                name, Message("{found}, where {ranges} is needed", found=found[name], ranges=ranges[name]), install
            )
        elif _numbers(found[name])[:2] != _numbers(known[name])[:2]:
            is_newer = _numbers(found[name]) > _numbers(known[name])
            age = _NEWER if is_newer else _OLDER
            yield note(
                name,
                Message(age, found=found[name], known=known[name]),
                Message("should a run fail: {install}", install=install),
            )
        else:
            as_tested.append(f"{name} {found[name]}")
    if as_tested:
        shown, num_more = ", ".join(as_tested[:4]), len(as_tested) - 4
        more = Message("{shown} and {num_more} more", shown=shown, num_more=num_more)
        yield ok(Message("as tested"), more if num_more > 0 else shown)


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
        remedy = Message("{remedy}, or pip uninstall {wrong}, which only some options need", remedy=remedy, wrong=wrong)
    said = failure.said
    if wrong != name:
        said = Message("{said} (in {package} {version})", said=said, package=wrong, version=found[wrong])
    told = Message("{found} is installed and cannot be imported: {said}", found=found[name], said=said)
    return problem(name, told, remedy)


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
    OptionalPackage("rouge_score", Message("ROUGE of yangtuo eval"), package_with("eval")),
    OptionalPackage("rjieba", Message("ROUGE of yangtuo eval"), package_with("eval")),
    OptionalPackage("sacrebleu", Message("BLEU and chrF of yangtuo eval"), package_with("eval")),
    OptionalPackage("pyarrow", Message("Parquet and Arrow files"), package_with("data")),
    OptionalPackage("zstandard", Message(".zst files"), package_with("data")),
    OptionalPackage("python-calamine", Message(".xlsx files"), package_with("data")),
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
            return Message("no answer within {patience_s:.0f} s", patience_s=_PATIENCE_S)
        lines = said.strip().splitlines() or [
            Message("its process ended with code {returncode}", returncode=process.returncode)
        ]
        return one_line(lines[-1], _SHOWN) if process.returncode else ""


def of_optional(package: OptionalPackage, version: str | None, known: str | None, failed: str | None) -> Finding:
    """Of one that only some options need; `failed` is what its trial said, None where it was not tried."""
    name, needed_by = package.name, package.needed_by
    if version is None:
        return ok(
            name,
            Message(
                "not installed; for {needed_by} only: pip install {install}",
                needed_by=needed_by,
                install=package.install,
            ),
        )
    wanted = package.install if known is None else f"{name}=={known}"
    if failed:
        remedy = Message(
            "pip install --force-reinstall {wanted}, or go without {needed_by}", wanted=wanted, needed_by=needed_by
        )
        return note(name, Message("{version} does not work here: {failed}", version=version, failed=failed), remedy)
    if known is not None and _numbers(version)[:2] != _numbers(known)[:2]:
        return note(
            name,
            Message("{version}, tested with {known}", version=version, known=known),
            Message("should {needed_by} fail: pip install {wanted}", needed_by=needed_by, wanted=wanted),
        )
    works = package.trial and failed == ""
    return ok(name, Message("{version}, works here", version=version) if works else version)


def trackers() -> dict[str, str]:
    """The trackers of `--report_to` whose packages are all there, with the version of the first."""
    found = {}
    for name, needs in TRACKERS.items():
        modules = [one.split("|") for one in needs.split()]
        present = [[each for each in either if importlib.util.find_spec(each)] for either in modules]
        if modules and all(present):
            first = present[0][0]
            package = TO_INSTALL.get(first, first)
            found[name] = installed([package]).get(package, Message("of unknown version"))
    return found


def _package_of(tracker: str) -> str:
    first = TRACKERS.get(tracker, tracker).split()[0].split("|")[0]
    return TO_INSTALL.get(first, first)


def of_trackers(found: Mapping[str, str], taken: Sequence[str]) -> list[Finding]:
    """Of trackers that are installed; `taken` are those that transformers takes in these versions."""
    refused = {name: version for name, version in found.items() if name not in taken}
    good = [f"{name} {version}" for name, version in found.items() if name in taken]
    findings = [
        note(
            name,
            Message("{version}, which this transformers does not take", version=version),
            f"pip install --upgrade {_package_of(name)}",
        )
        for name, version in refused.items()
    ]
    none = Message(
        "none installed; log.jsonl has every step, and --report_to takes e.g. tensorboard: pip install tensorboard"
    )
    return [*findings, ok(Message("trackers"), ", ".join(good) or none)] if good or not refused else findings


def python_version() -> tuple[tuple[int, int], str]:
    """Its two numbers, and in full."""
    return sys.version_info[:2], f"{platform.python_version()} ({sys.executable})"
