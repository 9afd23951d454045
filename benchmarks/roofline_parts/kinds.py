"""What an operation is for, by its name and by the module that it belongs to."""

from tests.fake_cuda.trace import Op

from roofline_parts.devices import ATTENTION

BASE, HEAD = "base GEMM", "head GEMM"
ATTENDS = "attention"
NORM = "RMSNorm"
CASTS, DROPOUT, PRODUCTS, ADDED = "LoRA casts", "LoRA dropout", "LoRA products", "LoRA scale/add"
SWIGLU = "SwiGLU"
ADDS = "residual and gradient adds"
LOSS = "loss"
ROPE = "RoPE"
GATHERS = "prefix-tree gathers"
STEP = "optimizer, clip"
OTHER = "other"
COMPILED = "compiled: all else of the layers"
KINDS = (BASE, ATTENDS, NORM, CASTS, DROPOUT, PRODUCTS, ADDED, SWIGLU, ADDS, HEAD, LOSS, ROPE, GATHERS, STEP, OTHER)

_GEMM = ("mm", "addmm", "bmm", "addmm_", "baddbmm")
_GATHERS = ("index_select", "_embedding_bag_forward_only")


def kind_of(op: Op) -> str:
    """One of `KINDS`."""
    if op.name in ATTENTION:
        return ATTENDS
    if op.phase == "step":
        return STEP
    return _outside(op) if op.layer is None else _inside(op)


def _outside(op: Op) -> str:
    """Of what is not in a decoder layer."""
    last = op.path.rpartition(".")[2]
    if op.name in _GEMM:
        return HEAD
    if last in ("norm", "rotary_emb"):
        return NORM if last == "norm" else ROPE
    return LOSS if last in ("lm_head", "model") or "default" in op.path else OTHER


def _inside(op: Op) -> str:
    """Of a decoder layer."""
    last = op.path.rpartition(".")[2]
    if op.name in _GEMM:
        return PRODUCTS if ".lora_" in op.path else BASE
    if op.name.startswith("native_dropout"):
        return DROPOUT
    if "layernorm" in last:
        return ADDS if op.name == "add" and op.node == "ToCopyBackward0" else NORM
    if op.name == "add" and op.node:
        return ADDS if last != "self_attn" else ROPE
    return _of_projection(op, last)


def _of_projection(op: Op, last: str) -> str:
    if ".lora_" in op.path or last.endswith("_proj") or last == "base_layer":
        return CASTS if op.name == "_to_copy" else ADDED
    if last in ("mlp", "act_fn"):
        return SWIGLU
    if last == "self_attn":
        return GATHERS if op.name in _GATHERS else ROPE
    return ADDS
