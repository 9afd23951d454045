"""All checks of this machine, in the order in which they are shown, and what they come to."""

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from yangtuo.diagnosis import environment, machine, packages
from yangtuo.diagnosis.finding import Finding, State, note
from yangtuo.i18n import Message, gettext_noop

_OF_NO_RUN = ("huggingface_hub", "hf-xet")  # tested versions of what others bring along


_ONE_POINT = gettext_noop("ready to train on {device}; look at the point with ! above")
_POINTS = gettext_noop("ready to train on {device}; look at the {num_points} points with ! above")


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        groups: findings by what they are about.
        device: what a run would train on and in which numbers; "" where that could not be seen.
    """

    groups: Mapping[str, Sequence[Finding]]
    device: str

    @property
    def findings(self) -> list[Finding]:
        """All of them."""
        return [finding for group in self.groups.values() for finding in group]

    @property
    def reasons_against(self) -> list[str]:
        """Why training could not start, with the remedies; nothing where it can."""
        wrong = [finding for finding in self.findings if finding.state is State.PROBLEM]
        return [f"{one.name}: {one.found}; {one.remedy}" for one in wrong]

    @property
    def verdict(self) -> str:
        """In a few words."""
        if self.reasons_against:
            return Message("training could not start; see the points with a cross above")
        notes = sum(finding.state is State.NOTE for finding in self.findings)
        if not notes:
            return Message("ready to train on {device}", device=self.device)
        template = _ONE_POINT if notes == 1 else _POINTS
        return Message(template, device=self.device, num_points=notes)


def diagnose(*, online: bool) -> Diagnosis:
    """Look at this machine; with `online` one request is sent to the model hub."""
    optional = [one.name for one in packages.OPTIONAL]
    known = packages.tested()
    found = packages.installed([*known, *optional])
    with packages.Trials(packages.OPTIONAL, found) as trials:
        needed = [name for name in known if name not in (*optional, *_OF_NO_RUN)]
        versions = [
            packages.of_python(*packages.python_version()),
            *packages.of_versions(found, known, packages.required(), needed),
            *_imports(found, known),
        ]
        device, of_hardware, taken = _hardware(versions)
        failed = dict.fromkeys(optional) if _is_broken(versions) else {name: trials.result(name) for name in optional}
    others = [
        packages.of_optional(one, found.get(one.name), known.get(one.name), failed[one.name])
        for one in packages.OPTIONAL
    ]
    if taken is not None:
        others += packages.of_trackers(packages.trackers(), taken)
    groups: dict[str, list[Finding]] = {
        Message("versions"): versions,
        Message("device"): of_hardware,
        Message("optional packages"): others,
    }
    is_cpu = device is not None and device.kind == "cpu"
    return Diagnosis(groups | _of_surroundings(is_cpu=is_cpu, online=online), device.told() if device else "")


def _of_surroundings(*, is_cpu: bool, online: bool) -> dict[str, list[Finding]]:
    of_hub, models = environment.hub(os.environ, online=online)
    of_launch = environment.of_launch(os.environ, is_cpu=is_cpu)
    return {
        Message("disk"): [*machine.disk(), *([machine.models_folder(models)] if models else [])],
        Message("limits"): machine.limits(os.environ, is_cpu=is_cpu),
        Message("environment"): [of_launch, *environment.of_accelerate(os.environ), *of_hub],
    }


def _imports(found: Mapping[str, str], known: Mapping[str, str]) -> list[Finding]:
    """The first library that is installed and cannot be imported; those after it would say the same."""
    for name in packages.LIBRARIES:
        if name not in found:
            return []  # said of versions
        if failure := packages.import_failure(name):
            return [packages.of_import(name, failure, found, known)]
    return []


def _is_broken(findings: Sequence[Finding]) -> bool:
    return any(one.state is State.PROBLEM for one in findings)


def _hardware(versions: Sequence[Finding]) -> tuple[Any, list[Finding], list[str] | None]:
    """The device, what is said of it, and the trackers that transformers takes; none of it where an import may fail."""
    if _is_broken(versions):
        return (
            None,
            [
                note(
                    "GPU",
                    Message("not looked at while packages are broken"),
                    Message("mend those first, then once more"),
                )
            ],
            None,
        )
    hardware = importlib.import_module("yangtuo.diagnosis.hardware")
    device, findings = hardware.look()
    return device, findings, hardware.takes_trackers()
