"""Our own options: name, default, help, and what each decides of a result. `options` is the table of all.

They are the fields of the four dataclasses below. All fields of transformers' `TrainingArguments` are options too, see
`trainer_options`; those of earlier versions are in `old_options`. This module imports neither torch nor transformers:
what only inspects data must start fast.
"""

from dataclasses import dataclass
from typing import ClassVar

from yangtuo.config.choices import (
    BadRows,
    DataFormat,
    DataOrder,
    Deduplicate,
    History,
    Hub,
    ModulesToSavePolicy,
    TrainTurns,
    Truncation,
)
from yangtuo.config.option_field import Decides as Decides
from yangtuo.config.option_field import option
from yangtuo.config.run_arguments import RunArguments as RunArguments


@dataclass(frozen=True)
class ModelArguments:
    """Base model and tokenizer."""

    group: ClassVar[str] = "base model and tokenizer"

    model_name_or_path: str | None = option(
        None, "Folder (or hub name) of the base model, Hugging Face format.", decides=Decides.CONTENT
    )
    tokenizer_name_or_path: str | None = option(
        None,
        "Folder (or hub name) of the tokenizer. Default: the adapter's, else the base model's folder.",
        decides=Decides.CONTENT,
    )
    torch_dtype: str | None = option(
        None,
        "Dtype of the frozen base weights: auto (as stored), float32, bfloat16 or float16. Default: auto. "
        "Replaced, and said, where the hardware cannot train well in it. Trained weights are always float32.",
        aliases=["--dtype"],
        decides=Decides.RESULT,
    )
    load_in_4bit: bool = option(
        False,
        "QLoRA: keep the frozen base in 4 bits (nf4, double quantisation; package bitsandbytes). The adapter fits the "
        "16-bit base, and is merged into that.",
        decides=Decides.RESULT,
    )
    load_in_8bit: bool = option(False, "Keep the frozen base in 8 bits (package bitsandbytes).", decides=Decides.RESULT)
    attn_implementation: str | None = option(
        None,
        "Attention code of transformers: sdpa, eager, flash_attention_2, ...; rows are then padded. Default: ours, "
        "which shares prefixes and pads nothing; transformers' own for models that it does not fit.",
        decides=Decides.NOTHING,
    )
    hub: Hub = option(
        Hub.AUTO,
        "Where a model given by name is fetched; auto: modelscope where USE_MODELSCOPE_HUB=1 is set, else huggingface.",
        decides=Decides.NOTHING,
    )
    cache_dir: str | None = option(
        None, "Where models fetched by hub name are kept. Default: the hub's own cache.", decides=Decides.NOTHING
    )
    model_revision: str | None = option(
        None,
        "Branch, tag or commit of a model given by hub name. Default: the main one.",
        decides=Decides.CONTENT,
    )
    trust_remote_code: bool = option(
        False, "Run Python code that comes with the model. Only for code you have read.", decides=Decides.RESULT
    )


@dataclass(frozen=True)
class DataArguments:
    """What is trained on."""

    group: ClassVar[str] = "data"

    dataset_dir: str | None = option(
        None,
        "Folder with data files (.json, .jsonl, .ndjson, .csv, .tsv, .xlsx, .parquet, .arrow, texts also as .gz and "
        ".zst), or one file, or several separated by commas. Sub-folders are read with --include_subfolders only.",
        decides=Decides.CONTENT,
    )
    train_file: str | None = option(
        None, "One training file or several separated by commas, instead of --dataset_dir.", decides=Decides.CONTENT
    )
    include_subfolders: bool = option(
        False, "Read the data files of the folder's sub-folders too.", decides=Decides.CONTENT
    )
    validation_file: str | None = option(
        None,
        "File or files for evaluation. What lies in the training folder too is left out of training.",
        decides=Decides.CONTENT,
    )
    validation_split_percentage: float | None = option(
        None,
        "Part of the training rows set aside for evaluation where there is no --validation_file: below 1 a "
        "fraction (0.001 = one row in a thousand), from 1 up a percentage; at least one row.",
        decides=Decides.EVALUATION,
    )
    data_format: DataFormat = option(
        DataFormat.AUTO,
        "How rows spell a dialogue. alpaca: instruction, input, output, also history and system; sharegpt: "
        "conversations; messages: messages with role and content; prompt_completion: prompt and completion; auto: by "
        "the keys of each file's first row.",
        aliases=["--format"],
        decides=Decides.RESULT,
    )
    columns: str | None = option(
        None,
        'Which column of a file is which field, as JSON: \'{"问题描述": "instruction", "客服": "output"}\'; null for a '
        'column that is not used. By place where a table has no line of names: \'{"0": "instruction", "1": "output"}\' '
        "(0 is the first). "
        "Default: columns go by their names, and those of well-known data are known.",
        decides=Decides.CONTENT,
    )
    allow_empty_answers: bool = option(
        False, "Train empty answers too, as the end token alone. Default: they are bad rows.", decides=Decides.RESULT
    )
    bad_rows: BadRows = option(
        BadRows.ERROR,
        "error: name all rows that cannot be used and stop; drop: leave them out, and list them with their reasons in "
        "the output folder's dropped_rows.jsonl (check: in that of --out).",
        decides=Decides.RESULT,
    )
    max_rows: int | None = option(
        None, "Read at most this many rows of each training file, its first. Default: all.", decides=Decides.RESULT
    )
    template: str = option(
        "auto",
        "Text around the turns: alpaca_zh, alpaca_zh_2, llama3, chatml, tokenizer (the tokenizer's own chat template) "
        "or a file, see docs/data.md. auto: by the tokenizer, and said.",
        decides=Decides.CONTENT,
    )
    system_prompt: str | None = option(
        None,
        'System prompt of rows without one; "" for none. Default: the template\'s, if any.',
        decides=Decides.CONTENT,
    )
    chat_template_kwargs: str | None = option(
        None,
        "What the tokenizer's chat template is given beside the messages, as a JSON object, as servers take it: "
        '{"enable_thinking": false}. It travels with the adapter. A row\'s own column of this name goes before it.',
        decides=Decides.CONTENT,
    )
    history: History = option(
        History.AS_SERVED,
        "Dialogues of which the chat template renders earlier answers otherwise than the last one. as_served: each "
        "such answer is an example of its own, behind the prompt that a server would ask it with; one_example: the "
        "last answers alone carry a loss, those before are context.",
        decides=Decides.RESULT,
    )
    train_turns: TrainTurns = option(
        TrainTurns.ALL,
        'all: every answer of a dialogue carries a loss but those with "train": false; last: the last.',
        decides=Decides.RESULT,
    )
    parse_special_tokens: bool = option(
        False,
        "Turn control tokens spelled inside a user's text, such as </s>, into control ids, as the 2023 script did. "
        "Default: text is text.",
        decides=Decides.RESULT,
    )
    deduplicate: Deduplicate = option(
        Deduplicate.OFF,
        "Train on the first only of rows that are equal (exact), or nearly so (near: four fifths of their token "
        "triples). Repeated rows are counted in any case.",
        decides=Decides.RESULT,
    )
    mix: str | None = option(
        None,
        "How often an epoch has the rows of a file: law.json:2,general.json:0.5 has each row of the one twice, and "
        "half of the other's, drawn anew each epoch. Files that are not named: 1.",
        decides=Decides.RESULT,
    )
    max_seq_length: int = option(
        512, "Largest number of tokens of an example, prompt and answer together.", decides=Decides.RESULT
    )
    truncation: Truncation = option(
        Truncation.KEEP_ANSWER,
        "For longer examples. keep_answer: leave out a dialogue's oldest turns, then shorten the user's text, then the "
        "answer at a sentence end, keep the end token; right: cut from the right as the 2023 script did; drop: leave "
        "the row out; error: stop.",
        decides=Decides.RESULT,
    )
    data_cache_dir: str | None = option(
        None,
        "Folder in which encoded rows are kept and found again, by what they were made of. Default: yangtuo/encoded in "
        "the user's cache folder.",
        decides=Decides.NOTHING,
    )
    overwrite_cache: bool = option(
        False, "Encode the rows again although they are kept; they are never stale.", decides=Decides.NOTHING
    )
    preprocessing_num_workers: int | None = option(
        None,
        "Processes that read and tokenise large data, threads for small. Default: all processors.",
        decides=Decides.NOTHING,
    )
    data_order: DataOrder = option(
        DataOrder.SHUFFLED,
        "shuffled: another order each epoch, from the seed; sequential: as in the files.",
        decides=Decides.RESULT,
    )


@dataclass(frozen=True)
class LoraArguments:
    """What is trained."""

    group: ClassVar[str] = "LoRA"

    lora_rank: int = option(8, "Rank r of the LoRA matrices.", decides=Decides.RESULT)
    lora_alpha: float = option(
        32.0,
        "LoRA scale: the update is multiplied by alpha / rank, or alpha / sqrt(rank) with --use_rslora.",
        decides=Decides.RESULT,
    )
    lora_dropout: float = option(
        0.05, "Dropout before the LoRA matrices. Also used when continuing an adapter.", decides=Decides.RESULT
    )
    trainable: str = option(
        "q_proj,v_proj,k_proj,o_proj,gate_proj,down_proj,up_proj",
        "Modules that get LoRA, separated by commas; all-linear: every linear layer and expert but head and routers.",
        decides=Decides.CONTENT,
    )
    layers_to_transform: str | None = option(
        None, "Layers that get LoRA matrices, counted from 0, such as 0-15,31. Default: all.", decides=Decides.RESULT
    )
    rank_pattern: str | None = option(
        None,
        "Other ranks for some modules, such as q_proj:16,layers.0.mlp.up_proj:4; the end of the name decides.",
        decides=Decides.RESULT,
    )
    alpha_pattern: str | None = option(
        None, "Other alphas for some modules, spelled as in --rank_pattern.", decides=Decides.RESULT
    )
    use_rslora: bool = option(False, "Rank-stabilised LoRA: the scale is alpha / sqrt(rank).", decides=Decides.RESULT)
    use_dora: bool = option(
        False, "DoRA: the length of each row of a weight is trained beside its direction.", decides=Decides.RESULT
    )
    init_lora_weights: str = option(
        "true",
        "How LoRA matrices begin. true: A at random, B zero; gaussian; orthogonal; pissa, pissa_niter_16 or olora: "
        "from the base's own weights, saved as a LoRA of twice the rank that fits the base as it is.",
        decides=Decides.RESULT,
    )
    loraplus_lr_ratio: float | None = option(
        None,
        "LoRA+: the B matrices learn so many times as fast as the A matrices, such as 16. Default: equally fast.",
        decides=Decides.RESULT,
    )
    modules_to_save: str | None = option(
        None,
        "Modules trained in full beside LoRA and saved with it, separated by commas, e.g. embed_tokens,lm_head. When "
        "continuing, modules that the adapter does not have are added.",
        decides=Decides.CONTENT,
    )
    train_new_tokens_only: bool = option(
        False,
        "Train, beside LoRA, only the rows that the embedding and the head get for tokens that the base does not have "
        "yet; all other rows stay frozen. Far smaller than --modules_to_save embed_tokens,lm_head.",
        decides=Decides.RESULT,
    )
    peft_path: str | None = option(
        None,
        "Folder of an adapter to continue. Rank, alpha and modules then come from the adapter.",
        decides=Decides.CONTENT,
    )
    new_adapter: bool = option(
        False,
        "Put the adapter of --peft_path into the base, in memory, and train a new LoRA on top; both are merged later, "
        "in this order. The LoRA options are then the new one's.",
        decides=Decides.RESULT,
    )
    modules_to_save_policy: ModulesToSavePolicy = option(
        ModulesToSavePolicy.KEEP,
        "When continuing, what becomes of the adapter's modules_to_save. keep: trained further; freeze: used and "
        "saved, not trained; drop: left out, the base's own are used; reset: trained again from the base's.",
        decides=Decides.RESULT,
    )
    force_base: bool = option(
        False,
        "Take an adapter although its fingerprint says that it was trained on another base.",
        decides=Decides.NOTHING,
    )
    allow_partial_adapter: bool = option(
        False,
        "Take an adapter that lacks tensors, or has some that belong to nothing; both are listed. Default: an error.",
        decides=Decides.NOTHING,
    )


OUR_GROUPS = (ModelArguments, DataArguments, LoraArguments, RunArguments)
