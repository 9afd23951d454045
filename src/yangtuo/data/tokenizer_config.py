"""What a tokenizer folder's configuration says of its tokens: tokenizer_config.json and the files beside it."""

import json
from pathlib import Path
from typing import Any

from yangtuo.errors import TokenizerError

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def own_chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    """Its chat template, jinja; None where it has none."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    inside = config.get("chat_template")
    if isinstance(inside, list):  # several, by name
        inside = next((one.get("template") for one in inside if one.get("name") == "default"), None)
    return inside if isinstance(inside, str) else None


def declared_special(config: dict[str, Any], special: dict[str, Any]) -> set[str]:
    """The control tokens that the folder's configuration names."""
    decoder = [spec["content"] for spec in config.get("added_tokens_decoder", {}).values() if spec.get("special")]
    listed = [*config.get("additional_special_tokens", []), *special.get("additional_special_tokens", [])]
    return {*decoder, *map(token_text, listed)}


def declared_tokens(config: dict[str, Any], special: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What a folder says of its tokens, by their texts."""
    declared = {token_text(value): value for value in special.values() if isinstance(value, dict)}
    return declared | {spec["content"]: spec for spec in decoder_of(config).values()}


def decoder_of(config: dict[str, Any]) -> dict[str, Any]:
    """`added_tokens_decoder`: tokens by their ids, as text."""
    return dict(config.get("added_tokens_decoder", {}))


def added_tokens(folder: Path, config: dict[str, Any]) -> dict[str, int]:
    """What the folder adds to tokenizer.model in added_tokens.json and tokenizer_config.json."""
    added = {str(text): int(i) for text, i in read_json(folder / "added_tokens.json").items()}
    for i, spec in decoder_of(config).items():
        text = spec["content"]
        if added.setdefault(text, int(i)) != int(i):
            raise TokenizerError(
                "{folder}: {text!r} has the id {added} in added_tokens.json and {i} in tokenizer_config.json; correct "
                "the one that is wrong",
                folder=folder,
                text=text,
                added=added[text],
                i=i,
            )
    return added


def token_text(value: Any) -> str:
    """A token that is written as text or as an object with settings."""
    return str(value.get("content", "") if isinstance(value, dict) else value or "")


def read_json(path: Path) -> dict[str, Any]:
    """A file's object; an empty one where there is no file or no object."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TokenizerError("{path}: broken JSON: {error}", path=path, error=error) from error
    return value if isinstance(value, dict) else {}
