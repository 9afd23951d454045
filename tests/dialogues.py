"""Dialogues, and a tokenizer of one id a character with control tokens, so that expected ids are written by hand."""

from dataclasses import dataclass, replace

from tests import tiny
from yangtuo.data.backends import Blank
from yangtuo.data.records import Record, Turn
from yangtuo.data.tokenizer import Spelled, Tokenizer

FIRST_CONTROL = 0x110003  # the id after the last character's


@dataclass(frozen=True)
class _Backend:
    """The characters, and some control tokens that `encode` never makes."""

    controls: dict[str, int]

    blank = Blank.NEVER

    def encode(self, texts, num_threads, continues=None):
        return [[ord(character) + 3 for character in text] for text in texts]

    def decode(self, ids):
        return "".join(chr(i - 3) for i in ids if i not in self.controls.values())

    def id_of(self, token):
        return self.controls.get(token)

    def num_tokens(self):
        return FIRST_CONTROL + len(self.controls)

    def bytes_of(self, i):
        return chr(i - 3).encode()


def controlled(*tokens: str, bos: bool = True, eos: str = "</s>", chat_template: str | None = None) -> Tokenizer:
    """<s> is 1, </s> is 2, other control tokens follow the characters; every one can be read out of a text."""
    controls = {"<s>": 1, "</s>": 2, **{token: FIRST_CONTROL + i for i, token in enumerate(tokens)}}
    opened = replace(
        tiny.characters(bos=bos),
        backend=_Backend(controls),
        eos_id=controls[eos],
        controls=controls,
        chat_template=chat_template,
        spelled={token: Spelled(i, strips_left=False, strips_right=False) for token, i in controls.items()},
    )
    return replace(opened, num_tokens=opened.backend.num_tokens())


def turns(*texts: str, system: str | None = None, trained=None, weights=None) -> tuple[Turn, ...]:
    """A user's words and an answer in turn; `trained` and `weights` by answer."""
    asked, said = texts[::2], texts[1::2]
    trained = trained or [True] * len(said)
    weights = weights or [1.0] * len(said)
    made = [] if system is None else [Turn("system", system, trained=False)]
    for user, answer, is_trained, weight in zip(asked, said, trained, weights, strict=True):
        made += [Turn("user", user, trained=False), Turn("assistant", answer, is_trained, weight)]
    return tuple(made)


def records(*dialogues: tuple[Turn, ...]) -> list[Record]:
    """One row each, of one file."""
    return [Record("rows.json", row, made) for row, made in enumerate(dialogues)]


def shown(examples, i: int, tokenizer: Tokenizer) -> list[tuple[str, float]]:
    """A row as texts, each with the weight of its tokens; a control token as <<its name>>."""
    runs: list[list] = []
    for token, weight in zip(examples.row(i)[0].tolist(), examples.row_weights(i).tolist(), strict=True):
        name = tokenizer.name_of(token)
        text = f"<<{name}>>" if name else tokenizer.bytes_of(token).decode()
        if runs and runs[-1][1] == weight:
            runs[-1][0] += text
        else:
            runs.append([text, weight])
    return [tuple(run) for run in runs]
