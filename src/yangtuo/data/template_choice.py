"""Chooses the template: the one that was named, or the one that fits the tokenizer."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from yangtuo.config.words import with_signs
from yangtuo.data.chat_template import ChatTemplate
from yangtuo.data.templates import (
    ALPACA_ZH,
    ALPACA_ZH_2,
    CHATML,
    LLAMA3,
    TEMPLATES,
    FrameTemplate,
    Template,
    read_template,
)
from yangtuo.data.tokenizer import Tokenizer
from yangtuo.errors import UsageError
from yangtuo.i18n import Listed, Message

KEEPS_OWN_SYSTEM = Message(
    "the tokenizer's chat template takes an empty system prompt for none given, and writes its own"
)
_CHINESE_ALPACA_2_TOKENS = 55_296  # vocabulary of Chinese-LLaMA-2 and Chinese-Alpaca-2


def choose_template(
    named: str, tokenizer: Tokenizer, system_prompt: str | None, kwargs: Mapping[str, Any] | None = None
) -> tuple[Template, str]:
    """The template, and why this one.

    Args:
        named: a template's name, a file, "tokenizer" or "auto".
        tokenizer: decides with "auto".
        system_prompt: of rows without one, instead of the template's own; "" for none.
        kwargs: what a chat template is given beside the messages.

    Raises:
        UsageError: no such template, or a tokenizer without the one asked for, or `kwargs` that it does not use.
        DataError: a template file that cannot be used.
        TokenizerError: a chat template that cannot be used.
    """
    template: FrameTemplate | str
    if named == "auto":
        template, why = _fitting(tokenizer)
    elif named == "tokenizer":
        template, why = "tokenizer", "--template"
    elif named in TEMPLATES:
        template, why = TEMPLATES[named], "--template"
    elif Path(named).is_file():
        template, why = read_template(Path(named)), Message("the file {named}", named=named)
    else:
        names = ", ".join((*TEMPLATES, "tokenizer", "auto"))
        text = Message(
            "--template {named}: no such file, and no such template; there are {names}", named=named, names=names
        )
        raise UsageError(with_signs(text, named))
    if isinstance(template, str):
        if tokenizer.chat_template is None:
            raise UsageError(
                "--template tokenizer: {folder} has no chat template; name another", folder=tokenizer.folder
            )
        ids = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id}  # of folders that name none
        told = {key: name for key, i in ids.items() if i is not None and (name := tokenizer.name_of(i))}
        names_of = {**told, **tokenizer.names}
        controls = [
            name for name, i in tokenizer.controls.items() if name not in tokenizer.words or i == tokenizer.eos_id
        ]
        return _checked(ChatTemplate(tokenizer.chat_template, names_of, system_prompt, controls, kwargs)), why
    return with_kwargs(with_system(template, system_prompt), kwargs), why


def with_system(template: Template, system_prompt: str | None) -> Template:
    """The template with another system prompt for rows without one; None for its own, "" for none."""
    if system_prompt is None:
        return template
    if isinstance(template, ChatTemplate):
        return ChatTemplate(template.source, template.names, system_prompt, template.control_tokens, template.kwargs)
    assert isinstance(template, FrameTemplate), type(template)
    return replace(template, default_system=system_prompt)


def with_kwargs(template: Template, kwargs: Mapping[str, Any] | None) -> Template:
    """The template that is given these beside the messages; None for those it has.

    Raises:
        UsageError: names that it does not use.
    """
    if not kwargs:
        return template
    if not isinstance(template, ChatTemplate):
        raise UsageError(
            "--chat_template_kwargs: the template {name} takes none; --template tokenizer uses the tokenizer's own "
            "chat template",
            name=template.name,
        )
    own = (template.source, template.names, template.default_system, template.control_tokens)
    return _checked(ChatTemplate(*own, {**template.kwargs, **kwargs}))


def _checked(template: ChatTemplate) -> ChatTemplate:
    if unknown := template.kwargs.keys() - template.kwargs_used:
        raise UsageError(
            "--chat_template_kwargs: the tokenizer's chat template does not use {unknown}; it knows: {kwargs_used}",
            unknown=", ".join(sorted(unknown)),
            kwargs_used=", ".join(sorted(template.kwargs_used)) or "none",
        )
    return template


def keeps_own_system(template: Template) -> bool:
    """Whether it writes a system prompt of its own even where an empty one asks for none."""
    return isinstance(template, ChatTemplate) and template.keeps_own_system()


def _fitting(tokenizer: Tokenizer) -> tuple[FrameTemplate | str, str]:
    if tokenizer.num_tokens == _CHINESE_ALPACA_2_TOKENS:
        return ALPACA_ZH_2, Message(
            "auto: a vocabulary of {size:,}, as Chinese-Alpaca-2's", size=_CHINESE_ALPACA_2_TOKENS
        )
    if tokenizer.chat_template is not None:
        return "tokenizer", Message("auto: the tokenizer brings its own chat template")
    for template in (LLAMA3, CHATML):
        if all(tokenizer.id_of(token) is not None for token in template.control_tokens):
            return template, Message(
                "auto: the tokenizer has {control_tokens}", control_tokens=Listed(template.control_tokens[:2], " and ")
            )
    return ALPACA_ZH, Message("auto: the tokenizer has no chat template and no tokens of one")
