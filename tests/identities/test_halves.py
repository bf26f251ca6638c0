"""Agreement of two halves: low shells align, high shells judge."""

from __future__ import annotations

import json
import math

import pytest
import torch

from unpicked.data.maps import Map
from unpicked.evaluate.align import Alignment, align, apply
from unpicked.evaluate.fsc import fsc, resolution, shell_counts
from unpicked.evaluate.halves import Halves, _corrected, halves
from unpicked.evaluate.resample import centred, sphere, transform
from unpicked.objects.gaussians import Gaussians
from unpicked.ops import fourier
from unpicked.ops.rotation import exp_map, geodesic_distance, random_rotations
from unpicked.simulate.phantom import bead_chain

VOXEL, BOX = 3.0, 11


def noise(box: int, seed: int) -> torch.Tensor:
    return torch.randn(box, box, box, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def molecule(
    turn: torch.Tensor | None = None, move: torch.Tensor | None = None, mirrored: bool = False
) -> torch.Tensor:
    """A chain of beads in 11 voxels, mirrored in z, turned and moved (voxels), drawn without interpolation."""
    specimen = bead_chain(BOX, 2)
    places = specimen.object.positions / 2 * torch.tensor([1.0, 1.0, -1.0 if mirrored else 1.0], dtype=torch.float64)
    places = places if turn is None else places @ turn.T
    drawn = Gaussians(BOX, places if move is None else places + move, specimen.object.sigmas / 2)
    values = drawn.values(specimen.x)
    return values / values.max()


def shells(values: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """The map's shells ``first`` to ``last`` alone."""
    spectrum, index = fourier.fft3(values), fourier.shells(values.shape)
    return fourier.ifft3(spectrum * ((index >= first) & (index <= last)))


def test_white_noise_halves_do_not_agree_where_they_were_not_aligned() -> None:
    draws = 3
    found = [halves(Map(noise(BOX, 2 * i), VOXEL), Map(noise(BOX, 2 * i + 1), VOXEL))[0] for i in range(draws)]
    assert {item.cutoff_shell for item in found} == {3}
    low = torch.tensor([item.fsc[1:4] for item in found])
    assert float(low.mean()) > 0.2  # the alignment makes the low shells agree: they must not be read
    last = torch.tensor([item.fsc[5] for item in found])
    assert abs(float(last.mean())) < 3 * found[0].error[5] / math.sqrt(draws)
    assert float(last.abs().max()) < 4 * found[0].error[5]


@pytest.mark.parametrize("mirrored", [False, True])
def test_halves_of_one_map_agree_as_their_noise_allows(mirrored: bool) -> None:
    sigma, draws = 0.08, 2
    generator = torch.Generator().manual_seed(3 + mirrored)
    turns, moves = random_rotations(draws, generator), torch.rand(draws, 3, generator=generator, dtype=torch.float64)
    still, window = molecule(), sphere(BOX)
    signal = fourier.shell_sum(fourier.fft3(window * still).abs().square())
    chance = sigma**2 * window.square().sum() / BOX**2 * shell_counts(BOX)
    expected = signal / (signal + chance)
    assert float(expected[1:3].min()) > 0.95 and float(expected[5]) < 0.6, "the test spans good and bad shells"
    curves = []
    for index in range(draws):
        a = Map(still + sigma * noise(BOX, 50 + index), VOXEL)
        b = Map(molecule(turns[index], moves[index], mirrored) + sigma * noise(BOX, 80 + index), VOXEL)
        found, aligned = halves(a, b)
        assert found.hand == ("mirrored" if mirrored else "same")
        spread = float((aligned.values - a.values).square()[window > 0.99].mean().sqrt())
        assert spread < 1.8 * sigma, "what is returned lies on the first half"
        curves.append(found.fsc)
    mean = torch.tensor(curves, dtype=torch.float64).mean(0)
    error = torch.tensor(found.error, dtype=torch.float64)
    assert bool(((mean - expected).abs()[1:] < 3 * error[1:] / math.sqrt(draws) + 0.05).all()), (mean, expected)


def test_agreement_in_high_shells_alone_is_not_found() -> None:
    """What the low shells do not show must not be searched for: else noise is laid on noise."""
    cutoff, last = 3, 5
    turn, still = exp_map(torch.tensor([0.5, -0.8, 0.6], dtype=torch.float64)), torch.zeros(3, dtype=torch.float64)
    low = shells(molecule(), 0, cutoff)
    high = shells(sphere(BOX) * shells(noise(BOX, 9), cutoff + 1, last), cutoff + 1, last)
    high = 3 * high * low.norm() / high.norm()
    turned = shells(transform(high, turn, still, False), cutoff + 1, last)
    a, b = Map(low + turned, VOXEL), Map(low + high, VOXEL)
    tempted = align(b, a)
    assert float(geodesic_distance(tempted.rotation, turn)) < 8, "an alignment by all shells falls for it"
    found, _ = halves(a, b)
    assert found.cutoff_shell == cutoff
    assert float(geodesic_distance(torch.tensor(found.rotation, dtype=torch.float64), torch.eye(3).double())) < 5
    assert min(found.fsc[1:3]) > 0.8
    assert max(found.fsc[4:]) < 0.3


def test_the_mask_correction_takes_away_what_the_mask_made() -> None:
    box = 32
    distance, turn = fourier.distances((box,) * 3), exp_map(torch.tensor([0.5, 0.3, -0.4], dtype=torch.float64))
    blob, mask = 4 * torch.exp(-distance.square() / (2 * 4.0**2)), sphere(box) * (distance <= 6)
    found = Alignment(turn, torch.zeros(3, dtype=torch.float64), "same", 1.0, 9.0, 1.0, (1.0, 0.0))
    curves = []
    for draw in range(3):
        a, b = (Map(blob + noise(box, 21 + 2 * draw + which), VOXEL) for which in range(2))
        b = Map(shells(b.values, 0, 15), VOXEL)
        plain = fsc(sphere(box) * centred(a.values), sphere(box) * centred(apply(found, b, a).values))
        answer = _corrected(a, b, found, mask, plain, 0)
        assert answer.start is not None and answer.start <= 4
        assert torch.equal(answer.corrected[: answer.start + 2], answer.masked[: answer.start + 2])
        curves.append(torch.stack([answer.masked, answer.corrected]))
    masked, corrected = torch.stack(curves).mean(0)[:, 6:13].mean(1).tolist()
    assert masked > 0.25, "a sharp mask carries the blob into high shells"
    assert abs(corrected) < 0.15


def test_a_mask_leaves_the_plain_curve_alone() -> None:
    a, b = (Map(molecule() + 0.08 * noise(BOX, seed), VOXEL) for seed in (1, 2))
    mask = Map((fourier.distances((BOX,) * 3) <= 4).float(), VOXEL)
    plain, (found, _) = halves(a, b)[0], halves(a, b, mask=mask)
    assert found.fsc == plain.fsc and found.fsc_masked is not None and found.fsc_corrected is not None
    assert found.randomised_from is not None and found.fsc[found.randomised_from] < 0.8
    assert found.resolution_corrected is not None and found.resolution_masked is not None
    assert found.fsc_masked[5] > found.fsc[5]  # less noise inside


def test_every_figure_follows_from_the_curve() -> None:
    a, b = (Map(molecule() + 0.1 * noise(BOX, seed), VOXEL) for seed in (1, 2))
    found, aligned = halves(a, b, shared_start=True, cutoff_shell=4)
    assert isinstance(found, Halves) and found.shared_start
    assert "consistency, not validation" in " ".join(found.notes)
    assert found.cutoff_shell == 4 and found.cutoff_angstrom == BOX * VOXEL / 4
    assert aligned.box == BOX and aligned.voxel_size == VOXEL
    assert found.fsc_full == pytest.approx([max(0.0, 2 * f / (1 + f)) for f in found.fsc])
    share = [
        (1 - f**2) / (e**2 * n) * (1 - f**2)
        for f, e, n in zip(found.fsc, found.error, shell_counts(BOX).tolist(), strict=True)
        if e
    ]
    assert max(share) == pytest.approx(min(share)) and 0.2 < share[0] < 0.53
    where = resolution(torch.tensor(found.fsc), VOXEL, BOX, 0.143)
    assert found.resolution_0143 == pytest.approx(where.angstrom) and found.at_nyquist == where.at_nyquist
    assert found.fsc_masked is None and found.resolution_corrected is None
    keys = {
        "fsc", "error", "resolution_0143", "at_nyquist", "cutoff_shell", "hand", "rotation", "shift", "shared_start",
        "fsc_full", "fsc_masked", "fsc_randomised", "fsc_corrected",
    }  # fmt: skip
    assert keys <= set(json.loads(json.dumps(found.to_json(), allow_nan=False)))


def test_bad_input_is_refused_in_one_line() -> None:
    good = Map(noise(8, 1), VOXEL)
    hole = good.values.clone()
    hole[1, 2, 3] = math.nan
    high = Map(shells(good.values, 4, 9), VOXEL)
    cases = [
        (lambda: halves(good, Map(noise(9, 1), VOXEL)), "the second half must lie on the grid"),
        (lambda: halves(good, Map(noise(8, 2), 4.0)), "8 of 4 A"),
        (lambda: halves(Map(hole, VOXEL), good), "finite"),
        (lambda: halves(good, Map(torch.ones(8, 8, 8), VOXEL)), "the second half holds nothing"),
        (lambda: halves(high, good), "the first half holds nothing"),
        (lambda: halves(good, good, cutoff_shell=9), "from 1 to 3"),
        (lambda: halves(good, good, mask=Map(2 * torch.ones(8, 8, 8), VOXEL)), "between 0 and 1"),
        (lambda: halves(good, good, mask=Map(torch.zeros(8, 8, 8), VOXEL)), "empty"),
        (lambda: halves(good, good, mask=Map(torch.ones(7, 7, 7), VOXEL)), "the mask must lie on the grid"),
    ]
    for call, words in cases:
        with pytest.raises(ValueError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_noise_that_was_made_to_agree_has_no_resolution(seed: int) -> None:
    box = 16
    a, b = (Map(noise(box, 500 + 2 * seed + which), VOXEL) for which in range(2))
    window = Map(torch.sigmoid((5 - fourier.distances((box,) * 3)) / 0.7), VOXEL)
    found, _ = halves(a, b, mask=window)
    assert max(found.fsc[1:4]) > 0.143, "the alignment makes it agree"
    assert found.resolution_0143 is None and found.resolution_corrected is None
    assert any("no resolution" in note for note in found.notes)
