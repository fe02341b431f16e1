"""A server that plays GitHub's API for gists, and its errors."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler], None]

MODEL = """\
from torch import nn

class Net(nn.Module):
    def __init__(self, vocab=32):
        super().__init__()
        self.embed = nn.Embedding(vocab, 8)
        self.head = nn.Linear(8, vocab)

    def forward(self, input_ids):
        return self.head(self.embed(input_ids))

def build_model(**kwargs):
    return Net(**kwargs)
"""

REVISION = "a" * 40


class GistServer:
    """Serves what it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | list[Answer]] = {}
        self.asked: list[tuple[str, str | None]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Stops serving."""
        self._server.shutdown()
        self._server.server_close()

    def publish(self, gist_id: str, files: Mapping[str, str | dict[str, Any]], revision: str = REVISION, **changes: Any) -> None:
        """Serves a gist, as the latest and by its revision.

        Args:
            gist_id: Its id.
            files: Contents by name, or what the API says of a file.
            revision: Its revision.
            changes: Keys of the answer that are otherwise.
        """
        content = {
            "id": gist_id,
            "owner": {"login": "ada"},
            "truncated": False,
            "history": [{"version": revision}],
            "files": {n: self.file(gist_id, n, f) if isinstance(f, str) else f for n, f in files.items()},
        }
        for path in (f"/gists/{gist_id}", f"/gists/{gist_id}/{revision}"):
            self.answers[path] = body(json.dumps(content | changes))

    def file(self, gist_id: str, name: str, text: str, encoding: str = "utf-8") -> dict[str, Any]:
        """A file of a gist as the API describes it; its raw address is served too."""
        path = f"/raw/{gist_id}/{name}"
        self.answers[path] = status(200, text, encoding)
        return {
            "filename": name,
            "raw_url": self.url + path,
            "size": len(text.encode(encoding)),
            "truncated": False,
            "content": text,
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append((self.path, self.headers.get("Authorization")))
                answer = server.answers.get(self.path, status(404))
                with contextlib.suppress(ConnectionError):  # whoever asked has seen enough
                    (answer.pop(0) if isinstance(answer, list) else answer)(self)

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing."""

        return Handler


def body(text: str) -> Answer:
    """Answers with a body."""
    return status(200, text)


def status(code: int, text: str = "{}", encoding: str = "utf-8", **headers: str) -> Answer:
    """Answers with a status, a body and headers, in whose names ``_`` stands for ``-``."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        data = text.encode(encoding)
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def silence(seconds: float) -> Answer:
    """Answers nothing for a while."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(seconds)

    return answer


def endless(pause: float = 0.0) -> Answer:
    """Answers with bytes that do not end."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(10_000):
            handler.wfile.write(b" " * 10_000)
            time.sleep(pause)

    return answer


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    """Closes the connection without an answer."""
    handler.connection.close()
