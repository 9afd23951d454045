"""What a run needs to resume, in one form for every engine: read from the engine, and restored into it.

Trained weights and the optimizer's tensors are whole, float32, and named after the parameter; the rest is JSON. So a
run may go on with another engine or another number of processes, no pickle is ever loaded, and machines without a
shared disk need no files of their own.

Random numbers are not part of it: the order of rows is drawn from (seed, epoch), dropout from (seed, step, rank,
micro-batch).
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from yangtuo.errors import CheckpointError
from yangtuo.model.sharding import gathered, shape_of, whole

Tensors = dict[str, torch.Tensor]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OptimizerState:
    """The optimizer, and what belongs to it.

    Attributes:
        tensors: "parameter name/key", such as ".../exp_avg".
        numbers: JSON values: "values", what is no tensor, by the same names; "groups", the options of the parameter
            groups, but for empty ones, which DeepSpeed leaves out; "scaler", the loss scale of float16.
    """

    tensors: Tensors
    numbers: dict[str, Any]


class EngineState(Protocol):
    """How an engine is read and written.

    Every process calls every method; only those with `on_this_rank` get tensors.
    """

    def weights(self, *, on_this_rank: bool) -> Tensors:
        """Trained weights by parameter name, whole, float32, in main memory."""

    def optimizer(self, *, on_this_rank: bool) -> OptimizerState:
        """The optimizer's state, whole, in main memory."""

    def put_weights(self, weights: Tensors) -> None:
        """The opposite; every process has all of them."""

    def put_optimizer(self, state: OptimizerState) -> None:
        """The opposite; every process has all of it."""


def engine_state_of(
    accelerator: Accelerator, parameters: Mapping[str, nn.Parameter], model: Any, optimizer: Any
) -> "PlainEngineState | DeepSpeedEngineState":
    """The access to the engine that accelerate has put around model and optimizer."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return DeepSpeedEngineState(parameters, model)
    return PlainEngineState(parameters, optimizer, accelerator.scaler)


def gather_weights(parameters: Mapping[str, torch.Tensor], *, on_this_rank: bool) -> Tensors:
    """Whole copies in main memory, where `on_this_rank`."""
    result = {}
    for name, parameter in parameters.items():
        value = whole(parameter)
        if on_this_rank:
            result[name] = value.to("cpu", copy=True)
    return result


class PlainEngineState:
    """One process, DDP, FSDP2: a torch optimizer over the parameters themselves, which may be DTensors."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], optimizer: Any, scaler: Any = None):
        """`scaler` is torch's GradScaler, where one is used."""
        self._parameters, self._optimizer, self._scaler = parameters, optimizer, scaler

    def weights(self, *, on_this_rank: bool) -> Tensors:
        """See `EngineState`."""
        return gather_weights(self._parameters, on_this_rank=on_this_rank)

    def optimizer(self, *, on_this_rank: bool) -> OptimizerState:
        """See `EngineState`.

        Raises:
            CheckpointError: the optimizer keeps something that is neither tensor nor number.
        """
        names, kept = self._names(), self._optimizer.state_dict()
        tensors: Tensors = {}
        values = {}
        for i, state in kept["state"].items():
            for key, value in state.items():
                if isinstance(value, torch.Tensor):
                    tensors |= gather_weights({f"{names[i]}/{key}": value}, on_this_rank=on_this_rank)
                elif _is_plain(value):
                    values[f"{names[i]}/{key}"] = value
                else:
                    raise CheckpointError(
                        "--optim: {name} keeps {key!r} as a {type_value__name}, which no checkpoint of this program "
                        "can hold; choose another optimizer, or --save_only_model",
                        name=type(self._optimizer).__name__,
                        key=key,
                        type_value__name=type(value).__name__,
                    )
        scaler = {} if self._scaler is None else plain_values(self._scaler.state_dict())
        groups = [plain_values(group) for group in kept["param_groups"] if group["params"]]
        return OptimizerState(tensors, {"values": values, "groups": groups, "scaler": scaler})

    def put_weights(self, weights: Tensors) -> None:
        """See `EngineState`."""
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(_like(weights[name], parameter))

    def put_optimizer(self, state: OptimizerState) -> None:
        """See `EngineState`."""
        kept, of_parameter = self._optimizer.state_dict(), _by_parameter(state)
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        kept["state"] = {
            i: {key: _like(value, parameters[i]) for key, value in of_parameter[name].items()}
            for i, name in enumerate(self._names())
            if name in of_parameter
        }
        _put_groups([group for group in kept["param_groups"] if group["params"]], state)
        self._optimizer.load_state_dict(kept)
        if self._scaler is not None and state.numbers["scaler"]:
            self._scaler.load_state_dict(state.numbers["scaler"])

    def _names(self) -> list[str]:
        """Names in the order in which torch numbers an optimizer's parameters."""
        name_of = {id(parameter): name for name, parameter in self._parameters.items()}
        return [name_of[id(p)] for group in self._optimizer.param_groups for p in group["params"]]


class DeepSpeedEngineState:
    """ZeRO: float32 masters and moments lie in flat, divided buffers, reached by DeepSpeed's own functions."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], engine: Any):
        self._parameters, self._engine = parameters, engine

    def weights(self, *, on_this_rank: bool) -> Tensors:
        """See `EngineState`; the float32 masters."""
        return self._gather([None], on_this_rank=on_this_rank)

    def optimizer(self, *, on_this_rank: bool) -> OptimizerState:
        """See `EngineState`."""
        self._link()
        tensors = self._gather(self._divided(), on_this_rank=on_this_rank)
        if on_this_rank:
            shared = {key: value for key, value in self._example().items() if key not in self._divided()}
            tensors |= {
                f"{name}/{key}": torch.as_tensor(value, dtype=torch.float32).to("cpu", copy=True)
                for name in self._parameters
                for key, value in shared.items()
            }
        groups = [plain_values(group) for group in self._engine.optimizer.param_groups]
        scaler = plain_values(vars(getattr(self._engine.optimizer, "loss_scaler", None) or object))
        return OptimizerState(tensors, {"values": {}, "groups": groups, "scaler": scaler})

    def put_weights(self, weights: Tensors) -> None:
        """See `EngineState`."""
        from deepspeed.utils import safe_set_full_fp32_param

        for name, parameter in self._parameters.items():
            value = weights[name].to(self._engine.device)
            with torch.no_grad(), gathered([parameter], writes=True):
                parameter.copy_(value)
            safe_set_full_fp32_param(parameter, value)

    def put_optimizer(self, state: OptimizerState) -> None:
        """See `EngineState`; the optimizer has taken a step before, or there is nothing to put moments into."""
        from deepspeed.utils import safe_set_full_optimizer_state

        self._link()
        of_parameter = _by_parameter(state)
        for name, parameter in self._parameters.items():
            for key in self._divided():
                safe_set_full_optimizer_state(parameter, of_parameter[name][key].to(self._engine.device), key)
        first = next(iter(of_parameter.values()))
        for kept in self._engine.optimizer.optimizer.state.values():
            for key in kept.keys() - set(self._divided()):
                value = kept[key]
                kept[key] = first[key].to(value) if isinstance(value, torch.Tensor) else type(value)(first[key])
        _put_groups(self._engine.optimizer.param_groups, state)
        scaler = getattr(self._engine.optimizer, "loss_scaler", None)
        for key, value in state.numbers["scaler"].items():
            if hasattr(scaler, key):
                setattr(scaler, key, value)

    def _gather(self, keys: Iterable[str | None], *, on_this_rank: bool) -> Tensors:
        """Tensors with an element for each weight; key None for the weights themselves."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        result = {}
        for name, parameter in self._parameters.items():
            for key in keys:
                if key is None:
                    value = safe_get_full_fp32_param(parameter)
                else:
                    value = safe_get_full_optimizer_state(parameter, key)
                if on_this_rank:
                    result[f"{name}/{key}" if key else name] = value.to("cpu", copy=True).view(shape_of(parameter))
        return result

    def _link(self) -> None:
        """Tell all weights of ZeRO-2 where their moments are.

        DeepSpeed 0.19.8 does so after the first group's step of several (LoRA+), when the others have none yet.
        """
        from deepspeed.utils import lazy_init_hp_params_optimizer_state

        optimizer = self._engine.optimizer
        if hasattr(optimizer, "bit16_groups"):
            pairs = zip(optimizer.bit16_groups, optimizer.single_partition_of_fp32_groups, strict=True)
            for weights, flat in pairs:
                lazy_init_hp_params_optimizer_state(weights, flat, optimizer.optimizer.state)

    def _example(self) -> dict[str, Any]:
        states = self._engine.optimizer.optimizer.state
        return next((values for values in states.values() if values), {})

    def _divided(self) -> list[str]:
        return [key for key, v in self._example().items() if isinstance(v, torch.Tensor) and v.numel() > 1]


def plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that JSON can hold, but for "params", the numbers of a group's parameters, which follow from the names."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in values.items()
        if key != "params" and (_is_plain(value) or (isinstance(value, tuple | list) and all(map(_is_plain, value))))
    }


def schedule_for(own: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """A schedule's state where the engine has another number of parameter groups.

    Raises:
        CheckpointError: their learning rates differ (LoRA+), so that it is not known which is whose.
    """
    lists = {key: len(value) for key, value in own.items() if isinstance(value, list) and value}
    fitted = {}
    for key, value in saved.items():
        if key not in lists or not value or len(value) == lists[key]:
            fitted[key] = value
        elif len(set(value)) == 1:
            fitted[key] = value[:1] * lists[key]
        else:
            raise CheckpointError(
                "the checkpoint has {num_value} groups of weights with learning rates of their own, this engine "
                "{lists}; go on with the engine that wrote it",
                num_value=len(value),
                lists=lists[key],
            )
    return {**own, **fitted}


def restore_schedule(scheduler: Any, position: Mapping[str, Any], max_steps: int) -> None:
    """Put a checkpoint's schedule back; where the run is longer now than then, by the schedule of the longer run.

    Raises:
        CheckpointError: see `schedule_for`.
    """
    scheduler.load_state_dict(schedule_for(scheduler.state_dict(), position["scheduler"]))
    if max_steps != position.get("max_steps", max_steps):
        ended, now = _take_up_schedule(scheduler)
        logger.warning(
            "schedule: that of the longer run from here on: learning rate %.3g at step %d, where the shorter run had "
            "come to %.3g",
            now,
            position["step"] + 1,
            ended,
        )


def _take_up_schedule(scheduler: Any) -> tuple[float, float]:
    """Have the next step use a schedule whose state was made by another one of the same kind, of another length.

    Returns the learning rates of the next step by the other, and by this one.
    """
    inner = getattr(scheduler, "scheduler", scheduler)  # of accelerate
    before = float(inner.get_last_lr()[0])
    if isinstance(inner, torch.optim.lr_scheduler.LambdaLR):
        inner.last_epoch -= 1
        inner.step()
    return before, float(inner.get_last_lr()[0])


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | str | bool | None)


def _put_groups(groups: list[dict[str, Any]], state: OptimizerState) -> None:
    for group, saved in zip(groups, state.numbers["groups"], strict=True):
        group |= {key: tuple(value) if isinstance(value, list) else value for key, value in saved.items()}


def _by_parameter(state: OptimizerState) -> dict[str, dict[str, Any]]:
    result: dict[str, dict[str, Any]] = {}
    for full_name, value in (*state.tensors.items(), *state.numbers["values"].items()):
        name, key = full_name.rsplit("/", 1)
        result.setdefault(name, {})[key] = value
    return result


def _like(value: Any, parameter: torch.Tensor) -> Any:
    """A whole value divided as the parameter is, where it has the parameter's shape."""
    if isinstance(parameter, DTensor) and isinstance(value, torch.Tensor) and value.shape == parameter.shape:
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value
