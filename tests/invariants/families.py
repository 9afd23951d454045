"""Model families by what they can share, tiny and random; as a program, the table of their gradients' distances.

    python -m tests.invariants.families

For each family and dtype: how far the gradient of the trained LoRA weights is off where two rows share their prefix, as
a part of its size. The trial before a run draws its limit between the two groups.
"""

import logging
import math
import sys
import warnings

import numpy as np
import torch
import transformers
from peft import LoraConfig, get_peft_model

from yangtuo.data.examples import Examples

_SIZES = {
    **{"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False},
}
_EXPERTS = {
    **{"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    **{"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1},
    **{"decoder_sparse_step": 1, "shared_expert_intermediate_size": 24},
}
_LATENT = {  # DeepSeek's attention
    **{"num_key_value_heads": 4, "head_dim": 8, "q_lora_rank": 16, "kv_lora_rank": 16},
    **{"qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16},
}
_LINEAR = {
    **{"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    **{"linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4},
}
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 16}
_ERNIE_EXPERTS = {"moe_num_experts": 4, "moe_k": 2, "moe_layer_start_index": 1, "moe_num_shared_experts": 1}

_PLAIN = (
    *("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "smollm3", "olmo2", "olmo3", "granite"),
    *("internlm3", "glm", "glm4", "cohere2", "hunyuan_v1_dense", "ernie4_5", "seed_oss", "exaone4", "starcoder2"),
    "apertus",
)
_MIXED = ("qwen2_moe", "qwen3_moe", "glm4_moe", "minimax_m2", "hy_v3", "hunyuan_v1_moe", "mixtral", "granitemoe")

SHARING: dict[str, dict] = {
    **{kind: {} for kind in _PLAIN},
    **{kind: _EXPERTS for kind in _MIXED},
    "olmoe": {**_EXPERTS, "head_dim": 8},
    "ernie4_5_moe": {**_EXPERTS, **_ERNIE_EXPERTS},
    "minicpm3": _LATENT,
    "deepseek_v3": {**_EXPERTS, **_LATENT},
}
PADDED: dict[str, dict] = {
    "qwen3_next": {**_EXPERTS, **_LINEAR, "partial_rotary_factor": 0.5},
    "qwen3_5_text": _LINEAR,
    "qwen3_5_moe_text": {**_EXPERTS, **_LINEAR},
    "minimax": {**_EXPERTS, "layer_types": _LINEAR["layer_types"]},
    "bailing_hybrid": {**_EXPERTS, **_LINEAR, **_LATENT},
    "olmo_hybrid": {},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "falcon_h1": {**_MAMBA, "mamba_d_ssm": 64},
    "bamba": {**_MAMBA, "mamba_n_heads": 8, "mamba_d_head": 8, "attn_layer_indices": [1]},
    "granitemoehybrid": {**_EXPERTS, **_MAMBA, "layer_types": ["mamba", "attention", "mamba"], "mamba_d_head": 16},
    "mamba2": {"num_heads": 4, "head_dim": 16, "state_size": 16, "n_groups": 1},
    "gpt_oss": _EXPERTS,
    "mimo_v2_flash": _EXPERTS,
    "zaya": {},
}


def model_of(kind: str, dtype: torch.dtype) -> torch.nn.Module:
    """PEFT's model: a base with random weights and LoRA on its linear layers, on which neither matrix is zero."""
    transformers.utils.logging.set_verbosity_error()  # on kernels that are not installed
    changes = {**SHARING, **PADDED}[kind]
    config = transformers.AutoConfig.for_model(kind, **{**_SIZES, **changes})
    draws = torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in base.named_parameters():
            if weight.dim() >= 2:
                size = 0.5 if "embed" in name else 1 / math.sqrt(weight.shape[-1])
                weight.copy_(torch.randn(weight.shape, generator=draws) * size)
    base = base.to(dtype).requires_grad_(False)
    linear = {name.rsplit(".", 1)[-1] for name, each in base.named_modules() if isinstance(each, torch.nn.Linear)}
    # Routers choose; PEFT refuses Mamba's output layers.
    targets = sorted(linear - {"lm_head", "gate", "router", "out_proj"})
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=draws) * (0.02 if "lora_B" in name else 0.2))
    return model.eval()


def rows() -> Examples:
    """Three rows with a common beginning."""
    draws = np.random.default_rng(0)
    begin = draws.integers(3, 300, 10)
    ids = [np.array([1, *begin, *draws.integers(3, 300, 14)], dtype=np.int32) for _ in range(3)]
    return Examples.of_rows(ids, [np.ones(len(row)) for row in ids])


def table() -> None:
    """Print it."""
    from tests.invariants.test_families import tried

    sys.stdout.write(f"{'':20}{'float32':>12}{'bfloat16':>12}{'float16':>12}\n")
    for kind in (*SHARING, *PADDED):
        found = [tried(kind, dtype)[0] for dtype in (torch.float32, torch.bfloat16, torch.float16)]
        told = "".join(f"{'refused' if value is None else f'{value:.2g}':>12}" for value in found)
        sys.stdout.write(f"{kind:20}{told}  {'shares' if kind in SHARING else 'padded'}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # why each one is padded
    warnings.simplefilter("ignore")
    table()
