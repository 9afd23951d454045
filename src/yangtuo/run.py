"""The story of a training run, top to bottom.

files -> records -> examples -> base + LoRA -> steps -> adapter on disk. Everything that can be refused is refused
before the first weight is loaded.
"""

import logging
import platform
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

import yangtuo
from yangtuo import folder
from yangtuo.data import records, splitting
from yangtuo.data.audit import audit, summary
from yangtuo.data.encoding import Counts, Examples, encode
from yangtuo.data.records import Record, Source
from yangtuo.data.templates import ALPACA_ZH
from yangtuo.data.tokenizer import Tokenizer, is_tokenizer_folder, open_tokenizer
from yangtuo.engine import checkpoint, planning
from yangtuo.engine.journal import Journal
from yangtuo.engine.processes import agree, check_engine, world_size
from yangtuo.engine.screen import Screen
from yangtuo.engine.trainer import Outlets, StepTrainer, Subject
from yangtuo.errors import UsageError
from yangtuo.meaning import logging_of, meaning_of, record_meaning, step_shape, training_arguments
from yangtuo.model import adapters, base
from yangtuo.model.adapters import SavedAdapter
from yangtuo.model.folders import local_folder
from yangtuo.parsing import Settings, as_dict
from yangtuo.reporting import notes_so_far

logger = logging.getLogger(__name__)


def train(settings: Settings) -> None:
    """Run what the settings ask for; a finished or resumed run is recognised by its folder."""
    began = time.time()
    inputs = open_inputs(settings)
    output_dir = _output_dir(settings)
    meaning = record_meaning(settings, inputs.sources, inputs.base, inputs.tokenizer, ALPACA_ZH)
    encoded = encode_inputs(settings, inputs)
    decision = folder.decide(
        output_dir,
        meaning,
        overwrite=settings.run.overwrite_output_dir,
        checkpoint_dir=settings.training.get("resume_from_checkpoint"),
    )
    if decision.start is folder.Start.FINISHED:
        logger.info("%s holds this very run, finished; choose another --output_dir to train once more", output_dir)
        return

    hardware = base.detect_hardware(settings.training_value("use_cpu"))
    precision = base.choose_precision(
        settings.model.torch_dtype,
        fp16=settings.training_value("fp16"),
        bf16=settings.training_value("bf16"),
        stored=inputs.config.dtype,
        hardware=hardware,
    )
    args = training_arguments(settings, precision, hardware, output_dir)  # the process group exists from here on
    args.seed = seed = _seed(settings, decision)
    train_set, eval_set, audits = divide(settings, inputs, encoded, seed)
    _tell_steps(settings, train_set, eval_set)
    is_main = args.process_index == 0
    if is_main:
        _prepare_folder(output_dir, decision)
    first_step = checkpoint.step_of(decision.checkpoint) if decision.checkpoint else 0

    torch.manual_seed(seed)
    model = base.load(inputs.base, precision.weights, settings.model)
    trained = adapters.names(settings.lora.modules_to_save)
    saved = inputs.adapter
    base.fit_vocabulary(model, inputs.tokenizer.num_tokens, trained=list(saved.tensors) if saved else trained)
    adapter = (
        adapters.attach_saved(model, saved, settings.lora, settings.origins)
        if saved
        else adapters.attach_new(model, settings.lora)
    )
    logger.info(base.describe(inputs.config, model, precision))
    logger.info(adapter.describe())

    if is_main:
        run = _run_record(settings, meaning, seed, began)
        folder.write_json(output_dir / folder.RUN_FILE, run)
        folder.write_json(output_dir / "data_audit.json", audits)
    outlets = Outlets(
        Journal(output_dir / "log.jsonl", last_step=first_step, writes=is_main),
        Screen(shown=is_main, bar=not settings.training.get("disable_tqdm", False)),
        logging_of(settings),
        settings.run.save_minutes,
    )
    subject = Subject(adapter, inputs.tokenizer, train_set, eval_set)
    trainer = StepTrainer(subject, meaning_of(settings, seed), outlets, args)
    check_engine(trainer.accelerator, args.n_gpu, deepspeed=bool(args.deepspeed), fsdp=bool(args.fsdp))

    if args.do_train:
        resume = str(decision.checkpoint) if decision.checkpoint else None
        result = trainer.train(resume_from_checkpoint=resume)
        trainer.save_metrics("train", result.metrics)
        trainer.save_state()
        trainer.save_model(str(output_dir / folder.ADAPTER_FOLDER))
    if args.do_eval:
        trainer.save_metrics("eval", trainer.final_evaluation())
    if is_main:
        run |= {"state": "finished", "seconds": time.time() - began, "notes": notes_so_far()}
        folder.write_json(output_dir / folder.RUN_FILE, run)
        if args.do_train:
            _tell_end(output_dir, inputs)


@dataclass(frozen=True)
class Inputs:
    """Everything that a run reads, opened and checked; no weights of the base yet."""

    base: Path
    config: PreTrainedConfig
    adapter: SavedAdapter | None
    tokenizer: Tokenizer
    train: list[Record]
    validation: list[Record] | None
    sources: list[Source]
    validation_sources: list[Source]


def open_inputs(settings: Settings) -> Inputs:
    """Open base, adapter, tokenizer and data, in the order in which their errors are cheapest to see."""
    model, lora = settings.model, settings.lora
    if not model.model_name_or_path:
        raise UsageError("--model_name_or_path is missing: the folder of the base model")
    folder_of_base = local_folder(
        model.model_name_or_path,
        option="model_name_or_path",
        must_hold=["config.json"],
        revision=model.model_revision,
        cache_dir=model.cache_dir,
    )
    config = base.read_config(folder_of_base, trust_remote_code=model.trust_remote_code)
    saved = adapters.read(lora.peft_path) if lora.peft_path else None
    if saved:
        adapters.check_contradictions(saved, lora, settings.origins)
    else:
        adapters.check_options(lora, base.modules_of(config, trust_remote_code=model.trust_remote_code))
    tokenizer = find_tokenizer(settings, folder_of_base, saved)
    train, validation, sources, validation_sources = read_data(settings)
    return Inputs(folder_of_base, config, saved, tokenizer, train, validation, sources, validation_sources)


def find_tokenizer(settings: Settings, base_folder: Path | None, saved: SavedAdapter | None) -> Tokenizer:
    """The tokenizer that was named, else the adapter's, else the base's."""
    named = settings.model.tokenizer_name_or_path
    if named:
        must_hold = ["tokenizer.model", "tokenizer.json"]
        return open_tokenizer(local_folder(named, option="tokenizer_name_or_path", must_hold=must_hold, weights=False))
    for place in (saved.folder if saved else None, base_folder):
        if place and is_tokenizer_folder(place):
            logger.info("tokenizer: %s (no --tokenizer_name_or_path given)", place)
            return open_tokenizer(place)
    raise UsageError("--tokenizer_name_or_path is missing, and neither adapter nor base holds a tokenizer")


def read_data(settings: Settings) -> tuple[list[Record], list[Record] | None, list[Source], list[Source]]:
    """Training and validation records and where they came from; None where no validation file is given."""
    data = settings.data
    place = data.train_file or data.dataset_dir
    if not place:
        raise UsageError("--dataset_dir is missing: the folder with the .json files to train on")
    option = "train_file" if data.train_file else "dataset_dir"
    files = records.find_files(place, exclude=data.validation_file, option=option)
    if data.validation_file and Path(place).is_dir() and len(files) < len(records.find_files(place)):
        logger.warning("data: the validation file lies in the training folder and is left out of training")
    train, sources = records.read(files)
    if not data.validation_file:
        return train, None, sources, []
    if not Path(data.validation_file).is_file():
        raise UsageError(f"--validation_file {data.validation_file}: no such file")
    validation, validation_sources = records.read([Path(data.validation_file)])
    return train, validation, sources, validation_sources


@dataclass(frozen=True)
class Encoded:
    """The rows as examples, before any of them is set aside."""

    train: Examples
    train_counts: Counts
    validation: Examples | None
    validation_counts: Counts | None


def encode_inputs(settings: Settings, inputs: Inputs) -> Encoded:
    """Encode all rows; done by every process for itself before they know of each other, so that none waits."""
    wants_eval = _wants_evaluation(settings)
    if wants_eval and inputs.validation is None and settings.data.validation_split_percentage is None:
        raise UsageError("evaluation needs --validation_file or --validation_split_percentage; or drop --do_eval")
    train, train_counts = encode_records(settings, inputs.train, inputs.tokenizer)
    if inputs.validation is None or not wants_eval:
        return Encoded(train, train_counts, None, None)
    return Encoded(train, train_counts, *encode_records(settings, inputs.validation, inputs.tokenizer))


def divide(
    settings: Settings, inputs: Inputs, encoded: Encoded, seed: int
) -> tuple[Examples, Examples | None, dict[str, Any]]:
    """Set the validation part aside where there is no file of its own, and say what became of the rows."""
    train, validation, counts = encoded.train, encoded.validation, encoded.validation_counts
    percentage = settings.data.validation_split_percentage
    if _wants_evaluation(settings) and validation is None and percentage is not None:
        validation, rest = splitting.split(train, percentage, seed)
        if rest is None:
            raise UsageError(f"--validation_split_percentage {percentage} leaves no row to train on")
        train, counts = rest, Counts(num_read=len(validation), num_kept=len(validation))
    eos_id = inputs.tokenizer.eos_id
    audits = {"train": audit(train, encoded.train_counts, inputs.sources, eos_id)}
    if validation is not None and counts is not None:
        audits["validation"] = audit(validation, counts, inputs.validation_sources or inputs.sources, eos_id)
    for name, report in audits.items():
        for line in summary(f"data, {name}", report):
            logger.info(line)
    return train, validation, audits


def _wants_evaluation(settings: Settings) -> bool:
    return bool(settings.training.get("do_eval")) or settings.training_value("eval_strategy") != "no"


def encode_records(settings: Settings, some: list[Record], tokenizer: Tokenizer) -> tuple[Examples, Counts]:
    """Encode with the settings' length policy."""
    data = settings.data
    return encode(
        some,
        tokenizer,
        ALPACA_ZH,
        max_seq_length=data.max_seq_length,
        truncation=data.truncation,
        num_threads=data.preprocessing_num_workers,
    )


def _output_dir(settings: Settings) -> Path:
    given = settings.training.get("output_dir")
    if not given:
        raise UsageError("--output_dir is missing: the folder for checkpoints and the adapter")
    return Path(given)


def _seed(settings: Settings, decision: folder.Decision) -> int:
    asked = agree(int(settings.training_value("seed")))
    if decision.seed is not None and decision.seed != asked:
        logger.warning("seed: %d, of the run that goes on, instead of %d", decision.seed, asked)
        return decision.seed
    return asked


def _tell_steps(settings: Settings, train_set: Examples, eval_set: Examples | None) -> None:
    shape, drop_last = step_shape(settings), settings.training_value("dataloader_drop_last")
    if not settings.training.get("do_train"):
        logger.info("only evaluating: --do_eval without --do_train")
        return
    if shape.num_steps(len(train_set), drop_last=drop_last) == 0:
        raise UsageError(
            f"{len(train_set)} rows are fewer than the {shape.rows_per_step} of one step, and --dataloader_drop_last "
            "leaves out a short step: nothing would be trained"
        )
    epochs, max_steps = settings.training_value("num_train_epochs"), settings.training_value("max_steps")
    for line in planning.describe(shape, len(train_set), epochs, max_steps, drop_last=drop_last):
        logger.info(line)
    if len(train_set) < shape.rows_per_step:
        logger.warning(
            "%d rows are fewer than the %d of one step: every step is a whole epoch of %d rows",
            len(train_set),
            shape.rows_per_step,
            len(train_set),
        )
    if eval_set is None and settings.training_value("load_best_model_at_end"):
        raise UsageError("--load_best_model_at_end needs evaluation: --do_eval with --eval_strategy")


def _prepare_folder(output_dir: Path, decision: folder.Decision) -> None:
    if decision.start is folder.Start.MOVE_ASIDE:
        logger.warning("output folder: the former %s is now %s", output_dir, folder.move_aside(output_dir))
    if decision.start is folder.Start.RESUME:
        logger.warning("resuming from %s", decision.checkpoint)
    output_dir.mkdir(parents=True, exist_ok=True)


def _run_record(settings: Settings, meaning: dict[str, Any], seed: int, began: float) -> dict[str, Any]:
    libraries = ("torch", "transformers", "peft", "accelerate", "sentencepiece", "tokenizers", "numpy")
    return {
        "yangtuo": yangtuo.__version__,
        "state": "running",
        "command": sys.argv,
        "began": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(began)),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in libraries}},
        "world_size": world_size(),
        "seed": seed,
        "arguments": as_dict(settings),
        "meaning": meaning,
        "notes": notes_so_far(),
    }


def _tell_end(output_dir: Path, inputs: Inputs) -> None:
    logger.info("the adapter is in %s; it belongs to the base %s", output_dir / folder.ADAPTER_FOLDER, inputs.base)
