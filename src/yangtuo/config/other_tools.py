"""What other tools call an option of ours, for whoever types it by habit.

They are not taken, since values are not always spelled alike; the error says what is meant. From LLaMA-Factory's
`hparams/` (commit 00577a8), TRL's `ModelConfig`, `SFTConfig` and `ScriptArguments` (1.x), and ms-swift's
`Command-line-parameters.md` (commit 003b8c3).
"""

from yangtuo.i18n import Message

LLAMA_FACTORY, TRL, MS_SWIFT = "LLaMA-Factory", "TRL", "ms-swift"
OTHER = "other tools"

# Their name -> the tool, and what does the same here.
OTHER_NAMES: dict[str, tuple[str, str]] = {
    "adapter_name_or_path": (LLAMA_FACTORY, "--peft_path"),
    "additional_target": (LLAMA_FACTORY, "--modules_to_save"),
    "create_new_adapter": (LLAMA_FACTORY, "--new_adapter"),
    "cutoff_len": (LLAMA_FACTORY, "--max_seq_length"),
    "dataset": (LLAMA_FACTORY, "--dataset_dir"),
    "eval_dataset": (LLAMA_FACTORY, "--validation_file"),
    "flash_attn": (LLAMA_FACTORY, "--attn_implementation"),
    "interleave_probs": (LLAMA_FACTORY, "--mix"),
    "lora_target": (LLAMA_FACTORY, "--trainable"),
    "mask_history": (LLAMA_FACTORY, "--train_turns last"),
    "max_samples": (LLAMA_FACTORY, "--max_rows"),
    "quantization_bit": (LLAMA_FACTORY, "--load_in_4bit or --load_in_8bit"),
    "val_size": (LLAMA_FACTORY, "--validation_split_percentage"),
    "dataset_name": (TRL, "--dataset_dir"),
    "lora_modules_to_save": (TRL, "--modules_to_save"),
    "lora_r": (TRL, "--lora_rank"),
    "lora_target_modules": (TRL, "--trainable"),
    "max_length": (TRL, "--max_seq_length"),
    "adapters": (MS_SWIFT, "--peft_path"),
    "attn_impl": (MS_SWIFT, "--attn_implementation"),
    "dataset_num_proc": (MS_SWIFT, "--preprocessing_num_workers"),
    "model": (MS_SWIFT, "--model_name_or_path"),
    "split_dataset_ratio": (MS_SWIFT, "--validation_split_percentage"),
    "system": (MS_SWIFT, "--system_prompt"),
    "target_modules": (MS_SWIFT, "--trainable"),
    "truncation_strategy": (MS_SWIFT, "--truncation"),
    "val_dataset": (MS_SWIFT, "--validation_file"),
    # Nobody's in particular, and typed by everybody.
    "batch_size": (OTHER, "--per_device_train_batch_size"),
    "epochs": (OTHER, "--num_train_epochs"),
    "lr": (OTHER, "--learning_rate"),
    "rank": (OTHER, "--lora_rank"),
}


def elsewhere(name: str, known: list[str]) -> str | None:
    """What is said of an option that other tools have; None of others, and where a verb has no such option."""
    tool, ours = OTHER_NAMES.get(name.lstrip("-").replace("-", "_"), ("", ""))
    if not ours or ours.split()[0] not in known:
        return None
    if tool == OTHER:
        return Message("here it is {meant}", meant=ours)
    return Message("that is the name in {tool}; here it is {meant}", tool=tool, meant=ours)
