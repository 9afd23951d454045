"""What a step asks of a CUDA device, without one: kernels, dtypes, waits. See docs/gpu.md.

Each test also looks at a twin in which something is undone, and has to see it.
"""

import math

import pytest

from tests.fake_cuda.shapes import SHAPES

NARROW = ("LoRA", "full", "checkpointed", "float16")
HIDDEN, INTERMEDIATE = SHAPES["tiny"]["hidden_size"], SHAPES["tiny"]["intermediate_size"]
NUM_LAYERS = SHAPES["tiny"]["num_hidden_layers"]
PASSES = ("forward", "backward", "recomputed")
PRODUCTS = ("mm", "addmm", "addmm_", "bmm", "baddbmm", "matmul")


def named(trace, name, *phases):
    return [op for op in trace.of(*phases or PASSES) if op.name == name]


# ---- attention


@pytest.mark.parametrize("run", ["LoRA", "full", "float16"])
def test_rows_go_through_the_kernel_for_rows_end_to_end_once_a_layer(traces, run):
    assert len(named(traces[run], "_varlen_attn")) == len(named(traces[run], "_varlen_attn_backward")) == NUM_LAYERS


def test_with_checkpointing_it_is_twice(traces):
    assert len(named(traces["checkpointed"], "_varlen_attn", "forward")) == NUM_LAYERS
    assert len(named(traces["checkpointed"], "_varlen_attn", "recomputed")) == NUM_LAYERS


def test_an_embedding_in_float32_would_lose_it(traces):
    assert named(traces["full, wide"], "_varlen_attn") == []


def pairs_of_places(trace):
    """Tensors of the device with all pairs of a row's tokens."""
    blocks = {max(trace.lengths), *trace.lengths}
    shapes = {value.shape for op in trace.of(*PASSES) for value in op.outs if value.device == "cuda"}
    return [s for s in shapes if len(s) > 2 and s[-1] == s[-2] and s[-1] in blocks]


def test_heads_in_groups_keep_no_products_of_all_pairs_before_ampere(traces):
    turing = traces["Turing"]
    assert pairs_of_places(turing) == []
    assert named(turing, "_varlen_attn") == []
    assert len(named(turing, "attention")) >= NUM_LAYERS


def test_without_keys_for_each_head_they_would(traces):
    assert pairs_of_places(traces["Turing, in groups"]) != []


# ---- waiting


@pytest.mark.parametrize("run", NARROW)
def test_the_host_waits_for_nothing_in_forward_and_backward(traces, run):
    waits = {op.wait for op in traces[run].of(*PASSES)}
    assert waits == {"", "cpu to cuda, non_blocking"}


@pytest.mark.parametrize("run", NARROW)
def test_it_waits_four_times_a_step_outside(traces, run):
    """For whether the loss is finite before the last backward, and for loss, norm and learning rate in the log."""
    trace = traces[run]
    assert [op.wait for op in trace.of("between") if op.wait] == ["item"]
    assert len([op for op in trace.of("step") if op.wait]) <= 4


def test_a_wait_would_be_seen(traces):
    assert "item" in {op.wait for op in traces["waiting"].of("forward")}


def test_each_kind_of_wait_is_known(traces):
    assert [op.wait for op in traces["waits"].ops if op.wait] == [
        "item",
        "cuda to cpu, blocking",
        "cpu to cuda, blocking",
        "cpu to cuda, non_blocking",
        "cpu to cuda, blocking",
        "boolean index",
    ]


# ---- numbers of 16 bits


def wide_products(trace):
    """Of float32 matrices; what a product is added to may be in float32."""
    return [op for op in trace.of(*PASSES) if op.name in PRODUCTS and any(v.dtype == "float32" for v in op.ins[-2:])]


@pytest.mark.parametrize("run", NARROW)
def test_no_matrix_product_is_in_float32(traces, run):
    assert wide_products(traces[run]) == []
    assert [op for op in traces[run].of(*PASSES) if op.name in PRODUCTS]


def wide_activations(trace):
    """Where a float32 tensor as wide as the residual stream or the MLP comes from, for each cell or prediction.

    Allowed: within a norm, forward and backward; the loss's gradient, which is multiplied in float32 by what arrives;
    and the gradient of the embedding, where that is trained, since its weight is float32.
    """
    rows = {trace.cells, trace.predictions, sum(trace.lengths)}
    return {
        (op.path, op.name, op.node)
        for op in trace.of(*PASSES)
        for value in op.outs
        if value.dtype == "float32"
        and value.shape[-1:] in ((HIDDEN,), (INTERMEDIATE,))
        and math.prod(value.shape[:-1]) in rows
        and not op.path.endswith("norm")
        and op.node != "_LossAndGradientBackward"
        and ".embed_tokens" not in op.path
    }


@pytest.mark.parametrize("run", NARROW)
def test_activations_are_float32_within_norms_only(traces, run):
    assert wide_activations(traces[run]) == set()


def test_they_are_so_where_the_base_is_in_the_other_16_bits(traces):
    assert wide_activations(traces["float16 over bfloat16"]) == set()


def test_wide_ones_would_be_seen(traces):
    assert any("lora_dropout" in path for path, _, _ in wide_activations(traces["LoRA, wide"]))
    assert any(path.endswith(".layers.1") for path, _, _ in wide_activations(traces["full, wide"]))


def dtypes_of_dropout(trace):
    names = ("native_dropout", "native_dropout_backward")
    return {op.outs[0].dtype for name in names for op in named(trace, name)}


@pytest.mark.parametrize(
    ("run", "dtype"), [("LoRA", "bfloat16"), ("full", "bfloat16"), ("checkpointed", "bfloat16"), ("float16", "float16")]
)
def test_dropout_is_in_16_bits(traces, run, dtype):
    assert dtypes_of_dropout(traces[run]) == {dtype}


def test_dropout_in_float32_would_be_seen(traces):
    assert dtypes_of_dropout(traces["LoRA, wide"]) == {"float32"}


# ---- gathers and the loss


def of_layers(trace, *names):
    return [op for op in trace.of(*PASSES) if op.layer is not None and op.name in names]


@pytest.mark.parametrize("run", ["LoRA", "full", "float16"])
def test_gradients_of_shared_cells_are_added_by_one_kernel_in_a_fixed_order(traces, run):
    """Of q, k, v and of what is taken back; `index_add` would add in 16 bits, in whatever order."""
    assert len(of_layers(traces[run], "_embedding_bag_forward_only")) == 4 * NUM_LAYERS
    assert of_layers(traces[run], "index_add", "index_add_", "index_put", "index_put_", "select_backward") == []


def test_rows_that_share_nothing_are_not_copied(traces):
    assert of_layers(traces["apart"], "index_select", "_embedding_bag_forward_only") == []
    assert of_layers(traces["LoRA"], "index_select") != []
    assert len(named(traces["apart"], "_varlen_attn")) == NUM_LAYERS


@pytest.mark.parametrize("run", NARROW)
def test_a_chunk_of_the_loss_is_a_few_passes_over_its_logits(traces, run):
    vocabulary = SHAPES["tiny"]["vocab_size"]
    passes = [
        op.name
        for op in traces[run].of("forward")
        if op.kernels and op.outs and op.outs[0].shape == (traces[run].predictions, vocabulary)
    ]
    cast = (
        [] if run == "float16" else ["_to_copy"]
    )  # of bfloat16, torch's log-softmax makes float32 in a pass of its own
    assert sorted(name for name in passes if name != "mm") == sorted(["_log_softmax", "exp", "scatter_", *cast])


def test_the_gradient_of_a_trained_head_is_one_product_added_in_float32(traces):
    shape = SHAPES["tiny"]["vocab_size"], HIDDEN
    made = [op for op in traces["full"].of("forward") if op.kernels and any(v.shape == shape for v in op.outs)]
    of_gradient = [op for op in made if op.name in PRODUCTS]
    assert [(op.outs[0].dtype, op.ins[-1].dtype) for op in of_gradient] == [("float32", "bfloat16")]
    assert {op.name for op in made} <= {"addmm", "_to_copy", "zeros_like"}


def test_what_peft_keeps_beside_trained_modules_leaves_the_device(traces):
    size = 2 * SHAPES["tiny"]["vocab_size"] * HIDDEN  # bytes, of embedding and head each
    assert traces["full, originals too"].steady - traces["full"].steady == 2 * size


# ---- places and counts


@pytest.mark.parametrize("run", NARROW)
def test_no_operation_mixes_devices_but_copies(traces, run):
    mixed = [
        op
        for op in traces[run].of(*PASSES, "step")
        if op.name not in ("_to_copy", "copy_")
        and len({value.device for value in (*op.ins, *op.outs) if value.shape}) > 1
    ]
    assert mixed == []


def kernels_of_a_layer(traces, phase):
    return traces["LoRA"].kernels(phase) - traces["shallower"].kernels(phase)


# As counted on 2026-11-29. Fewer is better: lower the bound then; docs/gpu.md says what each kernel is for.
@pytest.mark.parametrize(("phase", "bound"), [("forward", 91), ("backward", 136)])
def test_kernels_of_a_layer(traces, phase, bound):
    assert kernels_of_a_layer(traces, phase) <= bound


def test_casts_of_activations_would_exceed_the_bound(traces):
    assert traces["LoRA, wide"].kernels("forward") > traces["LoRA"].kernels("forward") + 7 * NUM_LAYERS


# ---- the run before the first step


def test_free_memory_is_asked_for_with_the_model_on_the_device(traces):
    for run in NARROW:
        trace = traces[run]
        assert trace.model_bytes > 0
        assert trace.free_when_asked == (640 << 30) - trace.model_bytes
