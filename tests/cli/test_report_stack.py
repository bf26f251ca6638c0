"""The page of a run on a particle stack: said of particles, drawn from particles.star, and whole without it."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_report import blobs, make_run, text_of

from unpicked.data.maps import Map
from unpicked.data.poses import Poses
from unpicked.io.mrc import write_map
from unpicked.io.particle_files import SPREAD
from unpicked.io.star import as_table, write_star
from unpicked.ops.rotation import matrix_to_euler, random_rotations
from unpicked.report import report, stack, views
from unpicked.report.reading import read_history


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def uniform(count: int, seed: int = 1) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(count, 3))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def course(starts: int = 2) -> list[dict[str, Any]]:
    """Searches, two stages of refinement, and those of a half."""
    out: list[dict[str, Any]] = []
    for prefix in ("", "half-1-"):
        for start in range(starts):
            for step in range(5):
                row = {"run": f"{prefix}search-{start} start-0", "step": float(step), "energy": 10.0 * step + start}
                out.append(row | {"radius": 4.0 + step, "effective": 500.0 / (step + 1), "sigma": 2.0})
        for edge in (32, 64):
            for step in range(3):
                row = {"run": f"{prefix}refine-{edge} start-0", "step": float(step), "energy": 60.0 + step}
                out.append(row | {"radius": edge / 4 + step, "spread": 4.0 / (step + 1), "rescued": 0.1, "sigma": 1.0})
    return out


def write_poses(run: Path, count: int = 60, spread: bool = True, seed: int = 2) -> Poses:
    rotations = random_rotations(count, torch.Generator().manual_seed(seed)).double()
    angles = matrix_to_euler(rotations)
    columns: dict[str, Any] = {"rlnImageName": [f"{k + 1:06d}@gone.mrcs" for k in range(count)]}
    for axis, name in enumerate(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")):
        columns[name] = angles[:, axis].tolist()
    columns |= {"rlnOriginXAngst": [3.0] * count, "rlnOriginYAngst": [-4.0] * count, "rlnImagePixelSize": [4.0] * count}
    if spread:
        columns[SPREAD] = np.linspace(1.0, 3.0, count).tolist()
    write_star(run / "particles.star", {"particles": as_table("particles", columns)}, overwrite=True)
    return Poses(rotations, torch.zeros(count, 2, dtype=torch.float64))


def make_stack(folder: Path, **changes: Any) -> Path:
    found = {"energy": 423.5, "sigma": 1.01, "particles": 60, "pose_spread_deg": 2.0}
    given: dict[str, Any] = {
        "command": "unpicked reconstruct particles a.star --out run",
        "settings": {
            "method": "auto",
            "starts": 2,
            "contrast": "bright",
            "start": None,
            "poses": None,
            "file": "a.star",
        },
        "data": {"kind": "particles", "images": 60, "box": 11, "pixel_size": 4.0, "contrast_transfer": False},
        "figures": found,
        "notes": ["2 starts: log-likelihood per image of all images -5.00, -4.00; start 1 was kept"],
        "history": course(),
    }
    run = make_run(folder, **(given | changes))
    write_poses(run)
    return run


def test_the_page_speaks_of_particles(tmp_path: Path) -> None:
    page = text_of(report(make_stack(tmp_path / "run")))
    for sentence in (
        "reconstructed from a particle stack by",
        "energy per image, E",
        "poses, at best",
        ">2.0°<",
        "Undetermined: untilted projections",
        "Searched over all views from 2 random starts, then fitted image by image",
        "Not modelled. Where images were defocused",
        "Views and poses",
        "Eight of ten images: 1.2° to 2.8°; median 2°.",
        "centres lie 5 Å (1.2 voxels) from those of the images",
        "Search, 5 updates from each of 2 starts; then 32 pixels, 3 rounds; then 64 pixels, 3 rounds",
        "start 1, which went on",
    ):
        assert sentence in page, sentence
    text = re.sub(r"<script.*?</script>|<style.*?</style>|<svg.*?</svg>", "", page, flags=re.DOTALL)
    assert "micrograph" not in text and "expected number of copies" not in text and "windows" not in text


def test_it_needs_nothing_beside_itself_and_is_the_same_twice(tmp_path: Path) -> None:
    run = make_stack(tmp_path / "run")
    page = text_of(report(run))
    targets = re.findall(r"""(?:src|href|action|data|poster)\s*=\s*["']([^"']*)""", page)
    assert targets and all(target.startswith(("data:", "#")) for target in targets)
    assert not re.search(r"https?://(?!www\.w3\.org/)", page)
    names = re.findall(r'\bid="([^"]*)"', page)
    assert len(names) == len(set(names))
    assert not re.search(r"#0[1-8]0[1-8]0[1-8]", page), "colours are the page's own"
    assert text_of(report(run)) == page


def test_known_poses_are_said_to_be_taken_not_found(tmp_path: Path) -> None:
    settings = {"method": "known", "poses": "truth.star", "starts": 3}
    history = [{"run": "known start-0", "step": 0.0, "energy": 5.0, "spread": 2.0}]
    page = text_of(report(make_stack(tmp_path / "run", settings=settings, history=history, notes=[])))
    assert "Taken as they are from truth.star; nothing has tested them." in page
    assert "That of the given poses" in page and "Known poses, 1 round." in page
    assert "poses, at best" not in page and "random start" not in page


def test_half_maps_and_a_truth_stand_as_on_other_pages(tmp_path: Path) -> None:
    halves = {
        "fsc": [1.0, 0.9, 0.7, 0.4, 0.1, 0.0],
        "resolution_0143": 11.4,
        "at_nyquist": False,
        "shared_start": False,
    }
    run = make_stack(tmp_path / "run", figures={"energy": 423.5, "particles": 60, "halves": halves})
    for name in ("half1.mrc", "half2.mrc"):
        write_map(Map(blobs(), 4.0), run / name)
    assert "FSC 0.143 between two half maps" in text_of(report(run))
    assert "Against the truth" in text_of(report(run, truth=Map(blobs(), 4.0)))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "particles.star is gone"),
        ("no star", "particles.star cannot be used"),
        ("data_\n\nloop_\n_rlnImageName\n000001@a.mrcs\n", "particles.star holds no poses"),
    ],
)
def test_without_usable_poses_the_page_is_whole(tmp_path: Path, content: str | None, told: str) -> None:
    run = make_stack(tmp_path / "run")
    (run / "particles.star").unlink()
    if content is not None:
        (run / "particles.star").write_text(content)
    page = text_of(report(run))
    assert told in page and "Views and poses" not in page and page.rstrip().endswith("</html>")


def test_a_method_without_spreads_shows_views_alone(tmp_path: Path) -> None:
    run = make_stack(tmp_path / "run")
    write_poses(run, spread=False)
    page = text_of(report(run))
    assert "Directions of view" in page and "that noise alone implies" not in page


@pytest.mark.parametrize("changes", [{"figures": {}, "settings": {}}, {"history": []}, {"history": course(1)[:1]}])
def test_a_poor_record_still_makes_a_page(tmp_path: Path, changes: dict[str, Any]) -> None:
    page = text_of(report(make_stack(tmp_path / "run", **changes)))
    assert page.rstrip().endswith("</html>") and "Views and poses" in page


def test_stages_follow_the_history_whatever_the_method(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"

    def titles(*names: str) -> list[tuple[str, int]]:
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([["run", "step", "energy"], *([f"{name} start-0", 0, 1.0] for name in names)])
        found = stack.stages(
            read_history(path), ["half 1: 9 starts: x; start 0 was kept", "2 starts: y; start 1 was kept"]
        )
        return [(stage.title, stage.kept) for stage in found]

    assert titles("search-0", "search-1", "soft", "refine-32", "half-1-search-0") == [
        ("search", 1), ("soft views", 0), ("32 pixels", 0),
    ]  # fmt: skip
    bands = [f"start-{start}-band-{band}" for start in (0, 1) for band in (4, 7)]
    assert titles(*bands, "fine") == [("band 4", 1), ("band 7", 1), ("fine views", 0)]
    assert titles("encoder-0", "encoder-1", "refine-32")[:2] == [("long steps", 0), ("short steps", 0)]


@pytest.mark.parametrize("count", [40, 1000, 30_000])
def test_cells_of_the_sphere_cover_it_once_and_count_every_image(count: int) -> None:
    edges, density = views.sphere(uniform(count))
    areas = (edges[:, 1] - edges[:, 0]) * (edges[:, 3] - edges[:, 2])
    assert areas.sum() == pytest.approx(4 * math.pi)
    assert (areas * density).sum() == pytest.approx(4 * math.pi), "no image is lost or counted twice"
    if count > 1000:
        assert density.std() < 0.5


def test_the_map_of_the_sphere_keeps_areas() -> None:
    step = 1e-4
    for rot, z in ((0.1, 0.0), (2.0, 0.5), (-1.5, -0.8)):
        places = [views.hammer(np.array(rot + a), np.array(z + b)) for a, b in ((0, 0), (step, 0), (0, step))]
        (x, y), (x1, y1), (x2, y2) = places
        area = (x1 - x) * (y2 - y) - (x2 - x) * (y1 - y)
        assert area / step**2 == pytest.approx(0.5, rel=1e-3), "the whole map has half the sphere's area"


def test_coverage_tells_even_views_from_preferred_ones() -> None:
    least, most = views.coverage(uniform(20_000))
    assert 0.85 < least <= 1 <= most < 1.15
    low, high = views.by_chance(300)
    assert low < least and high > most, "fewer views are less even by chance"
    cap = uniform(20_000)
    cap = cap[np.abs(cap[:, 2]) > 0.9]  # all along z: the plane across z is seen, z itself is not
    least, most = views.coverage(cap)
    assert least == 0 and most > 2


def test_preferred_views_are_named_on_the_page(tmp_path: Path) -> None:
    run = make_stack(tmp_path / "run")
    count = 400
    names = [f"{k + 1:06d}@gone.mrcs" for k in range(count)]
    angles = {"rlnAngleRot": np.linspace(-170, 170, count), "rlnAngleTilt": np.linspace(0, 15, count)}
    columns: dict[str, Any] = {"rlnImageName": names} | {name: values.tolist() for name, values in angles.items()}
    columns |= {"rlnAnglePsi": [0.0] * count, "rlnImagePixelSize": [4.0] * count}
    write_star(run / "particles.star", {"particles": as_table("particles", columns)}, overwrite=True)
    assert "Some directions were hardly seen" in text_of(report(run))
    assert json.loads((run / "result.json").read_text())["data"]["kind"] == "particles"
