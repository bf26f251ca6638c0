"""Do micrographs contain a given map? Decoys, ranks, and the command."""

import json
import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import scipy.stats
import torch

from answers import answered, is_refused
from unpicked.data import snr
from unpicked.data.maps import Map
from unpicked.data.micrographs import Micrographs
from unpicked.evaluate.nulls import White
from unpicked.io.mrc import write_image, write_map
from unpicked.ops import fourier
from unpicked.ops.radial import radial
from unpicked.recipes.claims import claimed
from unpicked.simulate import decoys
from unpicked.simulate.decoys import chain, shuffled
from unpicked.simulate.micrographs import simulate_micrographs
from unpicked.simulate.optics import draw_optics, drawn
from unpicked.simulate.phantom import bead_chain
from unpicked.verify.claims import FUTILE, GROUP, enough, judge_claim, settled

SCOPE = {"voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1, "phase_shift": 0.0}


@pytest.fixture(scope="module")
def specimen():
    return bead_chain(11, 10, voxel_size=4.0)


@pytest.fixture(scope="module")
def micrographs(specimen):
    data, _ = simulate_micrographs(specimen, count=4, size=(220, 220), density=0.12, noise=snr.energy(120.0), seed=3)
    return data


def few_views(data, map, views=24):
    """A claim that takes less time."""
    return replace(claimed(data, map), views=views)


def correlation(one: Map, other: Map) -> float:
    a, b = (map.values - radial(map.values) for map in (one, other))
    return float((a * b).sum() / (a.norm() * b.norm()))


@pytest.mark.parametrize("family", [chain, shuffled])
def test_decoys_have_the_spectrum_and_the_radial_part_of_the_map_and_another_fold(family, specimen):
    truth = specimen.truth()
    power = fourier.shell_sum(fourier.fft3(truth.values - radial(truth.values)).abs().square())
    made = [family(truth, seed) for seed in range(4)]
    for map in made:
        assert map.voxel_size == truth.voxel_size and map.box == truth.box
        assert torch.allclose(radial(map.values), radial(truth.values), atol=0.02 * float(truth.values.abs().max()))
        own = fourier.shell_sum(fourier.fft3(map.values - radial(map.values)).abs().square())
        assert torch.allclose(own[1:], power[1:], rtol=0.1)
        assert float(map.values.norm()) == pytest.approx(float(truth.values.norm()), rel=0.02)
        assert abs(correlation(map, truth)) < 0.8
    assert abs(correlation(made[0], made[1])) < 0.8
    assert torch.equal(family(truth, 0).values, made[0].values)


def test_a_chain_avoids_itself() -> None:
    semi, step = torch.tensor([18.0, 12.0, 15.0], dtype=torch.float64), 3.8
    walk = decoys._walk(60, step, semi, torch.Generator().manual_seed(0))
    steps = (walk[1:] - walk[:-1]).norm(dim=1)
    assert torch.allclose(steps, torch.full_like(steps, step))
    apart = torch.cdist(walk, walk) + 100 * torch.eye(60, dtype=torch.float64)
    assert float(apart.min()) >= step - 1e-9
    with pytest.raises(ValueError, match="self-avoiding chain of 30"):
        decoys._walk(30, step, torch.full((3,), 3.0, dtype=torch.float64), torch.Generator().manual_seed(0))


def test_a_chain_may_be_given_its_length_and_suits_any_voxel(specimen):
    truth = specimen.truth()
    assert correlation(chain(truth, 0, 40), chain(truth, 0)) < 0.99
    for size in (0.5, 2.0, 12.0):  # angstrom: from less than a residue in a voxel to many
        made = chain(Map(truth.values, size), 0)
        assert abs(correlation(made, truth)) < 0.8 and float(made.values.norm()) > 0


@dataclass
class Toy:
    """Numbers in place of micrographs: the map's score, and decoys whose scores are better or worse by an offset."""

    offsets: tuple[float, ...]
    gain: float = 1.0
    pieces: int = 20
    map = Map(torch.zeros(5, 5, 5), 1.0)
    piece = "piece"
    nulls = (White(),)
    asked = 0

    @property
    def count(self):
        return self.pieces

    def part(self, indices):
        return list(indices)

    def tiles(self, data):
        for index in data:
            yield torch.randn(50, 3, generator=torch.Generator().manual_seed(index), dtype=torch.float64)

    def plain(self, data, seed):
        return 0

    def decoy(self, number):
        return Map(torch.full((5, 5, 5), float(number + 1)), 1.0)

    def score(self, plain, map):
        number = 0 if map is None else int(map.values[0, 0, 0])
        self.asked += number > 0
        offset = -self.gain if map is None else 0.0 if number == 0 else self.offsets[number - 1]

        def scored(tiles):
            wobble = torch.Generator().manual_seed(number)
            noise = torch.randn(len(tiles), generator=wobble, dtype=torch.float64)
            return White().log_likelihood(tiles) + self.gain + offset + 0.1 * noise

        return scored


def test_a_map_above_all_decoys_has_the_least_p():
    toy = Toy((-1.0,) * 150)
    found = judge_claim(toy, 150)
    assert (found.verdict, found.decoys, found.above) == ("supported", 150, 0)
    assert found.p == found.p_limit == pytest.approx(1 / 151)
    assert "150 of 150 other folds" in found.sentence
    assert toy.asked <= 150 * 3, "decoys far behind are dropped"


def test_a_map_among_its_decoys_is_not_supported_and_the_race_ends_early():
    toy = Toy((1.0, -1.0) * 250)
    found = judge_claim(toy, 500)
    assert found.verdict == "not supported" and found.decoys == GROUP and found.above >= enough(GROUP)
    assert found.p > 0.05 and "do not single this map out" in found.sentence


def test_so_many_above_are_rare_for_a_map_at_the_level():
    for count in (1, 25, 100, 1000):
        number = enough(count)
        assert scipy.stats.binom.sf(number - 1, count, 0.01) <= 1e-3 < scipy.stats.binom.sf(number - 2, count, 0.01)
    assert (enough(25), enough(1000)) == (4, 22)


def test_a_race_is_settled_by_those_who_lead_for_good_or_by_many_who_probably_do():
    assert settled(torch.tensor([-5.0] * 10 + [3.0] * 15), 10)
    assert not settled(torch.tensor([-5.0] * 9 + [3.0] * 16), 10)
    assert settled(torch.full((25,), -2.6), 10) and not settled(torch.full((25,), -1.5), 10)
    assert not settled(torch.tensor([-9.0]), 2) and settled(torch.tensor([9.0]), 0)


@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_a_race_that_is_settled_ends_so_however_the_leads_hang_together(shared):
    tiles, count, runs = 40, 25, 400
    generator = torch.Generator().manual_seed(0)
    ended = wrong = 0
    for _ in range(runs):
        steps = torch.randn(tiles, count, generator=generator, dtype=torch.float64) * math.sqrt(1 - shared)
        steps = steps + math.sqrt(shared) * torch.randn(tiles, 1, generator=generator, dtype=torch.float64)
        sums = (steps + 0.5 * torch.randn(count, generator=generator, dtype=torch.float64)).cumsum(0)
        for seen in range(10, tiles):
            if settled(sums[seen - 1] / (seen * (1 - seen / tiles)) ** 0.5, 10):
                ended += 1
                wrong += int((sums[-1] < 0).sum()) < 10
                break
    assert ended > runs / 3, "most of the race is saved"
    assert wrong <= 2 * FUTILE * runs


def test_too_few_decoys_say_so():
    found = judge_claim(Toy((-1.0,) * 20), 20)
    assert found.verdict == "undecided" and "more decoys" in found.sentence and found.p == pytest.approx(1 / 21)


def test_a_map_no_better_than_nulls_is_not_ranked_at_all():
    toy = Toy((-1.0,) * 20, gain=-1.0)
    found = judge_claim(toy, 20)
    assert found.verdict == "not supported" and found.decoys == 0 and found.p is None and toy.asked == 0


def test_one_piece_and_no_decoys():
    assert judge_claim(Toy((), pieces=1), 5).verdict == "undecided"
    with pytest.raises(ValueError, match="decoys"):
        judge_claim(Toy(()), 0)


def test_the_right_map_is_above_all_decoys_and_another_fold_among_them(specimen, micrographs):
    truth = specimen.truth()
    right = judge_claim(few_views(micrographs, truth), 8, seed=1)
    assert right.above == 0 and right.verdict == "undecided" and "more decoys" in right.sentence
    assert judge_claim(few_views(micrographs, chain(truth, 77)), 8, seed=1).above > 0


@pytest.mark.slow
def test_the_right_map_is_found_and_another_fold_is_not(specimen, micrographs):
    truth = specimen.truth()
    right = judge_claim(few_views(micrographs, truth, 96), 100, seed=1)
    assert right.verdict == "supported" and right.above == 0 and right.p < 0.01
    wrong = judge_claim(few_views(micrographs, chain(truth, 77), 96), 100, seed=1)
    assert wrong.p > 0.01 and wrong.verdict != "supported"


def test_no_hand_is_preferred(specimen, micrographs):
    truth = specimen.truth()
    claim = few_views(micrographs, truth)
    plain = claim.plain(claim.part([0, 1]), 0)
    tiles = next(iter(claim.tiles(claim.part([2]))))
    mirrored = Map(fourier.mirror(truth.values, (0,)), truth.voxel_size)
    own, other = claim.score(plain, truth)(tiles), claim.score(plain, mirrored)(tiles)
    assert torch.allclose(own, other, atol=0.02)
    assert not torch.allclose(own, claim.score(plain, chain(truth, 1))(tiles), atol=0.5)


def test_same_seed_same_answer(specimen, micrographs):
    claims = [few_views(micrographs, chain(specimen.truth(), 77)) for _ in range(2)]
    one, other = (judge_claim(claim, 2, seed=1).to_json() for claim in claims)
    assert one == other


def test_noise_holds_no_map(specimen):
    data, _ = simulate_micrographs(specimen, count=4, size=(132, 132), density=0.05, noise=snr.energy(1e-6), seed=0)
    found = judge_claim(few_views(data, specimen.truth()), 20)
    assert found.verdict == "not supported"


def test_maps_are_brought_to_the_working_grid(specimen, micrographs):
    truth = specimen.truth()
    fine = truth.rescale(22)
    assert claimed(micrographs, fine, voxel=4.0).map.box == 11
    again = claimed(micrographs, fine, voxel=4.0).map
    assert torch.allclose(again.values, claimed(micrographs, truth).map.values, atol=0.05 * float(truth.values.max()))
    for map, voxel, told in (
        (truth, 2.0, "voxel"),
        (Map(radial(truth.values), 4.0), None, "no structure"),
        (Map(torch.rand(80, 80, 80), 4.0), None, "64"),
        (Map(torch.rand(60, 60, 60), 4.0), None, None),
        (Map(truth.values, 9.0), 4.0, "coarser"),
    ):
        if told is None:
            assert claimed(micrographs, map, voxel=voxel).length == 60
        else:
            with pytest.raises(ValueError, match=told):
                claimed(micrographs, map, voxel=voxel)


def test_an_off_centre_map_is_centred_as_its_decoys_are(specimen, micrographs):
    wide = Map(specimen.truth().values, 4.0).crop(16)
    moved = Map(torch.roll(wide.values, (2, -1, 0), (0, 1, 2)), 4.0)
    one, other = claimed(micrographs, wide).map, claimed(micrographs, moved).map
    assert torch.allclose(one.values, other.values, atol=0.01 * float(one.values.max()))
    with pytest.raises(ValueError, match="matter bright"):
        claimed(micrographs, Map(-wide.values, 4.0))


@pytest.fixture
def command(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return partial(answered, capsys, "verify")


def test_the_command(command, specimen, tmp_path, capsys):
    sizes = ("--count", "2", "--size", "132", "--energy", "100", "--density", "0.12", "--seed", "1")
    write_map(specimen.truth().rescale(22), tmp_path / "fine.mrc")
    made = answered(capsys, "simulate", "micrographs", "--map", "fine.mrc", "--box", "11", "--out", "sim", *sizes)
    assert made[0] == 0, made[2]
    found = command("--map", "sim/truth.mrc", "sim/micrographs.star", "--decoys", "2", "--json")
    assert found[0] == 0, found[2]
    told = json.loads(found[1].splitlines()[-1])
    assert set(told) == {"verdict", "sentence", "z", "p", "p_limit", "hand", "evidence"}
    assert told["p_limit"] == pytest.approx(1 / 3) and told["evidence"]["decoys"] == 2
    status, out, err = command("--map", "sim/truth.mrc", "sim/micrographs.star", "--decoys", "2", "--strict")
    assert status == (4 if told["verdict"] != "supported" else 0)
    assert ("mirror image" in out) == (status == 0) and "2 of 2 decoys done" in err and "seen from 128 sides" in out


class Small(Toy):
    """Pieces of one tile each."""

    def tiles(self, data):
        return (tiles[:1] for tiles in super().tiles(data))


def test_no_decoy_is_judged_without_a_standard_error():
    toy = Small((1.0,) * 5, pieces=3)
    found = judge_claim(toy, 5)
    assert (found.verdict, found.decoys, found.p, toy.asked) == ("undecided", 0, None, 0)
    assert "one fold holds 1 tile" in found.sentence and "at least 4 pieces" in found.sentence
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["z"] is None


@pytest.mark.slow
def test_too_few_micrographs_for_a_standard_error_are_told_so(command, specimen, tmp_path):
    data, _ = simulate_micrographs(specimen, count=3, size=(44, 44), density=0.1, noise=snr.energy(50), seed=2)
    for index, image in enumerate(data):
        write_image(image, tmp_path / f"{index}.mrc", data.pixel_size, contrast="dark")
    write_map(specimen.truth(), tmp_path / "m.mrc")
    status, out, err = command("--map", "m.mrc", "0.mrc", "1.mrc", "2.mrc", "--decoys", "2", "--json")
    told = json.loads(out.splitlines()[-1])
    assert status == 0 and "nan" not in (out + err).lower()
    assert (told["verdict"], told["z"], told["p"]) == ("undecided", None, None)
    assert "at least 4 micrographs" in told["sentence"]


def test_micrographs_of_a_claim_are_read_as_those_of_a_reconstruction(command, specimen, tmp_path, monkeypatch):
    asked: list[tuple[Micrographs, dict[str, Any]]] = []

    def stopped(data: Micrographs, map: Map, **settings: Any) -> None:
        asked.append((data, settings))
        raise ValueError("stopped here")

    monkeypatch.setattr("unpicked.recipes.claims.claimed", stopped)
    write_map(specimen.truth(), tmp_path / "m.mrc")
    write_image(torch.randn(44, 44), tmp_path / "y.mrc", 4.0)
    (tmp_path / "y.txt").write_text("1 9000 8000 30 0 0.2 8\n")
    scope = ["--voltage", "300", "--cs", "2.7", "--amplitude-contrast", "0.1"]
    assert is_refused(command("--map", "m.mrc", "y.mrc", "--ctf", "y.txt", *scope, "--noise", "white"), "stopped")
    assert is_refused(command("--map", "m.mrc", "y.mrc", "--ctf", "y.txt", *scope, "--ignore-ctf"), "stopped")
    assert asked[0][0].optics is not None and asked[0][0].optics.defocus_u == (9000.0,)
    assert [(one["noise"], one["ignore_ctf"]) for _, one in asked] == [("white", False), ("auto", True)]
    for option in (["--ctf", "y.txt"], ["--ignore-ctf"], ["--noise", "white"], ["--contrast", "bright"]):
        assert is_refused(command("run", *option), option[0], "needs --map")


def test_a_claim_whitens_and_knows_contrast_transfer_as_it_is_told(specimen):
    optics = draw_optics(2, None, (8000.0, 9000.0), 0.0, SCOPE, drawn(3))
    data, _ = simulate_micrographs(
        specimen, count=2, size=(64, 64), density=0.1, noise=snr.energy(50), seed=2, optics=optics
    )
    truth = specimen.truth()
    through, plain = claimed(data, truth), claimed(data, truth, ignore_ctf=True)
    assert through.pieces.optics is not None and through.pieces.gains is not None
    assert any("whitened" in note for note in through.notes)
    assert plain.pieces.optics is None and plain.pieces.gains is None
    assert any("left out" in note for note in plain.notes)
    assert claimed(data, truth, noise="white").pieces.gains is None
    assert claimed(data, truth, ignore_ctf=True, noise="coloured").pieces.gains is not None


def test_bad_requests_are_refused_in_one_line(command, specimen, tmp_path):
    write_map(specimen.truth(), tmp_path / "m.mrc")
    assert is_refused(command("--map", "none.mrc", "m.mrc"), "none.mrc")
    assert is_refused(command("--map", "m.mrc", "none.mrc"), "none.mrc")
    assert is_refused(command("--map", "m.mrc", "none.mrc", "--decoys", "0"), "--decoys")
    assert is_refused(command("a", "b"), "one run folder", "--map")
    assert is_refused(command("run", "--decoys", "5"), "--decoys", "needs --map")
    for option, value in (
        ("--voxel", "0"),
        ("--density", "0"),
        ("--density", "nan"),
        ("--surrogates", "2"),
        ("--starts", "2"),
    ):
        assert is_refused(command("--map", "m.mrc", "m.mrc", option, value), option)
