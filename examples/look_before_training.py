"""What would be trained on, before any weight is loaded: `examples/look_before_training.py MODEL_DIR ROWS.json`."""

import sys

import yangtuo

options = {"model_name_or_path": sys.argv[1], "train_file": sys.argv[2], "max_seq_length": 384}

found = yangtuo.check(**options)
print("verdict:", found.verdict)
for finding in found.findings:
    print("bad:" if finding.is_bad else "look:", finding.text)

for row in yangtuo.preview(**options, num_rows=1):
    print(f"{row.heading}\n  trained: {row.trained_text!r}")

# The same ids and labels that training has, for a loop of your own.
rows = list(yangtuo.encode(**options))
print(f"{len(rows)} rows, {sum(len(row.input_ids) for row in rows)} tokens")
