"""The report of a run: complete, alone, escaped, the same bytes each time, and fit to be looked at."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unpicked.data.maps import Map
from unpicked.io.mrc import write_map
from unpicked.ops import fourier
from unpicked.report import report

MARKUP = "<img src=x onerror=alert(1)>"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def blobs(box: int = 11) -> torch.Tensor:
    """Three blobs without symmetry."""
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    centres = ((0.0, 0.0, 0.0, 1.0), (2.5, 0.5, 0.0, 0.8), (0.0, -1.5, 2.0, 0.6))
    return sum(weight * torch.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 2.5) for a, b, c, weight in centres)


def noisy(values: torch.Tensor) -> torch.Tensor:
    """A turned copy with noise that grows with frequency, so that the FSC falls."""
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    radius = fourier.radius(values.shape)
    noise = torch.fft.ifftn(torch.fft.fftn(noise) * (radius / radius.max()) ** 3).real
    return values.transpose(0, 2).contiguous() + 0.35 * noise / noise.std() * values.std()


def rows(starts: int = 2) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for start in range(starts):
        for step in range(6):
            gain = 900 * math.exp(-step / 2) + 5 * start
            out.append({
                "run": f"start-{start}", "step": float(step), "log_likelihood": -5000 - gain,
                "objective": -5010 - gain, "sigma": 1 + 0.1 * math.exp(-step), "mean": 0.0,
                "density": 0.1, "energy": 424.0 - gain / 10, "particles": 90.0, "frozen": float(step >= 3),
                "seconds": 0.1,
            })  # fmt: skip
    out.append(out[5] | {"run": "move-0", "step": 6.0, "objective": -5000.0})
    return out


def make_run(folder: Path, **changes: Any) -> Path:
    """A small finished run, as the command line leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_map(Map(noisy(blobs()), 4.0), folder / "volume.mrc", overwrite=True)
    history = changes.pop("history", rows())
    with (folder / "history.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows()[0])
        writer.writeheader()
        writer.writerows(history)
    result = {
        "command": ["unpicked", "reconstruct", "micrographs", "a b.mrc", "--box", "11", "--out", "run"],
        "settings": {"box": 11, "contrast": "dark", "subpixel": None, "starts": 2},
        "version": "0.1.0",
        "seed": 7,
        "data": {"files": 1, "pixel_size": 4.0, "voxel_size": 4.0, "notes": ["one micrograph was read"]},
        "result": "converged: the last passes gained nothing more",
        "verdict": "not verified",
        "figures": {"energy": 423.5, "sigma": 1.01, "density": 0.1, "particles": 1234.4},
        "notes": ["2 starts ended at objectives -5000.0, -5100.0; start 0 was kept"],
        "seconds": 12.5,
        "peak_memory_mb": 321.0,
    }
    (folder / "result.json").write_text(json.dumps(result | changes))
    return folder


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_the_page_says_what_a_microscopist_asks(tmp_path: Path) -> None:
    page = text_of(report(make_run(tmp_path / "run")))
    for sentence in (
        "Not verified: nothing has tested yet whether this structure is in the data.",
        "Converged: the last passes gained nothing more.",
        "energy per particle, E",
        "SNR per box pixel 3.50",
        "1,234",
        "Undetermined: untilted projections",
        "Files read as matter dark and inverted",
        "11 × 11 × 11 voxels of 4 Å, a field of 44 Å",
        "unpicked reconstruct micrographs &#39;a b.mrc&#39; --box 11 --out run",
        "One micrograph was read.",
        "12.5 s, 321 MB",
    ):
        assert sentence in page, sentence
    assert page.index("energy per particle, E") < page.index("particles seen")
    assert "not measured" in page and "Against the truth" not in page
    assert page.count("<svg") == 4
    assert page.count('src="data:image/png;base64,') == 6


def test_with_a_truth_it_shows_both_maps_and_the_curve(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    page = text_of(report(run, truth=Map(blobs(), 4.0)))
    assert "Against the truth" in page and "resolution at FSC 0.5" in page
    assert page.count("<svg") == 5
    assert page.count('src="data:image/png;base64,') == 12
    assert "not measured" not in page


def test_the_truth_that_the_run_names_is_found_beside_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", data={"files": 1, "truth": "truth.mrc"})
    gone = text_of(report(run))
    assert "Against the truth" not in gone and "no longer exists" in gone
    write_map(Map(blobs(), 4.0), run / "truth.mrc")
    assert "Against the truth" in text_of(report(run))
    (run / "truth.mrc").write_bytes(b"no map")
    assert "cannot be used" in text_of(report(run))


def test_a_recorded_comparison_is_used_only_while_it_is_true(tmp_path: Path) -> None:
    from unpicked.evaluate.compare import compare
    from unpicked.report import page

    run = make_run(tmp_path / "run")
    volume, truth = Map(noisy(blobs()), 4.0), Map(blobs(), 4.0)
    recorded = json.loads(json.dumps(compare(volume, truth).to_json()))
    assert page._compared(volume, truth, recorded).comparison.fsc == recorded["fsc"]
    other = Map(noisy(blobs()).transpose(0, 1).contiguous(), 4.0)
    assert page._compared(other, truth, recorded).comparison.rotation != recorded["rotation"]
    assert run.exists()


@pytest.mark.parametrize("with_truth", [False, True])
def test_it_needs_nothing_beside_itself_and_ids_are_unique(tmp_path: Path, with_truth: bool) -> None:
    page = text_of(report(make_run(tmp_path / "run"), truth=Map(blobs(), 4.0) if with_truth else None))
    targets = re.findall(r"""(?:src|href|action|data|poster)\s*=\s*["']([^"']*)""", page)
    assert targets and all(target.startswith(("data:", "#")) for target in targets)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    assert "@import" not in page and '<link rel="stylesheet"' not in page
    assert not re.search(r"https?://(?!www\.w3\.org/)", page), (
        "only the names of XML namespaces may look like addresses"
    )
    names = re.findall(r'\bid="([^"]*)"', page)
    assert len(names) == len(set(names))
    assert all(f'id="{name}"' in page for name in re.findall(r'(?:href="|url\()#([^")]*)', page))


def test_markup_in_names_is_shown_never_obeyed(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run <b>",
        command=["unpicked", MARKUP],
        settings={MARKUP: MARKUP},
        data={"files": [MARKUP], "notes": [MARKUP], MARKUP: 1, "truth": MARKUP},
        result=MARKUP,
        verdict=MARKUP,
        notes=[MARKUP],
        version=MARKUP,
        seed=MARKUP,
        history=[row | {"run": row["run"].replace("start-0", "start-" + MARKUP)} for row in rows()],
    )
    page = text_of(report(run))
    assert "<img src=x" not in page and "run <b>" not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") >= 8


def test_same_run_same_bytes_in_any_process(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    truth = Map(blobs(), 4.0)
    first = report(run, truth=truth).read_bytes()
    assert report(run, truth=truth).read_bytes() == first
    plain = report(run).read_bytes()
    code = f"from unpicked.report import report; report({str(run)!r})"
    environment = os.environ | {"PYTHONHASHSEED": "99", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert (run / "report.html").read_bytes() == plain
    assert sorted(path.name for path in run.iterdir()) == [
        "history.csv",
        "report.html",
        "result.json",
        "volume.mrc",
    ]


def test_a_folder_that_is_no_run_is_refused_on_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"result\.json, history\.csv, volume\.mrc not found") as caught:
        report(tmp_path)
    assert "\n" not in str(caught.value)
    run = make_run(tmp_path / "run")
    for name, content, message in (
        ("result.json", "{", "cannot be read as JSON"),
        ("result.json", "[]", "must hold one JSON object"),
        ("result.json", '{"figures": 3}', "must be an object"),
        ("history.csv", "a,b\n1,2\n", "has no column run and step"),
    ):
        kept = (run / name).read_text()
        (run / name).write_text(content)
        with pytest.raises(ValueError, match=message) as caught:
            report(run)
        assert "\n" not in str(caught.value)
        (run / name).write_text(kept)
    assert not (run / "report.html").exists()


def test_an_existing_page_is_kept_when_asked(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    path = report(run)
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        report(run, overwrite=False)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    "changes",
    [
        {"figures": {}, "data": {}, "settings": {}, "notes": [], "command": "", "result": ""},
        {
            "figures": None,
            "data": None,
            "settings": None,
            "notes": None,
            "seconds": None,
            "peak_memory_mb": None,
        },
        {"figures": {"energy": float("nan"), "sigma": "?"}, "history": []},
        {"history": rows(1)[:1]},
        {"history": [row | {"objective": "", "sigma": "nan", "energy": "inf"} for row in rows()]},
        {"verdict": "supported", "command": "unpicked demo"},
    ],
)
def test_a_poor_record_still_makes_a_page(tmp_path: Path, changes: dict[str, Any]) -> None:
    page = text_of(report(make_run(tmp_path / "run", **changes)))
    assert page.rstrip().endswith("</html>")
    assert "nan" not in re.sub(r"<style>.*?</style>", "", page.lower(), flags=re.DOTALL).replace("base64", "").split()


def test_stages_follow_one_another(tmp_path: Path) -> None:
    from unpicked.report import page

    first, second = rows(2)[:12], [row for row in rows(1) if row["run"] == "start-0"]
    history = [row | {"run": "stage-0 " + row["run"]} for row in first]
    history += [row | {"run": "stage-1 " + row["run"]} for row in second]
    history += [second[-1] | {"run": "stage-1 move-0", "step": 6.0}]
    run = make_run(tmp_path / "run", history=history)
    runs = page._history(run / "history.csv")
    assert [row["step"] for row in runs["stage-1 start-0"]] == [6, 7, 8, 9, 10, 11]
    assert runs["stage-1 move-0"][0]["step"] == 12
    assert page._kept(runs) == ("stage-0 start-0", "stage-1 start-0")
    text = text_of(report(run))
    assert "2 starts; 6 + 6 passes over the data in 2 stages" in text and "after recentring" in text


def test_slices_are_true_pixels_on_one_scale() -> None:
    from unpicked.report import figures

    values = torch.zeros(8, 8, 8)
    values[4, 4, 5] = 1.0  # z, y, x
    tiles = figures.slices(Map(values, 2.0))
    assert [tile.label for tile in tiles] == ["slice across x", "slice across y", "slice across z"]
    for tile, bright in zip(tiles, (None, (4, 5), (4, 5)), strict=True):
        image = pixels(tile.uri)[..., 0]
        size = len(image) // 8
        assert image.shape == (8 * size, 8 * size)
        cells = image.reshape(8, size, 8, size)
        assert (cells == cells[:, :1, :, :1]).all(), "nearest neighbour: one grey value per voxel"
        assert [tuple(index) for index in np.argwhere(cells[:, 0, :, 0] == 255)] == ([bright] if bright else [])
    assert figures.scale_bar(44.0) == pytest.approx((10.0, 100 * 10 / 44))
    assert figures.scale_bar(300.0)[0] == pytest.approx(100.0)


# ---------------------------------------------------------------------------------------------- in a browser


def browser() -> str:
    found = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    if found is None:
        pytest.skip("no chromium or chrome on this machine: the page is not looked at")
    return found


def pixels(source: Path | str) -> np.ndarray:
    """The picture of a PNG file or of a data address, ``(height, width, 3)``."""
    held = source if isinstance(source, Path) else io.BytesIO(base64.b64decode(source.partition(",")[2]))
    with Image.open(held) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int64)


@pytest.mark.parametrize("width", [1000, 400])
def test_a_browser_shows_it_without_complaint(tmp_path: Path, width: int) -> None:
    program = browser()
    page = report(make_run(tmp_path / "run"))
    shot = tmp_path / "shot.png"
    command = [
        program, "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0",
        f"--screenshot={shot}", f"--window-size={width},900",
    ]  # fmt: skip
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--no-sandbox")  # root has no sandbox to use
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    image = pixels(shot)
    assert image.shape == (900, width, 3)
    assert image.std() > 10, "the page is blank"
    dark = (image.sum(-1) < 240).mean()
    assert 0.005 < dark < 0.6, "neither text nor pictures can be seen"
