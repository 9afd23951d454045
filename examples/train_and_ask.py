"""Train a LoRA, look at its losses, ask it: `examples/train_and_ask.py MODEL_DIR ROWS.json OUTPUT_DIR [STEPS]`."""

import logging
import sys

import yangtuo

logging.basicConfig(level=logging.INFO, format="%(message)s")  # yangtuo itself prints nothing

model, rows, output_dir, steps = (*sys.argv[1:4], int((*sys.argv, 40)[4]))
try:
    run = yangtuo.train(
        model_name_or_path=model,
        train_file=rows,
        output_dir=output_dir,
        max_steps=steps,
        max_seq_length=384,
        learning_rate=1e-3,
        per_device_train_batch_size=4,
    )
except yangtuo.UserError as error:  # a folder that is not there, an option that is misspelt, rows that are broken
    sys.exit(f"not trained: {error}")
print(f"loss {run.losses[0][1]:.3f} at the first step, {run.losses[-1][1]:.3f} at the last")

chat = yangtuo.load(run.output_dir, max_new_tokens=48)
print("before:", chat.base.ask("你好，请问你是哪位？").text if chat.base else "")
print("after: ", end="")
for piece in chat.stream("你好，请问你是哪位？"):
    print(piece, end="", flush=True)
print()
