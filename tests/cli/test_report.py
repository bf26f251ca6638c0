"""The report of a run: complete, alone, escaped, the same bytes each time, and fit to be looked at."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import os
import re
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
from unpicked.model.directions import Directions
from unpicked.ops import fourier
from unpicked.report import reading, report

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
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in [*rows(), *history] for key in row)))
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


def pixels(uri: str) -> np.ndarray:
    """The picture of a PNG data address, ``(height, width, 4)``: red, green, blue, opacity."""
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGBA"), dtype=np.int64)


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
    assert page.count('src="data:image/png;base64,') == 6 + 3, "slices, projections, still surfaces"


def test_with_a_truth_it_shows_both_maps_and_the_curve(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    page = text_of(report(run, truth=Map(blobs(), 4.0)))
    assert "Against the truth" in page and "resolution at FSC 0.5" in page
    assert page.count("<svg") == 5
    assert page.count('src="data:image/png;base64,') == 12 + 6
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
    from unpicked.report.reading import compared

    run = make_run(tmp_path / "run")
    volume, truth = Map(noisy(blobs()), 4.0), Map(blobs(), 4.0)
    recorded = json.loads(json.dumps(compare(volume, truth).to_json()))
    assert compared(volume, truth, recorded).comparison.fsc == recorded["fsc"]
    other = Map(noisy(blobs()).transpose(0, 1).contiguous(), 4.0)
    assert compared(other, truth, recorded).comparison.rotation != recorded["rotation"]
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
    first, second = rows(2)[:12], [row for row in rows(1) if row["run"] == "start-0"]
    history = [row | {"run": "stage-0 " + row["run"]} for row in first]
    history += [row | {"run": "stage-1 " + row["run"]} for row in second]
    history += [second[-1] | {"run": "stage-1 move-0", "step": 6.0}]
    run = make_run(tmp_path / "run", history=history)
    runs = reading.read_history(run / "history.csv")
    assert [row["step"] for row in runs["stage-1 start-0"]] == [6, 7, 8, 9, 10, 11]
    assert runs["stage-1 move-0"][0]["step"] == 12
    assert reading.kept_starts(runs) == (("stage-0 start-0", "stage-1 start-0"), True)
    text = text_of(report(run))
    assert "2 starts; 6 + 6 passes over the data in 2 stages" in text and "after recentring" in text


def test_slices_are_true_pixels_on_one_scale() -> None:
    from unpicked.report import tiles as made

    values = torch.zeros(8, 8, 8)
    values[4, 4, 5] = 1.0  # z, y, x
    tiles = made.slices(Map(values, 2.0))
    assert [tile.label for tile in tiles] == ["slice across x", "slice across y", "slice across z"]
    for tile, bright in zip(tiles, (None, (4, 5), (4, 5)), strict=True):
        image = pixels(tile.uri)[..., 0]
        size = len(image) // 8
        assert image.shape == (8 * size, 8 * size)
        cells = image.reshape(8, size, 8, size)
        assert (cells == cells[:, :1, :, :1]).all(), "nearest neighbour: one grey value per voxel"
        assert [tuple(index) for index in np.argwhere(cells[:, 0, :, 0] == 255)] == ([bright] if bright else [])
    assert made.scale_bar(44.0) == pytest.approx((10.0, 100 * 10 / 44))
    assert made.scale_bar(300.0)[0] == pytest.approx(100.0)


# ------------------------------------------------------------------------------------ parts that may be absent


def add(run: Path, name: str, value: Any) -> None:
    """Put a key into ``figures`` of ``result.json``."""
    result = json.loads((run / "result.json").read_text())
    result["figures"] = {**(result["figures"] or {}), name: value}
    (run / "result.json").write_text(json.dumps(result))


def add_halves(run: Path, **changes: Any) -> None:
    for name in ("half1.mrc", "half2.mrc"):
        write_map(Map(noisy(blobs()), 4.0), run / name, overwrite=True)
    curve = [1.0, 0.9, 0.7, 0.4, 0.1, 0.0]
    add(run, "halves", {"fsc": curve, "resolution_0143": 11.4, "at_nyquist": False, "shared_start": False} | changes)


def add_patches(run: Path, count: int = 3, **changes: Any) -> None:
    images = np.random.default_rng(1).normal(size=(count, 7, 7)).astype(np.float32)
    arrays = {"patches": images, "projections": images + 1, "posterior": np.linspace(0.999, 0.004, count)}
    np.savez(run / "patches.npz", **{key: value for key, value in (arrays | changes).items() if value is not None})


def add_pictures(run: Path, **changes: Any) -> None:
    """Two pictures whose uppermost rows hold carbon, and are hidden."""
    images = np.random.default_rng(2).normal(size=(2, 32, 40)).astype(np.float32)
    hidden = np.zeros((2, 32, 40), np.float16)
    hidden[0, :4], hidden[1, :8] = 1, 1
    arrays = {
        "pictures": images + 100 * hidden.astype(np.float32), "names": ["a.mrc", "b<i>.mrc"], "pixel_size": 8.0,
        "total": 40, "hidden": hidden, "shares": [0.125, 0.25], "marks": [[9.0, 20.0], [20.0, 9.5], [30.0, 25.0]],
        "width": 3.5,
    }  # fmt: skip
    np.savez(run / "micrographs.npz", **{key: value for key, value in (arrays | changes).items() if value is not None})


def test_prior_and_data_share_the_shells(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert "Prior against data" not in text_of(report(run))
    add(run, "data_share", [1.0, 0.98, 0.8, 0.45, 0.6, 0.2])
    page = text_of(report(run))
    said = "From the prior: shells 3 (14.7 Å), 5 (8.8 Å). There the data hold less than half of the precision"
    assert "Prior against data" in page and page.count(said) == 2, "at the top, and beside the bars"
    assert "<pattern" in page and "neither a truth nor two half maps" in page
    assert "not measured" in page
    add(run, "data_share", [1.0, 0.98, 0.8])
    page = text_of(report(run))
    assert "Every shell comes from the data, by 80 % of the precision at the least;" in page and "<pattern" not in page
    assert "this is the most that the data can say" in page
    add(run, "data_share_observed", True)
    page = text_of(report(run))
    assert "the uncertainty of the particles' places and views is counted in" in page.replace("&#39;", "'")
    assert "the most that the data can say" not in page


@pytest.mark.parametrize("share", [3, [], [1.0, "a"], [1.0, float("nan")], [0.5, 1.5], {"a": 1}])
def test_a_share_that_makes_no_sense_is_a_note(tmp_path: Path, share: Any) -> None:
    run = make_run(tmp_path / "run")
    add(run, "data_share", share)
    found = reading.read(run, None)
    assert "must be a list of numbers from 0 to 1" in " ".join(found.notes) and found.share is None


def test_half_maps_are_a_resolution_only_from_two_starts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    add_halves(run)
    page = text_of(report(run))
    assert "FSC 0.143 between two half maps" in page and "11.4 Å" in page
    assert "Each half was reconstructed from its own start." in page and "not validation" not in page
    assert "not measured" not in page and page.count("<svg") == 6
    assert "By direction" in page and "8 Å (Nyquist) in every direction" in page and "Sphericity 1.00" in page
    add_halves(run, shared_start=True)
    page = text_of(report(run))
    assert "agreement of halves" in page and "consistency, not validation" in page
    assert "No independent halves" in page
    add_halves(run, resolution_0143=8.0, at_nyquist=True, cutoff_angstrom=22.0, error=[0.1] * 6)
    page = text_of(report(run))
    assert "up to the Nyquist limit, 8 Å" in page and "by the shells up to 22 Å" in page
    add_halves(run, resolution_0143=None)
    assert "agree in no shell" in text_of(report(run))
    write_map(Map(noisy(blobs())[:9, :9, :9], 4.0), run / "half2.mrc", overwrite=True)
    page = text_of(report(run))
    assert "cannot be compared by direction" in page and "By direction" not in page


def test_folds_are_a_resolution_above_the_floor_and_where_the_verdict_is_supported(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", verdict="supported")
    curve = [1.0, 0.9, 0.7, 0.4, 0.1, 0.0]
    agreed = {"fsc": curve, "resolution_0143": 11.4, "at_nyquist": False, "shared_start": False, "nyquist": 8.0}
    evidence = {"agreement": agreed, "resolution": 14.7, "floor": [], "folds": []}
    add(run, "verify", {"evidence": evidence})
    page = text_of(report(run))
    assert "FSC 0.143 between the folds of the verification" in page and "14.7 Å" in page
    assert "half of the data" in page and "random phases, without any structure, reached" not in page
    plain = page.count("<svg")
    add(run, "verify", {"evidence": evidence | {"floor": [1.0, 0.8, 0.5, 0.45, 0.2, 0.1]}})
    page = text_of(report(run))
    assert "random phases, without any structure, reached" in page and page.count("<svg") == plain
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"verdict": "not supported"}))
    page = text_of(report(run))
    assert "not determined" in page and "No resolution is read from the folds" in page and "14.7 Å" not in page
    add(run, "verify", {"evidence": evidence | {"agreement": agreed | {"shared_start": True}, "resolution": None}})
    assert "from the folds: they started from one map" in text_of(report(run))
    for broken in (3, {"evidence": 3}, {"evidence": {"agreement": 3}}):
        add(run, "verify", broken)
        assert "No resolution is read" not in text_of(report(run))


def test_halves_without_their_maps_or_their_figures_are_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    add_halves(run)
    (run / "half2.mrc").unlink()
    assert "half maps" not in text_of(report(run)).split("</header>")[1]
    for broken in (7, {"fsc": "curve"}, {"fsc": [1.0, None]}, {"fsc": [1.0]}):
        add_halves(run)
        add(run, "halves", broken)
        assert "the half maps are not shown" in text_of(report(run))


def test_truth_halves_and_share_are_drawn_over_one_axis(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    add_halves(run)
    add(run, "data_share", [1.0, 0.98, 0.8, 0.45, 0.4, 0.2])
    page = text_of(report(run, truth=Map(blobs(), 4.0)))
    assert page.count("<svg") == 6
    for text in (
        "against the truth</span>",
        "between half maps</span>",
        "from the prior</span>",
        "shells 3 to 5 (14.7",
    ):
        assert text in page, text


def test_directions_of_view_are_drawn_and_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    report(run)
    assert "From where the particles are seen" not in text_of(run / "report.html")
    seen = Directions.around(torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64), 6.0)
    add(run, "views", seen.to_json())
    report(run)
    text = text_of(run / "report.html")
    assert "From where the particles are seen" in text
    assert "0.00, 1.00, 0.00" in text and f"{100 * seen.share:.0f} %" in text and f"{seen.sampling[0]:.2f}" in text
    assert "hardly seen" in text, "across y nearly nothing is"
    add(run, "views", Directions.uniform().to_json())
    report(run)
    even = text_of(run / "report.html")
    assert "as good as uniform ones" in even and "preferred axis" not in even


@pytest.mark.parametrize(
    "bad", [[], {}, {"coefficients": [1, 2]}, {"coefficients": ["a", 1, 2]}, {"coefficients": None}]
)
def test_directions_that_make_no_sense_are_a_note(tmp_path: Path, bad: object) -> None:
    run = make_run(tmp_path / "run")
    add(run, "views", bad)
    found = reading.read(run, None)
    assert "directions of view are not shown" in " ".join(found.notes) and found.seen is None


def test_patches_stand_beside_projections(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert "Projections beside patches" not in text_of(report(run))
    add_patches(run)
    page = text_of(report(run))
    assert "3 places in the micrographs" in page and page.count("chance of a particle") == 3
    assert "&gt; 99 %" in page and "50 %" in page and "&lt; 1 %" in page
    assert page.count('src="data:image/png;base64,') == 9 + 6
    add_patches(run, averages=np.zeros((3, 7, 7)))
    assert text_of(report(run)).count('src="data:image/png;base64,') == 9 + 9
    add_patches(run, count=30)
    page = text_of(report(run))
    assert "12 of 30 places" in page and page.count("chance of a particle") == 12


def test_micrographs_are_shown_with_what_is_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert 'id="micrographs"' not in text_of(report(run)), "older runs have no pictures"
    add_pictures(run)
    page = text_of(report(run))
    for sentence in (
        "2 of 40 micrographs, as read: the first, and those of which most is left out",
        "binned to pixels of 8 Å",
        "12.5 % left out; 3 particles found",
        "25.0 % left out<",
        "White bar: 100 Å",
        "b&lt;i&gt;.mrc",
    ):
        assert sentence in page, sentence
    assert page.count('class="area" fill="url(#left-out)" d="M') == 2 and page.count('class="found" d="M') == 1
    assert all(f'id="{name}"' in page for name in re.findall(r'(?:href="|url\()#([^")]*)', page))
    assert page.count('src="data:image/png;base64,') == 9 + 2 and text_of(report(run)) == page
    add_pictures(run, hidden=None, shares=None, marks=None, width=None, total=2)
    page = text_of(report(run))
    assert "2 micrographs, as read; binned" in page and "left out" not in page and 'class="found"' not in page
    assert page.count('src="data:image/png;base64,') == 9 + 2


BAD_PATCHES: list[dict[str, Any]] = [
    {"posterior": None},
    {"posterior": np.zeros(2)},
    {"projections": np.zeros((3, 7, 8))},
    {"patches": np.full((3, 7, 7), np.nan)},
    {"averages": np.zeros((2, 7, 7))},
    {"patches": np.array([None] * 3, dtype=object)},
    {"patches": np.array(["a"] * 3)},
]
BAD_PICTURES: list[dict[str, Any]] = [
    {"names": None},
    {"names": ["a"]},
    {"pictures": np.full((2, 32, 40), np.nan)},
    {"pictures": np.zeros((2, 0, 40))},
    {"pictures": np.array([None] * 2, dtype=object)},
    {"pixel_size": 0.0},
    {"pixel_size": "wide"},
    {"total": [1, 2]},
    {"hidden": None},
    {"hidden": np.zeros((2, 32, 41))},
    {"shares": [0.1]},
    {"marks": 1.0},
    {"marks": np.zeros(2)},
    {"marks": np.zeros((3, 3))},
    {"width": None},
]


@pytest.mark.parametrize(
    ("name", "changes"),
    [*(("patches", bad) for bad in BAD_PATCHES), *(("micrographs", bad) for bad in BAD_PICTURES)],
)
def test_archives_that_make_no_sense_are_a_note(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    run = make_run(tmp_path / "run")
    (add_patches if name == "patches" else add_pictures)(run, **changes)
    found = reading.read(run, None)
    assert f"its {name} are not shown" in " ".join(found.notes)
    assert (found.patches if name == "patches" else found.pictures) is None


def test_a_page_tells_what_it_cannot_show(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for name in ("patches", "micrographs"):
        (run / f"{name}.npz").write_bytes(b"no archive")
    add(run, "data_share", 3)
    add(run, "views", [])
    page = text_of(report(run))
    for told in ("its patches are", "its micrographs are", "directions of view are"):
        assert f"{told} not shown" in page
    assert "must be a list of numbers from 0 to 1" in page
    for title in (
        "Prior against data",
        "From where the particles are seen",
        "Projections beside patches",
        'id="micrographs"',
    ):
        assert title not in page


def test_outlines_enclose_what_is_left_out() -> None:
    from unpicked.report.micrographs import outline, rings

    def enclosed(path: str) -> float:
        """Area within closed loops; holes count against it."""
        loops = [np.array(re.findall(r"[-\d.]+", loop), float).reshape(-1, 2) for loop in path.split("Z")[:-1]]
        return abs(sum(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) / 2 for x, y in (loop.T for loop in loops)))

    area = np.zeros((40, 60))
    assert outline(area) == ""
    area[:, 45:] = 1  # to three edges of the picture
    assert enclosed(outline(area)) == pytest.approx(40 * 15, rel=0.01)
    area[10:20, 10:30], area[13:17, 14:24] = 1, 0
    assert enclosed(outline(area)) == pytest.approx(40 * 15 + 200 - 40, rel=0.01)
    assert rings(np.array([[5.0, 7.0]]), 2.0).startswith("M3.0 7.0a2.00 2.00")


def test_hidden_areas_have_no_part_in_the_grey_scale(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    add_pictures(run)
    uris = re.findall(r'src="([^"]*)" width="40" height="32"', text_of(report(run)))
    assert len(uris) == 2
    for uri in uris:
        values = pixels(uri)[..., 0]
        assert (values[:4] == 255).all() and 100 < np.median(values[8:]) < 155


def test_history_without_a_likelihood_is_drawn_by_gain_and_change(tmp_path: Path) -> None:
    history = [
        row
        | {"log_likelihood": "nan", "objective": "", "gain": 1e4 * math.exp(-row["step"]), "change": 0.5 ** row["step"]}
        for row in rows()
        if row["run"].startswith("start")
    ]
    history[0]["gain"] = math.inf
    run = make_run(tmp_path / "run", history=history)
    assert reading.kept_starts(reading.read_history(run / "history.csv")) == (("start-0",), False)
    page = text_of(report(run))
    assert "Gain that is left" in page and "Change of the map" in page
    assert ">Objective <" not in page and "Judged" not in page and "Objectives can be compared" not in page
    assert "which start is the best is not recorded" in page
    for row in history:
        row["judge"] = {"start-0": -500.0, "start-1": -400.0}[row["run"]] if row["step"] == 5 else ""
    run = make_run(tmp_path / "run", history=history)
    assert reading.kept_starts(reading.read_history(run / "history.csv")) == (("start-1",), True)
    page = text_of(report(run))
    assert "Judged log-likelihood" in page and "start-1, the best" in page


def test_a_full_page_is_modest_alone_and_the_same_each_time(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    add_halves(run)
    add_patches(run, count=12, averages=np.zeros((12, 7, 7)))
    add_pictures(run)
    add(run, "data_share", [1.0, 0.98, 0.8, 0.45, 0.4, 0.2])
    truth = Map(blobs(), 4.0)
    first = report(run, truth=truth).read_bytes()
    assert report(run, truth=truth).read_bytes() == first
    assert len(first) < 500_000
    page = first.decode()
    assert not re.search(r"https?://(?!www\.w3\.org/)", page)
    names = re.findall(r'\bid="([^"]*)"', page)
    assert len(names) == len(set(names))


# --------------------------------------------------------------------------------------------------- surface


def test_the_embedded_map_is_the_map() -> None:
    from unpicked.report.surface import EXACT, LARGEST, embedded

    for box, bits in ((11, 16), (EXACT + 2, 8)):
        values = noisy(blobs(box)) + 3.0
        held = embedded(Map(values, 4.0))
        assert held is not None and (held.box, held.bits) == (box, bits)
        codes = np.frombuffer(base64.b64decode(held.codes), "<u2" if bits == 16 else "u1").reshape(box, box, box)
        found = held.low + held.step * codes
        assert np.abs((found - found.mean()) - (values - values.mean()).numpy()).max() < 0.51 * held.step + 1e-6
    large = embedded(Map(blobs(LARGEST + 4), 1.0))
    assert large is not None and large.box == LARGEST and large.voxel_size == pytest.approx((LARGEST + 4) / LARGEST)


def test_the_first_level_encloses_what_the_page_says() -> None:
    from unpicked.report.surface import SHARE, first_level

    axis = np.arange(16) - 7.5
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    level = first_level(np.exp(-(radius**2) / 8))
    # a Gaussian of variance 4 holds a share of its mass within r: erf(r / s) - 2 r exp(-(r / s)^2) / (s sqrt(pi))
    assert level is not None
    r = math.sqrt(-8 * math.log(level)) / math.sqrt(8)
    assert math.erf(r) - 2 * r * math.exp(-(r**2)) / math.sqrt(math.pi) == pytest.approx(SHARE, abs=0.01)
    assert first_level(np.zeros((8, 8, 8))) is None


def test_a_map_without_a_surface_has_none(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write_map(Map(torch.full((11, 11, 11), 2.0), 4.0), run / "volume.mrc", overwrite=True)
    page = text_of(report(run))
    assert '<canvas id="surface"' not in page and 'id="maps"' not in page


def test_still_surfaces_lie_on_the_projections_and_keep_the_hand() -> None:
    from unpicked.report.surface import stills
    from unpicked.report.tiles import projections

    values = blobs(17)
    for still, projection in zip(stills(Map(values, 1.0), 0.3), projections(Map(values, 1.0)), strict=True):
        shape, image = pixels(still.uri)[..., 3] / 255, pixels(projection.uri)[..., 0].astype(float)
        assert still.label.split()[-1] == projection.label.split()[-1]
        for axis in (0, 1):
            centres = [(p.sum(1 - axis) * (np.arange(len(p)) + 0.5)).sum() / p.sum() / len(p) for p in (shape, image)]
            assert abs(centres[0] - centres[1]) < 0.05


@pytest.mark.parametrize("along", [0, 1, 2])
def test_the_nearer_ball_hides_the_farther_one(along: int) -> None:
    """Right, down and away are a right-handed frame: the pictures look to +x, to -y and to +z."""
    from unpicked.report.surface import stills

    axis = torch.arange(16, dtype=torch.float64) - 8
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    away, across = ((x, y**2 + z**2), (-y, x**2 + z**2), (z, x**2 + y**2))[along]

    def steepest(small: float) -> float:
        """Change of grey from pixel to pixel across the middle, where a small ball at ``small`` can be seen."""
        ball = torch.exp(-((away - small) ** 2 + across) / 3) + torch.exp(-((away + small) ** 2 + across) / 14)
        picture = pixels(stills(Map(ball, 1.0), 0.4)[along].uri)[..., 0].astype(float)
        return float(np.abs(np.diff(picture[96, 60:132])).max())

    assert steepest(-4) > 2 * steepest(4)
