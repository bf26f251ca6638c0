"""Positions against the truth: the largest matching, figures known by hand, and the command."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from answers import answered, is_refused
from unpicked.evaluate.picks import compare_picks
from unpicked.io.star import read_star, write_star


def test_figures_that_are_known_by_hand() -> None:
    truth = {"a": np.array([[0.0, 0.0], [10.0, 0.0]]), "b": np.array([[5.0, 5.0]])}
    found = {"a": np.array([[0.5, 0.0], [0.0, 0.4], [30.0, 0.0]]), "c": np.array([[1.0, 1.0]])}
    scores = {"a": np.array([3.0, 4.0, 1.0]), "c": np.array([2.0])}
    got = compare_picks(found, truth, 2.0, scores)
    assert got.count == (4, 3, 1) and got.precision == 0.25 and got.recall == pytest.approx(1 / 3)
    assert got.f1 == pytest.approx(2 / 7) and got.distance == pytest.approx(0.4)
    assert [point[0] for point in got.curve] == [4.0, 3.0, 2.0, 1.0]
    assert got.curve[0] == (4.0, 1.0, pytest.approx(1 / 3)) and got.average_precision == pytest.approx(1 / 3)
    assert compare_picks({}, truth, 2.0).f1 == 0.0
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="radius"):
            compare_picks(found, truth, bad)
    with pytest.raises(ValueError, match="no true positions"):
        compare_picks(found, {}, 2.0)
    with pytest.raises(ValueError, match="one per position"):
        compare_picks(found, truth, 2.0, {"a": np.zeros(3)})


def test_one_to_one_and_as_many_as_possible() -> None:
    """The surest position may reach both true ones; it gives way where another can have only one of them."""
    truth = {"": np.array([[0.0, 0.0], [3.0, 0.0]])}
    found = {"": np.array([[1.4, 0.0], [-1.0, 0.0]])}
    got = compare_picks(found, truth, 2.0, {"": np.array([2.0, 1.0])})
    assert got.count == (2, 2, 2) and got.f1 == 1.0


@pytest.mark.parametrize("seed", range(6))
def test_no_matching_is_larger(seed: int) -> None:
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_bipartite_matching

    drawn = np.random.default_rng(seed)
    found, truth = drawn.uniform(0, 40, (60, 2)), drawn.uniform(0, 40, (50, 2))
    scores = drawn.normal(size=60).round(1)
    got = compare_picks({"m": found}, {"m": truth}, 4.0, {"m": scores})
    near = np.linalg.norm(found[:, None] - truth, axis=-1) <= 4.0

    def most(some: np.ndarray) -> int:
        return int((maximum_bipartite_matching(csr_matrix(near[some])) >= 0).sum())

    assert got.count[2] == most(np.ones(60, dtype=bool))
    for least, precision, recall in got.curve:
        some = scores >= least
        assert recall * 50 == pytest.approx(most(some)) and precision * some.sum() == pytest.approx(most(some))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = ("simulate", "micrographs", "--phantom", "beads", "--box", "7", "--size", "120", "--count", "2")
    assert answered(capsys, *made, "--energy", "400", "--voxel", "5", "--out", tmp_path / "sim", "--quiet")[0] == 0
    truth = tmp_path / "sim" / "truth.star"
    same = partial(answered, capsys, "compare-picks")
    status, said, err = same(truth, truth, "--json")
    told = json.loads(said)
    assert (status, err) == (0, "") and told["precision"] == told["recall"] == 1.0 and told["distance"] == 0.0
    assert told["radius"] == pytest.approx(0.4 * 7 * 5) and told["curve"] == []
    blocks = read_star(truth)
    table = blocks["particles"]
    half = {name: table.strings(name)[::2] for name in ("rlnMicrographName", "rlnCoordinateX")}
    half["rlnMicrographName"] = tuple(name.rpartition("/")[2] for name in half["rlnMicrographName"])
    places = table.floats("rlnCoordinateY")[::2] + 1.0
    merit = {"rlnAutopickFigureOfMerit": np.linspace(1, 2, len(places)).tolist()}
    write_star(tmp_path / "half.star", {"": {**half, "rlnCoordinateY": places.tolist(), **merit}})
    status, said, _ = same(tmp_path / "half.star", truth)
    assert status == 0 and "precision, recall  1.000, 0.5" in said and "without their folders" in said
    assert "distance r.m.s.    5 A" in said and "average precision" in said
    write_star(tmp_path / "bare.star", {"": {"rlnCoordinateX": [1.0], "rlnCoordinateY": [2.0]}})
    bare = tmp_path / "bare.star"
    assert is_refused(same(bare, bare), "--pixel-size")
    assert is_refused(same(bare, bare, "--pixel-size", "2"), "--radius")
    for size in ("-2", "0", "nan"):
        assert is_refused(same(bare, bare, "--pixel-size", size), "--pixel-size must be positive")
    assert is_refused(same(bare, truth), "no micrograph is named in both", "no names")
    assert is_refused(same(truth, truth, "--radius", "0"), "radius")
    assert is_refused(same(tmp_path / "sim" / "micrographs.star", truth), "no positions")
    optics = {"rlnOpticsGroup": [1], "rlnMicrographPixelSize": [2.5]}
    rows = {"rlnMicrographName": ["m"], "rlnCoordinateX": [1.0], "rlnCoordinateY": [2.0], "rlnOpticsGroup": [1]}
    write_star(tmp_path / "fine.star", {"optics": optics, "particles": rows})
    assert is_refused(same(tmp_path / "fine.star", truth), "2.5 A", "5 A")
    status, said, _ = same(bare, bare, "--pixel-size", "2", "--radius", "3", "--json")
    assert status == 0 and json.loads(said)["count"] == {"found": 1, "true": 1, "matched": 1}
