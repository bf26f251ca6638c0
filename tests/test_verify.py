"""The verdict: nulls against exact likelihoods, what the evidence amounts to, and data with and without a structure."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from answers import answered, is_refused
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.data.signal import Signal
from unpicked.data.snr import energy
from unpicked.data.surrogates import random_phases
from unpicked.evaluate.nulls import Autoregressive, Null, Spectrum, White
from unpicked.recipes import ImageJob, MicrographJob, SignalJob, ready
from unpicked.recipes.images import ready as images_ready
from unpicked.recipes.trials import ImageTrial, MicrographTrial, SignalTrial
from unpicked.simulate.micrographs import simulate_micrographs
from unpicked.simulate.phantom import bead_chain
from unpicked.verify import verify, verify_with_surrogates
from unpicked.verify.agreement import Rival, agreement, determined, floor
from unpicked.verify.verdict import FEATURELESS, Fold, concluded, with_surrogates

JOB = SignalJob(5, starts=2, iterations=60, moves=1)


def white(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(rows: int, samples: int, by: float, seed: int = 0) -> torch.Tensor:
    """AR(1), stationary from the first sample on."""
    drawn = white(rows, samples, seed=seed)
    out = torch.empty_like(drawn)
    out[:, 0] = drawn[:, 0] / math.sqrt(1 - by**2)
    for place in range(1, samples):
        out[:, place] = by * out[:, place - 1] + drawn[:, place]
    return out


def hidden(samples: int, seed: int, snr: float = 1.0) -> torch.Tensor:
    """Copies of a random target of 5 samples on 28 % of a noisy signal."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(5, generator=generator, dtype=torch.float64)
    target *= math.sqrt(5 * snr) / target.norm()
    out, place = white(samples, seed=seed + 1000), 0
    while True:
        place += int(torch.empty(1).exponential_(1 / 9, generator=generator)) + 9
        if place + 5 > samples:
            return out
        out[place : place + 5] += target


@pytest.mark.parametrize("null", [White(), Spectrum()], ids=lambda null: null.name)
def test_nulls_of_tiles_are_the_exact_likelihood_of_white_noise(null: Null) -> None:
    tiles = 2.0 + 0.5 * white(400, 8, 8)
    exact = torch.distributions.Normal(2.0, 0.5).log_prob(tiles).flatten(1).sum(1)
    found = null.fitted([tiles[:200], tiles[200:]]).log_likelihood(tiles)
    assert found.sum().item() == pytest.approx(exact.sum().item(), abs=12)  # a few parameters were fitted
    assert float((found - exact).std()) < 2


def test_autoregressive_null_is_nearly_the_exact_likelihood_of_its_own_noise() -> None:
    signals = correlated(20, 5000, 0.6)
    found = Autoregressive().fitted([signals]).log_likelihood(signals)
    exact = torch.distributions.Normal(0.0, 1.0).log_prob(signals[:, 1:] - 0.6 * signals[:, :-1]).sum(1)
    exact += torch.distributions.Normal(0.0, 1.25).log_prob(signals[:, 0])
    assert found.sum().item() == pytest.approx(exact.sum().item(), rel=1e-3)
    worse = White().fitted([signals]).log_likelihood(signals)
    assert float(found.sum() - worse.sum()) > 0.9 * 1e5 * -0.5 * math.log(1 - 0.36)


def test_spectrum_takes_coloured_noise_for_what_it_is_and_the_mean_as_well() -> None:
    axis = torch.fft.fftfreq(16).double()
    spectrum = 1 + 4 * torch.exp(-9 * torch.hypot(axis[:, None], axis[None]))
    tiles = 3 + torch.fft.ifft2(torch.fft.fft2(white(300, 16, 16)) * spectrum.sqrt()).real
    null = Spectrum().fitted([tiles[:150]])
    assert null.mean == pytest.approx(3, abs=0.1)
    plain = White().fitted([tiles[:150]])
    assert float((null.log_likelihood(tiles[150:]) - plain.log_likelihood(tiles[150:])).sum()) > 500


def test_parts_of_a_signal_are_its_blocks_read_when_asked_for() -> None:
    samples = white(2, 103)
    blocks = Signal.of(samples).cut(10)
    part = blocks.part([1, 12, 3])
    assert (part.rows, part.length) == (3, 10)
    assert torch.equal(part[1], samples[1, 10:20])  # 11 blocks of each signal, the last one shorter
    assert torch.equal(part.cut(5)[4], samples[0, 30:35])
    with pytest.raises(ValueError, match="one length"):
        blocks.part([0, 10])
    with pytest.raises(ValueError, match="at least one block"):
        blocks.part([])


def fold(gain: float, noise: float, error: float = 1.0) -> Fold:
    return Fold(20, gain, error, {"white noise": noise, FEATURELESS: gain}, FEATURELESS, True, noise, error)


def test_what_evidence_amounts_to() -> None:
    supported = concluded([fold(5, 9), fold(4, 9)], "piece")
    assert (supported.verdict, supported.z) == ("supported", pytest.approx(9 / math.sqrt(2)))
    uneven = concluded([fold(50, 90), fold(-1, 9)], "piece")  # must hold in every fold
    assert uneven.verdict == "undecided"
    assert "try more starts" in uneven.sentence
    doubtful = concluded([fold(1, 9), fold(1, 9)], "piece")
    assert doubtful.verdict == "undecided"
    assert "4.5 times as many data" in doubtful.sentence
    round_ones = concluded([fold(-1, 90), fold(-2, 80)], "piece")
    assert round_ones.verdict == "not supported"
    assert "particles are there, their structure is not determined" in round_ones.sentence
    nothing = concluded([fold(-1, -1), fold(-2, -2)], "tile")
    assert nothing.verdict == "not supported"
    assert "particles are there" not in nothing.sentence
    single = concluded([fold(1, 9, math.inf), fold(1, 9, math.inf)], "tile")
    assert single.verdict == "undecided"
    few = concluded([replace(fold(1, 9), units=2), replace(fold(1, 9, math.inf), units=1)], "tile", "micrograph")
    assert few.verdict == "undecided" and "nan" not in few.sentence
    assert "one fold holds 1 tile" in few.sentence and "at least 4 micrographs" in few.sentence
    same = concluded([fold(0, 0, 0.0), fold(0, 0, 0.0)], "tile")
    assert same.verdict == "undecided" and "no standard error" in same.sentence and "nan" not in same.sentence
    for verdict in (supported, doubtful, nothing, single, few, same):
        json.dumps(verdict.to_json(), allow_nan=False)


@pytest.mark.parametrize("seed", [0, *(pytest.param(more, marks=pytest.mark.slow) for more in (1, 2))])
def test_noise_is_not_supported_white_or_coloured(seed: int) -> None:
    for signal in (white(12000, seed=seed), correlated(1, 12000, 0.15, seed)[0]):
        found = verify(SignalTrial(Signal.of(signal), JOB), seed=seed)
        assert found.verdict != "supported"


def test_a_template_does_not_make_noise_into_a_structure() -> None:
    start = torch.tensor([1.0, 2.0, 3.0, 1.0, -1.0])
    job = replace(JOB, iterations=5)  # stopped early: still the template
    for seed in range(2):
        assert verify(SignalTrial(Signal.of(white(12000, seed=seed)), job, start), seed=0).verdict != "supported"


@pytest.mark.parametrize("seed", range(2))
def test_a_target_in_the_data_is_supported_and_seeds_repeat(seed: int) -> None:
    trial = SignalTrial(Signal.of(hidden(12000, seed)), JOB)
    found = verify(trial, seed=seed)
    assert found.verdict == "supported"
    assert found.folds[0].units == 16
    if seed == 0:
        assert verify(trial, seed=seed).z == found.z


def test_a_gain_of_next_to_nothing_is_no_evidence() -> None:
    fold = Fold(32, 0.01, 0.001, {}, FEATURELESS, True, 50.0, 1.0)
    found = concluded([fold, fold], "tile")
    assert found.z > 5 and found.verdict == "undecided" and "3 log units" in found.sentence
    assert concluded([replace(fold, gain=4.0, error=0.5)] * 2, "tile").verdict == "supported"


def test_bumps_without_structure_are_told_apart_from_noise() -> None:
    target = torch.tensor([1.0, 2.0, 2.5, 2.0, 1.0], dtype=torch.float64)
    signal = white(12000)
    for place in range(7, 11900, 23):
        signal[place : place + 5] += target
    found = verify(SignalTrial(Signal.of(signal), JOB), seed=0)
    assert found.verdict != "supported"
    assert all(fold.over_noise > 100 for fold in found.folds)


def test_a_signal_too_short_to_hold_some_apart_is_undecided() -> None:
    found = verify(SignalTrial(Signal.of(white(150)), JOB))
    assert found.verdict == "undecided"
    assert "one piece" in found.sentence
    json.dumps(found.to_json(), allow_nan=False)


def beads(level: float, count: int, size: int, seed: int) -> Micrographs:
    made, _ = simulate_micrographs(
        bead_chain(7, seed), count=count, size=(size, size), density=0.12, noise=energy(level), seed=seed
    )
    return made


SMALL = MicrographJob(box=7, iterations=(8, 6), starts=2, moves=0)


def test_micrographs_of_a_molecule_are_supported_and_a_single_one_is_cut_in_two() -> None:
    data = ready(beads(400.0, 1, 300, 0), SMALL)
    found = verify(MicrographTrial(data, SMALL), seed=0)
    assert found.verdict == "supported"
    assert found.unit == "tile"
    assert set(found.folds[0].nulls) == {"white noise", "noise of the same spectrum", FEATURELESS}


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_micrographs_of_noise_are_not_supported(seed: int) -> None:
    noise = Micrographs(InMemory(white(2, 120, 120, seed=seed).float()), 5.0, ("a", "b"))
    found = verify(MicrographTrial(ready(noise, SMALL), SMALL), seed=seed)
    assert found.verdict != "supported"


def test_images_with_and_without_a_target() -> None:
    job = ImageJob(5, angles=8, starts=2, moves=0, iterations=(8, 8), rotations="none")
    target = 2.5 * torch.tensor(np.random.default_rng(0).normal(size=(5, 5)))
    images = white(4, 80, 80)
    filled = images.clone()
    for y in range(3, 70, 11):
        for x in range(2, 70, 12):
            filled[:, y : y + 5, x : x + 5] += target
    wrap = partial(Micrographs, pixel_size=1.0, names=tuple("abcd"))
    for values, word in ((filled, True), (images, False)):
        data = images_ready(wrap(InMemory(values.float())), job)
        assert (verify(ImageTrial(data, job), seed=0).verdict == "supported") == word


def test_a_command_says_its_verdict_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    signal, out = tmp_path / "y.npy", tmp_path / "run"
    np.save(signal, hidden(8000, 3).numpy())
    words = ["--length", "5", "--iterations", "60", "--starts", "2", "--threads", "1", "--out", out]
    status, said, err = answered(capsys, "reconstruct", "signal", signal, *words)
    assert status == 0
    summary = json.loads((out / "result.json").read_text())
    assert summary["verdict"] == "supported"
    found = summary["figures"]["verify"]
    assert found["verdict"] == "supported" and found["z"] > 3 and len(found["evidence"]["folds"]) == 2
    assert found["sentence"] in said
    assert "verification, fold 2" in err
    page = (out / "report.html").read_text()
    heading = page.index("<h1>")
    assert page[heading:].startswith("<h1>The data support this structure: held-out evidence +")
    assert "Log-likelihood of the held-out halves above each null model" in page
    assert "Not run: surrogates of random phases" in page


def test_random_phases_keep_every_power_and_no_third_moment() -> None:
    for values in (hidden(6000, 0), white(21, 33), white(16, 16)):
        found = random_phases(values, 3)
        ours, theirs = (torch.fft.fftn(one).abs() for one in (found, values))
        assert torch.allclose(ours, theirs, atol=1e-9)
        assert float(found.mean()) == pytest.approx(float(values.mean()), abs=1e-12)
        assert not torch.allclose(found, values)
    skewed = torch.distributions.Exponential(1.0).sample((100_000,)).double() - 1
    assert float(skewed.pow(3).mean()) > 1.5
    assert abs(float(random_phases(skewed, 0).pow(3).mean())) < 0.05
    assert torch.equal(random_phases(skewed, 5), random_phases(skewed, 5))


def test_surrogates_can_only_lower_a_verdict() -> None:
    found = concluded([fold(5, 9), fold(4, 9)], "piece")
    kept = with_surrogates(found, [Rival(-1.0), Rival(3.0)])
    assert (kept.verdict, kept.p, kept.p_limit) == ("supported", pytest.approx(1 / 3), pytest.approx(1 / 3))
    told = "; 2 of 2 surrogates of random phases below, p = 0.33, the least that so many can show."
    assert kept.sentence.endswith(told)
    lowered = with_surrogates(found, [Rival(-1.0), Rival(30.0)])
    assert (lowered.verdict, lowered.p) == ("undecided", pytest.approx(2 / 3))
    assert "not_run" in kept.to_json()["evidence"]
    assert "surrogates of random phases" not in kept.to_json()["evidence"]["not_run"]
    assert with_surrogates(found, []) == found


def test_surrogates_of_every_kind_of_data_are_of_its_shape() -> None:
    signal = SignalTrial(Signal.of(hidden(8000, 0)), JOB)
    other = signal.surrogate(1)
    assert other.count == signal.count and other.data.length == signal.blocks.shape[0]
    data = ready(beads(400.0, 2, 60, 0), SMALL)
    trial = MicrographTrial(data, SMALL)
    ours, theirs = (one.part([0])[0] for one in (trial.surrogate(1), trial))
    assert torch.allclose(torch.fft.fft2(ours).abs(), torch.fft.fft2(theirs).abs(), rtol=1e-3, atol=1e-2)
    job = ImageJob(5)
    images = images_ready(Micrographs(InMemory(white(2, 40, 40).float()), 1.0, ("a", "b")), job)
    assert ImageTrial(images, job).surrogate(2).data.images.shape == (40, 40)


def test_a_finished_run_is_verified_with_surrogates_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    signal, out = tmp_path / "y.npy", tmp_path / "run"
    np.save(signal, hidden(8000, 3).numpy())
    words = ["--length", "5", "--iterations", "60", "--starts", "2", "--threads", "1", "--out", out, "--quiet"]
    assert answered(capsys, "reconstruct", "signal", signal, *words, "--no-verify")[0] == 0
    assert json.loads((out / "result.json").read_text())["verdict"] == "not verified"
    asked = ("verify", out, "--threads", "1", "--quiet", "--json", "--strict", "--starts", "2", "--surrogates")
    status, said, err = answered(capsys, *asked, "1")
    assert (status, err) == (0, "")
    told = json.loads(said.splitlines()[-1])
    assert told["verdict"] == "supported" and told["evidence"]["p"] == pytest.approx(1 / 2)
    summary = json.loads((out / "result.json").read_text())
    assert summary["verdict"] == "supported"
    assert "1 of 1 surrogates of random phases below" in (out / "report.html").read_text()
    state = sorted((out / "checkpoint" / "verify" / "fold-1").glob("*.pt"))[0]
    torch.save({"state": "of an earlier version"}, state)
    kept = json.loads((out / "verify.json").read_text())
    assert len(kept["starts"]) == 1 and abs(kept["starts"][0]["gain"]) < 1, "the other start ends at the same answer"
    kept["surrogates"][0]["gain"] = 1e6  # what a stopped call has found is not computed again
    (out / "verify.json").write_text(json.dumps(kept))
    assert answered(capsys, *asked, "1")[0] == 4
    assert json.loads((out / "result.json").read_text())["verdict"] == "undecided"
    np.save(signal, hidden(8000, 4).numpy())
    for words, reason in (
        ([out], "was changed"),
        ([tmp_path], "no finished run"),
        ([out, "--surrogates", "-1"], "-1"),
        ([out, "--seed", "3"], "--seed is for --map"),
    ):
        assert is_refused(answered(capsys, "verify", *words), reason)
    for kind, method, reason in (
        ("tomograms", "em", "tomograms have no verdict"),
        ("particles", "known", "given poses"),
    ):
        summary["data"]["kind"], summary["settings"]["method"] = kind, method
        (out / "result.json").write_text(json.dumps(summary))
        (out / "settings.json").write_text("{}")
        assert is_refused(answered(capsys, "verify", out), reason)
    (out / "result.json").write_text("{")
    assert is_refused(answered(capsys, "verify", out), "damaged")


def test_what_random_phases_reach_limits_what_the_folds_show() -> None:
    first, second = (bead_chain(11, seed).truth() for seed in (1, 2))
    same = agreement(first, first)
    assert same is not None and same.at_nyquist and determined(same, ()) == pytest.approx(same.nyquist)
    other = agreement(first, second)
    assert other is not None and agreement(None, first) is None
    assert agreement(first, replace(first, values=torch.zeros(11, 11, 11))) is None, "a fold may end empty"
    rivals = [Rival(0.0, tuple(0.5 * value for value in other.fsc)), Rival(0.0, tuple(other.fsc)), Rival(0.0)]
    lowest = floor(rivals)
    assert lowest == tuple(max(value, 0.5 * value) for value in other.fsc) and floor(rivals[2:]) == ()
    field, last = 11 * first.voxel_size, len(same.fsc) - 1
    assert determined(same, [0.0] * (last + 1)) == pytest.approx(same.nyquist)
    assert determined(same, [0.0, 1.0, 0.0, 1.0, 1.0, 1.0]) == pytest.approx(field / 2), "shell 2 is the last above"
    assert determined(same, [1.0] * (last + 1)) is None
    falling = replace(same, fsc=[1.0, 0.9, 0.5, 0.1, 0.05, 0.02], at_nyquist=False, resolution_0143=field / 2.9)
    assert determined(falling, [1.0, 0.95, 0.6, 0.2, 0.1, 0.0]) is None, "a chance excursion beyond does not count"
    assert Rival.of_json(rivals[1].to_json()) == rivals[1]


def test_folds_with_maps_tell_how_far_they_agree() -> None:
    job = MicrographJob(box=7, views=(60,), iterations=(8,), starts=1, moves=0)
    data = ready(beads(400.0, 2, 170, 5), job)
    found = verify_with_surrogates(MicrographTrial(data, job), 1, starts=1, seed=2)
    assert found.verdict == "supported" and found.agreement is not None and found.agreement.fsc[1] > 0.9
    assert found.resolution == determined(found.agreement, found.floor)
    assert len(found.starts) == len(found.surrogates) == 1 and len(found.floor) == len(found.agreement.fsc)
    assert found.surrogates[0].gain < min(fold.gain for fold in found.folds)
    winner = Rival(1e6, found.surrogates[0].fsc)
    less = verify_with_surrogates(MicrographTrial(data, job), 0, seed=2, known={"surrogates": (winner,)})
    assert less.verdict == "undecided", "what an earlier call has seen counts"
    evidence = found.to_json()["evidence"]
    assert evidence["resolution"] == found.resolution and evidence["not_run"] == ["omit test"]
    again = verify_with_surrogates(
        MicrographTrial(data, job), 1, starts=1, seed=2,
        known={"starts": found.starts, "surrogates": found.surrogates},
        tell=lambda name, rival: pytest.fail("what is known is not made again"),
    )  # fmt: skip
    assert again == found
