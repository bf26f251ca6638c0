"""A page on a run that goes on: served to this computer alone, under a name that nobody can guess."""

from __future__ import annotations

import hmac
import math
import secrets
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECONDS = 3  # after which the page loads itself again
KEPT = 2000  # passes of a sub-run that are remembered at most
_CURVES = (("objective", "Objective"), ("energy", "Energy per particle, E"), ("sigma", "Noise, σ"))
_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Live:
    """Passes of a run so far, and the server that shows them.

    It listens on 127.0.0.1 only, at a port that the system chooses; a request must name this host (so that no web site
    can have a browser ask in its stead) and the token in its path. Whatever goes wrong here, the run goes on.

    Attributes:
        url: of the page; empty where the server could not be started.
        trouble: why not.
    """

    def __init__(self, name: str) -> None:
        self.name, self.url, self.trouble = name, "", ""
        self._rows: dict[str, list[dict[str, float]]] = {}
        self._lock = threading.Lock()
        self._token = secrets.token_urlsafe(24)
        self._server: ThreadingHTTPServer | None = None
        try:
            server = _Server(("127.0.0.1", 0), _Handler)
        except OSError as error:
            self.trouble = " ".join(str(error).split())
            return
        server.live, self._server = self, server
        self.url = f"http://127.0.0.1:{server.server_port}/{self._token}/"
        threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True, name="live page").start()

    def add(self, name: str, row: Mapping[str, float]) -> None:
        """Remember a pass of a sub-run; what is no number is left out."""
        kept = {key: float(value) for key, value in row.items() if isinstance(value, int | float)}
        with self._lock:
            rows = self._rows.setdefault(name, [])
            rows.append(kept)
            del rows[:-KEPT]

    def page(self) -> str:
        """The page as it is now."""
        from unpicked.report.page import own, template

        with self._lock:
            held = {name: list(rows) for name, rows in self._rows.items()}
        return str(
            template("live.html.j2").render(
                name=self.name,
                style=own("page.css"),
                seconds=SECONDS,
                parts=[_part(name, rows) for name, rows in reversed(held.items())],
            )
        )

    def allows(self, path: str, host: str | None) -> int:
        """The status of a request: 200, 403 for another host, 404 for another path."""
        if self._server is None or host not in {f"{name}:{self._server.server_port}" for name in _NAMES}:
            return 403
        return 200 if hmac.compare_digest(path.encode(), f"/{self._token}/".encode()) else 404

    def end(self) -> None:
        """Stop the server."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *caught: object) -> None:
        self.end()


_NAMES = ("127.0.0.1", "localhost")


class _Server(ThreadingHTTPServer):
    """A server whose threads never outlive the program."""

    daemon_threads = True
    live: Live

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is nobody's concern."""


class _Handler(BaseHTTPRequestHandler):
    """Answers GET of the one page, with nothing else and no word on the terminal."""

    timeout = 10
    server: _Server

    def version_string(self) -> str:
        """Not which Python."""
        return "unpicked"

    def do_GET(self) -> None:
        """The page, or why not."""
        live = self.server.live
        status = live.allows(self.path, self.headers.get("Host"))
        text = {403: "Not from there.", 404: "Nothing here."}.get(status, "")
        if status == 200:
            try:
                text = live.page()
            except Exception as error:  # a page that fails must not end its server
                status, text = 500, f"The page could not be made: {type(error).__name__}."
        body = text.encode()
        self.send_response(status)
        for name, value in (_HEADERS | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def _part(name: str, rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """A sub-run for the page: how far it is, its last figures, and their course."""
    from unpicked.report import words

    last = rows[-1]
    told = [
        (title, words.number(last[key], 4))
        for key, title in (*_CURVES, ("log_likelihood", "Log-likelihood"), ("particles", "Particles"))
        if math.isfinite(last.get(key, math.nan))
    ]
    for key, title in (("seconds", "Seconds per pass"), ("seconds_left", "Seconds left in this part, at most")):
        if math.isfinite(last.get(key, math.nan)):
            told.append((title, words.number(last[key], 3)))
    done = f"pass {int(last.get('step', 0)) + 1}"
    if math.isfinite(last.get("passes", math.nan)):
        done += f" of {int(last['passes'])}"
    curves = [(title, line) for key, title in _CURVES if (line := _line([row.get(key, math.nan) for row in rows]))]
    return {"name": name, "done": done, "told": told, "curves": curves}


def _line(values: Sequence[float]) -> str:
    """Points of a polyline in a frame of 200 x 48; empty for fewer than two numbers.

    Drawn by hand: the drawing library is not made for a second thread while the run uses it.
    """
    found = [(index, value) for index, value in enumerate(values) if math.isfinite(value)]
    if len(found) < 2:
        return ""
    low, high = min(value for _, value in found), max(value for _, value in found)
    scale = 44 / (high - low) if high > low else 0.0
    width = 196 / (found[-1][0] - found[0][0])
    return " ".join(
        f"{2 + width * (index - found[0][0]):.1f},{46 - scale * (value - low):.1f}" for index, value in found
    )
