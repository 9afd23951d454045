"""What all contenders share."""

# TRL recomputes activations by default; its _fast variants keep them, as ours and the seed do.
CONTENDERS = ("ours", "seed", "trl", "trl_packed", "trl_fast", "trl_packed_fast")
ON_REQUEST = ("ours_compiled",)  # compared where --contenders names them
FORMATS = ("float32", "bfloat16")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LORA_RANK, LORA_ALPHA, LORA_DROPOUT = 8, 32, 0.05
LEARNING_RATE, SEED = 1e-4, 42
IGNORED_LABEL = -100  # not taken from yangtuo.data.encoding, which imports numpy
GIB = 2**30


def is_packed(contender: str) -> bool:
    """Whether its steps are made of packs rather than of rows."""
    return "packed" in contender
