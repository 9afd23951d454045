import argparse
import logging

import pytest

from yangtuo.config.choices import DataOrder, LossReduction, Truncation
from yangtuo.config.old_options import GONE, WITHOUT_EFFECT
from yangtuo.config.parser import build_parser, parse
from yangtuo.config.settings import as_dict
from yangtuo.config.trainer_options import TRAINING_ARGUMENTS, ArgHandling
from yangtuo.errors import UsageError

PARSER = build_parser("yangtuo train")


def settings_of(*words):
    return parse([str(word) for word in words], PARSER)[0]


def refused(*words):
    with pytest.raises(UsageError) as caught:
        settings_of(*words)
    return str(caught.value)


@pytest.fixture
def config(tmp_path):
    """Writes a configuration file and returns its path."""

    def write(text, name="run.yaml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


# ---- the command line of 2023's run_sft.sh, every flag of it

SEED_PAGE = """
    --deepspeed ds_zero2_no_offload.json
    --model_name_or_path path/to/hf/llama/or/merged/llama/dir/or/model_id
    --tokenizer_name_or_path path/to/chinese/llama/tokenizer/dir
    --dataset_dir path/to/sft/data/dir
    --validation_split_percentage 0.001
    --per_device_train_batch_size 1
    --per_device_eval_batch_size 1
    --do_train
    --do_eval
    --seed 12345
    --fp16
    --max_steps 100
    --lr_scheduler_type cosine
    --learning_rate 1e-4
    --warmup_ratio 0.03
    --weight_decay 0
    --logging_strategy steps
    --logging_steps 10
    --save_strategy steps
    --save_total_limit 3
    --evaluation_strategy steps
    --eval_steps 250
    --save_steps 500
    --gradient_accumulation_steps 1
    --preprocessing_num_workers 8
    --max_seq_length 512
    --output_dir output_dir
    --overwrite_output_dir
    --ddp_timeout 30000
    --logging_first_step True
    --lora_rank 8
    --lora_alpha 32
    --trainable q_proj,v_proj,k_proj,o_proj,gate_proj,down_proj,up_proj
    --modules_to_save embed_tokens,lm_head
    --lora_dropout 0.05
    --torch_dtype float16
    --validation_file validation_file_name
    --peft_path path/to/peft/model/dir
    --gradient_checkpointing
    --ddp_find_unused_parameters False
"""


def test_the_command_of_2023_is_understood_whole(caplog):
    settings = settings_of(*SEED_PAGE.split())
    model, data, lora = settings.model, settings.data, settings.lora
    assert model.model_name_or_path == "path/to/hf/llama/or/merged/llama/dir/or/model_id"
    assert model.tokenizer_name_or_path == "path/to/chinese/llama/tokenizer/dir"
    assert model.torch_dtype == "float16"
    assert (data.dataset_dir, data.validation_file) == ("path/to/sft/data/dir", "validation_file_name")
    assert (data.validation_split_percentage, data.max_seq_length, data.preprocessing_num_workers) == (0.001, 512, 8)
    assert (lora.lora_rank, lora.lora_alpha, lora.lora_dropout) == (8, 32.0, 0.05)
    assert lora.trainable == "q_proj,v_proj,k_proj,o_proj,gate_proj,down_proj,up_proj"
    assert (lora.modules_to_save, lora.peft_path) == ("embed_tokens,lm_head", "path/to/peft/model/dir")
    assert settings.run.overwrite_output_dir is True
    assert settings.training == {
        "deepspeed": "ds_zero2_no_offload.json",
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 1,
        "do_train": True,
        "do_eval": True,
        "seed": 12345,
        "fp16": True,
        "max_steps": 100,
        "lr_scheduler_type": "cosine",
        "learning_rate": 1e-4,
        "warmup_steps": 0.03,
        "weight_decay": 0.0,
        "logging_strategy": "steps",
        "logging_steps": 10.0,
        "save_strategy": "steps",
        "save_total_limit": 3,
        "eval_strategy": "steps",
        "eval_steps": 250.0,
        "save_steps": 500.0,
        "gradient_accumulation_steps": 1,
        "output_dir": "output_dir",
        "ddp_timeout": 30000,
        "logging_first_step": True,
        "gradient_checkpointing": True,
        "ddp_find_unused_parameters": False,
    }
    assert set(settings.origins.values()) == {"command line"}
    assert caplog.messages == [
        "--evaluation_strategy is now called --eval_strategy",
        "--warmup_ratio is now called --warmup_steps",
    ]


# ---- old names


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--evaluation_strategy", "epoch"], "eval_strategy", "epoch"),
        (["--warmup_ratio", "0.1"], "warmup_steps", 0.1),
        (["--warmup_ratio", "0"], "warmup_steps", 0.0),
        (["--no_cuda"], "use_cpu", True),
        (["--no_cuda", "False"], "use_cpu", False),
        (["--per_gpu_train_batch_size", "4"], "per_device_train_batch_size", 4),
        (["--per_gpu_eval_batch_size=2"], "per_device_eval_batch_size", 2),
        (["--push_to_hub_token", "x"], "hub_token", "x"),
    ],
)
def test_an_old_name_is_mapped_and_said(words, name, value, caplog):
    settings = settings_of(*words)
    assert settings.training[name] == value
    assert type(settings.training[name]) is type(value)
    old = words[0].split("=")[0]
    assert settings.origins == {name: "command line"}
    assert caplog.messages == [f"{old} is now called --{name}"]


def test_an_old_name_of_ours():
    assert settings_of("--tokenizer_name", "folder").model.tokenizer_name_or_path == "folder"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--warmup_ratio", "1"], "--warmup_ratio 1: a ratio lies from 0 to below 1; --warmup_steps takes a count"),
        (
            ["--warmup_ratio", "-0.1"],
            "--warmup_ratio -0.1: a ratio lies from 0 to below 1; --warmup_steps takes a count",
        ),
        (["--warmup_ratio", "x"], "--warmup_ratio: 'x' is not a number"),
        (["--per_gpu_train_batch_size", "1.5"], "--per_gpu_train_batch_size: '1.5' is not a number"),
        (
            ["--warmup_ratio", "0.1", "--warmup_steps", "5"],
            "options: --warmup_ratio and --warmup_steps are the same option; give one of them",
        ),
    ],
)
def test_an_old_name_with_a_wrong_value(words, message):
    assert refused(*words) == message


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_an_option_without_effect_is_said_once(name, caplog):
    plain = settings_of()
    settings = settings_of(f"--{name}", "7")
    assert caplog.messages == [f"--{name} has no effect: {WITHOUT_EFFECT[name]}"]
    assert settings == plain


@pytest.mark.parametrize("name", GONE)
def test_an_option_that_is_gone_says_what_to_do(name):
    assert refused(f"--{name}", "7") == f"options: --{name}: {GONE[name]}"


def test_all_options_that_are_gone_at_once():
    assert refused("--block_size", "7", "--model_type", "llama").splitlines() == [
        "options (2 problems):",
        f"  --model_type: {GONE['model_type']}",
        f"  --block_size: {GONE['block_size']}",
    ]


def test_an_option_that_is_gone_and_switched_off_is_harmless():
    assert settings_of("--group_by_length", "False") == settings_of()


# ---- unknown words


def test_every_unknown_option_with_the_nearest_name():
    assert refused("--lora_rnak=4", "--fp16", "--max_seq_len=8", "--qqq").splitlines() == [
        "options (3 problems):",
        "  unknown option '--lora_rnak'; did you mean '--lora_rank'?",
        "  unknown option '--max_seq_len'; did you mean '--max_seq_length'?",
        "  unknown option '--qqq'; yangtuo train --help lists the options",
    ]


def test_a_data_file_behind_an_unknown_option_is_not_taken_for_a_configuration_file(tmp_path):
    rows = tmp_path / "law.json"
    rows.write_text("[]")
    told = "options: unknown option '--train_fil'; did you mean '--train_file'?"
    assert refused("--train_fil", str(rows)) == told
    assert refused("--lora_rank", "8", "--train_fil", str(rows), "--max_steps", "3") == told


def test_no_abbreviations(sentences):
    sentences(refused("--lora_ran=1"), "--lora_ran")


def test_a_word_that_belongs_to_no_option():
    assert refused("--max_steps", "3", "\\ ") == (
        "options: '\\\\ ' belongs to no option; in a shell script, a comment or a space behind a line's closing "
        "backslash cuts the command there"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max_steps", "many"], "yangtuo train: argument --max_steps/--max-steps: invalid int value: 'many'"),
        (["--peft_path"], "yangtuo train: argument --peft_path/--peft-path: expected one argument"),
    ],
)
def test_a_wrong_value(words, message):
    assert refused(*words) == message


@pytest.mark.parametrize("name", ["truncation", "loss_reduction", "data_order", "eval_strategy", "lr_scheduler_type"])
def test_a_value_that_is_none_of_the_choices(name):
    message = refused(f"--{name}", "bogus")
    assert message.startswith(f"yangtuo train: argument --{name}")
    assert "invalid choice: 'bogus'" in message


# ---- refused fields


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--torch_compile_mode", "max-autotune"],
            "--torch_compile_mode max-autotune: not supported: layers are compiled by Inductor, in its default mode; "
            "leave it out",
        ),
        (
            ["--auto_find_batch_size", "True"],
            "--auto_find_batch_size True: not supported: it would change which rows form a step; lower "
            "--per_device_train_batch_size and raise --gradient_accumulation_steps by the same factor",
        ),
        (
            ["--dataloader_pin_memory", "False"],
            "--dataloader_pin_memory False: not supported: steps are laid out in order, straight from memory; leave "
            "it out",
        ),
        (
            ["--train_sampling_strategy", "group_by_length"],
            "--train_sampling_strategy group_by_length: rows are not sorted by length, since that changes which rows "
            "form a step; leave it out",
        ),
        *(
            (
                ["--optim", optim],
                f"--optim {optim}: it trains full weights, here LoRA matrices are trained; try adamw_torch",
            )
            for optim in ("lomo", "adalomo", "galore_adamw", "apollo_adamw")
        ),
    ],
)
def test_what_cannot_be_honoured(words, message):
    assert refused(*words) == f"options: {message}"


def test_all_of_them_at_once():
    message = refused("--use_liger_kernel", "--do_predict", "--optim", "lomo")
    lines = message.splitlines()
    assert lines[0] == "options (3 problems):"
    assert sorted(line.split()[0] for line in lines[1:]) == ["--do_predict", "--optim", "--use_liger_kernel"]


@pytest.mark.parametrize(
    "words", [["--use_liger_kernel", "False"], ["--dataloader_pin_memory"], ["--optim", "adamw_torch"]]
)
def test_the_default_of_a_refused_field_may_be_spelled_out(words):
    assert settings_of(*words).training["do_train"] is True


# ---- values


def test_an_empty_value_counts_as_not_given(caplog):
    settings = settings_of("--peft_path", "", "--learning_rate", "1e-3")
    assert settings.lora.peft_path is None
    assert settings.origins == {"learning_rate": "command line"}
    assert caplog.messages == ["--peft_path is empty and counts as not given"]


def test_choices_become_enums():
    settings = settings_of("--truncation", "right", "--loss_reduction", "device_batch", "--data_order", "sequential")
    assert settings.data.truncation is Truncation.RIGHT
    assert settings.run.loss_reduction is LossReduction.DEVICE_BATCH
    assert settings.data.data_order is DataOrder.SEQUENTIAL
    defaults = settings_of()
    assert defaults.data.truncation is Truncation.KEEP_ANSWER
    assert defaults.run.loss_reduction is LossReduction.TOKEN
    assert defaults.data.data_order is DataOrder.SHUFFLED


def test_the_sampling_strategy_of_transformers_is_our_data_order():
    settings = settings_of("--train_sampling_strategy", "sequential")
    assert settings.data.data_order is DataOrder.SEQUENTIAL
    assert "train_sampling_strategy" not in settings.training
    assert settings_of("--train_sampling_strategy", "random").data.data_order is DataOrder.SHUFFLED


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {"do_train": True}),
        (["--do_train"], {"do_train": True}),
        (["--do_eval"], {"do_eval": True}),
        (["--do_train", "--do_eval"], {"do_train": True, "do_eval": True}),
        (["--do_train", "False", "--do_eval"], {"do_train": False, "do_eval": True}),
    ],
)
def test_training_is_the_default(words, expected):
    assert settings_of(*words).training == expected


@pytest.mark.parametrize("name", ["gradient_checkpointing", "fp16", "ddp_find_unused_parameters", "logging_first_step"])
def test_a_switch_may_stand_bare_or_with_a_value(name):
    values = [settings_of(*words).training[name] for words in ([f"--{name}"], [f"--{name}", "True"], [f"--{name}=no"])]
    assert values == [True, True, False]


def test_dashes_and_aliases():
    assert settings_of("--lora-rank", "4").lora.lora_rank == 4
    assert settings_of("--dtype", "bfloat16").model.torch_dtype == "bfloat16"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--validation_split_percentage", "0"], "--validation_split_percentage 0.0: above 0 and below 100"),
        (["--validation_split_percentage", "100"], "--validation_split_percentage 100.0: above 0 and below 100"),
        (["--lora_dropout", "1"], "--lora_dropout 1.0: from 0 to below 1"),
        (["--lora_dropout=-0.1"], "--lora_dropout -0.1: from 0 to below 1"),
        (["--max_seq_length", "1"], "--max_seq_length 1: at least 2"),
        (["--lora_rank", "0"], "--lora_rank 0: at least 1"),
        (["--attn_implementation", "sdap"], "--attn_implementation sdap: did you mean 'sdpa'?"),
        (
            ["--attn_implementation", "prefix_shared"],
            "--attn_implementation prefix_shared: expected one of eager, sdpa, flex_attention, flash_attention_2, "
            "flash_attention_3, flash_attention_4",
        ),
        (["--preprocessing_num_workers=-1"], "--preprocessing_num_workers -1: at least 1"),
        (["--max_rows", "0"], "--max_rows 0: at least 1"),
        (["--per_device_train_batch_size", "0"], "--per_device_train_batch_size 0: at least 1"),
        (["--per_device_eval_batch_size", "0"], "--per_device_eval_batch_size 0: at least 1"),
        (["--gradient_accumulation_steps", "0"], "--gradient_accumulation_steps 0: at least 1"),
        (["--dataset_dir", "a", "--train_file", "b"], "--dataset_dir and --train_file: give one of them"),
        (["--lora_alpha", "0"], "--lora_alpha 0: above 0"),
        (["--lora_alpha", "nan"], "--lora_alpha nan: above 0"),
        (["--save_minutes", "-1"], "--save_minutes -1: at least 0"),
        (["--watchdog_minutes", "nan"], "--watchdog_minutes nan: at least 0"),
    ],
)
def test_bounds(words, message):
    assert refused(*words) == f"options: {message}"


def test_all_bounds_at_once():
    assert refused("--lora_rank", "0", "--lora_dropout", "2").splitlines() == [
        "options (2 problems):",
        "  --lora_dropout 2.0: from 0 to below 1",
        "  --lora_rank 0: at least 1",
    ]


def test_the_bounds_themselves_are_allowed():
    settings = settings_of(
        *("--validation_split_percentage", "99.9", "--lora_dropout", "0", "--max_seq_length", "2"),
        *("--lora_rank", "1", "--preprocessing_num_workers", "1", "--per_device_train_batch_size", "1"),
    )
    assert (settings.lora.lora_dropout, settings.data.max_seq_length) == (0.0, 2)


# ---- configuration files

YAML = """
# a comment
lora_rank: 16
trainable: q_proj,v_proj
learning_rate: 1e-4        # a text to YAML 1.1
fp16: true
peft_path: null
warmup_ratio: 0.03
lr_scheduler_type: cosine_with_min_lr
lr_scheduler_kwargs: {min_lr: 0.25}
truncation: drop
"""
JSON = """{"lora_rank": 16, "trainable": "q_proj,v_proj", "learning_rate": 1e-4, "fp16": true, "peft_path": null,
"warmup_ratio": 0.03, "lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 0.25},
"truncation": "drop"}"""


@pytest.mark.parametrize(("text", "name"), [(YAML, "run.yaml"), (YAML, "run.YML"), (JSON, "run.json")])
def test_a_file_says_the_same_as_flags(config, text, name):
    by_flags = settings_of(
        *("--lora_rank", "16", "--trainable", "q_proj,v_proj", "--learning_rate", "1e-4", "--fp16"),
        *("--warmup_ratio", "0.03", "--lr_scheduler_type", "cosine_with_min_lr", "--truncation", "drop"),
        *("--lr_scheduler_kwargs", '{"min_lr": 0.25}'),
    )
    by_file = settings_of(config(text, name))
    assert set(by_file.origins.values()) == {"configuration file"}
    assert by_file.origins.keys() == by_flags.origins.keys()
    for group in ("model", "data", "lora", "run"):
        assert getattr(by_file, group) == getattr(by_flags, group)
    assert by_file.training == {
        "learning_rate": 1e-4,
        "fp16": True,
        "warmup_steps": 0.03,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": '{"min_lr": 0.25}',  # transformers reads it
        "do_train": True,
    }
    assert by_flags.training == by_file.training
    assert by_file.data.truncation is Truncation.DROP


def test_a_value_is_taken_as_it_is_written(config):
    settings = settings_of(config("eval_strategy: no\nrun_name: 007\nlora_dropout: 0\nbf16: yes\n"))
    assert settings.training == {"eval_strategy": "no", "run_name": "007", "bf16": True, "do_train": True}
    assert settings.lora.lora_dropout == 0.0


def test_a_flag_overrides_the_file(config):
    path = config("lora_rank: 16\nlearning_rate: 1e-3\nfp16: true\n")
    settings = settings_of(path, "--lora_rank", "4", "--fp16", "False")
    assert settings.lora.lora_rank == 4
    assert settings.training == {"learning_rate": 1e-3, "fp16": False, "do_train": True}
    assert settings.origins == {
        "lora_rank": "command line",
        "learning_rate": "configuration file",
        "fp16": "command line",
    }
    assert settings.given("lora_rank")
    assert not settings.given("lora_alpha")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- lora_rank\n", "expected 'name: value' lines, found list"),
        ("lora_rank\n", "expected 'name: value' lines, found str"),
        ("", "expected 'name: value' lines, found NoneType"),
        (
            "lora_rank: [1\nfp16: true\n",
            "while parsing a flow sequence in \"<unicode string>\", line 1, column 12: lora_rank: [1 ^ expected ',' or "
            "']', but got ':' in \"<unicode string>\", line 2, column 5: fp16: true ^",
        ),
    ],
)
def test_a_bad_file(config, text, message):
    path = config(text)
    assert refused(path) == f"configuration file {path}: {message}"


def test_a_missing_file(tmp_path):
    assert refused(tmp_path / "none.yaml") == f"configuration file {tmp_path}/none.yaml: No such file or directory"


def test_a_file_obeys_the_rules_of_flags(config, sentences):
    sentences(refused(config("lora_rnak: 4\n")), "--lora_rnak")
    assert refused(config("lora_rank: 0\n")) == "options: --lora_rank 0: at least 1"
    assert refused(config("model_type: llama\n")) == f"options: --model_type: {GONE['model_type']}"


def test_lists_of_modules(config):
    settings = settings_of(config("trainable: [q_proj, v_proj]\nmodules_to_save:\n  - embed_tokens\n  - lm_head\n"))
    assert settings.lora.trainable == "q_proj,v_proj"
    assert settings.lora.modules_to_save == "embed_tokens,lm_head"


def test_a_list_where_an_option_takes_one_value_and_a_key_that_is_none(config):
    path = config("dataset_dir: [a, b]\n3: 4\nconfig: other.yaml\n")
    assert refused(path).splitlines() == [
        f"configuration file {path} (3 problems):",
        "  dataset_dir takes one value, found a list of 2",
        "  3 is no option",
        "  'config' is no option",
    ]


def test_keys_that_yaml_1_1_would_read_otherwise(config):
    assert refused(config("on: 3\n")).startswith("options: unknown option '--on'")
    merged = config("base: &base\n  lora_rank: 4\n<<: *base\n")
    assert "unknown option '--base'" in refused(merged)


def test_numbers_inside_a_value_stay_numbers(config):
    for text, name in (
        ("lr_scheduler_kwargs: {min_lr: 1e-5}", "a.yaml"),
        ('{"lr_scheduler_kwargs": {"min_lr": 1e-5}}', "a.json"),
    ):
        words = (config(text, name), "--lr_scheduler_type", "cosine_with_min_lr")
        assert settings_of(*words).training["lr_scheduler_kwargs"] == '{"min_lr": 1e-05}'


def test_a_json_file_with_tabs(config):
    assert settings_of(config('{\n\t"lora_rank": 4\n}', "a.json")).lora.lora_rank == 4


def test_a_flag_overrides_the_old_name_in_a_file(config):
    settings = settings_of(config("evaluation_strategy: steps\n"), "--eval_strategy", "no")
    assert settings.training["eval_strategy"] == "no"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--do_train", "False"], "--do_train False without --do_eval: nothing to do"),
        (
            ["--train_sampling_strategy", "sequential", "--data_order", "shuffled"],
            "--train_sampling_strategy sequential and --data_order shuffled: give one of them",
        ),
        (["--preprocessing_num_workers", "0"], "--preprocessing_num_workers 0: at least 1"),
    ],
)
def test_contradictions(words, message):
    assert refused(*words) == f"options: {message}"


def test_every_problem_at_once():
    said = refused("--lora_rnak", "8", "--group_by_length", "--use_liger_kernel")
    assert said.splitlines()[0] == "options (3 problems):"


# ---- the rest


def test_a_verb_has_options_of_its_own():
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--out", default="-")

    parser = build_parser("yangtuo encode", add)
    settings, own = parse(["--out", "x.jsonl", "--lora_rank", "4"], parser)
    assert vars(own) == {"out": "x.jsonl"}
    assert settings.lora.lora_rank == 4
    assert vars(parse([], parser)[1]) == {"out": "-"}


def test_every_option_is_recorded_with_its_origin_and_no_secret():
    recorded = as_dict(settings_of("--lora_rank", "4", "--hub_token", "hf_secret"))
    assert recorded["lora_rank"] == {"value": 4, "from": "command line"}
    assert recorded["lora_alpha"] == {"value": 32.0, "from": "default"}
    assert recorded["hub_token"] == {"value": "(not written)", "from": "command line"}
    assert recorded["learning_rate"] == {"value": 5e-5, "from": "default"}
    assert "hf_secret" not in str(recorded)


def test_nothing_is_said_about_a_command_line_of_today(caplog):
    with caplog.at_level(logging.DEBUG, "yangtuo"):
        settings_of("--eval_strategy", "steps", "--warmup_steps", "0.03", "--fp16")
    assert caplog.messages == []


@pytest.mark.parametrize(
    "option", [name for name, row in TRAINING_ARGUMENTS.items() if row.handling is ArgHandling.FIXED]
)
def test_what_is_always_so_is_said_when_given(option, caplog):
    settings_of(f"--{option}", "0" if option == "local_rank" else "True")
    assert f"--{option} has no effect: {TRAINING_ARGUMENTS[option].reason}" in caplog.messages


def test_a_slip_in_another_tools_name_is_answered_as_that_name():
    assert refused("--cutof_len", "512") == refused("--cutoff_len", "512").replace("cutoff_len", "cutof_len")
    assert "here it is --max_seq_length" in refused("--cutof_len", "512")
    assert "here it is" not in refused("--qqq_len", "512")
