"""The omit test: what is removed from a start map comes back from data that hold it, and from nothing else."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from answers import answered, is_refused
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.data.snr import energy
from unpicked.evaluate.resample import transform
from unpicked.io.mrc import write_map
from unpicked.ops import fourier, rotation
from unpicked.recipes import MicrographJob, ready
from unpicked.recipes.micrographs import begun
from unpicked.recipes.trials import MicrographTrial
from unpicked.simulate.micrographs import simulate_micrographs
from unpicked.simulate.phantom import bead_chain
from unpicked.verify import verify_with_surrogates
from unpicked.verify.omit import Omitted, continued, judged, region, without

TRUTH = bead_chain(11, 4).truth()


def test_a_part_is_a_ball_of_some_of_the_mass_and_the_seed_chooses_it() -> None:
    parts = [region(TRUTH, seed) for seed in range(4)]
    mass = TRUTH.values.double().clamp(min=0) * (fourier.distances((11,) * 3) <= 5.5)
    for part in parts:
        assert 0.1 <= float(mass[part].sum() / mass.sum()) <= 0.2
        assert float(without(TRUTH, part).values[part].abs().max()) == 0
    assert torch.equal(parts[0], region(TRUTH, 0)) and not torch.equal(parts[0], parts[1])
    with pytest.raises(ValueError, match="no density"):
        region(replace(TRUTH, values=-TRUTH.values.abs()), 0)


@pytest.mark.parametrize("seed", range(3))
def test_what_came_back_is_told_from_what_did_not(seed: int) -> None:
    part = region(TRUTH, seed)
    left, whole = without(TRUTH, part), TRUTH.values.double()
    axis = torch.randn(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    turn = rotation.exp_map(0.15 * axis / axis.norm())
    moved = 3 * transform(whole, turn, torch.tensor([0.3, -0.4, 0.2], dtype=torch.float64), False)
    found = judged(TRUTH, part, replace(TRUTH, values=moved), seed, kept=TRUTH)
    assert found.kept == pytest.approx(1, abs=1e-6)
    assert found.came_back and found.above == 0 and found.p == 0.01
    assert found.recovered == pytest.approx(1, abs=0.15) and found.correlation > 0.9
    assert Omitted.of_json(json.loads(json.dumps(found.to_json()))) == found
    nothing = judged(TRUTH, part, left, seed)
    assert not nothing.came_back and abs(nothing.recovered) < 0.2 and "did not come back" in nothing.sentence
    assert not judged(TRUTH, part, replace(left, values=torch.zeros_like(left.values)), seed).came_back
    filled = judged(TRUTH, part, replace(left, values=continued(whole, part)), seed)
    assert not filled.came_back, "what needs no data"
    again = judged(TRUTH, part, replace(left, values=bead_chain(11, 9).truth().values), seed)
    assert not again.came_back, "another structure"


JOB = MicrographJob(box=11, views=(100, 200), iterations=(6, 6), starts=1, moves=0)


def trial(level: float | None) -> MicrographTrial:
    """The job on micrographs of the chain, or of noise alone, from the chain's map in the data's grey values."""
    if level is None:
        noise = torch.randn(2, 200, 200, generator=torch.Generator().manual_seed(1))
        made = Micrographs(InMemory(noise), TRUTH.voxel_size, ("a", "b"))
    else:
        made, _ = simulate_micrographs(
            bead_chain(11, 4), count=2, size=(200, 200), density=0.12, noise=energy(level), seed=3
        )
    return MicrographTrial(ready(made, JOB, TRUTH), JOB, TRUTH)


def test_the_data_bring_back_what_they_hold() -> None:
    found = verify_with_surrogates(trial(300.0), 0, omits=1, seed=1)
    (part,) = found.omitted
    assert found.verdict == "supported" and part.came_back, part
    evidence = found.to_json()["evidence"]
    assert "omit test" not in evidence["not_run"] and evidence["omitted"][0]["came_back"] is True


@pytest.mark.slow
def test_noise_does_not() -> None:
    found = verify_with_surrogates(trial(None), 0, omits=1, seed=1)
    assert found.verdict != "supported" and not found.omitted[0].came_back


def test_of_given_structures_the_part_is_removed_too(tmp_path: Path) -> None:
    """The belief says nothing of the part: noise brings nothing back, though the structures hold it."""
    names = []
    for number, other in enumerate((0, 9)):
        values = TRUTH.values + 0.2 * (bead_chain(11, other).truth().values if other else 0 * TRUTH.values)
        names.append(str(tmp_path / f"{number}.mrc"))
        write_map(replace(TRUTH, values=values), Path(names[-1]))
    told = replace(JOB, structures=tuple(names))
    noise = torch.randn(2, 200, 200, generator=torch.Generator().manual_seed(1))
    prepared = ready(Micrographs(InMemory(noise), TRUTH.voxel_size, ("a", "b")), told)
    start = begun(prepared, told, None)
    assert start is not None
    whole = MicrographTrial(prepared, told, start)
    part = region(start, 1)
    kept, emptied = (one.fit(prepared.micrographs, 1, "one").map for one in (whole, whole.without(start, part)))
    assert kept is not None and emptied is not None
    assert not judged(start, part, emptied, 1).came_back
    inside = [float((map.values * part).norm() / map.values.norm()) for map in (kept, emptied)]
    assert inside[1] < 0.8 * inside[0], inside


def test_what_a_denoiser_knows_does_not_count(tmp_path: Path) -> None:
    """A denoiser that draws the molecule whatever it sees brings a part back, of the data and of scrambled ones."""
    write_map(TRUTH, tmp_path / "known.mrc")
    (tmp_path / "mine.py").write_text(
        "from unpicked.io.mrc import read_map\n"
        f"KNOWN = read_map({str(tmp_path / 'known.mrc')!r}).values.double()\n"
        "def drawn(values):\n"
        "    return KNOWN / KNOWN.abs().max()\n"
    )
    strong = replace(JOB, denoiser=f"{tmp_path / 'mine.py'}:drawn", denoiser_noise=0.02, prior="none")
    data, _ = simulate_micrographs(
        bead_chain(11, 4), count=2, size=(200, 200), density=0.12, noise=energy(60.0), seed=3
    )
    found = verify_with_surrogates(MicrographTrial(ready(data, strong), strong), 0, omits=1, seed=1)
    (part,) = found.omitted
    assert part.recovered > 0.5 and part.blank is not None and part.blank > 0.5 and not part.came_back, part
    assert "by a run on data of random phases" in part.sentence
    assert Omitted.of_json(part.to_json()) == part


def test_the_command_tells_it_in_json_and_on_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_map(TRUTH, tmp_path / "start.mrc")
    sim = ("--map", "start.mrc", "--box", "11", "--count", "2", "--size", "160", "--density", "0.12", "--energy", "300")
    assert answered(capsys, "simulate", "micrographs", "--out", "sim", *sim)[0] == 0
    small = ("--box", "11", "--views", "100", "--iterations", "6", "--moves", "0", "--threads", "1", "--quiet")
    data = ("reconstruct", "micrographs", "sim/micrographs.star", *small, "--no-verify")
    assert answered(capsys, *data, "--start", "sim/truth.mrc", "--out", "run")[0] == 0
    asked = ("--surrogates", "0", "--starts", "1", "--threads", "1", "--quiet", "--json")
    status, said, err = answered(capsys, "verify", "run", *asked)
    assert (status, err) == (0, "")
    (part,) = json.loads(said.splitlines()[-1])["evidence"]["omitted"]
    assert 0.1 < part["share"] < 0.2 and math.isfinite(part["recovered"])
    assert f"Omit test: {part['sentence']}" in (tmp_path / "run" / "report.html").read_text()
    held = json.loads((tmp_path / "run" / "verify.json").read_text())
    assert Omitted.of_json(held["omits"][0]).sentence == part["sentence"], "what a stopped call need not do again"
    assert is_refused(answered(capsys, "verify", "run", "--omits", "-1"), "-1")
    settings = json.loads((tmp_path / "run" / "result.json").read_text())
    settings["settings"]["start"] = "random"
    (tmp_path / "run" / "result.json").write_text(json.dumps(settings))
    assert is_refused(answered(capsys, "verify", "run", "--omits", "1"), "--omits", "started from a map")
