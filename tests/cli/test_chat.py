"""`yangtuo chat` as a user has it: asked once, on a pipe, and in a dialogue at a terminal."""

import io
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests import tiny
from tests.command import Started
from yangtuo.cli import main
from yangtuo.data.encoding import prompt_ids
from yangtuo.data.records import Turn
from yangtuo.data.template_json import to_values
from yangtuo.data.templates import ALPACA_ZH, ALPACA_ZH_2
from yangtuo.data.tokenizer import open_tokenizer

QUESTION = "请介绍长城。"
SHORT = ("--max_new_tokens", "8")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.tiny_sentencepiece(tiny.tiny_llama(tmp_path_factory.mktemp("models") / "base"))


@pytest.fixture(scope="module")
def adapter(base):
    return tiny.tiny_adapter(base.parent / "adapter", base)


@pytest.fixture
def chat(capfd, monkeypatch):
    """Run the verb in this process; returns its output, after a look at its exit code."""

    def run(*words, code=0, typed=None):
        stdin = io.TextIOWrapper(io.BytesIO((typed or "").encode() if not isinstance(typed, bytes) else typed))
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main(["chat", *map(str, words)]) == code
        run.out, run.err = capfd.readouterr()
        return run.out if code == 0 else run.err

    return run


def greedy(model_folder, *, template=ALPACA_ZH, question=QUESTION):
    tokenizer = open_tokenizer(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    ids = torch.tensor([prompt_ids(tokenizer, template, [Turn("user", question, trained=False)])])
    said = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8, pad_token_id=0
    )
    return tokenizer.decode(said[0, ids.shape[1] :].tolist()).rstrip("\ufffd")


# ---- asked once, and on a pipe


def test_one_question_gives_its_answer_alone(base, chat):
    assert chat(base, "--ask", QUESTION, *SHORT) == greedy(base) + "\n"
    assert "template: alpaca_zh (auto:" in chat.err
    assert "%|" not in chat.err  # no bars of libraries


def test_several_questions_are_dialogues_of_their_own_unless_told_otherwise(base, chat):
    once = chat(base, "--ask", QUESTION, *SHORT).rstrip("\n")
    assert chat(base, "--ask", QUESTION, "--ask", QUESTION, *SHORT) == f"> {QUESTION}\n{once}\n\n" * 2
    one = chat(base, "--ask", QUESTION, "--ask", QUESTION, *SHORT, "--json", "--multi_turn")
    first, second = map(json.loads, one.splitlines())
    assert first["answer"] == once
    assert second["num_prompt_tokens"] > first["num_prompt_tokens"]
    assert "its oldest part" not in chat.err
    many = [word for _ in range(18) for word in ("--ask", "长城" * 10)]
    lines = chat(base, *many, *SHORT, "--json", "--multi_turn").splitlines()
    prompts = [json.loads(line)["num_prompt_tokens"] for line in lines]
    assert max(prompts) <= 512 - 8 < prompts[1] - prompts[0] + max(prompts)
    assert chat.err.count("its oldest part is no longer shown to it") == 1


def test_questions_on_a_pipe_are_lines(base, chat):
    once = chat(base, "--ask", QUESTION, *SHORT).rstrip("\n")
    assert chat(base, *SHORT, typed=f"\ufeff{QUESTION}\r\n\n{QUESTION}") == f"> {QUESTION}\n{once}\n\n" * 2
    assert "\x1b" not in chat.out


def test_json_has_an_object_a_question(base, chat):
    (line,) = chat(base, "--ask", QUESTION, "--json", *SHORT).splitlines()
    answer = json.loads(line)
    assert list(answer)[:2] == ["question", "answer"]
    assert answer.pop("seconds") > 0
    assert answer == {
        "question": QUESTION,
        "answer": greedy(base),
        "stopped_by": "max_new_tokens",
        "is_whole": False,
        "num_tokens": 8,
        "num_prompt_tokens": len(prompt_ids(open_tokenizer(base), ALPACA_ZH, [Turn("user", QUESTION, trained=False)])),
    }


def test_draws_do_not_depend_on_the_other_questions(base, chat):
    drawn = ("--max_new_tokens", "8", "--temperature", "2", "--json")
    alone = json.loads(chat(base, "--ask", QUESTION, *drawn))
    last = json.loads(chat(base, "--ask", "你好", "--ask", QUESTION, *drawn).splitlines()[-1])
    assert (
        last["answer"] == alone["answer"] != json.loads(chat(base, "--ask", QUESTION, *drawn, "--seed", "7"))["answer"]
    )


def test_the_folders_own_way_to_answer_is_taken_and_told(base, chat, tmp_path, sentences):
    folder = shutil.copytree(base, tmp_path / "base")
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": True, "temperature": 2.0, "top_p": 0.9}))
    drawn = chat(folder, "--ask", QUESTION, *SHORT)
    told = f"answers: temperature 2, top_p 0.9, taken from {folder / 'generation_config.json'}"
    assert chat.err.count(told) == 1
    assert drawn == chat(base, "--ask", QUESTION, *SHORT, "--temperature", "2", "--top_p", "0.9", "--seed", "42")
    assert drawn != chat(folder, "--ask", QUESTION, *SHORT, "--temperature", "0") == greedy(base) + "\n"
    assert "answers:" not in chat.err
    (folder / "generation_config.json").write_text(json.dumps({"temperature": "hot"}))
    sentences(chat(folder, "--ask", "?", code=2), "generation_config.json")


def test_options_that_only_draws_need_are_told_to_be_without_effect(base, chat):
    assert chat(base, "--ask", QUESTION, *SHORT, "--top_p", "0.5", "--seed", "7") == greedy(base) + "\n"
    for name in ("top_p", "seed"):
        assert chat.err.count(f"--{name} has no effect: nothing is drawn, see --temperature") == 1


# ---- adapters


def test_an_adapter_finds_its_base_and_can_be_compared_with_it(base, adapter, chat):
    answer = json.loads(chat(adapter, "--ask", QUESTION, "--compare", "--json", *SHORT))
    assert f"base: {base}, named by the adapter" in chat.err
    assert answer["base"]["answer"] == greedy(base) != answer["answer"]
    named = chat("--peft_path", adapter, "--model_name_or_path", base, "--ask", QUESTION, "--compare", *SHORT)
    assert named == f"[base] {greedy(base)}\n[tuned] {answer['answer']}\n"


def test_the_folder_of_a_run_stands_for_its_adapter(adapter, chat, tmp_path):
    shutil.copytree(adapter, tmp_path / "run" / "sft_lora_model")
    once = chat(adapter, "--ask", QUESTION, *SHORT)
    assert chat(tmp_path / "run", "--ask", QUESTION, *SHORT) == once
    assert "of the run in" in chat.err


def test_the_template_that_travels_is_used(base, adapter, chat, tmp_path):
    folder = tiny.tiny_adapter(tmp_path / "adapter", base, template=to_values(ALPACA_ZH_2))
    travelled = chat(folder, "--ask", QUESTION, "--compare", *SHORT)
    assert f"template: alpaca_zh_2 (auto: {folder} was trained with it)" in chat.err
    assert f"[base] {greedy(base, template=ALPACA_ZH_2)}\n" in travelled
    assert f"[base] {greedy(base)}\n" in chat(folder, "--ask", QUESTION, "--compare", "--template", "alpaca_zh", *SHORT)


def test_a_merged_model_is_compared_with_a_base_that_is_named(base, chat, tmp_path):
    merged = tiny.tiny_sentencepiece(tiny.tiny_llama(tmp_path / "merged", seed=1))
    told = chat(merged, "--compare", "--model_name_or_path", base, "--ask", QUESTION, *SHORT)
    assert told == f"[base] {greedy(base)}\n[tuned] {greedy(merged)}\n"
    assert "give the merged model as FOLDER and its base" in chat(merged, "--compare", "--ask", "?", code=2)
    assert "is for --compare alone" in chat(merged, "--model_name_or_path", base, "--ask", "?", code=2)


# ---- what a user got wrong


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "name the folder of an adapter, of a run or of a model"),
        (["BASE", "--temperature", "-1"], "--temperature -1.0: allowed: 0, or from 0.01 up"),
        (["BASE", "--top_p", "0"], "--top_p 0.0: allowed: above 0, at most 1"),
        (["BASE", "--max_new_tokens", "0"], "--max_new_tokens 0: allowed: at least 1"),
        (["BASE", "--max_new_tokens", "512"], "--max_new_tokens 512: the model has room for 512 tokens"),
        (["BASE", "--template", "nothing"], "--template nothing: no such file"),
        (["BASE", "--torch_dtype", "int8"], "--torch_dtype int8"),
        (["nothing/here/at-all"], "no such folder"),
        (["--peft_path", "nothing"], "--peft_path nothing: no such folder"),
        (["BASE", "--peft_path", "ADAPTER"], "name one of them"),
        (["ADAPTER", "--model_name_or_path", "./nothing"], "--model_name_or_path ./nothing: no such folder"),
        (["BASE"], "no question on standard input"),
        (["BASE", "--ask", " "], "--ask: the question is empty"),
        (["BASE", "--ask", "长城" * 500], "the question makes a prompt of"),
    ],
)
def test_faults_are_one_line(words, told, base, adapter, chat):
    said = chat(*({"BASE": base, "ADAPTER": adapter}.get(word, word) for word in words), code=2)
    assert told in said
    assert len([line for line in said.splitlines() if line.startswith("error: ")]) == 1


def test_a_run_without_its_adapter_names_its_best(adapter, chat, tmp_path):
    shutil.copytree(adapter, tmp_path / "run" / "best")
    shutil.copytree(adapter, tmp_path / "run" / "a")
    assert "(found: a, best); did you mean its sub-folder 'best'?" in chat(tmp_path / "run", "--ask", "?", code=2)


def test_an_adapter_whose_base_is_gone_names_the_option(adapter, chat, tmp_path, sentences):
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "owner/gone"}))
    said = chat(folder, "--ask", "?", code=2)
    sentences(said, "--model_name_or_path")


def test_a_pipe_that_is_not_utf_8(base, chat):
    assert "standard input, line 2: not UTF-8" in chat(base, *SHORT, typed=b"a\n" + "长".encode("gbk"), code=2)


# ---- at a terminal


class Terminal:
    """The program at a pseudo-terminal."""

    def __init__(self, *words):
        self._bytes, self._at = b"", 0
        self._terminal, inner = pty.openpty()
        env = {"TERM": "xterm-256color", "LANG": "C.UTF-8", "COLUMNS": "70", "LINES": "30", "NO_COLOR": ""}
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), os.ttyname(inner))
        self._process = Started(["-m", "yangtuo", "chat", *words], env=env, **streams)
        os.close(inner)

    @property
    def shown(self):
        return self._bytes.decode(errors="replace")

    def plain(self):
        """What was shown, without its colours."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.shown)

    def until(self, text, seconds=60):
        """Read until this is shown; returns what was shown since the last time."""
        end = time.monotonic() + seconds
        while text not in self.plain()[self._at :]:
            assert self._read(end - time.monotonic()), f"{text!r} was not shown, but: {self.plain()[-2000:]}"
        begin, self._at = self._at, self.plain().index(text, self._at) + len(text)
        return self.plain()[begin : self._at]

    def _read(self, seconds):
        """Whether there was anything more."""
        ready, _, _ = select.select([self._terminal], [], [], max(0, seconds))
        try:
            more = os.read(self._terminal, 65536) if ready else b""
        except OSError:  # how Linux tells that the other side has gone
            more = b""
        self._bytes += more
        return bool(more)

    def type(self, text):
        os.write(self._terminal, text.encode())

    def end(self):
        """The exit code, once it has ended."""
        while self._read(20):
            pass
        return self._process.wait(timeout=20)

    def close(self):
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)


@pytest.fixture
def terminal():
    """Starts the program at a terminal, and ends it with the test."""
    started = []

    def start(*words):
        started.append(Terminal(*words))
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_a_dialogue_at_a_terminal(adapter, terminal, tmp_path):
    it = terminal(adapter, *SHORT)
    it.until("you ❯ ")
    it.type(QUESTION + "\n")
    shown = it.until("cut at max_new_tokens")
    assert f"{QUESTION}\r\ntuned ❯ " in shown
    assert "\x1b[1;32mtuned ❯ " in it.shown  # in colour
    it.until("you ❯ ")
    it.type(f"/save {tmp_path}/a.json\n")
    it.until("there is no whole answer yet")
    it.until("you ❯ ")
    it.type("\x04")  # Ctrl-D
    assert it.end() == 0
    assert "Traceback" not in it.plain()


def test_ctrl_c_stops_the_answer_and_not_the_program(tmp_path, terminal):
    # With room for an answer that takes long.
    long = tiny.tiny_sentencepiece(tiny.tiny_llama(tmp_path / "base"))
    config = json.loads((long / "config.json").read_text())
    (long / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 200_000, "eos_token_id": 2}))
    it = terminal(long, "--max_new_tokens", "100000")
    it.until("you ❯ ")
    time.sleep(0.5)  # Python's readline misses a signal that comes between its prompt and its waiting for a key
    it.type("\x03")  # at the prompt, it ends nothing
    it.until("/quit or Ctrl-D ends")
    it.until("you ❯ ")
    for _ in range(2):
        it.type(QUESTION + "\n")
        it.until("model ❯ ")
        time.sleep(1)
        it.type("\x03")
        assert "^C" not in it.until("stopped by Ctrl-C")
        it.until("you ❯ ")
    it.type("/quit\n")
    assert it.end() == 0


def test_side_by_side_at_a_terminal(adapter, terminal):
    it = terminal(adapter, "--compare", *SHORT)
    it.until("you ❯ ")
    it.type(QUESTION + "\n")
    it.until("you ❯ ")
    shown = it.plain()
    assert re.search(r"base +┃ tuned", shown)
    assert re.search(r"8 tokens, .*cut at.* │ 8 tokens", shown)
    it.type("\x04")
    assert it.end() == 0


def test_ctrl_c_leaves_no_part_of_a_table_behind(tmp_path, terminal):
    base = tiny.tiny_sentencepiece(tiny.tiny_llama(tmp_path / "base"))
    adapter = tiny.tiny_adapter(tmp_path / "adapter", base)
    it = terminal(adapter, "--compare", "--max_new_tokens", "400")
    it.until("you ❯ ")
    it.type(QUESTION + "\n")
    it.until("base")
    for _ in range(2):  # one for each of the answers
        time.sleep(0.3)
        it.type("\x03")
    it.until("you ❯ ")
    shown = it.plain()
    assert "^C" not in shown
    assert shown.count("┏") == shown.count("└") > 1  # every table that was begun was drawn to its end
    it.type("\x04")
    assert it.end() == 0


def test_a_terminal_is_told_that_json_is_not_for_it(base, terminal):
    it = terminal(base, "--json")
    it.until("error: --json and --multi_turn are for --ask or questions on a pipe")
    assert it.end() == 2


def test_ctrl_c_on_a_pipe_ends_the_program_in_one_line(base):
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = Started(["-m", "yangtuo", "chat", base], **streams)
    process.stdin.write("你好\n")
    process.stdin.flush()
    assert process.stdout.readline() == "> 你好\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "error: stopped by Ctrl-C"
