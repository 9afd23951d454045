"""How much of the disk a run will need."""

import math
from pathlib import Path

from yangtuo import output
from yangtuo.config.settings import Settings
from yangtuo.engine import checkpoint
from yangtuo.model.model_sizes import ModelSizes
from yangtuo.training.dataset import Corpus, wants_evaluation
from yangtuo.training.plan import num_steps, step_shape


def disk_bytes(settings: Settings, corpus: Corpus, sizes: ModelSizes) -> int:
    """Of the adapters and checkpoints that will lie in the output folder at the end."""
    trainer = settings.trainer
    num_adapters = 1 + wants_evaluation(settings)
    per_epoch = step_shape(settings).num_steps(corpus.num_rows_of_epoch(), drop_last=trainer.dataloader_drop_last)
    total, strategy = num_steps(settings, per_epoch), settings.training_value("save_strategy")
    evaluated = {"steps": settings.training_value("eval_steps"), "epoch": per_epoch}.get(trainer.eval_strategy, total)
    every = {"steps": settings.training_value("save_steps"), "epoch": per_epoch, "best": evaluated}.get(strategy, total)
    every = every or total
    every = every if every >= 1 else math.ceil(every * total)
    number = 0 if strategy == "no" else math.ceil(total / max(1, every))
    limit = settings.training_value("save_total_limit")
    number = min(number, int(limit) + 1) if limit else number  # the best one stays beside the last ones
    only_model = bool(settings.training_value("save_only_model"))
    of_checkpoints = number * checkpoint.num_bytes(sizes.num_trained, only_model=only_model)
    return of_checkpoints + num_adapters * checkpoint.num_bytes(sizes.num_trained, only_model=True)


def disk_there(settings: Settings) -> int | None:
    """Free on the disk of the output folder; None where none is named."""
    given = settings.trainer.output_dir
    if not given:
        return None
    folder = Path(given).absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return output.free_bytes(folder)
