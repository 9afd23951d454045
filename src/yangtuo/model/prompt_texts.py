"""The texts with which other programs ask the model exactly as training did. Functions of values; nothing is written.

Texts, not ids: a server turns the rendered text into ids in one piece, and reads a control token out of a user's text,
where training tokenises prompt and answer apart and takes a user's text as text. Prompts of one turn come out equal,
token for token; `yangtuo check-deploy` compares on a running server.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from yangtuo.data.chat_template import ChatTemplate
from yangtuo.data.encoding import end_id
from yangtuo.data.jinja_source import DATE
from yangtuo.data.records import Turn
from yangtuo.data.templates import Template
from yangtuo.data.tokenizer import Tokenizer
from yangtuo.errors import DataError
from yangtuo.i18n import Message
from yangtuo.model.static_template import StaticTemplate, bos_of, end_of, frames_of, without_bos

_PLACE = "{instruction}"
_OLLAMA_NAMES = {"repetition_penalty": "repeat_penalty"}

# Every line begins with {%- or {{-, so that no blank of this text reaches the prompt, whatever trims the engine does.
_JINJA = """\
{{%- if messages and messages[0]["role"] == "system" %}}
    {{%- set system = messages[0]["content"] %}}
    {{%- set spoken = messages[1:] %}}
{{%- else %}}
    {{%- set system = {default_system} %}}
    {{%- set spoken = messages %}}
{{%- endif %}}
{{%- for message in spoken %}}
    {{%- if message["role"] != ("user" if loop.index0 % 2 == 0 else "assistant") %}}
        {{{{- raise_exception("after an optional system prompt, user and assistant have to take turns") }}}}
    {{%- endif %}}
    {{%- if message["role"] == "assistant" %}}
        {{{{- {after_user} + message["content"] + {end} }}}}
    {{%- else %}}
        {{%- if not loop.first %}}
            {{{{- {between} }}}}
        {{%- elif system %}}
            {{{{- {before_system} + system + {after_system} }}}}
        {{%- else %}}
            {{{{- {without_system} }}}}
        {{%- endif %}}
        {{{{- message["content"] }}}}
    {{%- endif %}}
{{%- endfor %}}
{{%- if add_generation_prompt %}}
    {{%- if not spoken or spoken[-1]["role"] != "user" %}}
        {{{{- raise_exception("the last message has to be the user's") }}}}
    {{%- endif %}}
    {{{{- {after_user} }}}}
{{%- endif %}}"""

# All that is needed: llama.cpp's engine refuses a template with an escape like \u0001.
_JINJA_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})

# Ollama: .System is the text of all system messages, .Messages has them as well. An answer at the very end is one that
# the model is to go on with.
_GO = """\
{{{{- $first := true }}}}{{{{ $system := {default_system} }}}}{{{{ $told := ne $system "" }}}}
{{{{- range .Messages }}}}
{{{{- if eq .Role "system" }}}}{{{{ $system = $.System }}}}{{{{ $told = {told} }}}}{{{{ end }}}}
{{{{- end }}}}
{{{{- range $i, $message := .Messages }}}}
{{{{- if eq .Role "user" }}}}
{{{{- if not $first }}}}{{{{ {between} }}}}
{{{{- else if $told }}}}{with_system}
{{{{- else }}}}{without_system}
{{{{- end }}}}{{{{ $first = false }}}}
{{{{- .Content }}}}{{{{ {after_user} }}}}
{{{{- else if eq .Role "assistant" }}}}{{{{ {lead} }}}}{{{{ .Content }}}}
{{{{- if gt (len (slice $.Messages $i)) 1 }}}}{{{{ {end} }}}}{{{{ end }}}}
{{{{- end }}}}
{{{{- end }}}}"""


def jinja_of(template: Template, tokenizer: Tokenizer) -> str:
    """A `chat_template.jinja` that renders messages as training did, the prompt of an answer included.

    It holds the BOS where training puts one: servers tokenise what it renders without adding any (transformers, vLLM),
    or take one of two away (llama.cpp). What a chat template of the tokenizer's was given beside the messages is the
    default of whoever gives nothing.
    """
    if isinstance(template, ChatTemplate):
        return _own_jinja(template, tokenizer)
    frames = frames_of(template, tokenizer)
    assert frames.with_system is not None
    assert frames.without_system is not None
    before, after = frames.with_system
    texts = {
        "default_system": frames.default_system,
        "before_system": frames.bos + before,
        "after_system": after,
        "without_system": frames.bos + frames.without_system,
        "after_user": frames.after_user,
        "end": frames.end,
        "between": frames.between,
    }
    return _JINJA.format_map({key: _jinja_literal(text) for key, text in texts.items()})


def _own_jinja(template: ChatTemplate, tokenizer: Tokenizer) -> str:
    """The tokenizer's own text, with what training added to it."""
    unnamed = {
        key: text for key, text in template.names.items() if key in template.source and tokenizer.names.get(key) != text
    }
    added = "".join(f"{{%- set {key} = {_jinja_literal(text)} %}}" for key, text in sorted(unnamed.items()))
    added += "".join(
        f"{{%- if {key} is not defined %}}{{%- set {key} = {_jinja_value(value)} %}}{{%- endif %}}"
        for key, value in sorted(template.kwargs.items())
        if key != DATE  # a function, which servers have, of the day
    )
    if template.default_system or (template.default_system == "" and template.takes_empty_system()):
        message = f'{{"role": "system", "content": {_jinja_literal(template.default_system)}}}'
        added += (
            '{%- if not messages or messages[0]["role"] != "system" %}'
            f"{{%- set messages = [{message}] + messages %}}{{%- endif %}}"
        )
    elif added:
        added += "{%- if true %}{%- endif %}"
    # The line break behind a block is cut away (`trim_blocks`), and the source begins a line, as it did by itself.
    return f"{added}\n{template.source}" if added else template.source


def _jinja_value(value: Any) -> str:
    """A value of JSON, as jinja writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_jinja_literal(key)}: {_jinja_value(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_jinja_value, value)) + "]"
    return _jinja_literal(value) if isinstance(value, str) else ("none" if value is None else json.dumps(value))


def _jinja_literal(text: str) -> str:
    return f'"{text.translate(_JINJA_ESCAPES)}"'


def modelfile_of(
    template: Template, tokenizer: Tokenizer, model: str, choosing: Mapping[str, float] | None = None
) -> str:
    """An Ollama Modelfile.

    It has no BOS: Ollama adds it where the GGUF file says so, which is where the tokenizer's own rule does, and does
    not look whether the prompt has one already. The default system prompt stands in the template rather than in a
    SYSTEM line, which could not hold every text: Modelfiles have no escapes, and lose U+3000 and the like.

    Args:
        template: of the training.
        tokenizer: of the training.
        model: what it is made from: a GGUF file or a folder, as seen from the Modelfile's own.
        choosing: of the tokens, see `generation_config.choosing`. Ollama's own defaults draw, with a penalty.

    Raises:
        DataError: a model name that a Modelfile cannot hold, or a chat template that cannot be written for Ollama.
    """
    if not model.isprintable() or model != model.strip() or not model or model.startswith('"'):
        raise DataError("{model!r}: a Modelfile cannot name it; rename it to plain letters", model=model)
    frames = frames_of(template, tokenizer)
    lines = ["# The prompt is that of training. yangtuo check-deploy compares a running server with it."]
    if frames.cuts_blanks:
        lines.append("# In training, blanks at the ends of a message were cut off; Ollama has no way to do so.")
    lines += [f"FROM {model}", f'TEMPLATE """{_go_template(frames)}"""']
    end = end_of(tokenizer, template)
    is_own = end_id(tokenizer, template) == tokenizer.eos_id
    # The tokenizer's own ends an answer by its id. One like </s> is also HTML, where a stop text would end an answer.
    if not (is_own and re.fullmatch(r"</?\w+>", end)):
        lines.append(f'PARAMETER stop "{end}"')
    values = {"temperature": 0.0, "repetition_penalty": 1.0, **(choosing or {})}
    if values["temperature"]:
        values = {"top_k": 0, "top_p": 1.0, **values}
    lines += [f"PARAMETER {_OLLAMA_NAMES.get(key, key)} {values[key]:g}" for key in sorted(values)]
    return "\n".join(lines) + "\n"


def _go_template(frames: StaticTemplate) -> str:
    named = ("default_system", "after_user", "lead", "end", "between")
    texts = {key: _go_literal(getattr(frames, key)) for key in named}
    texts["told"] = "true" if frames.tells_empty_system else 'ne $system ""'
    if frames.with_system is None:
        texts["with_system"] = _go_failure(Message("the template of this model takes no system prompt"))
    else:
        before, after = map(_go_literal, frames.with_system)
        texts["with_system"] = f"{{{{ {before} }}}}{{{{ $system }}}}{{{{ {after} }}}}"
    if frames.without_system is None:
        texts["without_system"] = _go_failure(Message("the template of this model needs a system prompt"))
    else:
        texts["without_system"] = f"{{{{ {_go_literal(frames.without_system)} }}}}"
    return re.sub(r'\{\{-? "" \}\}', "", _GO.format_map(texts))


def _go_failure(message: str) -> str:
    # Go's templates cannot refuse; a wrong index can, and is told with its text.
    return f"{{{{ index $.Messages {_go_literal(message)} }}}}"


def _go_literal(text: str) -> str:
    """A string of Go, within a Modelfile.

    A Modelfile loses what Go's `strconv.IsPrint` does not print, so that this is escaped; characters beyond the first
    plane are too, since Go's table of them may be older. Three quotes, which would end it, cannot stand in one.
    """
    written = json.dumps(text, ensure_ascii=False)
    return "".join(one if one.isprintable() and ord(one) <= 0xFFFF else f"\\U{ord(one):08x}" for one in written)


def prompt_text_of(template: Template, tokenizer: Tokenizer) -> str:
    """The prompt of a single question with `{instruction}` in its place, to the byte and without the BOS.

    The tokenizer's own rule adds the BOS when the text is tokenised as it is.

    Raises:
        DataError: a template that needs a system prompt and has none, or has `{instruction}` in its own text.
    """
    text = _single(template, tokenizer, _PLACE)
    if text.count(_PLACE) != 1:
        raise DataError(
            "the template's own text holds {place}, so that the place of the question cannot be shown", place=_PLACE
        )
    return text


def _single(template: Template, tokenizer: Tokenizer, question: str) -> str:
    (exchange,) = template.prompt_of([Turn("user", question, trained=False)])
    text = "".join(piece.text for piece in exchange.before) + exchange.user + exchange.after
    return without_bos(text, bos_of(tokenizer), template.control_tokens)
