"""What a run would do, in numbers, from its settings and its folders' JSON: no weights, no torch.

`training.advice` says what published work has to say of them.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yangtuo.config.settings import Settings
from yangtuo.engine import planning
from yangtuo.engine.layout import common_prefixes
from yangtuo.engine.planning import StepShape
from yangtuo.errors import UsageError
from yangtuo.logs import world_size
from yangtuo.training import advice, learning_rate
from yangtuo.training.advice import Advice
from yangtuo.training.dataset import Corpus
from yangtuo.training.learning_rate import Base, Plan

_ALL_LINEAR = "all-linear"
_STEPS_LOOKED_AT = 50
# Families whose linear layers have these names and sizes, and no others.
_PLAIN = ("llama", "mistral", "qwen2", "qwen3")


def step_shape(settings: Settings) -> StepShape:
    """Rows of a step."""
    return StepShape(
        settings.trainer.per_device_train_batch_size,
        settings.trainer.gradient_accumulation_steps,
        world_size(),
    )


def shares_prefixes(settings: Settings) -> bool:
    """Whether rows may share prefixes, as far as the options go."""
    return not settings.model.attn_implementation and not settings.trainer.neftune_noise_alpha


def num_steps(settings: Settings, steps_an_epoch: int) -> int:
    """Steps of the run."""
    most = settings.trainer.max_steps
    return most if most > 0 else math.ceil(settings.trainer.num_train_epochs * steps_an_epoch)


def check_learning_rate(settings: Settings, base: Path) -> None:
    """Refuse a rate that nobody means.

    Raises:
        UsageError: it is more than a hundred times what is recommended, and not forced.
    """
    if (why := refused_rate(settings, base)) and not settings.run.force_learning_rate:
        raise UsageError(why)


def refused_rate(settings: Settings, base: Path) -> str:
    """Why the rate would be refused; "" where it would not, or where nothing published covers the run."""
    return learning_rate.refusal(settings.trainer.learning_rate, base_of(base)) if _is_covered(settings) else ""


def advice_of(settings: Settings, base: Path, adapter: Path | None, corpus: Corpus) -> tuple[Advice, Plan] | None:
    """What is published beside what the run would do; None where nothing published covers it."""
    if not _is_covered(settings):
        return None
    plan = _plan_of(settings, _text_config(_json(base / "config.json")), adapter, corpus)
    found = advice.advise(base_of(base), plan)
    return (found, plan) if found else None


def base_of(folder: Path) -> Base:
    """What of a base the advice goes by; hidden size 0 where config.json does not say."""
    config = _text_config(_json(folder / "config.json"))
    size = config.get("hidden_size", config.get("n_embd"))
    return Base(str(config.get("model_type") or ""), size if isinstance(size, int) else 0)


def _is_covered(settings: Settings) -> bool:
    """Whether it is LoRA with Adam that is trained: other optimizers have rates of other sizes."""
    optimizer = str(settings.trainer.optim)
    given = settings.trainer.deepspeed
    if given:
        config = _parsed(given if given.lstrip().startswith("{") else _text(Path(given)))
        of_engine = config.get("optimizer")
        optimizer = f"{of_engine.get('type')}_" if isinstance(of_engine, dict) else optimizer
    return settings.trainer.do_train and optimizer.lower().startswith(("adamw_", "adam_", "paged_adamw"))


def _plan_of(settings: Settings, config: Mapping[str, Any], adapter: Path | None, corpus: Corpus) -> Plan:
    lora, shape, num_rows = settings.lora, step_shape(settings), corpus.num_rows_of_epoch()
    per_epoch = shape.num_steps(num_rows, drop_last=settings.trainer.dataloader_drop_last)
    steps = num_steps(settings, per_epoch)
    part = min(1.0, steps / per_epoch) if per_epoch else 0.0
    continued = _json(adapter / "adapter_config.json") if adapter and not lora.new_adapter else None
    if continued is None:
        names, rank, alpha = _split(lora.trainable), lora.lora_rank, lora.lora_alpha
        use_rslora = lora.use_rslora
        is_plain = not (lora.rank_pattern or lora.layers_to_transform)
    else:
        names = _strings(continued.get("target_modules"))
        rank, alpha = int(_number(continued.get("r"))), _number(continued.get("lora_alpha"))
        use_rslora = continued.get("use_rslora") is True
        is_plain = not any(continued.get(key) for key in ("rank_pattern", "layers_to_transform", "exclude_modules"))
    in_full = {*_split(lora.modules_to_save), *_strings((continued or {}).get("modules_to_save"))}
    return Plan(
        learning_rate=settings.trainer.learning_rate,
        rank=rank,
        alpha=alpha,
        use_rslora=use_rslora,
        num_parameters=num_lora_parameters(config, names, rank) if is_plain else None,
        trainable=tuple(names) if continued is None else (),
        in_full=tuple(sorted(in_full)),
        rows_per_step=shape.rows_per_step,
        num_steps=steps,
        steps_an_epoch=per_epoch,
        num_rows=num_rows,
        num_tokens=int(corpus.train.num_supervised().sum() * part),
    )


def num_lora_parameters(config: Mapping[str, Any], names: Sequence[str], rank: int) -> int | None:
    """Parameters of LoRA on these modules, by a base's config.json; None where it does not tell them."""
    try:
        width, inner, layers = (int(config[key]) for key in ("hidden_size", "intermediate_size", "num_hidden_layers"))
        heads = int(config["num_attention_heads"])
    except (KeyError, TypeError, ValueError):
        return None
    if config.get("model_type") not in _PLAIN or not names or heads < 1:
        return None
    of_head = int(config.get("head_dim") or width // heads)
    queries, keys = heads * of_head, int(config.get("num_key_value_heads") or heads) * of_head
    sizes = {
        **{"q_proj": width + queries, "k_proj": width + keys, "v_proj": width + keys, "o_proj": queries + width},
        **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), width + inner),
    }
    named = set(sizes) if list(names) == [_ALL_LINEAR] else {name.rpartition(".")[2] for name in names}
    return rank * layers * sum(sizes[name] for name in named) if named <= sizes.keys() else None


def largest_step(settings: Settings, corpus: Corpus, num_devices: int) -> tuple[int, int, int]:
    """Cells, repeated tokens and supervised tokens of the largest step of a device, in the first epoch."""
    examples, trainer = corpus.train, settings.trainer
    rows_of_step = trainer.per_device_train_batch_size * trainer.gradient_accumulation_steps
    seed = trainer.seed if trainer.data_seed is None else trainer.data_seed
    order = planning.rows_in_order(examples, corpus.mix, 0, seed, settings.data.data_order)
    if trainer.max_steps > 0:
        order = order[: trainer.max_steps * rows_of_step * num_devices]
    lengths, supervised = examples.lengths()[order], examples.num_supervised()[order]
    begins = np.arange(0, len(order), rows_of_step)
    tokens = np.add.reduceat(lengths, begins)
    most, part = int(tokens.max()), 1.0
    if shares_prefixes(settings):
        looked_at = begins[np.argsort(-tokens, kind="stable")[:_STEPS_LOOKED_AT]]
        part = max(_distinct_part(examples, order[begin : begin + rows_of_step]) for begin in looked_at)
    cells = math.ceil(most * part)
    return cells, most - cells, int(np.add.reduceat(supervised, begins).max())


def _distinct_part(examples: Any, rows: Any) -> float:
    ids = [examples.row(int(row))[0] for row in rows]
    total = sum(map(len, ids))
    return 1 - sum(shared for _, shared in common_prefixes(ids)) / total


def _split(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _strings(value: Any) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) and value > 0 else 8  # PEFT's default of both


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    text = config.get("text_config")
    return {"model_type": config.get("model_type"), **text} if isinstance(text, dict) else config


def _json(file: Path) -> dict[str, Any]:
    return _parsed(_text(file))


def _text(file: Path) -> str:
    """Empty where it cannot be read, of which others complain."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _parsed(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
