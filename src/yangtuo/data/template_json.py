"""A template as JSON values: it travels with the adapter, so that whoever loads it asks as training did."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from yangtuo.data.chat_template import ChatTemplate
from yangtuo.data.templates import FrameTemplate, Template
from yangtuo.errors import DataError

_CHAT_FIELDS = ("source", "names", "default_system", "control_tokens", "kwargs")


def to_values(template: Template) -> dict[str, Any]:
    """Everything that decides what is rendered; `from_values` gives an equal template."""
    if isinstance(template, ChatTemplate):
        return {"kind": "chat_template", "name": template.name} | {key: getattr(template, key) for key in _CHAT_FIELDS}
    assert isinstance(template, FrameTemplate), type(template)
    return {"kind": "frames", **asdict(template)}


def from_values(values: Mapping[str, Any]) -> Template:
    """The template again.

    Raises:
        DataError: no template of a kind that this version knows.
    """
    given = {key: value for key, value in values.items() if key not in ("kind", "name")}
    try:
        control = tuple(given.pop("control_tokens"))
        if values["kind"] == "chat_template":
            own = (given["source"], given["names"], given["default_system"])
            return ChatTemplate(*own, control, given.get("kwargs"))
        if values["kind"] == "frames":
            return FrameTemplate(name=values["name"], **given, control_tokens=control)
    except (KeyError, TypeError) as error:
        raise DataError("the saved template cannot be read: {error!r}", error=error) from error
    raise DataError("the saved template is of kind {kind!r}, which this version does not know", kind=values["kind"])
