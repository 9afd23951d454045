"""Every causal language model of the installed transformers, made tiny, trained for a step and merged.

`walked` does all of it for one family and dtype, in this process and through the product's own functions, and compares
with plain transformers and PEFT. `test_models_*.py` beside it run it; `docs/models.md` is what came out.
"""

import contextlib
import io
import logging
import math
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from peft import PeftModel
from safetensors.torch import save_file
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.invariants.families import PADDED, SHARING, rows
from yangtuo.config.schema import LoraArguments, ModelArguments
from yangtuo.engine import probe
from yangtuo.engine.batch_tensors import Batch
from yangtuo.engine.comparison import distance
from yangtuo.engine.layout import pad, share
from yangtuo.engine.loss import SupervisedLoss, weighted_sum
from yangtuo.engine.steps import Execution
from yangtuo.engine.tolerance import gradient_limit
from yangtuo.errors import UserError, one_line
from yangtuo.exporting.gguf.model import architecture
from yangtuo.exporting.plain_lora import lora_of
from yangtuo.merging import edits, fit, tensor_proof, verify
from yangtuo.merging import plan as merge_plan
from yangtuo.model import adapter_files, adapter_state, adapters, base, lora_targets, processor
from yangtuo.model.architecture import modules_of
from yangtuo.model.mergeable import check_mergeable
from yangtuo.model.provenance import WEIGHTS_FILE
from yangtuo.model.stored_weights import StoredWeights, open_stored

FAMILIES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
# Of those whose layers have the names of a LLaMA, or of another family, and compute something else.
OF_THEIR_OWN = (
    *("llama", "qwen3", "olmo2", "granite", "smollm3", "cohere2", "helium", "bitnet", "diffllama", "hrm_text"),
    *("gemma2", "gemma3_text", "gemma3n_text", "gemma4_text", "recurrent_gemma", "stablelm", "falcon", "gpt_neox"),
    *("opt", "mamba", "llama4_text", "deepseek_v3", "mixtral", "qwen3_moe", "granitemoehybrid"),
)
MOST_WEIGHTS = 10_000_000  # of a family that calls its sizes otherwise
_SIZES = {
    **{"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False, "is_decoder": True},
    **{"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    **{"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1},
    **{"decoder_sparse_step": 1, "shared_expert_intermediate_size": 24, "q_lora_rank": 16, "kv_lora_rank": 16},
    **{"qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "decoder_layers": 2, "decoder_ffn_dim": 48},
    **{"decoder_attention_heads": 4, "encoder_layers": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 48},
    **{"d_model": 32, "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2},
    **{"linear_num_value_heads": 4, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
}
_SPARSE = {"num_key_value_heads": 4, "head_dim": 8, "index_n_heads": 2, "index_head_dim": 16, "index_topk": 8}
_OWN = {
    **{kind: {"num_hidden_layers": 3, **values} for kind, values in {**SHARING, **PADDED}.items() if values},
    **{kind: _SPARSE for kind in ("axk1", "axk2", "deepseek_v2", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa")},
    **{"youtu": _SPARSE, "codegen": {"rotary_dim": 8}, "gptj": {"rotary_dim": 8}},
    "helium": {"head_dim": 8},
    "nemotron_h": {"mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 1},
    "kimi_linear": {
        **{"num_key_value_heads": 4, "head_dim": 8, "linear_head_dim": 16, "linear_num_heads": 4},
        "layer_types": ["linear_attention", "full_attention"],
    },
    "falcon": {"num_kv_heads": 2, "head_dim": None},
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "recurrent_gemma": {"num_hidden_layers": 3, "lru_width": 32},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "gemma3n_text": {
        **{"sliding_window": 24, "num_hidden_layers": 5, "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8},
        **{"vocab_size_per_layer_input": 300, "laurel_rank": 4, "altup_num_inputs": 2},
        **{"activation_sparsity_pattern": None, "intermediate_size": [48] * 5},
        "layer_types": [*("sliding_attention", "full_attention"), *("sliding_attention",) * 2, "full_attention"],
    },
    "gemma4_text": {"vocab_size_per_layer_input": 300, "hidden_size_per_layer_input": 8, "sliding_window": 24},
}
_PROBES = [[*range(3, 27)], [*range(200, 224)]]


class LeftOut(Exception):
    """Why a family was not tried, or is refused by the product before the first step."""


@dataclass(frozen=True)
class Walked:
    """What came out for one family.

    Attributes:
        rows: "shared", "padded" or "one by one".
        targets: what gets LoRA matrices by default.
        gguf: whether llama.cpp's format knows it.
        pure_lora: whether vLLM's kind of adapter can be made.
        loss: distance of the loss of the first step from plain transformers and PEFT, relative.
        gradient: of its gradient.
        merged: of the merged model's logits from PEFT's, as a part of what rounding explains.
        chooses: whether parts of it are chosen by the largest of some numbers, as experts are.
    """

    rows: str
    targets: str
    gguf: bool
    pure_lora: bool
    loss: float
    gradient: float
    merged: float
    chooses: bool


def config_of(kind: str) -> transformers.PreTrainedConfig:
    """A tiny one of that family."""
    try:
        usual = AutoConfig.for_model(kind)
        names = {*usual.to_dict(), *getattr(usual, "attribute_map", {})}
        own = _OWN.get(kind, {})
        values = {name: value for name, value in {**_SIZES, **own}.items() if name in names}
        config = AutoConfig.for_model(kind, **{name: value for name, value in values.items() if value is not None})
        if config.get_text_config() is not config:
            raise LeftOut("reads more than text; see Multimodal bases")
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except LeftOut:
        raise
    except Exception as error:
        raise LeftOut(f"not made tiny: {one_line(error, 90)}") from error
    if (num := sum(weight.numel() for weight in model.parameters())) > MOST_WEIGHTS:
        raise LeftOut(f"not made tiny: {num / 1e6:,.0f} M weights")
    return config


def write_base(kind: str, folder: Path, dtype: torch.dtype) -> None:
    """A folder with random weights, written by transformers."""
    config = config_of(kind)
    draws = torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    embedding = model.get_input_embeddings().weight
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() >= 2:
                size = 0.5 if weight is embedding else 1 / math.sqrt(weight.shape[-1])
                weight.copy_(torch.randn(weight.shape, generator=draws) * size)
    model.to(dtype).save_pretrained(folder)


def write_adapter(folder: Path, kind: str, at: Path, dtype: torch.dtype) -> adapter_state.Adapter:
    """The default LoRA on the base in `folder`, with matrices that are not zero, saved as PEFT loads it."""
    try:
        model = base.load(folder, processor.Precision(dtype), ModelArguments())
        adapter = adapters.attach_new(model, LoraArguments(lora_rank=4, lora_dropout=0.0))
        check_mergeable(folder, adapter.model, trust_remote_code=False)
    except UserError as error:
        raise LeftOut(_refused(str(error).replace(f"{folder}: ", ""))) from error
    weights = adapter_state.trained_parameters(adapter)
    draws = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(torch.randn(weight.shape, generator=draws) * (0.02 if "lora_B" in name else 0.2))
    at.mkdir()
    save_file(adapter_state.to_file(adapter, weights), at / WEIGHTS_FILE, {"format": "pt"})
    adapter_state.file_config(adapter).save_pretrained(str(at))
    return adapter


def walked(kind: str, folder: Path, dtype: torch.dtype) -> Walked:
    """Train it for a step, merge it, and compare.

    Raises:
        LeftOut: it cannot be made tiny, or the product refuses it before the first step.
    """
    transformers.utils.logging.set_verbosity_error()
    with _silence(), warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        source, at, merged = folder / "base", folder / "adapter", folder / "merged"
        write_base(kind, source, dtype)
        adapter = write_adapter(source, kind, at, dtype)
        how, loss, gradient = _step(adapter, dtype)
        reference = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(source, dtype=dtype), at, is_trainable=True
        )
        expected_loss, expected = _plain_step(reference.eval())
        names = adapter_state.trained_parameters(adapter)
        by_name = dict(reference.named_parameters())
        assert names.keys() <= by_name.keys()
        found = distance(gradient, [expected[name] for name in names])
        stored, plan = _planned(source, at)
        share_of_limit = _merge(stored, plan, merged, reference)
        config = reference.get_base_model().config
        targets = lora_targets.resolve(LoraArguments(), modules_of(config))
        return Walked(
            how,
            ", ".join(sorted({*targets.modules, *(name.removesuffix(".weight") for name in targets.parameters)})),
            _is_known(lambda: architecture(source, config)),
            _is_known(lambda: lora_of(plan.last, "x")),
            abs(loss - expected_loss) / abs(expected_loss),
            found,
            share_of_limit,
            verify._chooses(stored.model),
        )


def _refused(text: str) -> str:
    """What is said, without the advice."""
    return f"refused: {one_line(text.split('; ')[0], 200)}"


@contextlib.contextmanager
def _silence():
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _step(adapter: adapter_state.Adapter, dtype: torch.dtype) -> tuple[str, float, list[torch.Tensor]]:
    """How the engine lays rows out, the loss of a step, and its gradient."""
    model, examples = adapter.model.eval(), rows()
    plain = model.get_base_model()
    loss = SupervisedLoss(plain)
    try:
        chosen = probe.choose_shortcuts(model, plain, loss, examples, Execution(True, 1000))
    except UserError as error:
        raise LeftOut(_refused(str(error))) from error
    every = list(range(len(examples)))
    weights = torch.ones(len(every)).numpy()
    if chosen.shares_prefixes:
        layouts = [share(examples, every, weights)]
    elif chosen.pads_exactly:
        layouts = [pad(examples, every, weights)]
    else:
        layouts = [pad(examples, [i], weights[i : i + 1]) for i in every]
    trained = list(adapter_state.trained_parameters(adapter).values())
    total, gradient = 0.0, [torch.zeros_like(weight) for weight in trained]
    for layout in layouts:
        value = weighted_sum(model, loss, Batch.of(layout, torch.device("cpu")))
        found = torch.autograd.grad(value, trained, allow_unused=True)
        gradient = [a if b is None else a + b.float() for a, b in zip(gradient, found, strict=True)]
        total += float(value)
    how = "shared" if chosen.shares_prefixes else "padded" if chosen.pads_exactly else "one by one"
    return how, total, gradient


def _plain_step(model: torch.nn.Module) -> tuple[float, dict[str, torch.Tensor]]:
    """The same with plain transformers and PEFT: row by row, since not every family may be padded."""
    examples, total = rows(), 0.0
    trained = {name: p for name, p in model.named_parameters() if "lora_" in name}
    for p in trained.values():
        p.requires_grad_(True)
    for i in range(len(examples)):
        ids = torch.from_numpy(examples.row(i)[0]).long()[None]
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        loss = functional.cross_entropy(logits[0, :-1].float(), ids[0, 1:], reduction="sum")
        loss.backward()
        total += float(loss)
    return total, {n: torch.zeros_like(p) if p.grad is None else p.grad.float() for n, p in trained.items()}


def _planned(source: Path, at: Path) -> tuple[StoredWeights, merge_plan.Plan]:
    stored = open_stored(source)
    return stored, merge_plan.plan(stored, [adapter_files.read(str(at))], fit.Allowed())


def _merge(stored: StoredWeights, plan: merge_plan.Plan, merged: Path, reference: PeftModel) -> float:
    """Merge; returns the distance of its logits from PEFT's, as a part of what rounding explains."""
    merged.mkdir()
    edits.write(stored, plan.chain, merged, None)
    shutil.copy(stored.folder / "config.json", merged)
    again = open_stored(merged)
    tensor_proof.prove_tensors(stored, plan.chain, again, None)
    proof = verify.prove_logits(stored, plan, again, _PROBES)
    # And in plain transformers, which loads the folder as any other.
    ids = torch.tensor(_PROBES)
    with torch.no_grad():
        of_peft = reference.float()(input_ids=ids, use_cache=False).logits
        plain = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()
        of_merged = plain(input_ids=ids, use_cache=False).logits
    off = verify._taken((of_peft - of_merged).abs().amax(-1), verify._chooses(plain))
    return max(off, proof.max_difference) / max(proof.limit, 1e-4 * float(of_peft.abs().max()))


def _is_known(make) -> bool:
    try:
        make()
    except UserError:
        return False
    return True


def check(found: Walked, dtype: torch.dtype) -> None:
    """Compare with what rounding explains. In 16 bits a token may go to another expert, by its neighbours' rounding."""
    is_full = dtype is torch.float32
    assert found.loss < (1e-5 if is_full else 3e-3)
    assert found.gradient < (0.25 if found.chooses and not is_full else gradient_limit(dtype))
    assert found.merged <= 1


def trained_families(text: str) -> dict[str, tuple[str, ...]]:
    """Families of the first table of docs/models.md, each with its other cells."""
    table = text.partition(_TRAINED)[2].partition(_LEFT_OUT)[0]
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `")]
    return {kind.strip("`"): tuple(cells) for kind, *cells in lines}


def sample(text: str) -> list[str]:
    """One family of each way to lay rows out and of each set of layers, and `OF_THEIR_OWN`.

    Args:
        text: docs/models.md, which says both of every family that can be trained.
    """
    kinds: dict[tuple[str, ...], str] = {}
    families = trained_families(text)
    for kind, (rows_are, targets, *_) in families.items():
        kinds.setdefault((rows_are, targets), kind)
    return [kind for kind in families if kind in kinds.values() or kind in OF_THEIR_OWN]


_USUAL = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
_TRAINED, _LEFT_OUT = "| family | rows |", "| family | why |"  # how the tables begin


def page(text: str, found: Mapping[str, Walked | str]) -> str:
    """docs/models.md with these tables."""
    trained = [
        (f"`{kind}`", each.rows, "usual" if each.targets == _USUAL else each.targets, "yes", each.pure_lora, each.gguf)
        for kind, each in found.items()
        if isinstance(each, Walked)
    ]
    left_out = [(f"`{kind}`", each.replace("|", "/")) for kind, each in found.items() if isinstance(each, str)]
    return _with_table(_with_table(text, _TRAINED, trained), _LEFT_OUT, left_out)


def _with_table(text: str, begins: str, rows: Sequence[Sequence[str | bool]]) -> str:
    before, head, rest = text.partition(begins)
    line, rule, *others = rest.splitlines()
    after = others[next((i for i, each in enumerate(others) if not each.startswith("|")), len(others)) :]
    cells = [["yes" if cell is True else "no" if cell is False else cell for cell in row] for row in rows]
    lines = [f"{head}{line}", rule, *(f"| {' | '.join(row)} |" for row in cells), *after]
    return before + "\n".join(lines) + "\n"
