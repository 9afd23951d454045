"""Memory and time of `yangtuo merge` on a model of a given shape with random weights, written shard by shard.

    python benchmarks/merge.py --work /tmp/merge [--layers 32] [--rank 8] [--keep]

Writes base and adapter, merges in a process of its own, and prints its peak memory and times as JSON. The shape is
Chinese-LLaMA-7B's with 49,954 rows; 32 layers are 13.8 GB in float16, and as much again for the result.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

from yangtuo.model.weight_files import Spec, shards, write_index, write_shard

HIDDEN, INNER, ROWS = 4096, 11008, 49_954
PROJECTIONS = {
    **{f"self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in "qkvo"},
    **{f"mlp.{name}_proj": (INNER, HIDDEN) for name in ("gate", "up")},
    "mlp.down_proj": (HIDDEN, INNER),
}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "vocab_size": ROWS,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
}


def base_shapes(num_layers: int) -> dict[str, tuple[int, ...]]:
    """Of every tensor, in the order of the files."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (ROWS, HIDDEN)}
    for i in range(num_layers):
        for name, shape in PROJECTIONS.items():
            shapes[f"model.layers.{i}.{name}.weight"] = shape
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{i}.{norm}.weight"] = (HIDDEN,)
    return shapes | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (ROWS, HIDDEN)}


def write_model(folder: Path, num_layers: int) -> None:
    """Random float16 weights whose activations keep their size."""
    folder.mkdir(parents=True)
    specs = {name: Spec(shape, torch.float16) for name, shape in base_shapes(num_layers).items()}
    files = shards(specs, 4 << 30)

    def value(name: str) -> torch.Tensor:
        shape = specs[name].shape
        if len(shape) == 1:
            return torch.ones(shape, dtype=torch.float16)
        return ((torch.rand(shape) - 0.5) * (3.46 / shape[1] ** 0.5)).half()  # uniform, standard deviation 1/sqrt(in)

    for file, names in files.items():
        write_shard(folder / file, specs, names, value)
    write_index(folder, specs, files)
    (folder / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": num_layers}))


def write_adapter(folder: Path, num_layers: int, rank: int) -> None:
    """As the seed's recipe: all seven projections, embedding and head in full, float32."""
    folder.mkdir(parents=True)
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(num_layers):
        for name, (out, inner) in PROJECTIONS.items():
            shapes[f"base_model.model.model.layers.{i}.{name}.lora_A.weight"] = (rank, inner)
            shapes[f"base_model.model.model.layers.{i}.{name}.lora_B.weight"] = (out, rank)
    for name in ("model.embed_tokens", "lm_head"):
        shapes[f"base_model.model.{name}.weight"] = (ROWS, HIDDEN)
    specs = {name: Spec(shape, torch.float32) for name, shape in shapes.items()}
    write_shard(
        folder / "adapter_model.safetensors",
        specs,
        list(specs),
        lambda name: (torch.rand(shapes[name]) - 0.5) * 0.05,
    )
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 4 * rank,
        "target_modules": sorted(name.rsplit(".", 1)[-1] for name in PROJECTIONS),
        "modules_to_save": ["embed_tokens", "lm_head"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))


MERGE = """
import argparse, sys
from yangtuo import logs
logs.set_up()
from yangtuo.cli import merge
parser = argparse.ArgumentParser()
merge.add_options(parser)
logs.quiet_libraries()
merge.run(parser.parse_args())
"""


def main() -> None:
    """Write, merge, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="An absent or empty folder.")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--keep", action="store_true", help="Leave the files.")
    options = parser.parse_args()
    gigabytes = 2 * sum(torch.Size(s).numel() for s in base_shapes(options.layers).values()) / 1e9
    options.work.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(options.work).free / 1e9
    if free < 2.5 * gigabytes:
        sys.exit(f"{2.5 * gigabytes:.0f} GB are needed, {free:.0f} GB are free; give fewer --layers")
    started = time.monotonic()
    write_model(options.work / "base", options.layers)
    write_adapter(options.work / "adapter", options.layers, options.rank)
    print(f"written in {time.monotonic() - started:.0f} s", file=sys.stderr)
    words = ["--model_name_or_path", "base", "--peft_path", "adapter", "--output_dir", "merged"]
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", MERGE, *words], cwd=options.work)
    _, status, usage = os.wait4(process.pid, 0)
    result = {
        "gigabytes": round(gigabytes, 2),
        "layers": options.layers,
        "exit": os.waitstatus_to_exitcode(status),
        "seconds": round(time.monotonic() - started, 1),
        "peak_gib": round(usage.ru_maxrss / 2**20, 2),
        "processors": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
    }
    print(json.dumps(result))
    if not options.keep:
        shutil.rmtree(options.work)


if __name__ == "__main__":
    main()
