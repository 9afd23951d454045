import math

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import Linear
from torch import nn
from torch.nn import functional

from yangtuo.model.lora import FusedLinear, dropped_places, use_fused

INPUT, OUTPUT = 12, 7
CPU = torch.device("cpu")


class Net(nn.Module):
    """One layer, so that PEFT has something to wrap."""

    def __init__(self, linear=None, *, bias=True, dtype=torch.float64):
        super().__init__()
        self.layer = linear or nn.Linear(INPUT, OUTPUT, bias=bias, dtype=dtype)

    def forward(self, x):
        return self.layer(x)


def lora_on(net, *, fused, seed=0, dtype=torch.float64, **options):
    """The net with a LoRA whose B is not zero, the same at every call; PEFT's own layer without `fused`."""
    config = LoraConfig(r=3, lora_alpha=6, target_modules=["layer"], **options)
    if fused:
        use_fused(config)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = get_peft_model(net, config, autocast_adapter_dtype=False).to(dtype)
        for name, parameter in sorted(model.named_parameters()):
            nn.init.normal_(parameter, std=0.5) if "magnitude" not in name else nn.init.uniform_(parameter, 0.5, 2)
    return model


def pair(**options):
    """The same layer computed by PEFT and by us."""
    net = {name: options.pop(name) for name in ("bias", "dtype") if name in options}
    dtype = net.get("dtype", torch.float64)
    theirs, ours = (lora_on(Net(**net), fused=fused, dtype=dtype, **options) for fused in (False, True))
    assert type(theirs.base_model.model.layer) is Linear
    assert type(ours.base_model.model.layer) is FusedLinear
    return theirs, ours


@pytest.fixture
def calls(monkeypatch):
    """Counts how often PEFT's own forward runs."""
    counted, real = [], Linear.forward

    def forward(self, *args, **kwargs):
        counted.append(type(self))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Linear, "forward", forward)
    return counted


def drawn(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=dtype).requires_grad_()


def result_and_gradients(model, x):
    """Forward, and gradients of input and trained parameters for a slope that differs everywhere."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    result = model(x)
    slope = torch.randn(result.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    grads = torch.autograd.grad((result * slope.to(result.dtype)).sum(), [x, *(p for _, p in trained)])
    return result, dict(zip(["x", *(name for name, _ in trained)], grads, strict=True))


def assert_same(theirs, ours, x, **tolerance):
    expected, expected_grads = result_and_gradients(theirs, x)
    result, grads = result_and_gradients(ours, x)
    torch.testing.assert_close(result, expected, **tolerance)
    assert grads.keys() == expected_grads.keys()
    assert len(grads) >= 3
    for name, grad in expected_grads.items():
        torch.testing.assert_close(grads[name], grad, **tolerance, msg=lambda text, name=name: f"{name}: {text}")


# ---- without dropout: PEFT's arithmetic


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, INPUT), (2, 5, INPUT), (1, 1, INPUT), (2, 3, 4, INPUT), (INPUT,), (0, INPUT)])
def test_forward_and_gradients_are_those_of_peft(shape, bias, calls):
    theirs, ours = pair(bias=bias)
    assert_same(theirs, ours, drawn(*shape))
    assert FusedLinear not in calls


@pytest.mark.parametrize("use_rslora", [True, False])
def test_scaling_is_that_of_peft(use_rslora):
    assert_same(*pair(use_rslora=use_rslora), drawn(5, INPUT))


def test_bfloat16():
    theirs, ours = pair(dtype=torch.bfloat16)
    assert_same(theirs, ours, drawn(5, INPUT, dtype=torch.bfloat16), rtol=0.05, atol=0.1)


def test_an_input_that_is_a_view():
    wide = drawn(INPUT, 5)
    assert_same(*pair(), wide.detach().T)
    assert_same(*pair(), drawn(5, 2 * INPUT).detach()[:, ::2])


def test_an_input_without_gradient():
    theirs, ours = pair()
    x = drawn(5, INPUT).detach()
    for one, other in zip(theirs.parameters(), ours.parameters(), strict=True):
        if one.requires_grad:
            grads = [torch.autograd.grad(model(x).sum(), p)[0] for model, p in ((theirs, one), (ours, other))]
            torch.testing.assert_close(grads[1], grads[0])


def test_dropout_does_nothing_in_evaluation():
    theirs, ours = pair(lora_dropout=0.5)
    assert_same(theirs.eval(), ours.eval(), drawn(5, INPUT))


def test_no_gradient_wanted():
    theirs, ours = pair(lora_dropout=0.5)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(drawn(5, INPUT)), theirs.eval()(drawn(5, INPUT)))


def test_gradients_by_finite_differences():
    _, ours = pair()
    layer = ours.base_model.model.layer
    low, high = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert torch.autograd.gradcheck(lambda x, *_: ours(x), (drawn(4, INPUT), low, high))


# ---- with dropout


def seeded(model, x, seed=11):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return model(x)


@pytest.mark.parametrize("probability", [0.05, 0.5, 0.95])
def test_backward_drops_what_forward_dropped(probability, calls):
    _, ours = pair(lora_dropout=probability)
    ours.train()
    layer = ours.base_model.model.layer
    low, high = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert torch.autograd.gradcheck(lambda x, *_: seeded(ours, x), (drawn(4, INPUT), low, high))
    assert not calls


@pytest.mark.parametrize("shape", [(5, INPUT), (2, 5, INPUT)])
@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_dropout_is_on_the_input_of_the_low_rank_part_only(probability, shape, monkeypatch):
    _, ours = pair(lora_dropout=probability)
    ours.train()
    layer = ours.base_model.model.layer
    x = drawn(*shape)
    mask = torch.ones(x.numel(), dtype=torch.float64)
    mask[dropped_places_of(seed=11, num_elements=x.numel(), probability=probability)] = 0
    assert 0 < int(mask.sum()) < x.numel()
    dropped = x * mask.view(shape) / (1 - probability)
    low, high = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = functional.linear(x, layer.base_layer.weight, layer.base_layer.bias) + 2 * dropped @ low.T @ high.T
    result = seeded(ours, x)
    torch.testing.assert_close(result, expected)
    slope = torch.randn(result.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    grads = [torch.autograd.grad((y * slope).sum(), (x, low, high)) for y in (result, expected)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def dropped_places_of(*, seed, num_elements, probability):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return dropped_places(num_elements, probability, CPU)


def test_an_input_that_is_a_view_with_dropout():
    _, ours = pair(lora_dropout=0.5)
    ours.train()
    x = drawn(INPUT, 5).detach().T
    assert not x.is_contiguous()
    torch.testing.assert_close(seeded(ours, x), seeded(ours, x.contiguous()))


def test_each_forward_drops_other_elements():
    _, ours = pair(lora_dropout=0.5)
    x = drawn(5, INPUT)
    assert not torch.equal(ours.train()(x), ours(x))


def test_dropout_of_everything_leaves_the_base():
    _, ours = pair(lora_dropout=1.0)
    x = drawn(5, INPUT)
    layer = ours.train().base_model.model.layer
    torch.testing.assert_close(ours(x), layer.base_layer(x))


# Bounds of six standard deviations: one in five hundred million.


@pytest.mark.parametrize("probability", [0.001, 0.05, 0.3, 0.5, 0.9, 0.999])
def test_the_rate_of_dropped_places(probability):
    num = 400_000
    places = dropped_places_of(seed=0, num_elements=num, probability=probability)
    assert places.dtype == torch.int64
    assert int(places[0]) >= 0
    assert int(places[-1]) < num
    assert (places.diff() > 0).all()
    spread = math.sqrt(num * probability * (1 - probability))
    assert abs(len(places) - num * probability) < 6 * spread


@pytest.mark.parametrize("probability", [0.05, 0.5])
def test_every_place_is_as_likely_and_neighbours_are_independent(probability):
    num, repeats = 40, 20_000
    dropped = torch.zeros(repeats, num, dtype=torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for i in range(repeats):
            dropped[i, dropped_places(num, probability, CPU)] = 1
    spread = math.sqrt(probability * (1 - probability) / repeats)
    assert ((dropped.mean(0) - probability).abs() < 6 * spread).all()
    correlations = torch.corrcoef(dropped.T) - torch.eye(num)
    assert correlations.abs().max() < 6 / math.sqrt(repeats)


def test_pieces_of_a_long_sequence_are_independent():
    dropped = torch.zeros(1000, 400, dtype=torch.float64)
    dropped.view(-1)[dropped_places_of(seed=0, num_elements=400_000, probability=0.1)] = 1
    for distance in (1, 2, 3, 7, 400):
        a, b = dropped.view(-1)[:-distance] - 0.1, dropped.view(-1)[distance:] - 0.1
        assert abs(float((a * b).mean())) < 6 * 0.1 * 0.9 / math.sqrt(len(a))
    counts = dropped.sum(1)  # of each piece: binomial
    assert float(counts.var()) == pytest.approx(400 * 0.1 * 0.9, rel=6 * math.sqrt(2 / 1000))


@pytest.mark.parametrize("num_elements", [0, 1, 2, 7])
@pytest.mark.parametrize("probability", [1e-6, 0.5, 1 - 1e-9, 1.0])
def test_few_elements_and_rates_at_the_ends(num_elements, probability):
    for seed in range(20):
        places = dropped_places_of(seed=seed, num_elements=num_elements, probability=probability).tolist()
        assert places == sorted(set(places))
        assert set(places) <= set(range(num_elements))
        if probability > 0.9:
            assert len(places) == num_elements
        if probability < 0.1:
            assert not places


# ---- what is left to PEFT


def uncommon(change):
    """Both layers after a change, and what it needs of the configuration."""
    models = pair(**({"use_dora": True} if change == "dora" else {"lora_bias": True} if change == "lora_bias" else {}))
    for model in models:
        if change == "merged":
            model.merge_adapter()
        if change == "disabled":
            model.base_model.disable_adapter_layers()
        if change == "two adapters":
            with torch.random.fork_rng():
                torch.manual_seed(5)
                model.add_adapter("other", LoraConfig(r=2, target_modules=["layer"], init_lora_weights=False))
            model.to(torch.float64).base_model.set_adapter(["default", "other"])
    return models


@pytest.mark.parametrize("change", ["dora", "lora_bias", "merged", "disabled", "two adapters"])
def test_uncommon_cases_are_computed_by_peft(change, calls):
    theirs, ours = uncommon(change)
    x = drawn(5, INPUT)
    torch.testing.assert_close(ours(x), theirs(x))
    assert FusedLinear in calls


def test_a_forward_in_16_bits_over_weights_of_them(calls):
    """Masters stay float32, the numbers are PEFT's to the bit, and PEFT is not asked."""
    theirs, ours = pair(dtype=torch.float32)
    results = []
    for model in (theirs, ours):
        model.base_model.model.layer.base_layer.to(torch.bfloat16)
        x = drawn(5, INPUT, dtype=torch.float32).to(torch.bfloat16).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            result = model(x)
        result.float().square().sum().backward()
        results.append([result, *(p.grad for p in model.parameters() if p.requires_grad)])
    assert FusedLinear not in calls
    for a, b in zip(*results, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)
    assert torch.equal(results[0][0], results[1][0])


def test_autocast_over_wider_weights_is_left_to_peft(calls):
    theirs, ours = pair(dtype=torch.float32)
    x = drawn(5, INPUT, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ours(x), theirs(x))
    assert FusedLinear in calls


def test_an_adapter_in_another_number_format_is_left_to_peft(calls):
    theirs, ours = pair(dtype=torch.float32)
    for model in (theirs, ours):
        model.base_model.model.layer.base_layer.to(torch.bfloat16)
    x = drawn(5, INPUT, dtype=torch.float32).to(torch.bfloat16)
    torch.testing.assert_close(ours(x), theirs(x))
    assert FusedLinear in calls


def test_adapters_of_single_samples_are_left_to_peft():
    theirs, ours = pair()
    x = drawn(2, INPUT)
    names = {"adapter_names": ["default", "__base__"]}
    results = [model.base_model.model.layer.eval()(x, **names) for model in (theirs, ours)]
    torch.testing.assert_close(results[1], results[0])


def test_biases_that_are_trained_have_a_gradient():
    theirs, ours = pair()
    for model in (theirs, ours):
        model.base_model.model.layer.base_layer.bias.requires_grad_(True)
    assert_same(theirs, ours, drawn(5, INPUT))


class Doubled(nn.Linear):
    """A linear layer that computes something else, as quantised ones do."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_a_layer_that_only_descends_from_linear_computes_its_own_way():
    models = [lora_on(Net(Doubled(INPUT, OUTPUT, dtype=torch.float64)), fused=fused) for fused in (False, True)]
    x = drawn(5, INPUT)
    torch.testing.assert_close(models[1](x), models[0](x))


# ---- names, formats and merging stay PEFT's


def test_names_and_saved_tensors():
    theirs, ours = pair()
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    states = [get_peft_model_state_dict(model) for model in (theirs, ours)]
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert "_custom_modules" not in ours.peft_config["default"].to_dict()


def test_merging():
    theirs, ours = pair(lora_dropout=0.1)
    x = drawn(5, INPUT)
    adapted = ours.eval()(x)
    merged = [model.merge_and_unload() for model in (theirs, ours)]
    assert type(merged[1].layer) is nn.Linear
    assert torch.equal(merged[1].layer.weight, merged[0].layer.weight)
    torch.testing.assert_close(merged[1](x), adapted)


def test_merged_and_taken_out_again():
    _, ours = pair()
    x = drawn(5, INPUT)
    before = ours(x)
    ours.merge_adapter()
    torch.testing.assert_close(ours(x), before)
    ours.unmerge_adapter()
    torch.testing.assert_close(ours(x), before)


def test_layers_of_other_kinds_are_left_alone():
    config = LoraConfig(r=3, target_modules=["embedding", "linear"])
    use_fused(config)
    net = nn.ModuleDict({"embedding": nn.Embedding(5, INPUT), "linear": nn.Linear(INPUT, OUTPUT)})
    model = get_peft_model(net, config).base_model.model
    assert type(model["linear"]) is FusedLinear
    assert type(model["embedding"]) is not FusedLinear
