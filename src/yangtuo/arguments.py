"""Every option: its name, default and help, and what happens to those of other programs.

Our own options are the four dataclasses below. All fields of transformers' `TrainingArguments` are options too;
`TRAINING_ARGUMENTS` says for each what becomes of it here, and a test walks the dataclass so that none is forgotten.
Those of earlier versions are in `old_options`. This module imports neither torch nor transformers: what only inspects
data must start fast.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple


class Truncation(StrEnum):
    """What happens to an example longer than `max_seq_length`."""

    KEEP_ANSWER = "keep_answer"
    RIGHT = "right"
    DROP = "drop"
    ERROR = "error"


class DataFormat(StrEnum):
    """How a row spells a dialogue."""

    AUTO = "auto"
    ALPACA = "alpaca"
    SHAREGPT = "sharegpt"
    MESSAGES = "messages"
    PROMPT_COMPLETION = "prompt_completion"


class BadRows(StrEnum):
    """What happens to rows that cannot be used."""

    ERROR = "error"
    DROP = "drop"


class TrainTurns(StrEnum):
    """Which answers of a dialogue carry a loss."""

    ALL = "all"
    LAST = "last"


class Deduplicate(StrEnum):
    """Which repeated rows are left out."""

    OFF = "off"
    EXACT = "exact"
    NEAR = "near"


class LossReduction(StrEnum):
    """How the loss of a step is averaged."""

    TOKEN = "token"
    DEVICE_BATCH = "device_batch"


class DataOrder(StrEnum):
    """In which order an epoch visits the rows."""

    SHUFFLED = "shuffled"
    SEQUENTIAL = "sequential"


def _option(default: Any, help: str, **metadata: Any) -> Any:
    """A dataclass field that is also a command-line option; `help` is its only documentation."""
    return field(default=default, metadata={"help": help, **metadata})


@dataclass(frozen=True)
class ModelArguments:
    """Base model and tokenizer."""

    model_name_or_path: str | None = _option(None, "Folder (or hub name) of the base model, Hugging Face format.")
    tokenizer_name_or_path: str | None = _option(
        None, "Folder (or hub name) of the tokenizer. Default: the adapter's, else the base model's folder."
    )
    torch_dtype: str | None = _option(
        None,
        "Number format of the frozen base weights: auto (as stored), float32, bfloat16 or float16. Default: auto. "
        "Replaced, and said, where the hardware cannot train well in it. Trained weights are always float32.",
        aliases=["--dtype"],
    )
    attn_implementation: str | None = _option(
        None,
        "Attention code of transformers: sdpa, eager, flash_attention_2, ...; rows are then padded. Default: ours, "
        "which shares prefixes and pads nothing; transformers' own for models that it does not fit.",
    )
    cache_dir: str | None = _option(None, "Where models fetched by hub name are kept. Default: the hub's own cache.")
    model_revision: str | None = _option(None, "Branch, tag or commit of a model given by hub name. Default: main.")
    trust_remote_code: bool = _option(False, "Run Python code that comes with the model. Only for code you have read.")


@dataclass(frozen=True)
class DataArguments:
    """What is trained on."""

    dataset_dir: str | None = _option(
        None,
        "Folder with data files (.json, .jsonl, .parquet, .csv, also .gz and .zst), or one file, or several separated "
        "by commas. Sub-folders are read with --include_subfolders only.",
    )
    train_file: str | None = _option(
        None, "One training file or several separated by commas, instead of --dataset_dir."
    )
    include_subfolders: bool = _option(False, "Read the data files of the folder's sub-folders too.")
    validation_file: str | None = _option(
        None, "File or files for evaluation. What lies in the training folder too is left out of training."
    )
    validation_split_percentage: float | None = _option(
        None,
        "Part of the training rows set aside for evaluation where there is no --validation_file: below 1 a "
        "fraction (0.001 = one row in a thousand), from 1 up a percentage; at least one row.",
    )
    data_format: DataFormat = _option(
        DataFormat.AUTO,
        "How rows spell a dialogue. alpaca: instruction, input, output, also history and system; sharegpt: "
        "conversations; messages: messages with role and content; prompt_completion: prompt and completion; auto: by "
        "the keys of each file's first row.",
        aliases=["--format"],
    )
    bad_rows: BadRows = _option(
        BadRows.ERROR,
        "error: name all rows that cannot be used and stop; drop: leave them out, and list them with their reasons in "
        "dropped_rows.jsonl.",
    )
    max_rows: int | None = _option(None, "Read at most this many rows of each training file, its first. Default: all.")
    template: str = _option(
        "auto",
        "Text around the turns: alpaca_zh, alpaca_zh_2, llama3, chatml, tokenizer (the tokenizer's own chat template) "
        "or a file, see docs/data.md. auto: by the tokenizer, and said.",
    )
    system_prompt: str | None = _option(None, "System prompt of rows without one. Default: the template's, if any.")
    train_turns: TrainTurns = _option(
        TrainTurns.ALL, 'all: every answer of a dialogue carries a loss but those with "train": false; last: the last.'
    )
    parse_special_tokens: bool = _option(
        False,
        "Turn control tokens spelled inside a user's text, such as </s>, into control ids, as the 2023 script did. "
        "Default: text is text.",
    )
    deduplicate: Deduplicate = _option(
        Deduplicate.OFF,
        "Train on the first only of rows that are equal (exact), or nearly so (near: four fifths of their token "
        "triples). Repeated rows are counted in any case.",
    )
    mix: str | None = _option(
        None,
        "How often an epoch has the rows of a file: law.json:2,general.json:0.5 has each row of the one twice, and "
        "half of the other's, drawn anew each epoch. Files that are not named: 1.",
    )
    max_seq_length: int = _option(512, "Largest number of tokens of an example, prompt and answer together.")
    truncation: Truncation = _option(
        Truncation.KEEP_ANSWER,
        "For longer examples. keep_answer: leave out a dialogue's oldest turns, then shorten the user's text, then the "
        "answer at a sentence end, keep the end token; right: cut from the right as the 2023 script did; drop: leave "
        "the row out; error: stop.",
    )
    data_cache_dir: str | None = _option(
        None,
        "Folder in which encoded rows are kept and found again, by what they were made of. Default: yangtuo/encoded in "
        "the user's cache folder.",
    )
    overwrite_cache: bool = _option(False, "Encode the rows again although they are kept; they are never stale.")
    preprocessing_num_workers: int | None = _option(
        None, "Processes that read and tokenise large data, threads for small. Default: all processors."
    )
    data_order: DataOrder = _option(
        DataOrder.SHUFFLED, "shuffled: another order each epoch, from the seed; sequential: as in the files."
    )


@dataclass(frozen=True)
class LoraArguments:
    """What is trained."""

    lora_rank: int = _option(8, "Rank r of the LoRA matrices.")
    lora_alpha: float = _option(32.0, "LoRA scale: the update is multiplied by alpha / rank.")
    lora_dropout: float = _option(0.05, "Dropout before the LoRA matrices. Also used when continuing an adapter.")
    trainable: str = _option(
        "q_proj,v_proj,k_proj,o_proj,gate_proj,down_proj,up_proj",
        "Modules that get LoRA matrices, separated by commas; all-linear for every linear layer but the head.",
    )
    modules_to_save: str | None = _option(
        None, "Modules trained in full beside LoRA and saved with it, separated by commas, e.g. embed_tokens,lm_head."
    )
    train_new_tokens_only: bool = _option(
        False,
        "Train, beside LoRA, only the rows that the embedding and the head get for tokens that the base does not have "
        "yet; all other rows stay frozen. Far smaller than --modules_to_save embed_tokens,lm_head.",
    )
    peft_path: str | None = _option(
        None, "Folder of an adapter to continue. Rank, alpha and modules then come from the adapter."
    )


@dataclass(frozen=True)
class RunArguments:
    """How the run behaves."""

    loss_reduction: LossReduction = _option(
        LossReduction.TOKEN,
        "token: mean over the step's supervised tokens; device_batch: as the 2023 script, the mean over each group "
        "of per_device_train_batch_size rows, then over groups.",
    )
    micro_batch_tokens: str = _option(
        "auto",
        "Most tokens of one forward and backward, prefixes that rows share counted once; changes speed and memory, "
        "not the result. auto: from the free memory, and halved when it runs out.",
    )
    save_minutes: float = _option(
        10.0, "Also save a checkpoint when this many minutes have passed since the last one; 0 for never."
    )
    watchdog_minutes: float = _option(
        10.0,
        "With several processes: end the run, naming who is missing, when one has waited this long for another that "
        "does not go on or does not answer; 0 for never.",
    )
    overwrite_output_dir: bool = _option(
        False,
        "Start although the output folder holds another run: that folder is renamed, never deleted. An unfinished "
        "run of the same meaning is resumed with or without this flag.",
    )


OUR_GROUPS = (ModelArguments, DataArguments, LoraArguments, RunArguments)


class Fate(StrEnum):
    """What becomes of a field of `TrainingArguments`."""

    PASSED = "passed"  # transformers does what its documentation says
    FIXED = "fixed"  # always so here, as the reason says; said when the option is given
    OURS = "ours"  # same meaning, our code; the reason says how
    REFUSED = "refused"  # any value but the default is an error; the reason says why and what to do


class Treatment(NamedTuple):
    """One row of `TRAINING_ARGUMENTS`."""

    fate: Fate
    reason: str = ""


def _passed(names: str) -> dict[str, Treatment]:
    return {name: Treatment(Fate.PASSED) for name in names.split()}


def _refused(names: str, reason: str) -> dict[str, Treatment]:
    return {name: Treatment(Fate.REFUSED, reason) for name in names.split()}


def _fixed(names: str, reason: str) -> dict[str, Treatment]:
    return {name: Treatment(Fate.FIXED, reason) for name in names.split()}


def _ours(names: str, reason: str) -> dict[str, Treatment]:
    return {name: Treatment(Fate.OURS, reason) for name in names.split()}


# Fields of transformers 5.23's TrainingArguments.
TRAINING_ARGUMENTS: dict[str, Treatment] = {
    **_passed(
        "output_dir num_train_epochs max_steps learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps "
        "optim optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm tf32 "
        "activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing "
        "gradient_checkpointing_kwargs use_cache logging_first_step log_on_each_node log_level "
        "log_level_replica report_to run_name project trackio_space_id trackio_bucket_id trackio_static_space_id "
        "eval_strategy eval_steps eval_delay eval_on_start save_only_model save_strategy save_steps "
        "save_on_each_node save_total_limit push_to_hub hub_token hub_private_repo hub_model_id hub_strategy "
        "hub_always_push hub_revision load_best_model_at_end metric_for_best_model greater_is_better "
        "full_determinism seed skip_memory_metrics ddp_find_unused_parameters ddp_bucket_cap_mb "
        "ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout fsdp fsdp_config debug"
    ),
    **_ours("per_device_train_batch_size gradient_accumulation_steps", "with the world size: the rows of a step"),
    **_ours("per_device_eval_batch_size", "rows of a group in evaluation with --loss_reduction device_batch"),
    **_ours("neftune_noise_alpha", "scaled by each row's own length, as the paper has it; rows are then padded"),
    **_ours("label_smoothing_factor", "in the training loss; evaluation reports the plain loss"),
    **_ours("bf16 fp16", "replaced, and said, where the hardware cannot"),
    **_ours("use_cpu", "set by itself where no accelerator is visible"),
    **_ours("logging_strategy logging_steps", "screen and trackers; log.jsonl always has every step"),
    **_fixed("logging_nan_inf_filter", "always off: a loss that is not finite stops the run"),
    **_ours("disable_tqdm", "off: one line a logging step instead of a bar"),
    **_fixed("include_num_input_tokens_seen", "log.jsonl always has the tokens of each step"),
    **_ours("data_seed", "seed of the order of rows; default: --seed"),
    **_ours("train_sampling_strategy", "random or sequential, the same as --data_order"),
    **_ours("dataloader_drop_last", "leaves out the short last step of each epoch, and says how many rows that is"),
    **_ours(
        "dataloader_num_workers dataloader_prefetch_factor dataloader_multiprocessing_context",
        "processes that lay out coming steps",
    ),
    **_ours("do_train do_eval", "training is the default; --do_eval alone only evaluates"),
    **_ours("resume_from_checkpoint", "a checkpoint folder; without it the last complete one of the output folder"),
    **_ours("deepspeed", "a path or JSON text; an old file is mended in memory"),
    **_fixed("prediction_loss_only", "always so: evaluation gathers no predictions"),
    **_fixed("local_rank", "torchrun tells it through the environment"),
    **_refused(
        "average_tokens_across_devices",
        "the loss of a step is one mean over all ranks; --loss_reduction device_batch gives the 2023 script's",
    ),
    **_refused("bf16_full_eval fp16_full_eval", "it would round the float32 weights that are trained; leave it out"),
    **_refused(
        "auto_find_batch_size",
        "it would change which rows form a step; lower --per_device_train_batch_size and raise "
        "--gradient_accumulation_steps by the same factor",
    ),
    **_refused(
        "torch_compile torch_compile_backend torch_compile_mode",
        "every micro-batch has another length, so it would compile again and again; leave it out",
    ),
    **_refused("use_liger_kernel liger_kernel_config", "it replaces code of the model that the loss here builds on"),
    **_refused(
        "optim_target_modules", "such optimizers (GaLore and kin) train full weights, here LoRA matrices are trained"
    ),
    **_refused("torch_empty_cache_steps", "it would only slow the run: memory of a step is used again by the next"),
    **_refused(
        "eval_do_concat_batches eval_use_gather_object eval_accumulation_steps include_for_metrics batch_eval_metrics",
        "evaluation sums the loss over tokens and gathers no predictions; leave it out",
    ),
    **_refused("ignore_data_skip", "a resumed run would train on other rows than the one it continues"),
    **_refused("restore_callback_states_from_checkpoint", "no call-back here keeps a state between runs"),
    **_refused("enable_jit_checkpoint", "use --save_steps"),
    **_refused(
        "accelerator_config parallelism_config",
        "rows are dealt to ranks by this program, not by accelerate; leave it out",
    ),
    **_refused(
        "dataloader_pin_memory dataloader_in_order", "steps are laid out in order, straight from memory; leave it out"
    ),
    **_refused("dataloader_persistent_workers", "loader processes start anew with each epoch's order; leave it out"),
    **_refused("remove_unused_columns label_names length_column_name", "rows have no columns here; leave it out"),
    **_refused("do_predict", "there is no test set; use --do_eval with --validation_file"),
}
