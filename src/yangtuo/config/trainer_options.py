"""What becomes of each field of transformers' `TrainingArguments`, all of which are options here too.

A test walks the dataclass so that none is forgotten. Imports neither torch nor transformers, since `check` reads it.
"""

from enum import StrEnum
from typing import NamedTuple

from yangtuo.config.schema import Decides
from yangtuo.i18n import Message


class ArgHandling(StrEnum):
    """What becomes of a field of `TrainingArguments`."""

    PASSED = "passed"  # transformers does what its documentation says
    FIXED = "fixed"  # always so here, as the reason says; said when the option is given
    OURS = "ours"  # same meaning, our code; the reason says how
    REFUSED = "refused"  # any value but the default is an error; the reason says why and what to do


class ArgRule(NamedTuple):
    """One row of `TRAINING_ARGUMENTS`: what becomes of the field, why, and what of a result it decides."""

    handling: ArgHandling
    reason: str
    decides: Decides


def _passed(names: str, decides: Decides) -> dict[str, ArgRule]:
    return {name: ArgRule(ArgHandling.PASSED, "", decides) for name in names.split()}


def _ours(names: str, reason: str, decides: Decides) -> dict[str, ArgRule]:
    return {name: ArgRule(ArgHandling.OURS, reason, decides) for name in names.split()}


# These two have one value only.
def _refused(names: str, reason: str) -> dict[str, ArgRule]:
    return {name: ArgRule(ArgHandling.REFUSED, reason, Decides.NOTHING) for name in names.split()}


def _fixed(names: str, reason: str) -> dict[str, ArgRule]:
    return {name: ArgRule(ArgHandling.FIXED, reason, Decides.NOTHING) for name in names.split()}


# Fields of transformers 5.23's TrainingArguments.
TRAINING_ARGUMENTS: dict[str, ArgRule] = {
    **_passed(
        "num_train_epochs max_steps learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps optim optim_args "
        "weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm",
        Decides.RESULT,
    ),
    **_passed("eval_strategy eval_steps eval_delay eval_on_start", Decides.EVALUATION),
    **_passed("load_best_model_at_end", Decides.EVALUATION),
    **_passed("metric_for_best_model greater_is_better save_strategy save_steps", Decides.FINAL),
    **_passed("seed", Decides.CONTENT),  # a run that goes on keeps its own, see `run`
    **_passed("fsdp fsdp_config", Decides.NOTHING),
    **_passed(
        "output_dir tf32 full_determinism activation_checkpointing activation_checkpointing_kwargs "
        "gradient_checkpointing gradient_checkpointing_kwargs use_cache logging_first_step log_on_each_node log_level "
        "log_level_replica run_name project trackio_space_id trackio_bucket_id trackio_static_space_id "
        "save_only_model save_on_each_node save_total_limit push_to_hub hub_token hub_private_repo hub_model_id "
        "hub_strategy hub_always_push hub_revision skip_memory_metrics ddp_find_unused_parameters ddp_bucket_cap_mb "
        "ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout debug",
        Decides.NOTHING,
    ),
    **_ours(
        "per_device_train_batch_size gradient_accumulation_steps",
        "with the world size: the rows of a step",
        Decides.CONTENT,
    ),
    **_ours(
        "per_device_eval_batch_size",
        "rows of a group in evaluation with --loss_reduction device_batch",
        Decides.CONTENT,
    ),
    **_ours(
        "neftune_noise_alpha",
        "scaled by each row's own length, as the paper has it; rows are then padded",
        Decides.RESULT,
    ),
    **_ours("label_smoothing_factor", "in the training loss; evaluation reports the plain loss", Decides.RESULT),
    **_ours("bf16 fp16", "replaced, and said, where the hardware cannot", Decides.RESULT),
    **_ours("use_cpu", "set by itself where no accelerator is visible", Decides.NOTHING),
    **_ours("logging_strategy logging_steps", "screen and trackers; log.jsonl always has every step", Decides.NOTHING),
    **_ours(
        "report_to",
        "several separated by commas; started on the first process alone, before the first step",
        Decides.NOTHING,
    ),
    **_fixed("logging_nan_inf_filter", "always off: a loss that is not finite stops the run"),
    **_ours("disable_tqdm", "off: one line a logging step instead of a bar", Decides.NOTHING),
    **_fixed("include_num_input_tokens_seen", "log.jsonl always has the tokens of each step"),
    **_ours("data_seed", "seed of the order of rows; default: --seed", Decides.RESULT),
    **_ours("train_sampling_strategy", "random or sequential, the same as --data_order", Decides.CONTENT),
    **_ours(
        "dataloader_drop_last",
        "leaves out the short last step of each epoch, and says how many rows that is",
        Decides.RESULT,
    ),
    **_ours(
        "dataloader_num_workers dataloader_prefetch_factor dataloader_multiprocessing_context",
        "processes that lay out coming steps",
        Decides.NOTHING,
    ),
    **_ours("do_train do_eval", "training is the default; --do_eval alone only evaluates", Decides.RESULT),
    **_ours(
        "resume_from_checkpoint",
        "a checkpoint folder; without it the last complete one of the output folder",
        Decides.NOTHING,
    ),
    **_ours("deepspeed", "a path or JSON text; an old file is mended in memory", Decides.CONTENT),
    **_fixed("prediction_loss_only", "always so: evaluation gathers no predictions"),
    **_fixed("local_rank", "torchrun tells it through the environment"),
    **_refused(
        "average_tokens_across_devices",
        Message("the loss of a step is one mean over all ranks; --loss_reduction device_batch gives the 2023 script's"),
    ),
    **_refused(
        "bf16_full_eval fp16_full_eval", Message("it would round the float32 weights that are trained; leave it out")
    ),
    **_refused(
        "auto_find_batch_size",
        Message(
            "it would change which rows form a step; lower --per_device_train_batch_size and raise "
            "--gradient_accumulation_steps by the same factor"
        ),
    ),
    **_ours("torch_compile", Message("each decoder layer as one graph, tried before the first step"), Decides.NOTHING),
    **_refused(
        "torch_compile_backend torch_compile_mode",
        Message("layers are compiled by Inductor, in its default mode; leave it out"),
    ),
    **_refused(
        "use_liger_kernel liger_kernel_config", Message("it replaces code of the model that the loss here builds on")
    ),
    **_refused(
        "optim_target_modules",
        Message("such optimizers (GaLore and kin) train full weights, here LoRA matrices are trained"),
    ),
    **_refused(
        "torch_empty_cache_steps", Message("it would only slow the run: memory of a step is used again by the next")
    ),
    **_refused(
        "eval_do_concat_batches eval_use_gather_object eval_accumulation_steps include_for_metrics batch_eval_metrics",
        Message("evaluation sums the loss over tokens and gathers no predictions; leave it out"),
    ),
    **_refused("ignore_data_skip", Message("a resumed run would train on other rows than the one it continues")),
    **_refused("restore_callback_states_from_checkpoint", Message("no call-back here keeps a state between runs")),
    **_refused("enable_jit_checkpoint", Message("give --save_steps")),
    **_refused(
        "accelerator_config parallelism_config",
        Message("rows are dealt to ranks by this program, not by accelerate; leave it out"),
    ),
    **_refused(
        "dataloader_pin_memory dataloader_in_order",
        Message("steps are laid out in order, straight from memory; leave it out"),
    ),
    **_refused(
        "dataloader_persistent_workers", Message("loader processes start anew with each epoch's order; leave it out")
    ),
    **_refused(
        "remove_unused_columns label_names length_column_name", Message("rows have no columns here; leave it out")
    ),
    **_refused("do_predict", Message("there is no test set; use --do_eval with --validation_file")),
}

_GROUPS = {
    "steps and optimizer": (
        "num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps learning_rate "
        "lr_scheduler_type lr_scheduler_kwargs warmup_steps optim optim_args weight_decay adam_beta1 adam_beta2 "
        "adam_epsilon max_grad_norm label_smoothing_factor neftune_noise_alpha dataloader_drop_last seed data_seed "
        "do_train"
    ),
    "evaluation": (
        "do_eval eval_strategy eval_steps eval_delay eval_on_start per_device_eval_batch_size load_best_model_at_end "
        "metric_for_best_model greater_is_better"
    ),
    "output folder, checkpoints, logs": (
        "output_dir save_strategy save_steps save_total_limit save_only_model save_on_each_node resume_from_checkpoint "
        "logging_strategy logging_steps logging_first_step report_to run_name disable_tqdm log_level"
    ),
    "precision, memory, several GPUs": (
        "bf16 fp16 tf32 use_cpu gradient_checkpointing torch_compile deepspeed fsdp fsdp_config ddp_backend "
        "ddp_timeout ddp_find_unused_parameters"
    ),
}
RARE = "rarely used"  # the group of all others
GROUP_OF = {name: group for group, names in _GROUPS.items() for name in names.split()}

# In our words, since transformers' own take seconds to load; of those that most runs give.
SENTENCES = {
    "output_dir": "Folder for checkpoints, log and adapter; the same command again goes on there.",
    "learning_rate": "Learning rate at its highest: after the warm-up, before the schedule lowers it.",
    "num_train_epochs": "How often all rows are trained on.",
    "max_steps": "Steps in all, instead of --num_train_epochs; -1 for that.",
    "per_device_train_batch_size": "Rows of a step on each GPU, times --gradient_accumulation_steps.",
    "gradient_accumulation_steps": "Gives a step so many times the rows; memory is saved by --micro_batch_tokens.",
    "torch_compile": "Compile each decoder layer: fewer passes over memory, a minute or two longer at the start.",
    "gradient_checkpointing": "Less memory, about a third slower; auto: on where a row would not fit otherwise.",
}
