"""The live page: over a real socket, and to nobody but this computer with the right name."""

from __future__ import annotations

import http.client
import re
import socket
import subprocess
import sys
import threading
from urllib.parse import urlsplit

import pytest

from unpicked.report import live
from unpicked.report.live import Live


def get(url: str, path: str | None = None, host: str | None = None, method: str = "GET") -> tuple[int, str]:
    """Status and text of a request to the server of the url."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=10)
    try:
        headers = {} if host is None else {"Host": host}
        connection.request(method, place.path if path is None else path, headers=headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        assert answer.headers["Server"] == "unpicked"
        return answer.status, text
    finally:
        connection.close()


def row(step: int, **more: float) -> dict[str, float]:
    return {"step": float(step), "passes": 9.0, "objective": -100.0 + step, "energy": 20.0, "sigma": 1.0} | more


def test_the_page_shows_the_passes_so_far_and_loads_itself_again() -> None:
    with Live("my <run>") as page:
        status, text = get(page.url)
        assert status == 200 and "my &lt;run&gt;" in text and "No pass has ended yet" in text
        assert (
            f'http-equiv="refresh" content="{live.SECONDS}"' in text
            and "Nothing on this page has been verified" in text
        )
        page.add("stage 1 of 3, start-0", row(0))
        page.add("stage 1 of 3, start-0", row(1, seconds=2.0, judge=float("nan")))
        page.add("stage 2 of 3, <b>", row(0))
        status, text = get(page.url)
        assert "pass 2 of 9" in text and text.count("<polyline") == 3 and "&lt;b&gt;" in text
        assert text.index("stage 2") < text.index("stage 1")  # the latest first
        assert "<script" not in text and not re.search(r'(?:src|href)="(?!data:)', text)


def test_nobody_else_is_answered() -> None:
    with Live("run") as page:
        place = urlsplit(page.url)
        assert place.hostname == "127.0.0.1" and len(place.path) > 30
        assert get(page.url, host=f"localhost:{place.port}")[0] == 200
        for host in (
            "example.org",
            f"example.org:{place.port}",
            "127.0.0.1",
            f"127.0.0.1.example.org:{place.port}",
            "",
        ):
            assert get(page.url, host=host)[0] == 403
        for path in (
            "/",
            "/x/",
            place.path[:-1],
            place.path + "x",
            place.path.upper(),
            f"{place.path}../",
            "/é".encode(),
        ):
            name = path.decode("latin-1") if isinstance(path, bytes) else path
            connection = socket.create_connection(("127.0.0.1", place.port), timeout=10)
            with connection:
                connection.sendall(f"GET {name} HTTP/1.0\r\nHost: 127.0.0.1:{place.port}\r\n\r\n".encode("latin-1"))
                assert b" 404 " in connection.recv(200).split(b"\r\n")[0]
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert get(page.url, method=method)[0] == 501
        with Live("run") as other:
            assert urlsplit(other.url).path != place.path


def test_it_listens_on_the_loopback_alone() -> None:
    with Live("run") as page:
        assert page._server is not None and page._server.server_address[0] == "127.0.0.1"


def test_it_stops_with_the_run_even_with_a_browser_that_says_nothing() -> None:
    page = Live("run")
    place = urlsplit(page.url)
    with socket.create_connection(("127.0.0.1", place.port), timeout=10):  # and sends no request
        assert get(page.url)[0] == 200
        page.end()
        page.end()
        with pytest.raises(OSError):
            get(page.url)
    assert not any(thread.name == "live page" and thread.is_alive() for thread in threading.enumerate())


def test_a_server_that_cannot_start_and_a_page_that_cannot_be_made_harm_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*arguments: object) -> None:
        raise OSError("no more\nsockets")

    with Live("run") as page:
        monkeypatch.setattr(Live, "page", lambda self: 1 / 0)
        assert get(page.url) == (500, "The page could not be made: ZeroDivisionError.")
        page.add("start-0", row(0))
    monkeypatch.setattr(live, "_Server", broken)
    with Live("run") as page:
        assert (page.url, page.trouble) == ("", "no more sockets")
        page.add("start-0", row(0))


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "KEPT", 5)
    with Live("run") as page:
        for step in range(20):
            page.add("start-0", row(step))
        assert len(page._rows["start-0"]) == 5 and "pass 20 of 9" in get(page.url)[1]


@pytest.mark.slow
def test_a_run_tells_its_address_shows_its_passes_and_ends_as_without(tmp_path) -> None:
    """The same answer with and without; while it runs, its page can be fetched."""
    import numpy as np

    np.save(tmp_path / "y.npy", np.random.default_rng(0).normal(size=4000).astype(np.float32))
    words = [
        sys.executable,
        "-m",
        "unpicked",
        "reconstruct",
        "signal",
        tmp_path / "y.npy",
        "--length",
        "7",
        "--threads",
        "1",
    ]
    run = [*words, "--starts", "2", "--no-verify", "--out"]
    process = subprocess.Popen([*run, tmp_path / "live", "--live"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    told = re.match(r"live page: (http://127\.0\.0\.1:\d+/[\w-]{20,}/)\n", process.stderr.readline())
    assert told and get(told[1])[0] == 200
    process.communicate(timeout=120)
    assert process.returncode == 0
    with pytest.raises(OSError):
        get(told[1])
    subprocess.run([*run, tmp_path / "plain"], check=True, capture_output=True)
    assert (tmp_path / "live" / "target.npy").read_bytes() == (tmp_path / "plain" / "target.npy").read_bytes()
    settings = [(tmp_path / name / "settings.json").read_text() for name in ("live", "plain")]
    assert settings[0] == settings[1]
