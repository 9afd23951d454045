"""Is it better? Then merge it, and write what servers need: `examples/merge_and_export.py RUN_DIR ROWS.json OUT`."""

import sys
from pathlib import Path

import yangtuo

run, rows, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])

found = yangtuo.evaluate(
    run, compare=True, validation_file=rows, num_answers=4, max_new_tokens=32, output_dir=out / "evaluation"
)
print(f"{found.outcome}: {found.verdict}")
print("loss on these rows:", found.measures["own/loss"])
if found.outcome == "broken":
    sys.exit("the tuned model is broken; it is not exported")

merged = yangtuo.merge(run, output_dir=out / "merged")
print("merged and proven:", merged.folder, merged.proofs["tensors"])
served = yangtuo.export(run, output_dir=out / "served", gguf="q8_0")
print("for llama.cpp:", served.gguf, "for Ollama:", served.modelfile)
