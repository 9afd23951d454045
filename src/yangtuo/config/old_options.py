"""Options of 2023 and of earlier versions of transformers, so that old command lines go on working."""

# Old spelling -> today's. Values keep their meaning (warm-up steps below 1 are a ratio in transformers 5).
RENAMED: dict[str, str] = {
    "evaluation_strategy": "eval_strategy",
    "warmup_ratio": "warmup_steps",
    "no_cuda": "use_cpu",
    "tokenizer_name": "tokenizer_name_or_path",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "push_to_hub_token": "hub_token",
}

# Accepted so that an old command line runs; each is named once with its reason.
WITHOUT_EFFECT: dict[str, str] = {
    "keep_linebreaks": "line breaks in the data are always kept",
    "use_fast_tokenizer": "the tokenizer files decide",
    "force_resize_embeddings": "rows of the embedding are compared with the tokenizer in every run",
    "save_safetensors": "weights are always saved as safetensors",
    "half_precision_backend": "torch's own mixed precision is used",
    "fp16_backend": "torch's own mixed precision is used",
    "fp16_opt_level": "it belonged to NVIDIA apex",
    "logging_dir": "set the environment variable TENSORBOARD_LOGGING_DIR",
    "use_ipex": "gone from transformers",
    "jit_mode_eval": "gone from transformers",
    "ray_scope": "it belonged to hyper-parameter search",
    "tpu_num_cores": "gone from transformers",
    "past_index": "gone from transformers",
    "mp_parameters": "gone from transformers",
    "include_inputs_for_metrics": "evaluation gathers no predictions",
}

# Old options that cannot be given their meaning: the error says what to do instead.
GONE: dict[str, str] = {
    "group_by_length": "rows are not sorted by length, since that changes which rows form a step; leave it out",
    "config_overrides": "the model's config.json is used as it is; change it there",
    "config_name": "the model's own config.json is used; put the one you want into the model's folder",
    "use_auth_token": "set the environment variable HF_TOKEN",
    "torchdynamo": "leave it out",
    "model_type": "the model's config.json names its type; leave it out",
    "block_size": "that is the pre-training script's; here it is --max_seq_length",
}
