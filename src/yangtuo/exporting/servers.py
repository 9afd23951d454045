"""Running model servers as `yangtuo check-deploy` asks them: what they answer, and what they tell of the prompt.

Two protocols: OpenAI's, which vLLM, llama.cpp, SGLang, `transformers serve` and others speak, and Ollama's own. The
ids of a prompt are told by vLLM (`/tokenize` takes messages) and llama.cpp (`/apply-template`, then `/tokenize`), its
text by Ollama (`_debug_render_only`), and by all how many tokens it had. Standard library alone.
"""

import contextlib
import http.client
import json
import shlex
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from yangtuo.errors import UsageError
from yangtuo.i18n import Message

Messages = Sequence[dict[str, str]]

# What these add to a greedy choice unless told otherwise, by what they call themselves in /v1/models.
_PLAIN = {
    "vllm": {"repetition_penalty": 1.0},
    "sglang": {"repetition_penalty": 1.0},
    "llamacpp": {"repeat_penalty": 1.0},
    "me": {"repeat_penalty": 1.0},  # llama-cpp-python
}
_SHOWN = 200  # characters of a server's error


class Reply(NamedTuple):
    """What a server made of a dialogue; None where it does not tell.

    Attributes:
        text: the answer.
        prompt_ids: ids of the prompt.
        num_prompt_tokens: their number.
        prompt_text: the prompt without the BOS that the server adds.
        refusal: why there is no answer.
    """

    text: str | None = None
    prompt_ids: list[int] | None = None
    num_prompt_tokens: int | None = None
    prompt_text: str | None = None
    refusal: str | None = None


class Server(Protocol):
    """A server with the model that is asked for."""

    kind: str
    model: str

    def ask(self, messages: Messages, max_new_tokens: int) -> Reply:
        """The greedy answer, at least one token long, and what is told of the prompt."""
        ...


class Web:
    """JSON over HTTP."""

    def __init__(self, url: str, *, timeout_s: float, api_key: str | None):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError("--url {url}: expected one like http://127.0.0.1:8000", url=url)
        self.url = url.rstrip("/").removesuffix("/v1")
        self._timeout_s = timeout_s
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        is_here = parts.hostname in ("localhost", "::1") or parts.hostname.startswith("127.")
        # A proxy that the environment names would look for 127.0.0.1 on its own machine.
        handlers = [urllib.request.ProxyHandler({})] if is_here else []
        self._opener = urllib.request.build_opener(*handlers)

    def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON value (or text, where it is none)."""
        return self._send(urllib.request.Request(self.url + path, headers=self._headers))

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and JSON value (or text, where it is none)."""
        content = json.dumps(body, ensure_ascii=False).encode("utf-8")
        return self._send(urllib.request.Request(self.url + path, data=content, headers=self._headers))

    def _send(self, request: urllib.request.Request) -> tuple[int, Any]:
        try:
            with self._opener.open(request, timeout=self._timeout_s) as response:
                return response.status, _value(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _value(error.read())
        except TimeoutError:
            raise UsageError(
                "--url {url}: no answer to {selector} within {timeout_s:g} s; --timeout_s gives it longer",
                url=self.url,
                selector=request.selector,
                timeout_s=self._timeout_s,
            ) from None
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, urllib.error.URLError) and isinstance(error.reason, TimeoutError):
                raise UsageError(
                    "--url {url}: cannot be reached within {timeout_s:g} s", url=self.url, timeout_s=self._timeout_s
                ) from None
            why = error.reason if isinstance(error, urllib.error.URLError) else error
            raise UsageError(
                "--url {url}: no server answers there ({why}); start it, or give the address that it prints when it "
                "starts",
                url=self.url,
                why=str(why)[:_SHOWN],
            ) from error


def _value(content: bytes) -> Any:
    text = content.decode("utf-8", errors="replace")
    try:
        return json.loads(text)
    except ValueError:
        return text


def _error(value: Any) -> str:
    """What a server says of an error, in a line."""
    for key in ("error", "message", "detail"):
        if isinstance(value, dict) and value.get(key):
            return _error(value[key])
    told = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(told.split())[:_SHOWN]


def connect(web: Web, kind: str, model: str | None) -> Server:
    """The server, with a model that it has.

    Args:
        web: the way to it.
        kind: "openai", "ollama" or "auto".
        model: its name; None for the only one.

    Raises:
        UsageError: nobody answers, it speaks neither protocol, or it has no such model; names those that it has.
    """
    if kind == "auto":
        status, value = web.get("/api/version")
        kind = "ollama" if status == 200 and isinstance(value, dict) and "version" in value else "openai"
    path, key, name = ("/api/tags", "models", "name") if kind == "ollama" else ("/v1/models", "data", "id")
    status, value = web.get(path)
    listed = value.get(key) if status == 200 and isinstance(value, dict) else None
    entries = [one for one in listed or () if isinstance(one, dict) and isinstance(one.get(name), str)]
    has = [str(one[name]) for one in entries]
    if model is None:
        if len(has) != 1:
            raise UsageError(
                "--model is missing: the server {url} {told}; {to_give}",
                url=web.url,
                told=_told(has, listed is not None),
                to_give=_to_give(has),
            )
        model = has[0]
    if kind == "ollama":
        server: Server = Ollama(web, model)
    else:
        owner = next((str(one.get("owned_by", "")) for one in entries if one[name] == model), "")
        server = OpenAi(web, model, _PLAIN.get(owner, {}))
    # Every template takes a single question, so that a refusal of it is about the model or the address.
    reply = server.ask([{"role": "user", "content": "你好"}], 1)
    if reply.refusal:
        raise UsageError(
            "--url {url}, --model {model}: the server refuses a single question ({refusal}); it {told}; {to_give}",
            url=web.url,
            model=model,
            refusal=reply.refusal,
            told=_told(has, listed is not None),
            to_give=_to_give(has),
        )
    return server


def _to_give(has: Sequence[str]) -> str:
    """What a person gives as --model."""
    if has:
        return Message("give the one that was made of --model_dir, as in --model {has}", has=shlex.quote(has[0]))
    return Message(
        "give --model NAME: with vLLM that of --served-model-name, or else the folder as it was started with, with "
        "Ollama that of `ollama create NAME`"
    )


def _told(has: Sequence[str], is_listed: bool) -> str:
    if not is_listed:
        return Message("does not list its models")
    return (
        Message("has the models {has}{what}", has=", ".join(has[:20]), what=", ..." if len(has) > 20 else "")
        if has
        else Message("has no model")
    )


class OpenAi:
    """A server with `/v1/chat/completions`."""

    kind = "openai"

    def __init__(self, web: Web, model: str, plain: dict[str, float]):
        self.model = model
        self._web, self._plain = web, plain
        self._ways = [self._of_llama_cpp, self._of_vllm]

    def ask(self, messages: Messages, max_new_tokens: int) -> Reply:
        """See `Server`."""
        body = {
            "model": self.model,
            "messages": list(messages),
            "max_tokens": max(1, max_new_tokens),
            "temperature": 0.0,
            "stream": False,
            **self._plain,
        }
        status, value = self._web.post("/v1/chat/completions", body)
        try:
            text, usage = value["choices"][0]["message"]["content"], value.get("usage") or {}
        except (TypeError, LookupError, AttributeError):
            return Reply(refusal=f"HTTP {status}: {_error(value)}")
        num = usage.get("prompt_tokens")
        return Reply(text or "", self._prompt_ids(messages), num if isinstance(num, int) else None)

    def _prompt_ids(self, messages: Messages) -> list[int] | None:
        for way in self._ways:
            with contextlib.suppress(TypeError, LookupError):
                ids = way(messages)
                if isinstance(ids, list) and ids:
                    self._ways = [way]
                    return ids
        self._ways = []
        return None

    # llama.cpp first: it takes what vLLM's /tokenize takes, and answers with no ids.
    def _of_llama_cpp(self, messages: Messages) -> Any:
        prompt = self._web.post("/apply-template", {"messages": list(messages)})[1]["prompt"]
        body = {"content": prompt, "add_special": True, "parse_special": True}  # as its chat completions do
        return self._web.post("/tokenize", body)[1]["tokens"]

    def _of_vllm(self, messages: Messages) -> Any:
        body = {"model": self.model, "messages": list(messages), "add_generation_prompt": True}
        return self._web.post("/tokenize", body)[1]["tokens"]


class Ollama:
    """A server with `/api/chat`."""

    kind = "ollama"

    def __init__(self, web: Web, model: str):
        self.model = model
        self._web = web

    def ask(self, messages: Messages, max_new_tokens: int) -> Reply:
        """See `Server`."""
        options = {"temperature": 0, "top_k": 1, "repeat_penalty": 1.0, "num_predict": max(1, max_new_tokens)}
        body = {"model": self.model, "messages": list(messages), "stream": False, "options": options}
        status, value = self._web.post("/api/chat", body)
        try:
            text = value["message"]["content"]
        except (TypeError, LookupError):
            return Reply(refusal=f"HTTP {status}: {_error(value)}")
        num = value.get("prompt_eval_count")  # left out where all of the prompt was in the cache
        return Reply(text or "", None, num if isinstance(num, int) and num > 0 else None, self._prompt_text(body))

    def _prompt_text(self, body: dict[str, Any]) -> str | None:
        with contextlib.suppress(TypeError, LookupError, AttributeError):
            told = self._web.post("/api/chat", {**body, "_debug_render_only": True})[1]
            text = told["_debug_info"]["rendered_template"]
            return text if isinstance(text, str) else None
        return None

    def template(self) -> str | None:
        """The TEMPLATE that the model was made with."""
        with contextlib.suppress(TypeError, LookupError):
            text = self._web.post("/api/show", {"model": self.model})[1]["template"]
            return text if isinstance(text, str) else None
        return None
