"""README.md of a trained adapter: what it is, how it was made, and how it is asked, in English and in Chinese.

Functions of values, but for `put_verdict`; `training/adapter_card.py` finds the values. The licence is left out: it
follows from base and data, which only the owner knows.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from yangtuo import output
from yangtuo.data.token_stats import num_chinese

MARK = "<!-- Written by yangtuo, anew at the end of each run. Take this line out to keep a text of your own. -->"
_BEGIN, _END = "<!-- evaluation -->", "<!-- end of evaluation -->"
_OF_PEFT = "# Model Card for Model ID"  # the title that nobody keeps who writes the rest
_ENGLISH_WORDS = frozenset(("the", "of", "and", "to", "in", "is", "that", "it", "for", "with", "are", "was", "this"))
_FEW = 0.05  # part of the letters or words below which a language is not named


@dataclass(frozen=True)
class DataFile:
    """A file that was trained on: its name, the rows that were used, its SHA-256."""

    name: str
    num_rows: int
    sha256: str


@dataclass(frozen=True)
class Losses:
    """Of rows that were trained on, in nats a token: before the first step, and of the saved adapter."""

    before: float
    after: float
    num_rows: int


@dataclass(frozen=True)
class Loading:
    """What plain PEFT and transformers have to be told.

    Attributes:
        base: name or folder, as it was given.
        place: what it is loaded by from anywhere on this machine: the name, or the whole path of the folder.
        below: folders of adapters that are merged into the base first, in order.
        num_tokens: rows that the vocabulary grows to before; None where the base's are enough.
        trust_remote_code: the base's own code is run.
    """

    base: str
    place: str
    below: tuple[str, ...] = ()
    num_tokens: int | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True)
class CardFacts:
    """What a card tells.

    Attributes:
        name: title.
        loading: see there.
        template: name of the prompt template.
        prompt: its text with {instruction} in the place of the question; None where it needs a system prompt.
        prompt_section: on the files of the prompt, Markdown.
        config: values of adapter_config.json.
        data: files that were trained on.
        languages: codes of ISO 639-1, of the answers.
        num_steps: optimizer steps that were made.
        losses: None where they were not measured.
        versions: of libraries, by name.
        commands: what a person does with the adapter, a line each.
        verdict: of an evaluation, a sentence; None where there was none.
    """

    name: str
    loading: Loading
    template: str
    prompt: str | None
    prompt_section: str
    config: Mapping[str, object]
    data: tuple[DataFile, ...]
    languages: tuple[str, ...]
    num_steps: int
    losses: Losses | None
    versions: Mapping[str, str]
    commands: tuple[str, ...]
    verdict: str | None = None


def markdown(facts: CardFacts) -> str:
    """The whole card, with the front matter that hubs read."""
    prompt = facts.prompt and _fenced(facts.prompt, "text")
    blank = " It ends with a blank." if facts.prompt and facts.prompt != facts.prompt.rstrip() else ""
    asked = (
        f"The prompt of training, to the byte; `{{instruction}}` is the question.{blank}\n\n{prompt}\n"
        if prompt
        else ""
    )
    commands = "\n".join(line.partition(": ")[2] for line in facts.commands)
    parts = [
        front_matter(facts),
        MARK,
        f"# {facts.name}\n",
        f"A LoRA adapter for `{facts.loading.base}`, in the format of PEFT; alone it is no model.\n",
        _tables(facts),
        _of_losses(facts.losses),
        f"{_BEGIN}\n{_END}\n",
        f"## Use\n\nWith PEFT and transformers:\n\n{_fenced(code(facts.loading), 'python')}\n",
        "With yangtuo, in the folder that holds this one (chat, files for servers, merge):\n",
        f"{_fenced(commands, 'bash')}\n",
        facts.prompt_section,
        asked,
        _chinese(facts),
    ]
    return with_verdict("\n".join(part for part in parts if part), facts.verdict)


def front_matter(facts: CardFacts) -> str:
    """YAML between two lines of dashes: base_model, library_name, pipeline_tag, tags; language where it is known."""
    lines = [f"base_model: {_quoted(facts.loading.base)}"]
    if facts.languages:
        lines += ["language:", *(f"- {language}" for language in facts.languages)]
    tags = ("- lora", "- sft", "- transformers", "- yangtuo")
    lines += ["library_name: peft", "pipeline_tag: text-generation", "tags:", *tags]
    return "\n".join(["---", *lines, "---"])


def code(loading: Loading) -> str:
    """A Python program that asks the adapter in the folder where it is started."""
    trust = ", trust_remote_code=True" if loading.trust_remote_code else ""
    grown = [f"model.resize_token_embeddings({loading.num_tokens}, mean_resizing=False)"] if loading.num_tokens else []
    below = [f"model = PeftModel.from_pretrained(model, {one!r}).merge_and_unload()" for one in loading.below]
    lines = [
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig",
        "",
        'adapter = "."  # this folder, or its name on a hub',
        "tokenizer = AutoTokenizer.from_pretrained(adapter)",
        f'model = AutoModelForCausalLM.from_pretrained({loading.place!r}, dtype="auto"{trust})',
        *grown,
        *below,
        "model = PeftModel.from_pretrained(model, adapter)",
        "",
        'messages = [{"role": "user", "content": "请介绍一下长城。"}]',
        "inputs = tokenizer.apply_chat_template(",
        '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
        ")",
        "config = GenerationConfig.from_pretrained(adapter, max_new_tokens=256)",
        "output = model.generate(**inputs, generation_config=config)",
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
    ]
    return "\n".join(lines)


def with_verdict(card: str, verdict: str | None) -> str:
    """The card with the sentence of an evaluation in place of the one that it had; None takes it out."""
    if _BEGIN not in card or _END not in card:
        return card
    before, _, rest = card.partition(_BEGIN)
    told = f"\n## Evaluation 评测\n\n{verdict}\n" if verdict else "\n"
    return f"{before}{_BEGIN}{told}{_END}{rest.partition(_END)[2]}"


def is_ours(text: str) -> bool:
    """Whether a README.md may be written anew: it is this module's, or the empty form that PEFT fills in."""
    return MARK in text or _OF_PEFT in text


def put_verdict(adapter: Path, verdict: str) -> bool:
    """Put an evaluation's sentence into the card of an adapter folder; False where there is no card of ours.

    Raises:
        WriteError: it cannot be written.
    """
    card = adapter / "README.md"
    try:
        text = card.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    if MARK not in text:
        return False
    with output.whole_file(card) as file:
        file.write(with_verdict(text, verdict))
    return True


def languages_of(texts: Sequence[str]) -> tuple[str, ...]:
    """Which of "zh" and "en" a good part of the texts is in; what is neither is not named."""
    chinese = sum(map(num_chinese, texts))
    words = [word for text in texts for word in re.findall(r"[a-z]+", text.lower())]
    common = sum(word in _ENGLISH_WORDS for word in words)
    is_chinese = chinese > _FEW * (chinese + len(words)) and not any(
        re.search("[\u3040-\u30ff]", text) for text in texts
    )
    is_english = len(words) > _FEW * (chinese + len(words)) and common > 2 * _FEW * len(words)
    return (*(("zh",) if is_chinese else ()), *(("en",) if is_english else ()))


def _tables(facts: CardFacts) -> str:
    files = "".join(f"| `{one.name}` | {one.num_rows:,} | `{one.sha256}` |\n" for one in facts.data)
    rows = {
        "base 底座": f"`{facts.loading.base}`",
        "merged into the base first 先合并": ", ".join(f"`{one}`" for one in facts.loading.below),
        "rank": facts.config.get("r"),
        "alpha": facts.config.get("lora_alpha"),
        "variant": ", ".join(name for name in ("use_rslora", "use_dora") if facts.config.get(name)),
        "target modules": _listed(facts.config.get("target_modules")),
        "modules_to_save": _listed(facts.config.get("modules_to_save")),
        "prompt template 提示模板": f"`{facts.template}`",
        "steps 步数": f"{facts.num_steps:,}",
        "versions 版本": ", ".join(f"{name} {version}" for name, version in facts.versions.items()),
    }
    told = "".join(f"| {name} | {value} |\n" for name, value in rows.items() if value not in ("", None))
    return (
        f"## Training 训练\n\n| what | value |\n|---|---|\n{told}\n"
        f"| file 数据文件 | rows 条数 | SHA-256 |\n|---|---|---|\n{files}"
    )


def _of_losses(losses: Losses | None) -> str:
    if losses is None:
        return ""
    return (
        f"Loss of {losses.num_rows} rows that were trained on, in nats a token: {losses.before:.4f} before the first "
        f"step, {losses.after:.4f} of this adapter as it lies on the disk. It says nothing of rows that were not "
        "trained on.\n"
    )


def _chinese(facts: CardFacts) -> str:
    losses = facts.losses
    lines = [
        f"`{facts.loading.base}` 的 LoRA 适配器，PEFT 格式；不能单独使用，需与底座一起加载。",
        f"训练了 {facts.num_steps:,} 步，数据文件、条数和 SHA-256 见上表。",
        f"训练数据中 {losses.num_rows} 条的损失（nats/token）：训练前 {losses.before:.4f}，训练后 {losses.after:.4f}。"
        if losses
        else "",
        f"提问时请用训练时的提示模板 `{facts.template}`（`chat_template.jinja` 已写好）；最可靠的是 `yangtuo chat`。",
        "用 PEFT 与 transformers 加载、对话、合并、导出的命令见上文 Use 一节。许可证取决于底座和数据，请自行填写。",
    ]
    return "## 中文\n\n" + "\n\n".join(filter(None, lines)) + "\n"


def _listed(value: object) -> str:
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(f"`{one}`" for one in sorted(map(str, value)))
    return f"`{value}`" if value else ""


def _quoted(text: str) -> str:
    """A text of YAML: one of JSON is one."""
    return json.dumps(text, ensure_ascii=False)


def _fenced(text: str, language: str) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
