"""A dialogue at a terminal: what is typed, the answers as they grow, and the commands."""

import contextlib
import functools
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from yangtuo.errors import UsageError, YangtuoError
from yangtuo.i18n import Message, gettext_noop, tr
from yangtuo.inference.dialogue import LEFT_OUT, ChatSession, save_row
from yangtuo.inference.generate import MAX_NEW_TOKENS, Answer
from yangtuo.logs import sign

_STYLES = {"you": "bold cyan", "base": "bold yellow", "tuned": "bold green", "model": "bold green"}
_NAMES = {"base": Message("base"), "tuned": Message("tuned"), "model": Message("model")}
_QUOTES = '"""'
_HELP = gettext_noop("""\
/clear            a new dialogue
/system TEXT      another system prompt, from now on for the whole dialogue; "" for none; without TEXT the template's
/retry            ask the last question again
/undo             take the last question and its answer back
/save FILE.json   add the dialogue to a file of rows, as yangtuo train reads them
/quit             end; Ctrl-D does too
Ctrl-C stops an answer. A line that ends in \\ goes on in the next; \"\"\" begins and ends a text of several lines.""")
# C0 controls but tab and line feed, DEL, and C1 controls: a model's text must not steer the terminal.
_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {0x7F: 0x2421}
_CONTROLS |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


def visible(text: str) -> str:
    """The text with its control characters as signs."""
    return text.translate(_CONTROLS)


class Screen:
    """Talks with one model, or with base and tuned model side by side."""

    def __init__(self, sessions: Sequence[ChatSession], console: Console | None = None):
        self._sessions = sessions
        self._console = console or Console(highlight=False)
        self._sign = sign("❯", ">")
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: self._say(tr(_HELP)),
            "/clear": self._clear,
            "/system": self._system,
            "/retry": self._retry,
            "/undo": self._undo,
            "/save": self._save,
        }

    def run(self) -> None:
        """Until /quit or the end of what is typed."""
        with contextlib.suppress(ImportError):  # not everywhere; it gives input() its line editing and history
            import readline  # noqa: F401
        self._say(tr("/help lists the commands; /quit or Ctrl-D ends"))
        while True:
            try:
                typed = self._read()
            except KeyboardInterrupt:
                self._console.print()
                self._say(tr("/quit or Ctrl-D ends"))
                continue
            if typed is None or typed in ("/quit", "/exit", "/退出"):
                return
            try:
                self._do(typed)
            except KeyboardInterrupt:
                self._console.print()
            except YangtuoError as error:
                self._console.print(Text(tr("error{where}: {message}").format(where="", message=tr(error.text)), "red"))

    # ---- what is typed

    def _read(self) -> str | None:
        """A question or a command; None at the end."""
        try:
            lines = [input(self._prompt(tr("you")))]
            if lines[0].strip().startswith(_QUOTES):
                lines[0] = lines[0].strip().removeprefix(_QUOTES)
                while not lines[-1].rstrip().endswith(_QUOTES):
                    lines.append(input(self._prompt("...")))
                lines[-1] = lines[-1].rstrip().removesuffix(_QUOTES)
                return "\n".join(lines).strip("\n")
            while lines[-1].endswith("\\"):
                lines[-1] = lines[-1][:-1]
                lines.append(input(self._prompt("...")))
        except EOFError:
            self._console.print()
            return None
        return "\n".join(lines).strip()

    def _prompt(self, name: str) -> str:
        with self._console.capture() as captured:
            self._console.print(Text(f"{name} {self._sign} ", _STYLES["you"]), end="")
        # Readline counts what stands between these two as no column of the line.
        return re.sub(r"\x1b\[[0-9;]*m", lambda found: f"\x01{found.group()}\x02", captured.get())

    def _do(self, typed: str) -> None:
        command, _, rest = typed.partition(" ")
        if not typed:
            return
        if re.fullmatch(r"/[a-z]+", command):  # others, such as a path, are questions
            if command not in self._commands:
                raise UsageError("{command}: no such command; /help lists them", command=command)
            self._commands[command](rest.strip())
        else:
            self._ask(typed)

    # ---- commands

    def _clear(self, _: str) -> None:
        for session in self._sessions:
            session.dialogue.clear()
        self._say(tr("a new dialogue"))

    def _system(self, text: str) -> None:
        is_none = text in ('""', "''")
        for session in self._sessions:
            session.take_system("" if is_none else text or None)
        told = tr("none") if is_none else text or tr("the template's own")
        self._say(tr("system prompt: {told}").format(told=told))

    def _undo(self, _: str) -> None:
        question = self._take_back()
        self._say(tr("taken back: {question}").format(question=visible(question)))

    def _retry(self, _: str) -> None:
        question = self._take_back()
        self._console.print(Text(f"{tr('you')} {self._sign} {visible(question)}", "cyan"))
        self._ask(question)

    def _take_back(self) -> str:
        taken = [session.dialogue.undo() for session in self._sessions]
        last = taken[-1]
        if last is None:
            raise UsageError("nothing has been said yet")
        return last.question

    def _save(self, name: str) -> None:
        if not name:
            raise UsageError("/save FILE.json: name the file")
        path = Path(os.path.expanduser(name))
        num_rows = save_row(path, self._sessions[-1].dialogue.row())
        self._say(tr("saved: {path}, row {row}").format(path=path, row=num_rows - 1))

    # ---- answers

    def _ask(self, question: str) -> None:
        try:
            question.encode()
        except UnicodeEncodeError:
            raise UsageError("what was typed is not UTF-8; set the terminal or LANG to it") from None
        dialogues = [session.dialogue for session in self._sessions]
        num_said, was_whole = len(dialogues[0].exchanges), not any(dialogue.num_left_out for dialogue in dialogues)
        try:
            with _ctrl_c_unseen():
                if len(self._sessions) == 1:
                    self._answer(question)
                else:
                    self._compare(question)
        except BaseException:
            for dialogue in dialogues:  # one may have answered, the other not
                del dialogue.exchanges[num_said:]
            raise
        if was_whole and any(dialogue.num_left_out for dialogue in dialogues):
            self._say(tr(LEFT_OUT))

    def _answer(self, question: str) -> None:
        session = self._sessions[0]
        self._console.print(Text(f"{tr(_NAMES[session.name])} {self._sign} ", _STYLES[session.name]), end="")

        def tell(piece: str) -> None:
            self._console.out(visible(piece), end="", highlight=False)

        try:
            answer = session.ask(question, tell, keeps_interrupted=True)
        finally:
            self._console.print()
        self._say(_told(answer))

    def _compare(self, question: str) -> None:
        texts, marks = ([Text(style=style) for _ in self._sessions] for style in ("", "dim"))
        table = Table(expand=True)
        for session in self._sessions:
            table.add_column(Text(tr(_NAMES[session.name]), _STYLES[session.name]), ratio=1, overflow="fold")
        table.add_row(*texts)
        table.add_row(*marks)

        # Where it grows beyond the window, what is above is shown whole at the end only.
        screen = Live(table, console=self._console, transient=True, auto_refresh=False, vertical_overflow="ellipsis")
        with screen:
            for session, text, mark in zip(self._sessions, texts, marks, strict=True):
                grows = functools.partial(_grow, text, _Seldom(screen.refresh))
                mark.append(_told(session.ask(question, grows, keeps_interrupted=True)))
                screen.refresh()
        self._console.print(table)

    def _say(self, text: str) -> None:
        self._console.print(Text(text, "dim"))


def _grow(text: Text, draw: Callable[[], None], piece: str) -> None:
    text.append(visible(piece))
    draw()


class _Seldom:
    """A display that is drawn at most ten times a second: a whole table for each token is much for a slow line."""

    def __init__(self, draw: Callable[[], None]):
        self._draw, self._drawn = draw, 0.0

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._drawn > 0.1:
            self._draw()
            self._drawn = now


@contextlib.contextmanager
def _ctrl_c_unseen() -> Iterator[None]:
    """Keep the terminal from writing ^C into an answer, and from dropping what it has not shown yet.

    With a part of a table dropped, the next one would be drawn at the wrong place.
    """
    if os.name != "posix" or not sys.stdin.isatty():
        yield
        return
    import termios

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    flags = (before[3] | termios.NOFLSH) & ~termios.ECHOCTL
    termios.tcsetattr(terminal, termios.TCSADRAIN, [*before[:3], flags, *before[4:]])
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _told(answer: Answer) -> str:
    """How it went, in a line."""
    rate = answer.num_tokens / max(answer.seconds, 1e-9)
    is_cut = answer.stopped_by == MAX_NEW_TOKENS
    told = (
        tr("{num_tokens} tokens, {rate:.1f} a second, cut at {by}")
        if is_cut
        else tr("{num_tokens} tokens, {rate:.1f} a second, stopped by {by}")
    )
    return told.format(num_tokens=answer.num_tokens, rate=rate, by=answer.stopped_by)
