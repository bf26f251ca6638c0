"""Contaminated micrographs from the command line: simulated, masked, judged and picked from."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from answers import answered, is_refused, quick
from unpicked.cli.micrographs import Input, places_in_run
from unpicked.cli.picking import _as_run
from unpicked.io.micrographs import files_of, read_micrographs
from unpicked.io.mrc import write_image
from unpicked.io.picks import read_picks
from unpicked.report import report

FEW = quick(box=7, lmax=4, views=30)


@pytest.fixture(scope="module")
def sim(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masks") / "sim"
    words = ["--phantom", "beads", "--box", "7", "--voxel", "4", "--size", "96", "--count", "2", "--density", "0.1"]
    assert _main("simulate", "micrographs", "--out", folder, *words, "--energy", "150", "--seed", "3",
                 "--contamination", "0.2", "--quiet") == 0  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory, sim):
    folder = tmp_path_factory.mktemp("masks-run") / "run"
    assert _main("reconstruct", "micrographs", sim / "micrographs.star", "--masks", sim / "masks", *FEW,
                 "--out", folder, "--no-verify", "--quiet") == 0  # fmt: skip
    return folder


def _main(*words: object) -> int:
    from unpicked.cli import main

    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    return int(caught.value.code or 0)


def test_contamination_is_told_with_its_masks(sim):
    assert json.loads((sim / "truth.json").read_text())["contamination"] == 0.2
    data = read_micrographs(sim / "micrographs.star", masks=sim / "masks")
    assert data.counted() == pytest.approx(0.8, abs=1e-4)
    for index in range(2):
        mask = data.mask(index)
        assert float(data[index][~mask].mean()) > float(data[index][mask].mean()) + float(data[index][mask].std())


def test_a_run_tells_what_was_left_out(done, sim):
    result = json.loads((done / "result.json").read_text())
    assert result["data"]["masked"] == pytest.approx(0.2, abs=1e-3)
    assert result["settings"]["masks"] == [str(sim / "masks")]
    assert "masks leave out 20.0% of the area" in " ".join(result["data"]["notes"])
    held = json.loads((done / "settings.json").read_text())["data_files"]
    assert sum("/masks/micrograph_" in entry for entry in held) == 2


def test_the_page_shows_what_was_left_out(done, sim):
    page = (done / "report.html").read_text()
    assert page.count("<br>20.0 % left out") == 2 and "micrograph_0002.mrc" in page
    report(done)
    assert (done / "report.html").read_text() == page
    data = read_micrographs(sim / "micrographs.star", masks=sim / "masks")
    with np.load(done / "micrographs.npz", allow_pickle=False) as held:
        for index in range(2):
            np.testing.assert_array_equal(held["hidden"][index] == 0, data.mask(index))
            np.testing.assert_allclose(held["pictures"][index], data[index], rtol=1e-6)
        assert held["marks"].shape[1] == 2 and float(held["width"]) == 7
        x, y = held["marks"].astype(int).T
        assert data.mask(0)[y, x].float().mean() > 0.8


def test_resuming_and_judging_take_the_same_masks_or_none(done, sim, tmp_path, capsys):
    run, masks = tmp_path / "run", tmp_path / "masks"
    shutil.copytree(sim / "masks", masks)
    words = ["reconstruct", "micrographs", sim / "micrographs.star", "--masks", masks, *FEW, "--out", run]
    words += ["--no-verify", "--quiet"]
    assert answered(capsys, *words)[0] == 0
    assert answered(capsys, *words, "--resume")[0] == 0
    assert is_refused(answered(capsys, *words, "--resume", "--masks-mark", "junk"), "masks_mark")
    status, out, _ = answered(capsys, "verify", run, "--surrogates", "0", "--starts", "1", "--json")
    assert status == 0 and json.loads(out.splitlines()[-1])["verdict"]
    write_image(torch.zeros(96, 96), masks / "micrograph_0002.mrc", 4.0, overwrite=True)
    assert is_refused(answered(capsys, *words, "--resume"), "data_files")
    assert is_refused(answered(capsys, "verify", run, "--quiet"), "micrograph_0002.mrc", "changed")


def test_picks_of_a_run_keep_out_of_what_it_left_out(done, sim, tmp_path, capsys):
    files = sim / "micrographs.star"
    status, out, _ = answered(
        capsys, "pick", done, files, "--out", tmp_path / "a.star", "--least", "0.3", "--views", "60"
    )
    assert status == 0 and f"masks as in {done}" in out
    status, out, _ = answered(
        capsys, "pick", done / "volume.mrc", files, "--masks", sim / "masks", "--out", tmp_path / "b.star", "--least",
        "0.3", "--views", "60",
    )  # fmt: skip
    assert status == 0 and "masks as in" not in out
    assert (tmp_path / "a.star").read_text() == (tmp_path / "b.star").read_text()
    data = read_micrographs(files, masks=sim / "masks")
    assert places_in_run(done, data) == [0, 1]  # masks are files of the run, too, and no micrographs
    one = files_of(data)[1]
    assert places_in_run(done, read_micrographs([one])) == [1]
    _, input, notes = _as_run(done, [str(one)], {}, Input())  # named in another way than in the run
    assert input.masks == (sim / "masks",) and notes == (f"masks as in {done}",)
    shutil.copy(one, tmp_path / "other.mrc")
    _, input, notes = _as_run(done, [str(tmp_path / "other.mrc")], {}, Input())
    assert not input.masks and "are not used" in notes[0]
    found = read_picks(tmp_path / "a.star")
    for index, name in enumerate(data.names):
        for x, y in found.positions.get(name, np.zeros((0, 2))).tolist():
            part = data.mask(index)[max(0, round(y) - 4) : round(y) + 5, max(0, round(x) - 4) : round(x) + 5]
            assert float(part.float().mean()) > 0.3


def test_a_map_is_looked_for_beside_the_masks(done, sim, capsys):
    words = ["verify", "--map", sim / "truth.mrc", sim / "micrographs.star", "--decoys", "3", "--json"]
    status, out, _ = answered(capsys, *words, "--masks", sim / "masks")
    assert status == 0 and json.loads(out.splitlines()[-1])["verdict"]
    assert is_refused(answered(capsys, "verify", done, "--masks", sim / "masks"), "--masks needs --map")


def test_gross_areas_may_be_found(tmp_path, capsys):
    folder = tmp_path / "sim"
    words = ["--phantom", "beads", "--box", "7", "--voxel", "4", "--size", "280", "--count", "1", "--energy", "300"]
    words += ["--contamination", "0.1", "--seed", "2", "--quiet"]
    assert _main("simulate", "micrographs", "--out", folder, *words) == 0
    input, files = Input(masks_auto=True, contrast="dark"), folder / "micrographs.star"
    assert Input.of(json.loads(json.dumps(input.settings()))) == input
    data, true = input.read([str(files)]), read_micrographs(files, masks=folder / "masks")
    assert "areas grossly unlike the rest" in " ".join(data.notes)
    assert float((~data.mask(0))[~true.mask(0)].float().mean()) > 0.9 and data.counted() > 0.6
    assert Input.of(Input().settings()) == Input(contrast="dark") and "masks_auto" not in Input().settings()
    words = ["pick", folder / "truth.mrc", files, "--views", "20", "--out", tmp_path / "a.star", "--masks-auto"]
    assert answered(capsys, *words)[0] == 0


def test_nothing_is_written_where_masks_are_wrong(sim, tmp_path, capsys):
    words = ["reconstruct", "micrographs", sim / "micrographs.star", *FEW, "--out", tmp_path / "run"]
    none = tmp_path / "none"
    none.mkdir()
    for name in ("micrograph_0001.mrc", "micrograph_0002.mrc"):
        write_image(torch.zeros(96, 96), none / name, 4.0)
    assert is_refused(answered(capsys, *words, "--masks", none, "--masks-mark", "good"), "area left by its mask")
    (none / "micrograph_0002.mrc").unlink()
    assert is_refused(answered(capsys, *words, "--masks", none), "micrograph_0002.mrc has no mask")
    assert is_refused(answered(capsys, *words, "--masks-mark", "good"), "--masks-mark")
    assert is_refused(
        answered(capsys, "simulate", "micrographs", "--out", tmp_path / "s", "--phantom", "beads", "--box", "7",
                 "--energy", "9", "--size", "128", "--contamination", "1"),
        "contamination",
    )  # fmt: skip
    assert not (tmp_path / "run").exists() and not (tmp_path / "s").exists()
