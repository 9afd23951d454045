import contextlib
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from tests.unit.engine.small import VOCABULARY, examples_of, model_of
from yangtuo.engine.batch_tensors import Batch
from yangtuo.engine.head import grad_of, logit_transform, sparse_embedding
from yangtuo.engine.layout import pad
from yangtuo.engine.loss import SupervisedLoss, mean_loss, weighted_sum
from yangtuo.model.lora import use_fused

EXAMPLES = examples_of(
    ([1, 11, 12], [13, 2]), ([1], [21, 22, 23, 2]), ([1, 31, 32, 33], [2]), ([1, 11, 12], [14, 15, 2])
)
WEIGHTS = np.array([1.0, 0.5, 2.0, 0.25])
LAYOUT = pad(EXAMPLES, range(4), WEIGHTS)
NUM_PREDICTIONS = 10
TRANSFORMED = {
    "Llama": {},
    "Gemma2": {"final_logit_softcapping": 3.0},
    "Granite": {"logits_scaling": 4.0},
    "Cohere": {"logit_scale": 0.25},
}


def batch():
    return Batch.of(LAYOUT, torch.device("cpu"))


def without_frozen(model):
    """All of the model but its head is trained."""
    model.requires_grad_(True)
    model.lm_head.weight.requires_grad_(False)
    return model


def with_lora(model, *, fused=False, **options):
    """A LoRA whose B matrices are not zero, so that A has a gradient."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, **options)
        if fused:
            use_fused(config)
        peft_model = get_peft_model(model, config)
        for name, parameter in peft_model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2)
    return peft_model


SUBJECTS = {
    "everything but the head": without_frozen,
    "everything": lambda model: model.requires_grad_(True),
    "lora": lambda model: with_lora(model, target_modules=["q_proj", "down_proj"]),
    "lora and a whole head": lambda model: with_lora(model, target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "lora on the head": lambda model: with_lora(model, target_modules=["q_proj", "lm_head"]),
    "lora and new rows": lambda model: with_lora(
        model, target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [21, 63], "lm_head": [21, 63]}
    ),
    "fused lora": lambda model: with_lora(model, fused=True, target_modules=["q_proj", "down_proj"]),
    "fused lora on the head": lambda model: with_lora(model, fused=True, target_modules=["q_proj", "lm_head"]),
}


def base_of(model):
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def reference(model, smoothing=0.0, weights=WEIGHTS):
    """torch's cross-entropy on the model's own logits of every token, and its gradients."""
    ids, supervised = torch.from_numpy(LAYOUT.input_ids), torch.zeros(LAYOUT.input_ids.shape, dtype=torch.bool)
    for i in range(len(EXAMPLES)):
        mask = EXAMPLES.row(i)[1]
        supervised[i, : len(mask)] = torch.from_numpy(mask)
    logits = model(input_ids=ids, attention_mask=torch.from_numpy(LAYOUT.attention_mask)).logits
    losses = functional.cross_entropy(
        logits[:, :-1].reshape(-1, VOCABULARY), ids[:, 1:].reshape(-1), reduction="none", label_smoothing=smoothing
    )
    counted = supervised[:, 1:] * torch.from_numpy(weights)[:, None]
    return (losses * counted.reshape(-1)).sum()


def gradients(model, loss):
    """Of every trained parameter, by name."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    result = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad(set_to_none=True)
    return result


def assert_same_gradients(got, expected):
    assert got.keys() == expected.keys()
    for name, grad in expected.items():
        assert grad.abs().max() > 0, name
        torch.testing.assert_close(got[name], grad, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def assert_agrees(model, loss, smoothing=0.0):
    """Value and gradients, in training mode; no subject has any dropout."""
    model.train()
    expected, value = reference(model, smoothing), weighted_sum(model, loss, batch())
    assert value.dtype == torch.float32
    assert value.shape == ()
    torch.testing.assert_close(value.double(), expected.double(), rtol=1e-5, atol=1e-5)
    assert_same_gradients(gradients(model, value), gradients(model, expected))


@pytest.mark.parametrize("chunk_rows", [1, 3, NUM_PREDICTIONS, None])
@pytest.mark.parametrize("subject", SUBJECTS)
def test_chunks_are_the_cross_entropy_of_all_logits(subject, chunk_rows):
    model = SUBJECTS[subject](model_of("Llama"))
    loss = SupervisedLoss(base_of(model))
    loss.chunk_rows = chunk_rows
    assert_agrees(model, loss)


@pytest.mark.parametrize("chunk_rows", [3, None])
@pytest.mark.parametrize("uses_own_head", [True, False])
@pytest.mark.parametrize("smoothing", [0.1, 1.0])
def test_label_smoothing_as_torch_has_it(smoothing, uses_own_head, chunk_rows):
    model = SUBJECTS["lora and a whole head"](model_of("Llama"))
    loss = SupervisedLoss(base_of(model), smoothing)
    loss.uses_own_head, loss.chunk_rows = uses_own_head, chunk_rows
    assert_agrees(model, loss, smoothing)


def test_no_label_smoothing_in_evaluation():
    model = model_of("Llama")
    loss = SupervisedLoss(model, label_smoothing=0.1)
    plain, smooth = reference(model).item(), reference(model, 0.1).item()
    assert abs(plain - smooth) > 1e-2
    assert weighted_sum(model.eval(), loss, batch()).item() == pytest.approx(plain, rel=1e-5)
    assert weighted_sum(model.train(), loss, batch()).item() == pytest.approx(smooth, rel=1e-5)


@pytest.mark.parametrize("uses_own_head", [True, False])
@pytest.mark.parametrize("name", TRANSFORMED)
def test_what_a_model_does_to_its_logits(name, uses_own_head):
    model = SUBJECTS["lora"](model_of(name, **TRANSFORMED[name]))
    loss = SupervisedLoss(base_of(model))
    loss.uses_own_head, loss.chunk_rows = uses_own_head, 3
    assert_agrees(model, loss)


@pytest.mark.parametrize("name", [name for name, fields in TRANSFORMED.items() if fields])
def test_a_transform_that_is_left_out_is_noticed(name, monkeypatch):
    """The negative control."""
    monkeypatch.setattr("yangtuo.engine.head.logit_transform", lambda model: lambda logits: logits)
    model = model_of(name, **TRANSFORMED[name])
    loss = SupervisedLoss(model)
    assert weighted_sum(model, loss, batch()).item() != pytest.approx(reference(model).item(), rel=1e-3)


def test_transforms_by_hand():
    def transformed(**fields):
        config = SimpleNamespace(**fields)
        return logit_transform(SimpleNamespace(config=config))(torch.tensor([-2.0, 0.0, 8.0])).tolist()

    assert transformed() == [-2.0, 0.0, 8.0]
    assert transformed(final_logit_softcapping=None, logit_scale=None, logits_scaling=None) == [-2.0, 0.0, 8.0]
    assert transformed(logit_scale=0.5) == [-1.0, 0.0, 4.0]
    assert transformed(logits_scaling=4.0) == [-0.5, 0.0, 2.0]
    assert transformed(final_logit_softcapping=4.0) == pytest.approx([4 * np.tanh(-0.5), 0.0, 4 * np.tanh(2.0)])


@pytest.mark.parametrize("chunk_rows", [1, 3, None])
@pytest.mark.parametrize("uses_own_head", [True, False])
def test_without_gradients(uses_own_head, chunk_rows):
    model = SUBJECTS["lora"](model_of("Llama"))
    loss = SupervisedLoss(base_of(model))
    loss.uses_own_head, loss.chunk_rows = uses_own_head, chunk_rows
    with torch.no_grad():
        value = weighted_sum(model.eval(), loss, batch())
    assert not value.requires_grad
    assert value.item() == pytest.approx(reference(model).item(), rel=1e-5)


def test_weightless_rows_give_zero_and_a_gradient_of_zeros():
    model = SUBJECTS["lora and a whole head"](model_of("Llama"))
    loss = SupervisedLoss(base_of(model))
    idle = Batch.of(pad(EXAMPLES, [0], np.zeros(1)), torch.device("cpu"))
    value = weighted_sum(model, loss, idle)
    assert value.item() == 0
    assert all((grad == 0).all() for grad in gradients(model, value).values())


def test_a_scaled_loss_and_two_micro_batches_add_up():
    model = SUBJECTS["lora and a whole head"](model_of("Llama")).train()
    loss = SupervisedLoss(base_of(model))
    halves = [Batch.of(pad(EXAMPLES, rows, WEIGHTS[rows]), torch.device("cpu")) for rows in ([0, 1], [2, 3])]
    expected = gradients(model, reference(model) * 1024)
    for half in halves:
        (weighted_sum(model, loss, half) * 1024).backward()
    got = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert got.keys() == expected.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(got[name], grad, rtol=1e-3, atol=1e-2, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("weight", [1.0, 1 / 4096])
@pytest.mark.parametrize("subject", ["lora", "lora and a whole head", "lora on the head"])
def test_small_weights_are_not_rounded_away_in_float16(subject, weight):
    """What reaches the layers below the head, with the loss scale that makes up for it."""
    model = SUBJECTS[subject](model_of("Llama", vocab_size=4096)).train()
    head = base_of(model).lm_head.half()
    hidden = torch.randn(1, LAYOUT.num_cells, 32, generator=torch.Generator().manual_seed(2))
    weighted = Batch.of(pad(EXAMPLES, range(4), np.full(4, weight)), torch.device("cpu"))

    def gradient(dtype):
        leaf = hidden.to(dtype).requires_grad_()
        loss = SupervisedLoss(base_of(model))
        loss._hidden = leaf.view(*LAYOUT.input_ids.shape, 32)
        head.to(dtype)
        return torch.autograd.grad(loss(torch.empty(0), batch=weighted) * 65536, leaf)[0].double()

    exact, found = gradient(torch.float64), gradient(torch.float16)
    assert float((found - exact).norm() / exact.norm()) < 1.5e-3


def test_only_supervised_positions_reach_the_head_and_never_all_at_once():
    model = SUBJECTS["lora"](model_of("Llama")).train()
    loss = SupervisedLoss(base_of(model))
    loss.chunk_rows = 4
    sizes = []
    base_of(model).lm_head.register_forward_hook(lambda module, args, output: sizes.append(output.shape[:-1].numel()))
    weighted_sum(model, loss, batch()).backward()
    assert sorted(sizes) == [0, 3, 3, 4]  # none in the model's own way, then the chunks


@pytest.mark.parametrize("subject", ["lora", "lora and a whole head"])
def test_all_ranks_call_the_head_equally_often(subject):
    """A sharded head is gathered at each call; a rank with fewer predictions would leave the others waiting."""
    model = SUBJECTS[subject](model_of("Llama")).train()
    loss = SupervisedLoss(base_of(model))
    loss.chunk_rows = 4
    calls = []
    base_of(model).lm_head.register_forward_hook(lambda module, args, output: calls.append(len(output)))
    idle = pad(EXAMPLES, [0], np.zeros(1))
    for layout in (LAYOUT, idle):
        layout = dataclasses.replace(layout, most_predictions=22)
        with torch.no_grad():
            weighted_sum(model, loss, Batch.of(layout, torch.device("cpu")))
        assert len(calls) == 1 + 6
        calls.clear()
    assert_agrees(model, loss)


def gradients_asked_for(monkeypatch, model):
    """Shapes of all gradients that the loss computes for itself."""
    loss, shapes, real = SupervisedLoss(base_of(model)), [], torch.autograd.grad

    def grad(*args, **kwargs):
        result = real(*args, **kwargs)
        shapes.extend(tuple(tensor.shape) for tensor in result)
        return result

    monkeypatch.setattr(torch.autograd, "grad", grad)
    weighted_sum(model.train(), loss, batch()).backward()
    return shapes


def test_no_gradient_of_a_frozen_head_is_computed_or_kept(monkeypatch):
    model = SUBJECTS["lora"](model_of("Llama"))
    assert gradients_asked_for(monkeypatch, model) == [(NUM_PREDICTIONS, 32)]
    assert base_of(model).lm_head.weight.grad is None


def test_of_new_rows_only_their_own_gradient_is_computed(monkeypatch):
    model = SUBJECTS["lora and new rows"](model_of("Llama"))
    assert gradients_asked_for(monkeypatch, model) == [(NUM_PREDICTIONS, 32), (2, 32)]


def test_tied_new_rows_are_trained_as_one():
    model = with_lora(
        model_of("Llama", tie_word_embeddings=True),
        target_modules=["q_proj"],
        trainable_token_indices={"embed_tokens": [21, 63]},
    )
    loss = SupervisedLoss(base_of(model))
    loss.chunk_rows = 3
    assert_agrees(model, loss)


@pytest.mark.parametrize("name", TRANSFORMED)
@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("factor", [None, 0.25])
def test_a_head_trained_in_full_whatever_is_done_to_its_logits(factor, tie, name):
    """Two micro-batches, their sum multiplied; also with the gradient added to `.grad` in the forward."""
    targets = {"modules_to_save": ["embed_tokens"] if tie else ["lm_head"], "ensure_weight_tying": tie}
    model = with_lora(
        model_of(name, **TRANSFORMED[name], tie_word_embeddings=tie), target_modules=["q_proj"], **targets
    )
    model.train()
    expected = gradients(model, reference(model) * 0.25)
    loss = SupervisedLoss(base_of(model))
    loss.chunk_rows, loss.gradient_factor = 3, factor
    for part in (slice(0, 2), slice(2, 4)):
        layout = pad(EXAMPLES, range(4)[part], WEIGHTS[part])
        (weighted_sum(model, loss, Batch.of(layout, torch.device("cpu"))) * 0.25).backward()
    got = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert_same_gradients(got, expected)


class Sizes(TorchDispatchMode):
    """Numbers of elements of all new tensors."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        known = {tensor.untyped_storage().data_ptr() for tensor in tree_iter(args) if is_dense(tensor)}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if is_dense(tensor) and tensor.untyped_storage().data_ptr() not in known:
                self.largest = max(self.largest, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


def is_dense(value):
    return isinstance(value, torch.Tensor) and value.layout == torch.strided


@pytest.mark.parametrize("direct", [True, False])
def test_a_vocabulary_trained_in_full_needs_nothing_of_its_size_beside_its_gradient(direct):
    model = with_lora(
        model_of("Llama", vocab_size=4096), target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]
    )
    loss = SupervisedLoss(base_of(model))
    loss.chunk_rows = 3
    if direct:
        loss.gradient_factor = 1.0
        grad_of(sparse_embedding(base_of(model)).weight)
        grad_of(base_of(model).lm_head.weight)
    with Sizes() as sizes:
        weighted_sum(model.train(), loss, batch()).backward()
    assert (sizes.largest < 4096 * 32) == direct  # in every other way it does; so the test can fail
    plain = with_lora(
        model_of("Llama", vocab_size=4096), target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]
    )
    weighted_sum(plain.train(), SupervisedLoss(base_of(plain)), batch()).backward()
    for (_, got), (_, expected) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        if expected.requires_grad:
            torch.testing.assert_close(got.grad, expected.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("subject", ["lora", "lora and a whole head"])
@pytest.mark.parametrize("chunk_rows", [3, None])
def test_a_head_that_an_engine_has_sharded_is_called_as_a_module(subject, chunk_rows):
    model = SUBJECTS[subject](model_of("Llama"))
    for parameter in base_of(model).get_output_embeddings().parameters():
        parameter.ds_id = 0  # as ZeRO-3 marks its parameters
    loss = SupervisedLoss(base_of(model))
    loss.chunk_rows = chunk_rows
    assert_agrees(model, loss)


def test_what_enters_the_head_is_not_kept_after_a_step():
    model = SUBJECTS["lora"](model_of("Llama"))
    loss = SupervisedLoss(base_of(model))
    weighted_sum(model, loss, batch()).backward()
    assert loss._hidden.numel() == 0


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_mean_of_a_data_set_whatever_the_micro_batches(size):
    model = SUBJECTS["lora"](model_of("Llama")).train()
    loss = SupervisedLoss(base_of(model), label_smoothing=0.5)
    accelerator = SimpleNamespace(
        device=torch.device("cpu"), autocast=contextlib.nullcontext, reduce=lambda total, how: total
    )
    layouts = [pad(EXAMPLES, range(i, i + size), np.ones(size)) for i in range(0, 4, size)]
    mean = mean_loss(model, loss, layouts, NUM_PREDICTIONS, accelerator)
    assert not model.training
    assert mean == pytest.approx(reference(model, weights=np.ones(4)).item() / NUM_PREDICTIONS, rel=1e-5)
