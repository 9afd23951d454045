import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from tests.unit.engine.small import examples_of, model_of
from yangtuo.engine import comparison, probe
from yangtuo.engine.attention import PREFIX_SHARED
from yangtuo.engine.batch_tensors import Batch
from yangtuo.engine.layout import pad, share
from yangtuo.engine.loss import SupervisedLoss, weighted_sum
from yangtuo.engine.probe import HEAD, LORA, PADDING, choose_shortcuts
from yangtuo.engine.steps import Execution
from yangtuo.model import lora
from yangtuo.model.lora import use_fused

EXAMPLES = examples_of(
    ([1, 11, 12, 13], [14, 15, 16, 17, 2]),
    ([1, 11, 12, 13], [24, 25, 2]),
    ([1, 11, 12, 33], [34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 2]),
    ([1, 11, 12, 13], [14, 15, 26, 2]),
)
WEIGHTS = np.array([1.0, 0.5, 2.0, 0.25])
SHARING = {
    "Llama": {},
    "Qwen2": {},
    "Qwen3": {},
    "Mistral": {},
    "Gemma2": {},
    "Granite": {"logits_scaling": 4.0},
    "Cohere": {"logit_scale": 0.25},
    "GPT2": {"n_embd": 32, "n_head": 4, "n_layer": 2},  # learned positions, given to it
}
# Of 4 tokens, where rows have 7 to 16 and the probe's 16 and 20.
WINDOWED = {
    "Mistral": {"sliding_window": 4},
    "Gemma2": {"sliding_window": 4},
    "Qwen2": {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 1},
}
PADDED = {
    "Lfm2": {"layer_types": ["conv", "full_attention"]},
    "Mamba": {},
    "RecurrentGemma": {},
    "Bloom": {"n_layer": 2, "n_head": 4},
    "GPTNeo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]]},
    "GptOss": {"sliding_window": 4},  # its softmax has sinks, which this attention does not know
}
# Kernels that are not installed here, and models that say no to another attention; said by transformers.
pytestmark = pytest.mark.filterwarnings("ignore")


def chosen(model, *, may_share=True, examples=EXAMPLES):
    """Whether rows are shared, and the loss as it was set."""
    loss = SupervisedLoss(model)
    return choose_shortcuts(model, model, loss, examples, Execution(may_share, 1000)).shares_prefixes, loss


def warned(caplog):
    records = [record for record in caplog.records if record.name == "yangtuo.engine.probe"]
    return [record.getMessage() for record in records if record.levelname == "WARNING"]


def value_and_gradients(model, loss, layout):
    model.zero_grad(set_to_none=True)
    value = weighted_sum(model, loss, Batch.of(layout, torch.device("cpu")))
    value.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return value.detach(), grads


def assert_layouts_agree(model, loss, before):
    """Padded in the model's own attention, and shared; both with the own head and with the model's logits."""
    results = []
    for attention, lay_out in ((before, pad), (PREFIX_SHARED, share)):
        model.set_attn_implementation(attention)
        for loss.uses_own_head in (True, False):
            results.append(value_and_gradients(model, loss, lay_out(EXAMPLES, range(4), WEIGHTS)))
    (expected, expected_grads), *others = results
    assert len(expected_grads) > 10
    for value, grads in others:
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)
        assert grads.keys() == expected_grads.keys()
        for name, grad in expected_grads.items():
            size = float(grad.abs().max())
            torch.testing.assert_close(
                grads[name], grad, rtol=1e-3, atol=1e-4 * size + 1e-6, msg=lambda text, name=name: f"{name}: {text}"
            )


@pytest.mark.parametrize(("name", "fields"), [*SHARING.items(), *WINDOWED.items()])
def test_models_that_share_prefixes(name, fields, caplog):
    model = model_of(name, **fields)
    before = model.config._attn_implementation
    shares, loss = chosen(model)
    assert (shares, loss.uses_own_head) == (True, True)
    assert warned(caplog) == []
    assert model.config._attn_implementation == PREFIX_SHARED
    assert_layouts_agree(model, loss, before)


@pytest.mark.parametrize("name", WINDOWED)
def test_a_window_makes_a_difference_in_these_rows(name):
    """The negative control: a window that was ignored would be noticed."""
    values = []
    for window in (4, 100):
        model = model_of(name, **{**WINDOWED[name], "sliding_window": window})
        shares, loss = chosen(model)
        assert shares
        values.append(float(value_and_gradients(model, loss, share(EXAMPLES, range(4), WEIGHTS))[0]))
    assert values[0] != pytest.approx(values[1], rel=1e-3)


@pytest.mark.parametrize("name", PADDED)
def test_models_that_need_rows_on_lines_of_their_own(name, caplog):
    model = model_of(name, **PADDED[name])
    before = model.config._attn_implementation
    shares, loss = chosen(model)
    assert (shares, loss.uses_own_head) == (False, True)
    assert [text.split(": ")[1] for text in warned(caplog)] == ["rows are padded"]
    assert model.config._attn_implementation == before


class NoKeywords(nn.Module):
    """A head-sized wrapper around attention that does not pass keywords on, as some models' layers do."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, hidden_states, position_embeddings, attention_mask=None, **kwargs):
        return self.attention(hidden_states, position_embeddings=position_embeddings, attention_mask=attention_mask)


def test_a_model_that_does_not_pass_the_rows_on(caplog):
    model = model_of("Llama")
    for layer in model.model.layers:
        layer.self_attn = NoKeywords(layer.self_attn)
    shares, loss = chosen(model)
    assert (shares, loss.uses_own_head) == (False, True)
    (text,) = warned(caplog)
    assert "tree" in text
    assert model.config._attn_implementation == "sdpa"
    value_and_gradients(model, loss, pad(EXAMPLES, range(4), WEIGHTS))


def with_other_logits(model, change):
    """A model whose forward does more to its logits than its head and its configuration say."""

    class Changed(type(model)):
        def forward(self, *args, labels=None, batch=None, **kwargs):
            output = super().forward(*args, **kwargs, **({} if batch is None else {"batch": batch}))
            output.logits = change(output.logits)
            if labels is not None:
                output.loss = self.loss_function(logits=output.logits, labels=labels, batch=batch)
            return output

    model.__class__ = Changed
    return model


@pytest.mark.parametrize("change", [lambda logits: logits * 0.9, lambda logits: logits.roll(1, -1)])
def test_logits_that_are_more_than_the_output_of_the_head(change, caplog):
    model = with_other_logits(model_of("Llama"), change)
    shares, loss = chosen(model)
    assert (shares, loss.uses_own_head) == (True, False)
    (text,) = warned(caplog)
    assert text.startswith("engine: the logits of all positions are computed at once: the gradient would be off by")
    shared, _ = value_and_gradients(model, loss, share(EXAMPLES, range(4), WEIGHTS))
    loss.uses_own_head = True
    wrong, _ = value_and_gradients(model, loss, share(EXAMPLES, range(4), WEIGHTS))
    assert not torch.isclose(shared, wrong, rtol=1e-3)
    loss.uses_own_head = False
    model.set_attn_implementation("sdpa")
    padded, _ = value_and_gradients(model, loss, pad(EXAMPLES, range(4), WEIGHTS))
    torch.testing.assert_close(padded, shared, rtol=1e-4, atol=1e-4)


def test_logits_that_are_changed_by_nothing_are_no_reason(caplog):
    """The negative control of the class above."""
    shares, loss = chosen(with_other_logits(model_of("Llama"), lambda logits: logits))
    assert (shares, loss.uses_own_head) == (True, True)
    assert warned(caplog) == []


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["Llama", "Mamba"])
def test_the_mode_and_the_weights_stay(name, training):
    model = model_of(name).train(training)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    chosen(model)
    assert model.training is training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def with_lora(model):
    """PEFT's model as training makes it: its B matrices begin at zero."""
    model.requires_grad_(False)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    use_fused(config)
    return get_peft_model(model, config)


def test_our_lora_layers_are_tried_too_and_leave_no_trace(caplog):
    peft_model = with_lora(model_of("Llama"))
    base = peft_model.get_base_model()
    before = {key: value.clone() for key, value in peft_model.state_dict().items()}
    found = choose_shortcuts(peft_model, base, SupervisedLoss(base), EXAMPLES, Execution(True, 1000))
    assert found.distances.keys() == {LORA, HEAD, probe.SHARING}
    assert all(distance < 1e-5 for distance in found.distances.values())
    assert (found.compared, found.dtype, found.refused) == ("gradient", "float32", {})
    assert all(torch.equal(value, before[key]) for key, value in peft_model.state_dict().items())
    assert all(p.grad is None for p in peft_model.parameters())
    assert {name for name, p in peft_model.named_parameters() if p.requires_grad} == {
        name for name, _ in peft_model.named_parameters() if "lora_" in name
    }
    assert warned(caplog) == []


@pytest.mark.parametrize("wrong", ["forward", "backward of A", "backward of B"])
def test_lora_layers_that_compute_something_else_are_not_used(wrong, caplog, monkeypatch):
    """Of a LoRA that begins at zero, a plain trial would not see what becomes of A."""
    right = lora._LoraLinear.apply

    def apply(x, weight, bias, lora_A, lora_B, scaling, places, probability):
        if wrong == "forward":
            scaling = scaling * 1.1
        elif wrong == "backward of A":
            lora_A = lora_A.detach() + (lora_A - lora_A.detach()) * 0.9
        else:
            lora_B = lora_B.detach() + (lora_B - lora_B.detach()) * 0.9
        return right(x, weight, bias, lora_A, lora_B, scaling, places, probability)

    monkeypatch.setattr(lora._LoraLinear, "apply", apply)
    peft_model = with_lora(model_of("Llama"))
    base = peft_model.get_base_model()
    found = choose_shortcuts(peft_model, base, SupervisedLoss(base), EXAMPLES, Execution(True, 1000))
    assert found.refused.keys() == {LORA}
    assert found.shares_prefixes
    assert not any(module.may_fuse for module in base.modules() if isinstance(module, lora.FusedLinear))
    (text,) = warned(caplog)
    assert text.startswith("engine: PEFT's own LoRA layers compute: the gradient would be off by")


@pytest.mark.parametrize("name", ["Llama", "Lfm2"])
def test_where_no_gradient_can_be_had_the_losses_of_the_tokens_decide(name, monkeypatch):
    monkeypatch.setattr(comparison, "is_sharded", lambda _: True)
    monkeypatch.setattr(probe, "reason_not_to_share", lambda _: None)
    model = model_of(name, **PADDED.get(name, {}))
    found = choose_shortcuts(model, model, SupervisedLoss(model), EXAMPLES, Execution(True, 1000))
    assert found.compared == "token losses"
    assert found.shares_prefixes == (name == "Llama")
    assert found.distances[HEAD] < 1e-6
    assert (found.distances[probe.SHARING] < 1e-6) == (name == "Llama")
    assert found.distances.get(PADDING, 0.0) < 1e-6


def test_rows_that_change_beside_others_are_computed_one_by_one(caplog, monkeypatch):
    """As those of a model that mixes the lines of a batch."""

    class Mixed(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, hidden):
            return self.inner(hidden) + hidden.mean(0, keepdim=True)

    monkeypatch.setattr(probe, "reason_not_to_share", lambda _: "a test")
    model = model_of("Llama")
    model.model.layers[0].mlp = Mixed(model.model.layers[0].mlp)
    found = choose_shortcuts(model, model, SupervisedLoss(model), EXAMPLES, Execution(True, 1000))
    assert not found.pads_exactly
    # One row at a time, whatever a measurement of the memory would allow.
    assert found.allowed(Execution(True, 1000, is_auto=True)) == Execution(False, 1)
    assert warned(caplog)[-1].startswith("engine: rows are computed one by one: the gradient would be off by")


def test_the_device_is_that_of_what_is_trained():
    """PEFT's originals, the first of all weights, have left it."""
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    model = get_peft_model(model_of("Llama"), config)
    base = model.get_base_model()
    for module in (base.get_input_embeddings(), base.get_output_embeddings()):
        module.original_module.to("meta")
    assert next(base.parameters()).device.type == "meta"
    assert choose_shortcuts(model, base, SupervisedLoss(base), EXAMPLES, Execution(True, 1000)).shares_prefixes
    assert comparison.computed_in(base) is torch.float32


def test_nothing_is_tried_where_sharing_is_not_wanted(caplog):
    model = model_of("Llama")
    shares, loss = chosen(model, may_share=False)
    assert (shares, loss.uses_own_head) == (False, True)
    assert model.config._attn_implementation == "sdpa"
    assert warned(caplog) == []


def test_dropout_does_not_disturb_the_trial():
    model = model_of("Llama", attention_dropout=0.5).train()
    shares, loss = chosen(model)
    assert (shares, loss.uses_own_head) == (True, True)


@pytest.mark.parametrize("number_format", [torch.bfloat16, torch.float16])
def test_in_sixteen_bits(number_format, caplog):
    model = model_of("Llama", initializer_range=0.05).to(number_format)
    shares, loss = chosen(model)
    assert (shares, loss.uses_own_head) == (True, True)
    assert warned(caplog) == []


@pytest.mark.parametrize("rows", [[([1], [2])], [([1, 5], [2]), ([1], [6, 2])]])
def test_very_few_tokens(rows):
    """Two rows of 16 and 20 are made of whatever there is."""
    shares, loss = chosen(model_of("Llama"), examples=examples_of(*rows))
    assert (shares, loss.uses_own_head) == (True, True)


@pytest.mark.parametrize(
    "rows",
    [
        [([7] * 70, [2]), ([1, 5, 6, 7, 8], [9, 2]), ([1, 5, 6, 7, 10], [11, 2])],  # the first row repeats itself
        [([1, 5, 6], [7, 2]), ([1, 5, 6, 8], [9, 2])],  # 11 tokens: repeated, 30 to 42 go on as 8 to 20 do
        [([1, 5, 6], [7, 2]), ([1, 5, 6, 8, 9, 10, 11, 12], [13, 2])],  # 11 different ones
        [(list(range(3, 23)), [1, 2]), ([3, 4, 5], [2])],  # 22 different ones
    ],
)
def test_rows_that_repeat_themselves_tell_a_recurrent_model_all_the_same(rows):
    examples = examples_of(*rows)
    shares, _ = chosen(model_of("Mamba"), examples=examples)
    assert not shares


def test_a_model_whose_decoder_transformers_does_not_find(caplog):
    """`get_decoder` of a Llama 4 without vision gives the whole model (transformers 5.23)."""
    model = model_of("Llama4Text", num_local_experts=2, intermediate_size_mlp=48)
    layout = pad(EXAMPLES, range(4), WEIGHTS)
    logits = model(
        input_ids=torch.from_numpy(layout.input_ids), attention_mask=torch.from_numpy(layout.attention_mask)
    ).logits
    flat = logits[:, layout.keep].flatten(0, 1)[layout.positions]
    nll = nn.functional.cross_entropy(flat, torch.from_numpy(layout.targets), reduction="none")
    shares, loss = chosen(model)
    value, _ = value_and_gradients(model, loss, share(EXAMPLES, range(4), WEIGHTS) if shares else layout)
    torch.testing.assert_close(value, (nll * torch.from_numpy(layout.weights)).sum().detach(), rtol=1e-4, atol=1e-4)
