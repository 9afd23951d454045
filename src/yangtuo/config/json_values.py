"""Options whose value is a JSON object; in a configuration file a mapping says the same."""

import json
from typing import Any

from yangtuo.errors import UsageError
from yangtuo.i18n import Message


def json_object(option: str, text: str | None) -> tuple[dict[str, Any], str | None]:
    """A value that is a JSON object, and what is said of one that is none."""
    if not text:
        return {}, None
    try:
        found = json.loads(text)
    except ValueError as error:
        return {}, Message("--{option} {text}: broken JSON: {error}", option=option, text=text, error=error)
    return (
        (found, None)
        if isinstance(found, dict)
        else ({}, Message("--{option} {text}: expected a JSON object", option=option, text=text))
    )


def object_of(option: str, text: str | None) -> dict[str, Any]:
    """The same, of an option that nothing has checked.

    Raises:
        UsageError: it is no JSON object.
    """
    found, wrong = json_object(option, text)
    if wrong:
        raise UsageError(wrong)
    return found
