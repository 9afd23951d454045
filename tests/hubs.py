"""Servers that speak what the clients of Hugging Face and ModelScope use of their protocols, on this machine.

They note every request, can break a connection inside a file, and can send another byte than they list.
"""

import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "owner/tiny"


class Hub:
    """One model, its files by their paths.

    Attributes:
        seen: each request's method and path with its query, and its Range.
        cut_at: of a file, after how many of its bytes the connection breaks, once.
        wrong: files that are sent with another last byte.
        mute: whether every request is answered with nothing.
    """

    def __init__(self, files):
        self.files = dict(files)
        self.seen, self.cut_at, self.wrong, self.mute = [], {}, set(), False

    def ranges(self, file):
        """The Range of each GET for a file."""
        return [sent for method, path, sent in self.seen if method == "GET" and path.endswith(file)]

    def sent(self, file):
        """Its bytes, and how many of them go on their way before the connection breaks; None for all."""
        body = self.files[file]
        if file in self.wrong:
            body = body[:-1] + bytes([body[-1] ^ 1])
        return body, self.cut_at.get(file)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._take(has_body=False)

    def do_GET(self):
        self._take(has_body=True)

    def _take(self, *, has_body):
        self.hub.seen.append((self.command, self.path, self.headers.get("Range")))
        self.has_body = has_body
        if self.hub.mute:
            self.close_connection = True
        else:
            self.answer(urlsplit(self.path))

    def answer_json(self, value, code=200, **headers):
        body = json.dumps(value).encode()
        self._begin(code, len(body), {"Content-Type": "application/json", **headers})
        if self.has_body:
            self.wfile.write(body)

    def _begin(self, code, length, headers):
        self.send_response(code)
        for name, value in {"Content-Length": str(length), "Accept-Ranges": "bytes", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def answer_file(self, file, **headers):
        body, cut = self.hub.sent(file)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        part = body[start : int(asked[2]) + 1 if asked and asked[2] else len(body)]
        if asked:
            headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(body)}"
        self._begin(206 if asked else 200, len(part), headers)
        if not self.has_body:
            return
        if cut is not None:
            del self.hub.cut_at[file]
            part, self.close_connection = part[:cut], True
        with contextlib.suppress(ConnectionError):
            self.wfile.write(part)


def _git_hash(body):
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def _is_large(file):
    return file.endswith((".safetensors", ".model"))


class _HuggingFace(_Handler):
    def answer(self, url):
        if url.path == f"/api/models/{NAME}/revision/main":
            self.answer_json({"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": file} for file in self.hub.files]})
        elif url.path == f"/api/models/{NAME}/tree/{COMMIT}":
            self.answer_json([self._listed(file, body) for file, body in self.hub.files.items()])
        elif (file := url.path.removeprefix(f"/{NAME}/resolve/{COMMIT}/")) in self.hub.files:
            body = self.hub.files[file]
            hashed = hashlib.sha256(body).hexdigest() if _is_large(file) else _git_hash(body)
            xet = {}
            if _is_large(file):
                token = f"http://{self.headers['Host']}/api/models/{NAME}/xet-read-token/{COMMIT}"
                xet = {"X-Xet-Hash": hashed, "Link": f'<{token}>; rel="xet-auth"'}
            self.answer_file(file, ETag=f'"{hashed}"', **{"X-Repo-Commit": COMMIT, **xet})
        else:
            self.answer_json({"error": "Repository not found"}, 404, **{"X-Error-Code": "RepoNotFound"})

    def _listed(self, file, body):
        listed = {"type": "file", "path": file, "size": len(body), "oid": _git_hash(body)}
        if _is_large(file):
            listed["lfs"] = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
        return listed


class _ModelScope(_Handler):
    def answer(self, url):
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == f"/api/v1/models/{NAME}/repo/files":
            listed = [
                {
                    "Path": file,
                    "Name": file,
                    "Type": "blob",
                    "Size": len(body),
                    "Sha256": hashlib.sha256(body).hexdigest(),
                }
                for file, body in self.hub.files.items()
            ]
            self.answer_json({"Code": 200, "Success": True, "Data": {"Files": listed}})
        elif url.path == f"/api/v1/models/{NAME}/repo" and asked.get("FilePath") in self.hub.files:
            self.answer_file(asked["FilePath"])
        else:
            self.answer_json({"Code": 10010205001, "Success": False, "Message": "record not found"}, 404)


class StandIn:
    """A server at one address; `hub` is what it serves at the moment."""

    def __init__(self, server, handler):
        self.address, self._handler = f"http://127.0.0.1:{server.server_port}", handler

    def serve(self, hub):
        self._handler.hub = hub


@contextlib.contextmanager
def standing_in(of):
    """A `StandIn` for "huggingface" or "modelscope"."""
    handler = type("Handler", ({"huggingface": _HuggingFace, "modelscope": _ModelScope}[of],), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield StandIn(server, handler)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def serving(hub, of):
    """The address of a stand-in that serves this."""
    with standing_in(of) as server:
        server.serve(hub)
        yield server.address
