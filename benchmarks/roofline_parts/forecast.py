"""A trace's times, bytes and kernels, added up by kind."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.fake_cuda.trace import Op, Trace

from roofline_parts import kinds
from roofline_parts.compiled import Compiled, Half
from roofline_parts.devices import CALIBRATION, DEVICES, SHORTEST_KERNEL, moved, seconds

_OUTSIDE = (kinds.BASE, kinds.PRODUCTS, kinds.ATTENDS)  # of a compiled layer's own kernels


@dataclass
class Part:
    """What one kind of operation costs: kernels, bytes, and by the roofline seconds on each device."""

    kernels: int = 0
    bytes: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {device.name: 0.0 for device in DEVICES})


@dataclass(frozen=True)
class Forecast:
    """What is predicted of a step; `parts` by kind, in the order of `kinds.KINDS`."""

    trace: Trace
    parts: dict[str, Part]
    saved_by_compiling: int = 0  # bytes of the peak

    @property
    def num_tokens(self) -> int:
        """Of the rows, shared prefixes counted in each."""
        return sum(self.trace.lengths)

    def step_seconds(self, device: str) -> float:
        """Of the whole step, by the roofline and calibrated."""
        return CALIBRATION * sum(part.seconds[device] for part in self.parts.values())

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON values; times of kinds are not calibrated, those of the step are."""
        trace = self.trace
        devices = {
            device.name: {
                "step_ms": 1e3 * self.step_seconds(device.name),
                "tokens_per_s": self.num_tokens / self.step_seconds(device.name),
            }
            for device in DEVICES
        }
        by_kind = {
            kind: {
                "kernels": part.kernels,
                "GB": part.bytes / 1e9,
                "ms": {name: 1e3 * value for name, value in part.seconds.items()},
            }
            for kind, part in self.parts.items()
        }
        gib = {name: getattr(trace, name) / 2**30 for name in ("model_bytes", "steady", "kept", "peak")}
        for name in ("kept", "peak"):
            gib[name] -= self.saved_by_compiling / 2**30
        return {
            "is": "a prediction: operations recorded on a fake device, times by a roofline",
            "calibration": CALIBRATION,
            "tokens": self.num_tokens,
            "cells": trace.cells,
            "predictions": trace.predictions,
            "layers": trace.num_layers,
            "devices": devices,
            "operations": sum(op.is_on_device for op in trace.ops),
            "kernels": sum(part.kernels for part in self.parts.values()),
            "GB": sum(part.bytes for part in self.parts.values()) / 1e9,
            "GiB": {name.removesuffix("_bytes"): value for name, value in gib.items()},
            "kinds": by_kind,
        }


def forecast(trace: Trace, compiled: Compiled | None) -> Forecast:
    """Of a trace; with `compiled`, the loss and the layers' kernels but products and attention are replaced."""
    found: defaultdict[str, Part] = defaultdict(Part)
    for op in trace.ops:
        kind = kinds.kind_of(op)
        is_compiled = kind in (kinds.LOSS, kinds.NORM) or (op.layer is not None and kind not in _OUTSIDE)
        if compiled is None or not is_compiled:
            _add(found[kind], op, trace)
    if compiled is not None:
        _add_compiled(found, compiled, trace)
    order = [*kinds.KINDS, kinds.COMPILED]
    saved = 0
    if compiled is not None and not any(op.phase == "recomputed" for op in trace.ops):
        of_layers = sum(size for (path, *_), size in trace.kept_by.items() if ".layers.*" in path)
        saved = round(of_layers - compiled.kept_per_cell * trace.cells * trace.num_layers)
    return Forecast(trace, {kind: found[kind] for kind in sorted(found, key=order.index)}, saved)


def _add(part: Part, op: Op, trace: Trace) -> None:
    part.kernels += op.kernels
    part.bytes += moved(op)
    for device in DEVICES:
        part.seconds[device.name] += seconds(op, device, trace.lengths)


def _add_compiled(found: defaultdict[str, Part], compiled: Compiled, trace: Trace) -> None:
    is_recomputed = any(op.phase == "recomputed" for op in trace.ops)
    for half in compiled.norm:
        _add_half(found[kinds.COMPILED], half, trace.cells, 1)
    for half in (compiled.forward, compiled.backward, *([compiled.forward] if is_recomputed else [])):
        _add_half(found[kinds.COMPILED], half, trace.cells, trace.num_layers)
    num_chunks = max(1, sum(op.name == "_log_softmax" for op in trace.ops))
    _add_half(found[kinds.LOSS], compiled.loss, trace.predictions / num_chunks, num_chunks)


def _add_half(part: Part, half: Half, rows: float, times: int) -> None:
    num_bytes = round(half.bytes_per_cell * rows + half.fixed_bytes)
    part.kernels += times * half.kernels
    part.bytes += times * num_bytes
    for device in DEVICES:
        part.seconds[device.name] += times * max(num_bytes / device.bandwidth, SHORTEST_KERNEL * half.kernels)


def table(told: Forecast) -> Iterable[str]:
    """Lines for the screen."""
    names = [device.name for device in DEVICES]
    yield f"{'predicted, ms by the roofline':32} kernels      GB " + " ".join(f"{name:>8}" for name in names)
    for kind, part in told.parts.items():
        times = " ".join(f"{1e3 * part.seconds[name]:8.1f}" for name in names)
        yield f"{kind:32} {part.kernels:7,} {part.bytes / 1e9:7.1f} {times}"
    values = told.as_json()
    whole = " ".join(f"{values['devices'][name]['step_ms']:8.1f}" for name in names)
    yield f"{f'step, times {CALIBRATION}':32} {values['kernels']:7,} {values['GB']:7.1f} {whole}"
    rates = " ".join(f"{values['devices'][name]['tokens_per_s']:8,.0f}" for name in names)
    yield f"{'tokens/s':32} {'':15} {rates}"
    gib = values["GiB"]
    yield (
        f"{told.num_tokens:,} tokens in {values['cells']:,} cells; GiB: model {gib['model']:.2f}, before the step "
        f"{gib['steady']:.2f}, kept for the backward {gib['kept']:.2f}, peak {gib['peak']:.2f}"
    )
