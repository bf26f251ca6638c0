"""The report in a real browser: nothing is complained of, and the surface is drawn, turned, and the right way round."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unpicked.data.maps import Map
from unpicked.io.mrc import write_map
from unpicked.report import report

SOFTWARE = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")  # WebGL without a graphics card


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def browser() -> str:
    found = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    if found is None:
        pytest.skip("no chromium or chrome on this machine: the page is not looked at")
    return found


def blobs(box: int = 11) -> torch.Tensor:
    """A large blob in the middle, one to the right (x), one below it (y): in the slice across z, an L upside down."""
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    centres = ((0.0, 0.0, 0.0, 1.0), (3.0, 0.0, 0.0, 1.0), (3.0, 2.5, -1.0, 0.9))
    return sum(weight * torch.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 2) for a, b, c, weight in centres)


@pytest.fixture
def page(made: Path, tmp_path: Path) -> Path:
    """The page, in a copy of its run."""
    return Path(shutil.copytree(made.parent, tmp_path / "run")) / made.name


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a small run with everything on it."""
    run = tmp_path_factory.mktemp("page") / "run"
    run.mkdir()
    for name in ("volume.mrc", "half1.mrc", "half2.mrc"):
        write_map(Map(blobs(), 4.0), run / name)
    lines = [f"start-0,{k},{-900 / (k + 1)},1.0,0.1,424,{k // 4}" for k in range(6)]
    (run / "history.csv").write_text("\n".join(["run,step,objective,sigma,density,energy,frozen", *lines]))
    images = np.random.default_rng(1).normal(size=(4, 9, 9))
    np.savez(run / "patches.npz", patches=images, projections=images, posterior=np.full(4, 0.5))
    hidden = np.arange(81).reshape(1, 9, 9) < 20
    np.savez(run / "micrographs.npz", pictures=images[:1], names=["a.mrc"], pixel_size=8.0, total=3, hidden=hidden,
             shares=[0.25], marks=[[4.0, 5.0]], width=2.0)  # fmt: skip
    halves = {"fsc": [1, 0.9, 0.7, 0.4, 0.1, 0], "resolution_0143": 11.4, "at_nyquist": False, "shared_start": False}
    shown = {"energy": 423.5, "sigma": 1.0, "halves": halves, "data_share": [1, 1, 0.9, 0.6, 0.4, 0.2]}
    (run / "result.json").write_text(json.dumps({"command": "unpicked demo", "figures": shown}))
    return report(run, truth=Map(blobs(), 4.0))


def look(program: str, page: Path, *options: str) -> str:
    """Open a page; what the browser printed, after it was checked for complaints."""
    command = [
        program, "--headless", "--disable-quic", "--no-first-run", "--hide-scrollbars",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={page.parent / 'profile'}", "--enable-logging=stderr", "--v=0",
        "--virtual-time-budget=5000", *options,
    ]  # fmt: skip
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--no-sandbox")  # root has no sandbox to use
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    # a driver's remarks on its own speed are not the page's
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line and "GL Driver Message" not in line]
    assert not said, said
    return done.stdout


def scripted(page: Path, script: str) -> Path:
    """The page with a script of ours at its end."""
    text = page.read_text(encoding="utf-8").replace("</body>", f"<script>{script}</script></body>")
    path = page.with_name("scripted.html")
    path.write_text(text, encoding="utf-8")
    return path


def canvas(dump: str) -> dict[str, str]:
    """The attributes of the surface's canvas, in a dump of the page."""
    found = re.search(r'<canvas id="surface"([^>]*)>', dump)
    assert found is not None
    return dict(re.findall(r'([\w-]+)="([^"]*)"', found[1]))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int64)


@pytest.mark.parametrize(("width", "scheme"), [(1000, 1), (400, 1), (1000, 0)])
def test_a_browser_shows_it_without_complaint(browser: str, page: Path, width: int, scheme: int) -> None:
    shot = page.with_name("shot.png")
    paper = f"--blink-settings=preferredColorScheme={scheme}"
    look(browser, page, *SOFTWARE, paper, f"--screenshot={shot}", f"--window-size={width},900")
    image = pixels(shot)
    assert image.shape == (900, width, 3)
    assert image.std() > 10, "the page is blank"
    ground = image[:20, :20].mean()
    assert ground > 230 if scheme else ground < 40, "the page's colours follow the reader's choice"
    written = (np.abs(image.sum(-1) - image[0, 0].sum()) > 240).mean()
    assert 0.005 < written < 0.6, "neither text nor pictures can be seen"


def test_it_prints_and_asks_for_no_network(browser: str, page: Path) -> None:
    paper = page.with_name("page.pdf")
    look(browser, page, *SOFTWARE, "--host-resolver-rules=MAP * ~NOTFOUND", f"--print-to-pdf={paper}")
    found = paper.read_bytes()
    assert found[:5] == b"%PDF-" and len(found) > 20_000 and found.count(b"/Type /Page") >= 2


def test_nothing_is_wider_than_a_phone(browser: str, page: Path) -> None:
    script = "document.title = 'wide ' + document.documentElement.scrollWidth + ' of ' + innerWidth"
    dump = look(browser, scripted(page, script), *SOFTWARE, "--window-size=500,900", "--dump-dom")
    found = re.search(r"<title>wide (\d+) of (\d+)</title>", dump)
    assert found is not None and int(found[1]) <= int(found[2])


def test_the_surface_has_triangles_and_the_still_pictures_make_way(browser: str, page: Path) -> None:
    dump = look(browser, page, *SOFTWARE, "--dump-dom")
    shown = canvas(dump)
    assert shown["data-shown"] == "0" and int(shown["data-triangles"]) > 500
    assert re.search(r'<div class="stills" id="stills" hidden="">', dump)
    told = re.search(r'<output id="told"[^>]*>([^<]*)<', dump)
    assert told is not None and "Encloses 70 % of the positive density" in told[1] and "kDa of protein" in told[1]


def test_buttons_slider_and_keys_work(browser: str, page: Path) -> None:
    def after(script: str) -> dict[str, str]:
        return canvas(look(browser, scripted(page, script), *SOFTWARE, "--dump-dom"))

    alone = int(after("")["data-triangles"])
    both = after("document.querySelector('[data-show=both]').click()")
    assert both["data-shown"] == "both" and int(both["data-triangles"]) == pytest.approx(2 * alone, rel=0.1)
    lifted = after("var s = document.getElementById('level'); s.value = 0.9; s.dispatchEvent(new Event('input'))")
    assert int(lifted["data-triangles"]) < 0.5 * alone
    keys = ("ArrowLeft", "ArrowDown", "+", "-", "0")
    press = "document.getElementById('surface').dispatchEvent(new KeyboardEvent('keydown', {key: '%s'}));"
    assert int(after("".join(press % key for key in keys))["data-triangles"]) == alone


# the colour of a canvas can be read only while it is drawn, so the picture of the whole page is taken
ALONE = """
  var c = document.getElementById('surface'); document.body.replaceChildren(c);
  c.style.cssText = 'position: fixed; left: 0; top: 0; width: 400px; height: 400px; background: #fff';
  function key(name, times) {
    for (var i = 0; i < times; i++) { c.dispatchEvent(new KeyboardEvent('keydown', {key: name})); }
  }
"""


def shape(browser: str, page: Path, script: str) -> tuple[np.ndarray, np.ndarray]:
    """Where the surface is, and its brightness there; 400 by 400 pixels."""
    shot = page.with_name("surface.png")
    options = (*SOFTWARE, "--blink-settings=preferredColorScheme=1", "--window-size=600,600")
    look(browser, scripted(page, ALONE + script), *options, f"--screenshot={shot}")
    image = pixels(shot)[:400, :400]
    inside = image.max(-1) - image.min(-1) > 30
    assert 0.02 < inside.mean() < 0.8, "the surface is to be seen"
    return inside, image.sum(-1)


def test_the_surface_lies_like_the_slice_across_z(browser: str, page: Path) -> None:
    inside, _ = shape(browser, page, "key('0', 1)")
    quarters = [
        [inside[:200, :200].sum(), inside[:200, 200:].sum()],
        [inside[200:, :200].sum(), inside[200:, 200:].sum()],
    ]
    assert quarters[1][1] == max(max(row) for row in quarters), "x runs right and y down"
    assert inside[:, 200:].sum() > 1.5 * inside[:, :200].sum()


def test_turning_shows_the_right_hand(browser: str, page: Path) -> None:
    """A quarter turn to the right brings what was near (small z) to the right: x goes away, -z to the right."""
    values = blobs() * 0
    axis = torch.arange(11, dtype=torch.float64) - 5
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    for a, b, c in ((0.0, 0.0, 0.0), (0.0, 0.0, -3.0), (0.0, 2.5, -3.0)):
        values = values + torch.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 2)
    write_map(Map(values, 4.0), page.parent / "volume.mrc", overwrite=True)
    path = report(page.parent)
    inside, _ = shape(browser, path, "key('ArrowRight', 13)")  # 13 steps of 0.12 are 89 degrees
    assert inside[:, 200:].sum() > 1.5 * inside[:, :200].sum()
    right = inside[:, 200:].sum(1) * np.arange(400)
    assert right.sum() / inside[:, 200:].sum() > 200, "and down stays down"


def test_without_webgl_the_still_pictures_stay(browser: str, page: Path) -> None:
    dump = look(browser, page, "--disable-3d-apis", "--dump-dom")
    assert "data-triangles" not in canvas(dump)
    assert '<div class="stills" id="stills">' in dump and "surface seen along x" in dump


def test_what_is_near_hides_what_is_far(browser: str, page: Path) -> None:
    """A small ball at small z stands before a large one; at large z it is hidden."""
    axis = torch.arange(16, dtype=torch.float64) - 8
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")

    def steepest(small: float) -> float:
        wide = torch.exp(-((z + small) ** 2 + x**2 + y**2) / 14)
        write_map(
            Map(wide + torch.exp(-((z - small) ** 2 + x**2 + y**2) / 3), 4.0),
            page.parent / "volume.mrc",
            overwrite=True,
        )
        (page.parent / "half1.mrc").unlink(missing_ok=True)
        _, bright = shape(browser, report(page.parent), "key('0', 1)")
        return float(np.abs(np.diff(bright[200, 150:250])).max())

    assert steepest(-4) > 2 * steepest(4)
