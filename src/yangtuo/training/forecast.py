"""Settings -> will it fit? The memory that a run needs, and the disk, from its options, its rows and config.json.

`training.memory_plan` counts; here is what it counts with. No weight is read.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig
from transformers import PreTrainedConfig, TrainingArguments
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from yangtuo.config.choices import ModulesToSavePolicy
from yangtuo.config.settings import Settings
from yangtuo.engine.flops import bfloat16_rate
from yangtuo.engine.loss import chunk_bytes
from yangtuo.engine.memory import ModelShape
from yangtuo.errors import AdapterError, MissingDependencyError, ModelError, UsageError, one_line
from yangtuo.i18n import Listed, Message, gettext_noop
from yangtuo.model import base, processor
from yangtuo.model.adapter_config import read_config as read_adapter_config
from yangtuo.model.adapters import modules_added
from yangtuo.model.architecture import read_config
from yangtuo.model.model_sizes import Loading, ModelSizes, sizes_of
from yangtuo.model.processor import Hardware, Precision
from yangtuo.training.dataset import Corpus
from yangtuo.training.disk_plan import disk_bytes, disk_there
from yangtuo.training.engines import check_engines, deepspeed_of, fsdp
from yangtuo.training.environment import checkpointing_asked
from yangtuo.training.inputs import Inputs
from yangtuo.training.machines import machine_here, machine_named
from yangtuo.training.memory_plan import Change, Machine, MemoryPlan, Run, changes_that_fit, plan
from yangtuo.training.plan import largest_step

logger = logging.getLogger(__name__)

_ON_CPU = gettext_noop("memory: {total} GiB of {there} that main memory has free ({parts})")
_ON_DEVICES = gettext_noop("memory: {total} GiB of {there} that each device has free ({parts})")


@dataclass(frozen=True)
class Forecast:
    """What a run needs, and what is there.

    Attributes:
        machine: where.
        memory: of one device; of one process on a CPU.
        changes: what would make it fit, the cheapest first; nothing where it does.
        main_bytes: main memory of one process while the base is loaded.
        disk_bytes: of the adapters and checkpoints that will lie there at the end.
        disk_there: free on the output folder's disk.
    """

    machine: Machine
    memory: MemoryPlan
    changes: list[Change]
    main_bytes: int
    disk_bytes: int
    disk_there: int | None

    def as_json(self) -> dict[str, Any]:
        """For `--json` and run.json."""
        return {
            "machine": asdict(self.machine),
            **self.memory.as_json(),
            "would_fit": [{"options": c.options, "total": c.plan.total} for c in self.changes],
            "main_memory_while_loading": self.main_bytes,
            "disk": self.disk_bytes,
            "disk_there": self.disk_there,
        }

    def why_not(self) -> str:
        """Of one that does not fit."""
        memory = self.memory
        total, there, instead = gib(memory.total), gib(memory.there), would_fit(self.changes)
        return Message("it will not fit: {total} GiB of {there}; {instead}", total=total, there=there, instead=instead)

    def told(self) -> str:
        """One line for the screen."""
        memory = self.memory
        template = _ON_CPU if self.machine.kind == "cpu" else _ON_DEVICES
        parts = [
            Message("{part} {size}", part=Message(name), size=gib(size)) for name, size in _largest(memory.parts, 4)
        ]
        line = Message(template, total=gib(memory.total), there=gib(memory.there), parts=Listed(parts))
        if memory.fits:
            return line
        return Message("{line}: it will not fit; {instead}", line=line, instead=would_fit(self.changes))


def gib(num_bytes: float) -> str:
    """As GiB, two digits where it is little."""
    value = num_bytes / 2**30
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def would_fit(changes: list[Change]) -> str:
    """What a user could do instead."""
    if not changes:
        return Message("no change of options alone makes it fit: a smaller model, or a larger machine")
    shown = ", ".join(f"{change.options} ({gib(change.plan.total)} GiB)" for change in changes)
    return Message("would fit: {changes}", changes=shown)


def precision_on(settings: Settings, config: PreTrainedConfig, hardware: Hardware) -> Precision:
    """Of the weights and of the forward, on that hardware."""
    trainer = settings.trainer
    return processor.choose_precision(
        settings.model.torch_dtype, fp16=trainer.fp16, bf16=trainer.bf16, stored=config.dtype, hardware=hardware
    )


@dataclass(frozen=True)
class Planned:
    """A run that is planned.

    Attributes:
        settings: of the run.
        config: of the base.
        corpus: its rows.
        num_tokens: of the tokenizer.
        precision: of weights and forward.
        machine: where it would run.
    """

    settings: Settings
    config: PreTrainedConfig
    corpus: Corpus
    num_tokens: int
    precision: Precision
    machine: Machine

    @cached_property
    def saved(self) -> LoraConfig | None:
        """Of the adapter that is continued."""
        lora = self.settings.lora
        if not lora.peft_path or lora.new_adapter:
            return None
        saved = read_adapter_config(Path(lora.peft_path))
        saved.inference_mode, saved.init_lora_weights = False, True
        full = set(saved.modules_to_save or ())
        stays = lora.modules_to_save_policy in (ModulesToSavePolicy.KEEP, ModulesToSavePolicy.RESET)
        wanted = modules_added(full, lora, self.settings.origins) | (full if stays else set())
        saved.modules_to_save = sorted(wanted) or None
        return saved

    def sizes(self) -> ModelSizes:
        """Of the model with its LoRA."""
        model = self.settings.model
        width, num_bits = self.precision.weights.itemsize, base.num_bits(model)
        loading = Loading(width, self.num_tokens, num_bits, model.trust_remote_code)
        try:
            return sizes_of(self.config, self.settings.lora, loading, self.saved)
        except (ValueError, KeyError) as error:  # of PEFT, which an adapter of another model does not suit
            place = self.settings.lora.peft_path if self.saved else "--trainable"
            raise AdapterError(
                "{place}: it does not fit this base: {error}", place=place, error=one_line(error, 200)
            ) from error

    def run(self, sizes: ModelSizes) -> Run:
        """What else decides its memory."""
        settings, machine = self.settings, self.machine
        is_quantised = base.num_bits(settings.model) is not None
        is_narrow = self.precision.bf16 or self.precision.fp16 or is_quantised
        casts = (
            (self.precision.bf16 or self.precision.fp16) and self.precision.weights.itemsize > 2 and not is_quantised
        )
        shape = ModelShape.of(
            self.config,
            2 if is_narrow else 4,
            settings.lora.lora_rank if self.saved is None else int(self.saved.r),
            dropout=settings.lora.lora_dropout,
            is_fused=machine.kind == "cpu" and not is_quantised and not casts,  # see `model.lora`
        )
        cells, repeated, predictions = largest_step(settings, self.corpus, machine.num_devices)
        given = settings.run.micro_batch_tokens
        return Run(
            shape=shape,
            checkpointing=bool(checkpointing_asked(settings)),
            most_cells=None if given == "auto" else int(given),
            longest=int(self.corpus.train.lengths().max()),
            step_cells=cells,
            repeated=repeated,
            predictions=predictions,
            chunk_bytes=chunk_bytes(torch.device(machine.kind), trains_head=sizes.trains_head),
            optimizer=str(settings.trainer.optim),
            engine=_engine(settings, machine),
            casts_weights=casts,
            maps_weights=self.config.dtype == self.precision.weights and not is_quantised,
            may_divide=self.may(training={**settings.training, "fsdp": "full_shard"}),
        )

    def variants(self, sizes: ModelSizes) -> dict[str, ModelSizes]:
        """Sizes under other options, by those options; the one that costs least first."""
        found = {}
        if sizes.num_full:
            found['--modules_to_save ""'] = sizes.without_full()
        if base.num_bits(self.settings.model) is None and self.may(
            model=replace(self.settings.model, load_in_4bit=True)
        ):
            found["--load_in_4bit"] = sizes.quantised(4)
            if sizes.num_full:
                found['--load_in_4bit --modules_to_save ""'] = sizes.quantised(4).without_full()
        return found

    def may(self, **changes: Any) -> bool:
        """Whether a run with these settings changed is not refused; a package that it needs can be installed."""
        hardware = Hardware(self.machine.kind, bfloat16=True, float16=True)
        merges = bool(self.settings.lora.peft_path) and self.settings.lora.new_adapter
        try:
            check_engines(replace(self.settings, **changes), hardware, merges=merges)
        except MissingDependencyError:
            return True
        except UsageError:
            return False
        return True


def forecast(planned: Planned) -> Forecast:
    """Count what a run needs.

    Raises:
        ModelError: the model cannot be made from its configuration.
    """
    settings, machine = planned.settings, planned.machine
    sizes = planned.sizes()
    run = planned.run(sizes)
    memory = plan(sizes, run, machine)
    if not memory.fits and not run.checkpointing and checkpointing_asked(settings) is None:
        run = replace(run, checkpointing=True)  # as the run itself would
        memory = plan(sizes, run, machine)
    changes = [] if memory.fits else changes_that_fit(sizes, run, machine, planned.variants(sizes))
    main = machine.program_bytes + (_while_loading(planned, sizes) if machine.kind == "cpu" else sizes.unused_bytes)
    disk = disk_bytes(settings, planned.corpus, sizes)
    return Forecast(machine, memory, changes, main, disk, disk_there(settings))


def _while_loading(planned: Planned, sizes: ModelSizes) -> int:
    """Frozen weights, and beside them the files where they are converted; else the files themselves are used."""
    stored, width = planned.config.dtype, planned.precision.weights
    beside = 0 if stored in (None, width) else sizes.frozen_bytes * stored.itemsize // width.itemsize
    return sizes.frozen_bytes + int(beside)


def foresee(
    settings: Settings, inputs: Inputs, corpus: Corpus, precision: Precision, args: TrainingArguments
) -> dict[str, Any] | None:
    """Say what the run will need, before its base is loaded; returned for run.json. None where it cannot be counted."""
    machine = machine_here(args.device.type)
    planned = Planned(settings, inputs.config, corpus, inputs.tokenizer.num_tokens, precision, machine)
    with _not_divided(args):
        found = tried(planned)
    if found is None:
        return None
    logger.log(logging.INFO if found.memory.fits else logging.WARNING, found.told())
    return found.as_json()


@contextlib.contextmanager
def _not_divided(args: TrainingArguments) -> Iterator[None]:
    """Models are made whole here: under ZeRO-3, transformers would divide this one among the processes, too."""
    config = getattr(args, "hf_deepspeed_config", None)
    if config is None:
        yield
        return
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(config)


def for_check(
    settings: Settings, folder: Path, corpus: Corpus, num_tokens: int, plan_for: str | None
) -> Forecast | None:
    """For `yangtuo check`: on this machine, or on the one of `--plan_for`.

    Raises:
        UsageError: `plan_for` names no amount of memory; or this machine's GPU cannot be used.
    """
    named = machine_named(plan_for) if plan_for else None
    try:
        config = read_config(folder, trust_remote_code=settings.model.trust_remote_code)
    except (ValueError, TypeError, StrictDataclassError) as error:
        logger.warning("memory: cannot be counted: %s cannot be read: %s", folder / "config.json", one_line(error, 160))
        return None
    if named:
        hardware = Hardware("cuda", bfloat16=True, float16=True)
    else:
        hardware = processor.detect_hardware(settings.trainer.use_cpu)
        if hardware.device == "cpu" and hardware.bfloat16:
            hardware = replace(hardware, bfloat16_rate=bfloat16_rate())
    machine = named or machine_here(hardware.device)
    return tried(Planned(settings, config, corpus, num_tokens, precision_on(settings, config, hardware), machine))


def tried(planned: Planned) -> Forecast | None:
    """The forecast; None, and said, of a model that cannot be made from its configuration."""
    try:
        return forecast(planned)
    except ModelError as error:
        logger.warning("memory: cannot be counted: %s", error)
        return None


def tell_beside(planned: Mapping[str, Any] | None, peak: int) -> None:
    """Say what was needed beside what was foreseen."""
    if not planned or not peak:
        return
    foreseen = planned["total"]
    if planned["machine"]["kind"] != "cpu":  # whose account is of tensors alone
        foreseen -= planned["parts"]["program"] + planned["parts"]["gaps of the allocator"]
    logger.info("memory: the steps took at most %s GiB; %s were foreseen", gib(peak), gib(foreseen))


def _largest(parts: Mapping[str, int], number: int) -> list[tuple[str, int]]:
    return sorted(parts.items(), key=lambda part: -part[1])[:number]


def _engine(settings: Settings, machine: Machine) -> str:
    stage = deepspeed_of(settings).get("zero_optimization", {}).get("stage") if settings.trainer.deepspeed else None
    if stage:
        return f"zero{stage}"
    return "fsdp" if fsdp(settings.trainer.fsdp) else "ddp" if machine.num_devices > 1 else "one"
