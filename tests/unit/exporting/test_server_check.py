"""`check-deploy` against a server of ours that is right, and against broken twins of it.

The fake stands here because vLLM, llama.cpp and Ollama cannot be installed where the tests run, and because no real
server can be told to strip a blank or to double its BOS. What it speaks was taken from the real ones: `transformers
serve` 5.23 and llama.cpp's server were asked by hand, Ollama's fields are those of its api/types.go.
"""

import argparse
import json
import re
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests import chat_templates, tiny
from tests.dialogues import controlled
from yangtuo.cli import check_deploy
from yangtuo.data import probe_prompts, template_json
from yangtuo.data.control_tokens import split_at_controls
from yangtuo.data.records import Turn
from yangtuo.data.template_choice import choose_template
from yangtuo.data.templates import ALPACA_ZH, CHATML, LLAMA3, TemplateFault
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.errors import AdapterError, DataError, RunFailure, TokenizerError, UsageError
from yangtuo.exporting.server_check import Match, compare_prompt, compare_text
from yangtuo.exporting.servers import Reply
from yangtuo.model import provenance
from yangtuo.model.prompt_texts import jinja_of, modelfile_of

NUM_NEW = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An exported model: LLaMA's kind of tokenizer, the Alpaca prompt."""
    folder = tiny.tiny_llama(tiny.tiny_sentencepiece(tmp_path_factory.mktemp("model")))
    tokenizer = open_tokenizer(folder)
    (folder / "yangtuo.json").write_text(provenance.to_text({"template": template_json.to_values(ALPACA_ZH)}))
    (folder / "chat_template.jinja").write_text(jinja_of(ALPACA_ZH, tokenizer))
    return folder


class Served:
    """What a server has loaded, and how it renders, tokenises and answers; a broken twin overrides one of them."""

    def __init__(self, folder):
        import torch
        from transformers import AutoModelForCausalLM

        self.tokenizer = open_tokenizer(folder)
        self.template = choose_template("tokenizer", self.tokenizer, None)[0]
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def rendered(self, messages):
        return self.template._render(messages, add_generation_prompt=True)

    def ids(self, text):
        parts = split_at_controls(text, {"<s>": 1, "</s>": 2})
        return [i for part in parts for i in ([part] if isinstance(part, int) else self.tokenizer.encode([part])[0])]

    def answer(self, ids, num_tokens):
        import torch

        said = []
        with torch.inference_mode():
            while len(said) < num_tokens and said[-1:] != [2]:
                said.append(int(self.model(torch.tensor([ids + said])).logits[0, -1].argmax()))
        return self.tokenizer.decode(said)


@pytest.fixture(scope="module")
def served(folder):
    return Served(folder)


PATHS = {
    "vllm": ("/v1/chat/completions", "/tokenize"),
    "llamacpp": ("/v1/chat/completions", "/tokenize", "/apply-template"),
    "usage": ("/v1/chat/completions",),
    "ollama": ("/api/chat", "/api/show"),
}


class Handler(BaseHTTPRequestHandler):
    """Answers as the server that `self.server.kind` names, with `self.server.served`."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        kind, is_listed, names = self.server.kind, self.server.names is not None, self.server.names or ()
        known = {
            ("ollama", "/api/version"): {"version": "0.12"},
            ("ollama", "/api/tags"): {"models": [{"name": name} for name in names]},
            (kind, "/v1/models"): {"data": [{"id": name, "owned_by": kind} for name in names]},
        }
        self.tell(known.get((kind, self.path)) if is_listed else None)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body, dict(self.headers)))
        time.sleep(self.server.sleep_s)
        if self.path not in PATHS[self.server.kind]:
            self.tell(None)
        elif body.get("model", "tuned") != "tuned":
            self.tell({"error": {"message": f"model {body['model']!r} not found"}}, 404)
        elif self.path == "/api/show":
            self.tell({"template": self.server.template})
        elif "content" in body:  # llama.cpp adds the BOS that its /apply-template has taken away
            self.tell({"tokens": self.server.served.ids("<s>" + body["content"])})
        elif self.server.kind == "llamacpp" and self.path == "/tokenize":
            self.tell({"tokens": []})
        else:
            try:
                text = self.server.served.rendered(body["messages"])
            except TemplateFault as error:  # a server tells what its template refuses
                self.tell({"error": str(error)}, 400)
            else:
                self.tell(self.made(body, text))

    def made(self, body, text):
        served, tells = self.server.served, self.server.tells
        if self.path == "/apply-template":
            return {"prompt": text.removeprefix("<s>")}
        if body.get("_debug_render_only") and tells:
            return {"_debug_info": {"rendered_template": text.removeprefix("<s>")}}
        ids = served.ids(text)
        if self.path == "/tokenize":
            return {"tokens": ids, "count": len(ids), "max_model_len": 512}
        if self.path == "/api/chat":
            said = served.answer(ids, body["options"]["num_predict"])
            return {"message": {"role": "assistant", "content": said}, "prompt_eval_count": len(ids)}
        said = served.answer(ids, body["max_tokens"])
        usage = {"prompt_tokens": len(ids)} if tells else None
        return {"choices": [{"message": {"content": said}}], "usage": usage}

    def tell(self, value, status=200):
        self.send_response(404 if value is None else status)
        self.end_headers()
        self.wfile.write(json.dumps(value or {"detail": "Not Found"}).encode())


class Quiet(ThreadingHTTPServer):
    def handle_error(self, *_):
        """A client that has lost its patience is no error."""


@contextmanager
def running(served, kind="vllm", *, names=("tuned",), sleep_s=0.0, tells=True, template=""):
    server = Quiet(("127.0.0.1", 0), Handler)
    server.served, server.kind, server.names, server.sleep_s = served, kind, names, sleep_s
    server.tells, server.template, server.asked = tells, template, []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def check(url, folder, *words):
    parser = argparse.ArgumentParser()
    check_deploy.add_options(parser)
    check_deploy.run(parser.parse_args(["--url", url, "--model_dir", str(folder), *words]))


def report_of(capsys, url, folder, *words):
    """The JSON report, whatever the verdict."""
    with suppress(RunFailure):
        check(url, folder, "--json", *words)
    return json.loads(capsys.readouterr().out)


TOLD = {  # what a right server's prompts are, single questions and dialogues
    "vllm": ("same", "one piece"),
    "llamacpp": ("same", "one piece"),
    "usage": ("same number", "one piece"),
    "ollama": ("same number", "one piece"),
}


@pytest.mark.parametrize("kind", TOLD)
def test_a_server_that_asks_as_training_did_is_equal(folder, served, capsys, kind):
    with running(served, kind) as (url, _):
        check(url, folder, "--max_new_tokens", str(NUM_NEW))
    shown = capsys.readouterr().out
    assert "verdict: equal" in shown
    assert "tuned at http://127.0.0.1" in shown
    with running(served, kind) as (url, _):
        report = report_of(capsys, url, folder, "--max_new_tokens", str(NUM_NEW))
    assert report["equal"]
    assert report["kind"] == ("ollama" if kind == "ollama" else "openai")
    assert [row["answer"] for row in report["prompts"]] == ["same"] * len(probe_prompts.built_in())
    for row in report["prompts"]:
        is_dialogue = any(message["role"] == "assistant" for message in row["messages"])
        assert row["prompt"] == TOLD[kind][is_dialogue]


class BlankStripped(Served):
    def rendered(self, messages):
        return super().rendered(messages).rstrip()


class TwoBos(Served):
    def ids(self, text):
        return [1, *super().ids(text)]


class OtherTemplate(Served):
    def rendered(self, messages):
        return "<s>" + "".join(f"{one['role']}: {one['content']}\n" for one in messages) + "assistant:"


class OtherSystem(Served):
    def rendered(self, messages):
        return super().rendered(messages).replace("Write a response", "Write an answer")


class OtherText(Served):
    def answer(self, ids, num_tokens):
        return "。" + super().answer(ids, num_tokens)


class NoSystem(Served):
    def rendered(self, messages):
        if messages[0]["role"] == "system":
            raise TemplateFault("System role not supported")
        return super().rendered(messages)


COUNTED = r"\d+ tokens, expected \d+"
BROKEN = {  # what is told where ids are known, where they are counted, and by Ollama; prompts and answers that differ
    BlankStripped: (r"the end, expected \d+ ' '; \d+ tokens", COUNTED, "character .*Response:'", 8, 0),
    TwoBos: (r"token 1: 1 <s>, expected \d", COUNTED, COUNTED, 8, 0),
    OtherTemplate: (r"token [12]: \d+ '.*', expected", COUNTED, "character 0: '(user|sys)", 8, 0),
    OtherSystem: (r"token 23: 300 ' an', expected 263 ' a'", COUNTED, "character 54: '.*Write an ans", 7, 0),
    OtherText: ("character ", "character ", "character ", 0, 8),
    NoSystem: (*3 * ("refused: HTTP 400: System role not supported",), 1, 0),
}


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("kind", TOLD)
def test_a_broken_twin_is_found(folder, capsys, broken, kind):
    words = ("--max_new_tokens", str(NUM_NEW if broken is OtherText else 0))
    *found, num_prompts, num_answers = BROKEN[broken]
    with running(broken(folder), kind) as (url, _):
        with pytest.raises(RunFailure, match=rf"in {max(num_prompts, num_answers)} of 8 prompts \({num_prompts} are"):
            check(url, folder, *words)
        assert "verdict: differs" in capsys.readouterr().out
        report = report_of(capsys, url, folder, *words)
    assert not report["equal"]
    differing = [row for row in report["prompts"] if "differs" in (row["prompt"], row["answer"])]
    for row in differing:
        detail = row["prompt_detail"] if row["prompt"] == "differs" else row["answer_detail"]
        assert re.search(found[{"usage": 1, "ollama": 2}.get(kind, 0)], detail), detail


def test_other_weights_are_told_from_other_prompts(folder, tmp_path, capsys):
    other = tiny.tiny_llama(tiny.tiny_sentencepiece(tmp_path), seed=1)
    (other / "chat_template.jinja").write_bytes((folder / "chat_template.jinja").read_bytes())
    with running(Served(other)) as (url, _):
        report = report_of(capsys, url, folder, "--max_new_tokens", "8")
    assert {row["prompt"] for row in report["prompts"]} == {"same", "one piece"}
    assert "differs" in {row["answer"] for row in report["prompts"]}
    assert any("the prompts are right and answers differ: other weights" in note for note in report["notes"])


def test_an_ollama_that_was_made_with_another_template_is_told(folder, served, capsys):
    ours = modelfile_of(ALPACA_ZH, served.tokenizer, "m").partition('"""')[2].partition('"""')[0]
    told = "has another TEMPLATE than the Modelfile"
    for template, is_told in (("{{ .Prompt }}", True), (ours, False)):
        with running(BlankStripped(folder), "ollama", template=template) as (url, _):
            report = report_of(capsys, url, folder, "--max_new_tokens", "0")
        assert any(told in note for note in report["notes"]) == is_told
    with running(served, "ollama", template="{{ .Prompt }}") as (url, _):
        report = report_of(capsys, url, folder, "--max_new_tokens", "0")
    assert report["equal"]
    assert not any(told in note for note in report["notes"])


def test_an_ollama_that_does_not_tell_its_prompt_is_compared_by_number(folder, served, capsys):
    with running(served, "ollama", tells=False) as (url, _):
        assert report_of(capsys, url, folder, "--max_new_tokens", "0")["equal"]
    with running(BlankStripped(folder), "ollama", tells=False) as (url, _):
        report = report_of(capsys, url, folder, "--max_new_tokens", "0")
    assert report["prompts"][0]["prompt_detail"].endswith("61 tokens, expected 62")


def test_rows_of_a_file_are_asked_too(folder, served, tmp_path, capsys):
    rows = tiny.write_rows(tmp_path / "rows.json", tiny.rows(3))
    with running(served) as (url, asked):
        report = report_of(capsys, url, folder, "--max_new_tokens", "0", "--prompts", str(rows))
    assert len(report["prompts"]) == len(probe_prompts.built_in()) + 3
    assert report["prompts"][-1]["messages"] == [{"role": "user", "content": tiny.rows(3)[2]["instruction"]}]
    assert asked[-2][1]["max_tokens"] == 1


def test_what_is_asked_is_greedy_and_carries_the_key(folder, served, capsys):
    with running(served, "vllm") as (url, asked):
        check(f"{url}/v1/", folder, "--max_new_tokens", "0", "--api_key", "sesame")
    bodies = [body for path, body, _ in asked if path == "/v1/chat/completions"]
    assert all(body["temperature"] == 0 and body["repetition_penalty"] == 1.0 for body in bodies)
    assert all(headers["Authorization"] == "Bearer sesame" for _, _, headers in asked)
    with running(served, "ollama") as (url, asked):
        check(url, folder, "--max_new_tokens", "0")
    options = asked[0][1]["options"]
    assert (options["temperature"], options["top_k"], options["repeat_penalty"]) == (0, 1, 1.0)


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(folder, served, capsys, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with running(served) as (url, _):
        check(url, folder, "--max_new_tokens", "0")


def test_prompts_that_training_refuses_are_left_out_and_told(tmp_path):
    tokenizer = controlled(*chat_templates.CONTROLS, chat_template=chat_templates.GEMMA)
    template = choose_template("tokenizer", tokenizer, None)[0]
    prompts, left_out = probe_prompts.encoded(probe_prompts.built_in(), tokenizer, template)
    assert len(prompts) == len(probe_prompts.built_in()) - 1
    assert left_out[0].startswith("not asked, since training has no such prompt: '为什么天空")
    assert prompts[0].ids == prompts[0].whole
    assert prompts[0].text == "<start_of_turn>user\n你好！<end_of_turn>\n<start_of_turn>model\n"
    with pytest.raises(DataError, match="none of the 1 prompts can be asked"):
        probe_prompts.encoded(probe_prompts.built_in()[-1:], tokenizer, template)


@pytest.mark.parametrize("template", [ALPACA_ZH, CHATML, LLAMA3], ids=lambda template: template.name)
@pytest.mark.parametrize("bos", [True, False])
def test_the_prompt_of_a_tokenizer_without_merges_is_the_same_in_one_piece(template, bos):
    tokenizer = controlled(*chat_templates.CONTROLS, bos=bos)
    prompts, left_out = probe_prompts.encoded(probe_prompts.built_in(), tokenizer, template)
    assert not left_out
    for prompt in prompts:
        assert prompt.ids == prompt.whole
        shown = "".join(tokenizer.name_of(i) or tokenizer.bytes_of(i).decode() for i in prompt.ids)
        assert shown == ("<s>" if bos else "") + prompt.text


# ---- what a user gave


def test_an_address_without_a_server(folder):
    with pytest.raises(UsageError, match=r"no server answers there .*refused.*; start it"):
        check("http://127.0.0.1:9", folder)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://a", "http://"])
def test_an_address_that_is_none(folder, url):
    with pytest.raises(UsageError, match="expected one like http://"):
        check(url, folder)


@pytest.mark.parametrize("kind", ["vllm", "ollama"])
def test_a_model_that_the_server_has_not(folder, served, kind):
    with running(served, kind, names=("one", "tuned")) as (url, _):
        with pytest.raises(UsageError, match=r"--model three: .*'three' not found\); it has the models one, tuned"):
            check(url, folder, "--model", "three")
        with pytest.raises(UsageError, match=r"--model is missing: the server \S+ has the models one, tuned"):
            check(url, folder)
        check(url, folder, "--model", "tuned", "--max_new_tokens", "0")
    for names, told in (((), "has no model"), (None, "does not list its models")):
        with running(served, names=names) as (url, _):
            with pytest.raises(UsageError, match=f"--model is missing: .* {told}"):
                check(url, folder)
            check(url, folder, "--model", "tuned", "--max_new_tokens", "0")


def test_a_protocol_that_the_server_does_not_speak(folder, served):
    with running(served) as (url, _), pytest.raises(UsageError, match=r"single question \(HTTP 404: Not Found"):
        check(url, folder, "--kind", "ollama", "--model", "tuned")


def test_a_server_that_is_too_slow(folder, served):
    with running(served, sleep_s=0.5) as (url, _), pytest.raises(UsageError, match=r"no answer to .* within 0.1 s"):
        check(url, folder, "--timeout_s", "0.1")


def test_a_server_that_tells_nothing_of_its_prompts_has_to_answer(folder, served, capsys):
    with running(served, "usage", tells=False) as (url, _):
        with pytest.raises(UsageError, match="nothing was compared"):
            check(url, folder, "--max_new_tokens", "0")
        capsys.readouterr()
        report = report_of(capsys, url, folder, "--max_new_tokens", "1")
    assert report["equal"]
    assert {(row["prompt"], row["answer"]) for row in report["prompts"]} == {("not told", "same")}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max_new_tokens", "-1"], "at least 0"),
        (["--timeout_s", "0"], "above 0"),
        (["--prompts", "nowhere.json"], "no such file"),
        (["--template", "poem"], "no such template"),
    ],
)
def test_options_that_cannot_be(folder, words, message):
    with pytest.raises(UsageError, match=message):
        check("http://127.0.0.1:9", folder, *words)


def test_folders_that_cannot_be(folder, tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        check("http://127.0.0.1:9", tmp_path / "x")
    with pytest.raises(TokenizerError, match="no tokenizer here"):
        check("http://127.0.0.1:9", tmp_path)
    tokenizer = tiny.tiny_sentencepiece(tmp_path)
    (tokenizer / "yangtuo.json").write_text("{")
    with pytest.raises(AdapterError, match=r"yangtuo.json: not written by this program"):
        check("http://127.0.0.1:9", tmp_path)


def test_the_template_is_the_recorded_one_unless_another_is_named(folder, tmp_path):
    tokenizer = open_tokenizer(folder)

    def found(place, named):
        return provenance.find_template([place], tokenizer, named, None)

    assert found(folder, None) == (ALPACA_ZH, f"auto: {folder} was trained with it")
    assert found(folder, "alpaca_zh_2")[0].name == "alpaca_zh_2"
    assert found(tmp_path, None)[0].name == "tokenizer"


# ---- comparing


def prompt_of(ids, whole=None, text="ab"):
    return probe_prompts.Prompt([], ids, whole or ids, text)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(prompt_ids=[1, 100, 101]), (Match.SAME, "3 tokens")),
        (Reply(prompt_ids=[1, 100]), (Match.DIFFERS, "token 2: the end, expected 101 'b'; 2 tokens for 3")),
        (Reply(prompt_ids=[1, 1, 100, 101]), (Match.DIFFERS, "token 1: 1 <s>, expected 100 'a'; 4 tokens for 3")),
        (Reply(prompt_ids=[1, 100, 102]), (Match.DIFFERS, "token 2: 102 'c', expected 101 'b'")),
        (
            Reply(prompt_ids=[1, 100, 101, 9_999_999]),
            (Match.DIFFERS, "token 3: 9999999, expected the end; 4 tokens for 3"),
        ),
        (Reply(num_prompt_tokens=3), (Match.SAME_NUMBER, "3 tokens")),
        (Reply(num_prompt_tokens=4), (Match.DIFFERS, "4 tokens, expected 3")),
        (Reply(num_prompt_tokens=3, prompt_text="ab"), (Match.SAME_NUMBER, "3 tokens, the same text")),
        (Reply(num_prompt_tokens=3, prompt_text="ac"), (Match.DIFFERS, "character 1: 'ac', expected 'ab'")),
        (Reply(prompt_text="ab"), (Match.SAME, "the same text")),
        (Reply(), (Match.NOT_TOLD, "")),
    ],
)
def test_prompts_are_compared_by_what_is_told(reply, expected):
    assert compare_prompt(prompt_of([1, 100, 101]), reply, controlled()) == expected


def test_a_prompt_in_one_piece_is_no_fault():
    prompt = prompt_of([1, 100, 101, 102], whole=[1, 100, 103])
    assert compare_prompt(prompt, Reply(prompt_ids=[1, 100, 103]), controlled())[0] is Match.ONE_PIECE
    assert compare_prompt(prompt, Reply(num_prompt_tokens=3), controlled())[0] is Match.ONE_PIECE
    assert compare_prompt(prompt, Reply(prompt_ids=[1, 100, 104]), controlled())[0] is Match.DIFFERS


@pytest.mark.parametrize(
    ("expected", "found", "whole", "cut"),
    [
        ("一二", " 一二\n", Match.SAME, Match.SAME),
        ("一\ufffd\ufffd", "一", Match.DIFFERS, Match.SAME),
        ("一二", "一二三", Match.DIFFERS, Match.SAME),
        ("一二", "一", Match.DIFFERS, Match.SAME),
        ("一二", "一二三四", Match.DIFFERS, Match.DIFFERS),
        ("一二", "一三", Match.DIFFERS, Match.DIFFERS),
        ("一 二", "一二", Match.DIFFERS, Match.DIFFERS),
        ("", "", Match.SAME, Match.SAME),
    ],
)
def test_answers_are_compared_but_for_blanks_and_the_character_of_a_cut(expected, found, whole, cut):
    assert compare_text(expected, found, is_cut=False)[0] is whole
    assert compare_text(expected, found, is_cut=True)[0] is cut


def test_the_first_difference_of_a_long_answer_is_shown_with_its_neighbours():
    detail = compare_text("字" * 50 + "甲" + "尾" * 50, "字" * 50 + "乙" + "尾" * 50, is_cut=False)[1]
    assert detail == f"character 50: '{'字' * 12}乙{'尾' * 11}', expected '{'字' * 12}甲{'尾' * 11}'"


def test_the_built_in_prompts_end_with_a_question():
    for turns in probe_prompts.built_in():
        assert isinstance(turns[0], Turn)
        assert turns[-1].role == "user"
