"""What lies beside saved weights so that other programs ask them as training did: tokenizer, chat template, end tokens.

Other programs make the ids, and may make others: transformers 5 converts a `tokenizer.model` in a way of its own, and
a dialogue is turned into ids in one piece. So the folder is tried out, and what was found is said in its README.md.
"""

import logging
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yangtuo.data import probe_prompts
from yangtuo.data.probe_prompts import Prompt
from yangtuo.data.records import Turn
from yangtuo.data.templates import Template
from yangtuo.data.tokenizer import Tokenizer
from yangtuo.errors import DataError, one_line
from yangtuo.i18n import Message
from yangtuo.model import generation_config, prompt_texts

logger = logging.getLogger(__name__)

CHAT_TEMPLATE, CARD = "chat_template.jinja", "README.md"
OTHER_WAYS = Message("`yangtuo chat` asks as training did")
# Of past answers, whose beginning decides whether it melts into one token with what stands before it.
_PAST_ANSWERS = ("I am an assistant.", "42", "Sure! Here is a list:", "```python\nprint(1)\n```", "“长城”在北方。")


@dataclass(frozen=True)
class PromptFiles:
    """How a model is asked, as it is saved with weights.

    Attributes:
        tokenizer: of the training.
        template: of the training.
        files: chat_template.jinja and generation_config.json, by name.
        difference: a sentence on what transformers makes otherwise; "" for nothing, None where it was not tried.
    """

    tokenizer: Tokenizer
    template: Template
    files: Mapping[str, str]
    difference: str | None = None

    def num_bytes(self) -> int:
        """Size of what `save` writes, but for a page of text."""
        return self.tokenizer.num_bytes() + sum(len(text.encode()) for text in self.files.values())

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files, byte for byte, and those of the prompt in place of the tokenizer's own."""
        self.tokenizer.save(folder)
        self.save_prompt(folder)

    def save_prompt(self, folder: Path) -> None:
        """Write the files of the prompt alone, beside a tokenizer, and add their section to the folder's README.md."""
        for name, text in self.files.items():
            (folder / name).write_text(text, encoding="utf-8", newline="")
        begin = "\n" if (folder / CARD).is_file() else ""
        with (folder / CARD).open("a", encoding="utf-8") as file:
            file.write(begin + self.card())

    def card(self) -> str:
        """A section for the folder's README.md."""
        text = (
            f"## Prompt\n\n`{CHAT_TEMPLATE}` is the prompt of training (template `{self.template.name}`), "
            f"`{generation_config.GENERATION_CONFIG}` has its end token.\n"
        )
        return text if self.difference is None else f"{text}\n{self.told()}\n"

    def told(self) -> str:
        """In one sentence, whether transformers asks from this folder as training did."""
        if self.difference:
            return Message("{difference}; {other_ways}.", difference=self.difference, other_ways=OTHER_WAYS)
        return Message(
            "transformers {version} makes the token ids of training in all dialogues that were tried.",
            version=_version(),
        )

    def tell(self) -> None:
        """Say the same on the screen."""
        logger.log(logging.WARNING if self.difference else logging.INFO, "prompts: %s", self.told())

    def tried(self, config: Path | None = None) -> "PromptFiles":
        """With `difference` as it is found in a folder of these files; `config` is the model's, which decides too."""
        try:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                self.save(folder)
                if config:
                    shutil.copyfile(config, folder / "config.json")
                return replace(self, difference=_difference(folder, self.template, self.tokenizer))
        except OSError as error:  # no room for it, or no place
            return replace(
                self, difference=Message("what transformers makes of it was not tried ({error})", error=error)
            )


def prompt_files_of(template: Template, tokenizer: Tokenizer, existing: Mapping[str, Any] | None) -> PromptFiles:
    """How a model is asked.

    Args:
        template: of the training.
        tokenizer: of the training.
        existing: the base's generation_config.json, None where it has none.

    Raises:
        DataError: see `prompt_texts.jinja_of`.
    """
    jinja = prompt_texts.jinja_of(template, tokenizer)
    values = generation_config.of_training(existing, tokenizer, template)
    files = {CHAT_TEMPLATE: jinja, generation_config.GENERATION_CONFIG: generation_config.to_text(values)}
    return PromptFiles(tokenizer, template, files)


def _difference(folder: Path, template: Template, tokenizer: Tokenizer) -> str:
    """See `PromptFiles.difference`."""
    from transformers import AutoTokenizer

    try:
        prompts, _ = probe_prompts.encoded(_dialogues(), tokenizer, template)
    except DataError as error:
        return Message("what transformers makes of it was not tried ({error})", error=error)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            found = [_ids(theirs, prompt) for prompt in prompts]
            texts = [_text(theirs, prompt) for prompt in prompts]
    except Exception as error:  # whatever a tokenizer's own code may raise: the run is not to end by it
        return Message(
            "transformers {version} cannot ask from this folder ({error})",
            version=_version(),
            error=one_line(error, 120),
        )
    return _told(prompts, found, texts, tokenizer)


def _dialogues() -> list[tuple[Turn, ...]]:
    turns = [
        (Turn("assistant", text, trained=False), Turn("user", "为什么？", trained=False)) for text in _PAST_ANSWERS
    ]
    return [*probe_prompts.built_in(), *((Turn("user", "你好！", trained=False), *later) for later in turns)]


def _told(prompts: Sequence[Prompt], found: Sequence[list[int]], texts: Sequence[str], tokenizer: Tokenizer) -> str:
    begin = "" if tokenizer.bos_id is None else tokenizer.name_of(tokenizer.bos_id) or ""
    other = [i for i, prompt in enumerate(prompts) if found[i] != prompt.ids]
    in_one_piece = [i for i in other if found[i] == prompts[i].whole]
    if not other:
        return ""
    if in_one_piece == other and all(len(prompts[i].messages) > 2 for i in other):
        return Message(
            "transformers {version} makes the token ids of training from single questions; in {num_other} of "
            "{num_prompts} dialogues it tokenises a past answer together with what stands around it, training "
            "apart",
            version=_version(),
            num_other=len(other),
            num_prompts=len(prompts),
        )
    is_same_text = all(texts[i].removeprefix(begin) == prompts[i].text.removeprefix(begin) for i in other)
    why = Message("the same text in other tokens") if is_same_text else Message("another text")
    file = Message(" of tokenizer.model, which it converts") if (tokenizer.folder / "tokenizer.model").is_file() else ""
    return Message(
        "transformers {version} makes other token ids than training from {num_other} of {num_prompts} dialogues "
        "({why}{file})",
        version=_version(),
        num_other=len(other),
        num_prompts=len(prompts),
        why=why,
        file=file if is_same_text else "",
    )


def _ids(theirs: Any, prompt: Prompt) -> list[int]:
    made = theirs.apply_chat_template(prompt.messages, add_generation_prompt=True, return_dict=True)
    return [int(i) for i in made["input_ids"]]


def _text(theirs: Any, prompt: Prompt) -> str:
    return str(theirs.apply_chat_template(prompt.messages, add_generation_prompt=True, tokenize=False))


def _version() -> str:
    import transformers

    return str(transformers.__version__)
