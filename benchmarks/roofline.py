"""How fast a GPU would train, predicted: a step's operations on a fake device, and what GPUs reach.

No GPU is needed and none is asked; what is printed are predictions. docs/gpu.md says how they are made and read.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for tests.fake_cuda

from roofline_parts.compiled import compiled
from roofline_parts.forecast import forecast, table
from roofline_parts.runs import PRESETS, recorded


def main(words: list[str]) -> int:
    """Print the table; write it as JSON where asked."""
    options = _options(words)
    told = forecast(recorded(options), compiled(options) if options.torch_compile else None)
    print("\n".join(table(told)))
    if options.json:
        values = {"options": {**vars(options), "json": None}, **told.as_json()}
        options.json.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    return 0


def _options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, help="sets the options below, which may still be given")
    parser.add_argument("--model", default="llama3-8b", choices=("llama3-8b", "llama2-7b", "tiny"))
    parser.add_argument("--layers", type=int, help="fewer decoder layers than the model has")
    parser.add_argument("--rows", default="4096x2", help="tokens of the rows of a step: 4096x2,512")
    parser.add_argument("--common", type=int, default=0, help="tokens that all rows begin with")
    parser.add_argument("--supervised", type=float, default=1.0, help="part of each row that has a loss")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--modules_to_save", default="", help="embed_tokens,lm_head")
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--torch_compile", action="store_true", help="decoder layers as Inductor would compile them")
    parser.add_argument("--json", type=Path, help="where the result is written too")
    preset = parser.parse_known_args(words)[0].preset
    parser.set_defaults(**PRESETS.get(preset, {}))
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
