"""One JSON row to its gradient by yangtuo's own functions, each form printed: `examples/one_row.py MODEL_DIR`."""

import sys
from pathlib import Path

import torch

from yangtuo.config.choices import DataFormat, DataOrder, LossReduction
from yangtuo.config.schema import LoraArguments, ModelArguments
from yangtuo.data.encoding import EncodingOptions, encode
from yangtuo.data.readers.formats import turns_of
from yangtuo.data.records import Record
from yangtuo.data.template_choice import choose_template
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.engine.batch_tensors import Batch
from yangtuo.engine.loss import SupervisedLoss, weighted_sum
from yangtuo.engine.planning import StepShape
from yangtuo.engine.steps import Execution, Recipe, Steps
from yangtuo.model import adapters, base, processor

ROW = {"instruction": "请介绍一下长城。", "input": "", "output": "长城是中国古代的军事防御工程。"}

folder, cpu = Path(sys.argv[1]), torch.device("cpu")
turns, faults = turns_of(ROW, DataFormat.ALPACA)  # a row -> turns, or everything that is wrong with it
print("turns:", *turns, *faults, sep="\n  ")

tokenizer = open_tokenizer(folder)
template, why = choose_template("auto", tokenizer, None)
examples, dropped = encode([Record("rows.json", 0, turns)], tokenizer, EncodingOptions(template, max_seq_length=512))
ids, supervised = examples.row(0)  # turns -> token ids, and which of them carry a loss
print(f"{template.name} ({why}): {len(ids)} ids\n  {ids.tolist()}\n  loss on {ids[supervised].tolist()}")

recipe = Recipe(StepShape(1, 1, 1), LossReduction.TOKEN, DataOrder.SHUFFLED, 0, False, 0.0, None, eval_rows=1)
step = Steps(examples, recipe, Execution(shares_prefixes=False, max_cells=1024), rank=0)[0]  # which rows form a step
(layout,) = step.layouts  # a micro-batch as arrays
print(
    f"step: rows {step.plan.rows}, total weight {step.plan.total_weight}; {layout.num_cells} cells, targets",
    layout.targets,
)

model = base.load(folder, processor.Precision(torch.float32), ModelArguments())
adapter = adapters.attach_new(model, LoraArguments(lora_rank=4, lora_dropout=0.0, trainable="q_proj,v_proj"))
total = weighted_sum(adapter.model, SupervisedLoss(model), Batch.of(layout, cpu))  # a sum over the targets
loss = total / step.plan.total_weight
loss.backward()
gradients = [p.grad.norm().item() for p in adapter.model.parameters() if p.grad is not None]
print(f"loss {loss.item():.4f} nats a token; gradients of {len(gradients)} LoRA matrices, largest {max(gradients):.4f}")
