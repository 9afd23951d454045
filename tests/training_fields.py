"""The fields of transformers' `TrainingArguments` as `training_fields.json` has them.

`python -m tests.training_fields` writes the file anew; do so when transformers is updated, and give each new field a
row in `yangtuo.config.trainer_options.TRAINING_ARGUMENTS`.
"""

import json
from dataclasses import MISSING, fields
from enum import Enum
from pathlib import Path

from transformers import HfArgumentParser, TrainingArguments

from yangtuo.config import options

FILE = Path(options.__file__).with_name("training_fields.json")


def rows(dataclass=TrainingArguments):
    """What transformers' own parser makes of each field, help left out; keys without a value are left out too."""
    actions = {}
    for action in HfArgumentParser(dataclass)._actions:
        actions.setdefault(action.dest, action)  # the first of a name; --no_x comes after --x
    return {field.name: _row(field, actions[field.name]) for field in fields(dataclass)}


def _row(field, action):
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    row = {"kind": kind_of(action.type), "default": default}
    if row["kind"] != "bool":  # here every such option may stand bare, whatever its default
        row |= {"nargs": action.nargs, "const": action.const, "choices": _choices(action)}
    return {key: value for key, value in row.items() if value is not None or key == "default"}


def kind_of(convert):
    """The kind of value that a converter of transformers' parser makes, as the table names it."""
    if convert in (int, float):
        return convert.__name__
    return "bool" if convert.__name__ == "string_to_bool" else "str"


def _choices(action):
    if isinstance(action.type, type) and issubclass(action.type, Enum):
        return [member.value for member in action.type]
    return action.choices and list(action.choices)


def as_text(table):
    """JSON with one field a line."""
    lines = [f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in table.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    FILE.write_text(as_text(rows()), encoding="utf-8")
