"""Jinja source of a chat template -> a function that renders messages, in the environment that transformers has for it.

Environment as `render_jinja_template` of transformers 5.23, without importing torch and without `strftime_now`: what is
trained must not depend on the day. Templates that look whether it is there fall back to a date of their own; for the
others the user names one.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from yangtuo.data.templates import TemplateFault
from yangtuo.errors import TokenizerError, one_line
from yangtuo.i18n import Message

DATE = "strftime_now"
_MOST_TOLD = 120
Render = Callable[..., str]


def render_function(source: str, names: Mapping[str, Any]) -> Render:
    """Compile.

    Args:
        source: jinja text.
        names: what the template can use beside the messages: bos_token and such, `chat_template_kwargs`.

    Returns:
        A function of `messages`, `tools`, `add_generation_prompt` and further names that gives the text, or raises
        `TemplateFault`.

    Raises:
        TokenizerError: it is no jinja.
    """
    import jinja2
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _generation_tag()]
    )
    environment.filters["tojson"] = _as_json
    environment.globals["raise_exception"] = refuse
    try:
        compiled = environment.from_string(source)
    except jinja2.TemplateError as error:
        raise TokenizerError("the tokenizer's chat template: {error}", error=error) from error
    usual = _with_date(names)
    faults = (jinja2.TemplateError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError)

    def render(
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Any] = (),
        more: Mapping[str, Any] | None = None,
        *,
        add_generation_prompt: bool = False,
    ) -> str:
        given = _with_date({**names, **more}) if more else usual
        try:
            return compiled.render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                tools=list(tools) or None,
                documents=None,
                **given,
            )
        except faults as error:
            told = one_line(error, _MOST_TOLD)
            if f"'{DATE}' is undefined" in told:
                told = Message(
                    'it writes today\'s date; give a fixed one: --chat_template_kwargs \'{{"{date}": "2026-01-31"}}\'',
                    date=DATE,
                )
            raise TemplateFault(
                Message("the tokenizer's chat template cannot render this row: {told}", told=told)
            ) from error

    return render


def _with_date(names: Mapping[str, Any]) -> Mapping[str, Any]:
    """The names, with a function in place of a date that is given as a text."""
    return {**names, DATE: lambda _: names[DATE]} if isinstance(names.get(DATE), str) else names


def names_used(source: str) -> set[str]:
    """Names that a template asks its caller for."""
    import jinja2
    from jinja2 import meta
    from jinja2.ext import loopcontrols

    environment = jinja2.Environment(extensions=[loopcontrols, _generation_tag()])  # nothing is rendered
    return set(meta.find_undeclared_variables(environment.parse(source)))


def _as_json(
    value: Any,
    ensure_ascii: bool = False,  # as transformers has it: templates give them by place too
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _generation_tag() -> type:
    """{% generation %} marks the answer for other programs; here it is found without, and the tag does nothing."""
    from jinja2.ext import Extension

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012  # jinja's own way to name them

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return Generation
