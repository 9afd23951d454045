import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from yangtuo.engine.training_state import OptimizerState, PlainEngineState, plain_values
from yangtuo.errors import CheckpointError

OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.8, 0.9)),
    "adamw, fused": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "two groups": lambda p: torch.optim.AdamW([{"params": p[:1], "weight_decay": 0.5}, {"params": p[1:]}], lr=0.1),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd, momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1),
}


def subject(name):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    return model, OPTIMIZERS[name](list(model.parameters()))


def step(model, optimizer, seed):
    torch.manual_seed(seed)
    optimizer.zero_grad()
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()


def through_files(folder, weights, state):
    save_file(state.tensors, folder / "a.safetensors")
    save_file(weights, folder / "b.safetensors")
    numbers = json.loads(json.dumps(state.numbers))
    return load_file(folder / "b.safetensors"), OptimizerState(load_file(folder / "a.safetensors"), numbers)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_goes_on_bit_for_bit(name, tmp_path):
    model, optimizer = subject(name)
    for seed in (1, 2):
        step(model, optimizer, seed)
    optimizer.param_groups[0]["lr"] = 0.05  # as a schedule sets it
    engine_state = PlainEngineState(dict(model.named_parameters()), optimizer)
    weights, state = engine_state.weights(on_this_rank=True), engine_state.optimizer(on_this_rank=True)
    other, other_optimizer = subject(name)
    step(other, other_optimizer, 9)
    read_weights, read_state = through_files(tmp_path, weights, state)
    back = PlainEngineState(dict(other.named_parameters()), other_optimizer)
    back.put_weights(read_weights)
    back.put_optimizer(read_state)
    for _ in range(2):
        step(model, optimizer, 3)
        step(other, other_optimizer, 3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_without_its_state_it_would_not():
    """The negative control."""
    model, optimizer = subject("adamw")
    step(model, optimizer, 1)
    other = copy.deepcopy(model)
    other_optimizer = OPTIMIZERS["adamw"](list(other.parameters()))
    step(model, optimizer, 2)
    step(other, other_optimizer, 2)
    assert not all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_tensors_are_copies_and_left_out_where_nobody_writes():
    model, optimizer = subject("adamw")
    step(model, optimizer, 1)
    engine_state = PlainEngineState(dict(model.named_parameters()), optimizer)
    weights, state = engine_state.weights(on_this_rank=True), engine_state.optimizer(on_this_rank=True)
    before = {name: value.clone() for name, value in (weights | state.tensors).items()}
    step(model, optimizer, 2)
    assert all(torch.equal(value, before[name]) for name, value in (weights | state.tensors).items())
    assert set(weights) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert {"0.weight/exp_avg", "0.weight/exp_avg_sq", "0.weight/step"} <= set(state.tensors)
    assert engine_state.weights(on_this_rank=False) == {}
    assert engine_state.optimizer(on_this_rank=False).tensors == {}


def test_what_no_checkpoint_can_hold_is_an_error():
    model, optimizer = subject("sgd, momentum")
    step(model, optimizer, 1)
    next(iter(optimizer.state.values()))["history"] = [torch.zeros(1)]
    with pytest.raises(CheckpointError, match="SGD keeps 'history' as a list"):
        PlainEngineState(dict(model.named_parameters()), optimizer).optimizer(on_this_rank=True)


def test_plain_values():
    values = {
        "lr": 0.1,
        "betas": (0.9, 0.95),
        "params": [0, 1],
        "fused": None,
        "tensor": torch.zeros(1),
        "by": [object()],
    }
    assert plain_values(values) == {"lr": 0.1, "betas": [0.9, 0.95], "fused": None}
