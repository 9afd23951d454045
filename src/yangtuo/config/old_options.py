"""Options of 2023 and of earlier versions of transformers, so that old command lines go on working."""

from yangtuo.i18n import Message

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
    "keep_linebreaks": Message("line breaks in the data are always kept"),
    "use_fast_tokenizer": Message("the tokenizer files decide"),
    "force_resize_embeddings": Message("rows of the embedding are compared with the tokenizer in every run"),
    "save_safetensors": Message("weights are always saved as safetensors"),
    "half_precision_backend": Message("torch's own mixed precision is used"),
    "fp16_backend": Message("torch's own mixed precision is used"),
    "fp16_opt_level": Message("it belonged to NVIDIA apex"),
    "logging_dir": Message("set the environment variable TENSORBOARD_LOGGING_DIR"),
    "use_ipex": Message("gone from transformers"),
    "jit_mode_eval": Message("gone from transformers"),
    "ray_scope": Message("it belonged to hyper-parameter search"),
    "tpu_num_cores": Message("gone from transformers"),
    "past_index": Message("gone from transformers"),
    "mp_parameters": Message("gone from transformers"),
    "include_inputs_for_metrics": Message("evaluation gathers no predictions"),
}

# Old options that cannot be given their meaning: the error says what to do instead.
GONE: dict[str, str] = {
    "group_by_length": Message(
        "rows are not sorted by length, since that changes which rows form a step; leave it out"
    ),
    "config_overrides": Message("the model's config.json is used as it is; change it there"),
    "config_name": Message("the model's own config.json is used; put the one you want into the model's folder"),
    "use_auth_token": Message("set the environment variable HF_TOKEN"),
    "torchdynamo": Message("leave it out"),
    "model_type": Message("the model's config.json names its type; leave it out"),
    "block_size": Message("that is the pre-training script's; here it is --max_seq_length"),
}
