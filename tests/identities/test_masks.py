"""Masked pixels: no likelihood sees them, whatever they hold, and what is left is exact."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from unpicked import whitening
from unpicked.data.maps import Map
from unpicked.data.masks import counted, covering, grown
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.data.snr import energy
from unpicked.data.surrogates import ScrambledImages
from unpicked.estimators import maximisation
from unpicked.estimators.autocorrelation import Autocorrelation
from unpicked.estimators.base import Batch, judge
from unpicked.estimators.em import EM, signal_power
from unpicked.evaluate.nulls import Spectrum, White
from unpicked.model.centred import Centred
from unpicked.model.chain import Chain
from unpicked.model.gas import Gas, Screen, Window, sites_of
from unpicked.model.likelihoods import Likelihood, Scene
from unpicked.model.model import Model
from unpicked.model.noise import White as WhiteNoise
from unpicked.model.patches import Patches, PatchStep
from unpicked.model.placements import Anywhere
from unpicked.model.spacing import HardCore
from unpicked.model.views import Projection
from unpicked.objects.voxels import Voxels
from unpicked.ops import rotation
from unpicked.preprocess import prepare
from unpicked.preprocess.outlying import without_outlying
from unpicked.recipes.claims import MicrographClaim
from unpicked.recipes.job import MicrographJob
from unpicked.recipes.micrographs import ready, whitened_once
from unpicked.recipes.pictures import pictures
from unpicked.recipes.tiles import OfTiles
from unpicked.recipes.trials import MicrographTrial
from unpicked.simulate.contamination import TrueMasks, contaminated
from unpicked.simulate.micrographs import simulate_micrographs
from unpicked.simulate.noise import colour
from unpicked.simulate.optics import draw_optics, drawn
from unpicked.simulate.phantom import bead_chain
from unpicked.verify import verify
from unpicked.verify.claims import judge_claim

SHARED = {"voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1, "phase_shift": 0.0}
SIDE = 7


def blocks(shape: tuple[int, int], seed: int, count: int = 4) -> torch.Tensor:
    """A mask with some hidden rectangles, at an edge too."""
    mask, generator = torch.ones(shape, dtype=torch.bool), torch.Generator().manual_seed(seed)
    for _ in range(count):
        row, column, height, width = (int(torch.randint(0, n, (1,), generator=generator)) for n in (*shape, 15, 15))
        mask[row : row + height + 1, column : column + width + 1] = False
    mask[:5] = False
    return mask


@pytest.fixture(scope="module")
def seen() -> Micrographs:
    data, _ = simulate_micrographs(bead_chain(SIDE, 1), count=2, size=(64, 72), density=0.1, noise=energy(100), seed=4)
    images = torch.stack([data[index] for index in range(2)])
    masks = torch.stack([blocks((64, 72), seed) for seed in range(2)])
    return Micrographs(InMemory(images / images.std()), 4.0, data.names, masks=InMemory(masks))


def model(likelihood: Likelihood, views: int = 6) -> Model:
    turned = Projection(rotation.random_rotations(views, torch.Generator().manual_seed(3)).float())
    return Model(Voxels(SIDE), turned, Anywhere(0.08, likelihood), noise=WhiteNoise(0.9, 0.05))


def coefficients(size: float = 0.35) -> torch.Tensor:
    return torch.randn(SIDE**3, generator=torch.Generator().manual_seed(8), dtype=torch.float64) * size


def spoilt(data: Micrographs, value: float) -> Micrographs:
    """The same with another value where pixels are hidden."""
    images = [data[index].masked_fill(~data.mask(index), value) for index in range(len(data))]
    return replace(data, source=InMemory(torch.stack(images)))


def through(data: Micrographs) -> Micrographs:
    """The same as if seen through a microscope."""
    return replace(data, optics=draw_optics(len(data), 2, (4000.0, 9000.0), 300.0, SHARED, drawn(2)))


LIKELIHOODS = [Gas(3, 1), Gas(3, 1, Screen(3)), Window(), Patches(), Patches(2 * SIDE, 5)]


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=repr)
@pytest.mark.parametrize("optics", [False, True])
def test_what_lies_under_a_mask_changes_nothing(seen: Micrographs, likelihood: Likelihood, optics: bool) -> None:
    """Bit for bit: statistics, information, judge and the power of a start."""
    if optics and isinstance(likelihood, Patches):
        return
    data, x = through(seen) if optics else seen, coefficients()
    estimator = EM(4, 4, acceleration=EM().acceleration)
    found = []
    for value in (0.0, 1e6, math.nan):
        one, own = spoilt(data, value), model(likelihood)
        state = estimator.init(one, own, x, 5)
        stats = estimator.accumulate(own, Batch(one, range(2)), state)
        judged = judge(Batch(one, range(2)), own, x)
        found.append([*stats.values(), judged, torch.tensor(signal_power(one, own))])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    assert all(bool(torch.isfinite(a).all()) for a in found[0])


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=repr)
def test_a_mask_that_hides_nothing_is_none(seen: Micrographs, likelihood: Likelihood) -> None:
    x, estimator, found = coefficients(), EM(4, 4), []
    for masks in (None, InMemory(torch.ones(2, 64, 72, dtype=torch.bool))):
        data, own = replace(seen, masks=masks), model(likelihood)
        found.append(estimator.accumulate(own, Batch(data, range(2)), estimator.init(data, own, x, 5)))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("screen", [None, Screen(3, floor=0.0, thin=0.0)])
def test_only_visible_pixels_are_compared(seen: Micrographs, screen: Screen | None) -> None:
    """Evidence of every site, and weights of every template pixel, as sums over visible pixels give them."""
    own = model(Window(screen)).measured(seen)
    templates = own.templates(coefficients()).double()
    step = own.placement.step(templates, own.log_weights.double(), own.noise)
    image, mask = seen[0].double() - own.noise.mean, seen.mask(0)
    logs = step._log_activities(torch.where(mask, image, 0.0), 0, step.unseen.of(0)) - step.log_activity
    windows = image.unfold(0, SIDE, 1).unfold(1, SIDE, 1)[:, :, None]
    shown = mask.unfold(0, SIDE, 1).unfold(1, SIDE, 1)[:, :, None].double()
    scores = (shown * (windows * templates - templates.square() / 2)).sum((-2, -1)) / own.noise.sigma**2
    scores = scores + own.log_weights
    assert torch.allclose(logs, scores.logsumexp(-1), atol=1e-9)
    step.add(seen[0], 1, 0)
    stats = step.finish()
    chances, _ = step.likelihood.marginals(scores.logsumexp(-1) + step.log_activity, step.scene.width, 1)
    if screen is None:  # thinned at random
        return
    weights = chances[..., None] * scores.softmax(-1)
    assert torch.allclose(
        stats["weight"], torch.einsum("yxk,yxkij->kij", weights, shown.expand_as(windows * templates))
    )
    assert torch.allclose(
        stats["numerator"], torch.einsum("yxk,yxkij->kij", weights, shown * windows * (templates * 0 + 1))
    )
    assert float(stats["pixels"]) == int(mask.sum())
    assert float(stats["square"]) == pytest.approx(float(image[mask].square().sum()))
    assert float(stats["sum"]) == pytest.approx(float(image[mask].sum()))


def test_hidden_copies_are_as_the_prior_says(seen: Micrographs) -> None:
    nothing = replace(seen, masks=InMemory(torch.zeros(2, 64, 72, dtype=torch.bool)))
    own = model(Window()).measured(nothing)
    step = own.placement.step(own.templates(coefficients()).float(), own.log_weights, own.noise)
    logs = step._log_activities(torch.zeros(64, 72), 0, step.unseen.of(0))
    assert torch.allclose(logs, torch.full_like(logs, step.log_activity), atol=1e-4)
    step.add(nothing[0], 1, 0)
    stats = step.finish()
    assert float(stats["pixels"]) == 0 and float(stats["views"].abs().max()) < 1e-4
    assert float(stats["weight"].abs().max()) < 1e-4


def test_through_filters_every_pixel_is_seen_once(seen: Micrographs) -> None:
    """The seen share of a copy's energy, summed over all its places, is the visible area."""
    data = through(seen)
    own = model(Window(), views=3).measured(data)
    templates = own.templates(coefficients()).float()
    step = own.placement.step(templates, own.log_weights, own.noise)
    group = own.placement.through.groups[0]
    cells = step.unseen.cells(group)
    norms = step._norms(group) * 2 * own.noise.sigma**2
    assert torch.allclose(cells.values.sum(1).double(), norms, rtol=1e-4)
    assert cells.cell > 1 and cells.margin > 0
    mask = torch.ones(160, 160, dtype=torch.bool)
    mask[70:83, 75:90] = False
    hidden = replace(step.unseen.of(0), mask=mask)
    touched = (hidden.near | hidden.gone).nonzero().squeeze(1)
    lost = torch.stack([cells.lost(row.expand(3, -1)) for row in hidden.at(touched)])
    assert torch.allclose(lost.sum(0), torch.full((3,), 13.0 * 15.0), rtol=1e-4)


def test_through_filters_norms_are_those_of_visible_pixels(seen: Micrographs) -> None:
    data = through(seen)
    own = model(Window(), views=2).measured(data)
    step = own.placement.step(own.templates(coefficients()).float(), own.log_weights, own.noise)
    group = own.placement.through.groups[0]
    cells, margin = step.unseen.cells(group), own.placement.through.margin()
    whole = own.placement.through.whole(step.scene.templates, group)
    mask = torch.ones(120, 120, dtype=torch.bool)
    mask[:, 60:] = False  # the edge of a carbon film
    hidden = replace(step.unseen.of(0), mask=mask)
    for column in range(60 - SIDE - margin, 60, 2):
        site = torch.tensor([50 * (120 - SIDE + 1) + column])
        lost = cells.lost(hidden.at(site).expand(2, -1))
        edge = max(0, 60 - (column - margin))
        exact = whole[:, :, edge:].square().sum((1, 2)) / whole.square().sum((1, 2))
        assert torch.allclose(lost.float(), exact, atol=0.05)


def test_windows_with_a_hidden_pixel_are_left_out(seen: Micrographs) -> None:
    own = model(Patches())
    templates = own.templates(coefficients()).float()
    base = Scene(templates, own.log_weights, own.noise, 0.1, 1.0, 1)
    masked, plain = PatchStep(Patches(), replace(base, masks=seen.masks), True), PatchStep(Patches(), base, True)
    masked.add(seen[1], 0, 1)
    mask, kept = seen.mask(1), []
    for row in range(0, 64 - SIDE + 1, SIDE):
        for column in range(0, 72 - SIDE + 1, SIDE):
            part = slice(row, row + SIDE), slice(column, column + SIDE)
            kept += [seen[1][part]] if bool(mask[part].all()) else []
    plain.add(torch.cat(kept), 0, 0)
    one, other = masked.finish(), plain.finish()
    assert 0 < float(one["windows"]) < 90
    assert all(torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-4) for name in one)


@pytest.mark.parametrize("optics", [False, True])
def test_scores_leave_the_sums_as_they_are(seen: Micrographs, optics: bool) -> None:
    """With information, tiles with hidden pixels and those without are summed apart: the same sums come out."""
    data, x = through(seen) if optics else seen, coefficients().float()
    own = model(Window(None)).measured(data)
    templates, found = own.templates(x), []
    for score in (None, maximisation.score(own, x)):
        step = own.placement.step(templates, own.log_weights.float(), own.noise, score=score)
        for index in range(2):
            step.add(data[index], 1, index)
        found.append(step.finish())
    for name in found[0]:
        assert torch.allclose(found[0][name], found[1][name], rtol=1e-4, atol=1e-4), name
    information = found[1]["information"]
    assert float(torch.linalg.eigvalsh(information).min()) > -1e-6 * float(torch.trace(information))
    bare = own.measured(replace(data, masks=None))
    step = bare.placement.step(templates, own.log_weights.float(), own.noise, score=maximisation.score(bare, x))
    for index in range(2):
        step.add(data[index], 1, index)
    share = float(torch.trace(information) / torch.trace(step.finish()["information"]))
    assert data.counted() - 0.25 < share < 1  # what is hidden tells nothing


@pytest.mark.parametrize("value", [1e6, math.nan])
def test_preparing_never_reads_what_is_hidden(value: float) -> None:
    data, _ = simulate_micrographs(
        bead_chain(SIDE, 1), count=1, size=(150, 170), density=0.1, noise=energy(100), seed=4
    )
    dirty, masks = contaminated(data, 0.3, 2)
    masked = Micrographs(InMemory(dirty[0][None]), 2.0, ("a",), masks=masks)
    found = [prepare(one, voxel_size=3.0) for one in (masked, spoilt(masked, value))]
    assert torch.equal(found[0].micrographs[0], found[1].micrographs[0])
    assert found[0].corrections == found[1].corrections
    assert found[0].corrections[0].kept_outliers == 0
    assert any("masks leave out" in note for note in found[0].notes)
    mask = found[0].micrographs.mask(0)
    assert mask.shape == found[0].micrographs.shape and not bool(found[0].micrographs[0][~mask].any())
    clean = prepare(Micrographs(InMemory(data[0][None]), 2.0, ("a",)), voxel_size=3.0)
    assert found[0].scale == pytest.approx(clean.scale, rel=0.05)
    white = [whitened_once(one).micrographs for one in found]
    assert torch.equal(white[0][0], white[1][0]) and white[0].gains == white[1].gains
    assert white[0].counted() <= found[0].micrographs.counted()


def test_background_and_scale_are_those_of_what_is_seen() -> None:
    """Carbon on a third of the area: the answer is that of the clean micrograph within the noise of both."""
    generator = torch.Generator().manual_seed(5)
    clean = torch.randn(1, 160, 160, generator=generator) * 3 + torch.linspace(-5, 9, 160)
    data = Micrographs(InMemory(clean), 1.0, ("a",))
    dirty, masks = contaminated(data, 0.33, 7)
    one, other = prepare(data), prepare(replace(dirty, masks=masks))
    mask = masks.read(0)
    assert float((one.micrographs[0] - other.micrographs[0])[mask].abs().max()) < 0.25
    assert other.scale == pytest.approx(one.scale, rel=0.03)
    assert abs(other.corrections[0].skewness) < 5 * other.corrections[0].skewness_error


def test_little_that_is_left_is_refused() -> None:
    image = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[:, :8, :8] = True
    data = Micrographs(InMemory(image), 1.0, ("m.mrc",), masks=InMemory(mask))
    with pytest.raises(ValueError, match=r"m\.mrc has no more than 2% of its area left by its mask"):
        ready(data, MicrographJob(box=7))
    with pytest.raises(ValueError, match="masks must be one per micrograph and of its size"):
        replace(data, masks=InMemory(mask[:, :-1]))


def test_a_working_pixel_counts_where_all_that_it_covers_does() -> None:
    mask = blocks((37, 50), 3)
    for size in ((37, 50), (20, 26), (12, 16)):
        found = covering(mask, size)
        for row in range(size[0]):
            for column in range(size[1]):
                part = []
                for n, old, new in ((row, 37, size[0]), (column, 50, size[1])):
                    centre, half = (n - new // 2) * old / new + old // 2, old / new / 2
                    first, last = math.floor(centre - half + 0.5 + 1e-9), math.ceil(centre + half + 0.5 - 1e-9)
                    part.append(slice(max(0, first), max(0, last)))
                assert bool(found[row, column]) == bool(mask[part[0], part[1]].all())
    assert torch.equal(covering(mask, (37, 50)), mask)


def test_hidden_areas_grow_in_both_directions() -> None:
    mask = torch.ones(9, 9, dtype=torch.bool)
    mask[4, 4] = False
    assert torch.equal(grown(mask, 0), mask)
    expected = torch.ones(9, 9, dtype=torch.bool)
    expected[2:7, 2:7] = False
    assert torch.equal(grown(mask, 2), expected)


@pytest.mark.parametrize("name", ["white", "coloured", "1/f"])
def test_the_spectrum_is_that_of_the_visible_noise(name: str) -> None:
    image = colour(name).draw((600, 640), 1, 0)
    mask = TrueMasks(1, (600, 640), 0.3, 3).read(0)
    image = torch.where(mask, image, math.nan)
    ratio = (
        torch.tensor(whitening.spectrum(image, mask))
        / torch.tensor(whitening.spectrum(colour(name).draw((600, 640), 1, 0)))
    )[3:88]
    assert float((ratio - 1).abs().mean()) < 0.06
    with pytest.raises(ValueError, match="too little to measure the noise"):
        whitening.spectrum(image, torch.rand(600, 640, generator=torch.Generator().manual_seed(1)) < 0.2)


@pytest.mark.parametrize("name", ["coloured", "1/f"])
def test_whitened_noise_is_white_up_to_the_mask(name: str) -> None:
    images = torch.stack([colour(name).draw((500, 500), 2, index) for index in range(2)])
    masks = TrueMasks(2, (500, 500), 0.3, 3)
    data = Micrographs(InMemory(images), 1.0, ("a", "b"), masks=masks)
    white = whitening.whitened(data, whitening.gains([whitening.spectrum(image) for image in images]))
    inside, edge = [], []
    for index in range(2):
        mask = white.mask(index)
        assert not bool((mask & ~masks.read(index)).any())
        near = ~grown(mask, 2) & mask
        edge.append(white[index][near])
        inside.append(white[index][mask & ~near])
    assert float(torch.cat(edge).var()) == pytest.approx(float(torch.cat(inside).var()), rel=0.06)
    assert white.counted() > 0.5


def test_verdicts_judge_whole_tiles_only(seen: Micrographs) -> None:
    prepared = prepare(seen)
    trial = MicrographTrial(prepared, MicrographJob(box=SIDE))
    for null in (White(), Spectrum()):
        own = OfTiles(null).fitted(trial.tiles(trial.pieces))
        for tiles in trial.tiles(trial.pieces):
            assert bool(torch.isfinite(own.log_likelihood(tiles)).all())
    count = sum(len(tiles) for tiles in trial.tiles(trial.pieces))
    side = next(trial.tiles(trial.pieces)).values.shape[-1]
    whole = 0
    for index in range(2):
        mask = trial.pieces.mask(index)
        for row in range(0, 64 - side + 1, side):
            whole += sum(
                bool(mask[row : row + side, column : column + side].all()) for column in range(0, 72 - side + 1, side)
            )
    assert 0 < count == whole and side % (2 * SIDE) == 0
    nothing = torch.ones(2, 64, 72, dtype=torch.bool)
    nothing[:, ::10] = False
    lined = MicrographTrial(prepare(replace(seen, masks=InMemory(nothing))), MicrographJob(box=SIDE))
    with pytest.raises(ValueError, match="masks leave no square of 14 working pixels whole"):
        list(lined.tiles(lined.pieces))
    found = verify(lined)  # not an error that would take the run's answer with it
    assert found.verdict == "undecided" and "masks leave no square" in found.sentence and not found.folds
    assert judge_claim(MicrographClaim(lined.data, Map(torch.ones(SIDE, SIDE, SIDE), 1.0)), 3).verdict == "undecided"


def test_random_phases_keep_the_power_of_what_is_seen() -> None:
    image = torch.randn(1, 128, 128, generator=torch.Generator().manual_seed(2))
    mask = TrueMasks(1, (128, 128), 0.4, 1)
    visible = mask.read(0)
    found = ScrambledImages(InMemory(torch.where(visible, image, math.nan)), 3, masks=mask).read(0)
    assert not bool(found[~visible].any())
    assert float(found[visible].var()) == pytest.approx(float(image[0][visible].var()), rel=0.05)


def test_picks_lie_where_at_least_half_a_box_is_seen(seen: Micrographs) -> None:
    own = model(Gas(3, 1)).measured(seen)
    step = own.placement.step(own.templates(coefficients()).float(), own.log_weights, own.noise, statistics=False)
    found = sites_of(step, seen[0].masked_fill(~seen.mask(0), math.nan), 1, 0)
    mask = seen.mask(0).float()
    assert len(found.corners) > 0
    for row, column in found.corners.tolist():
        assert float(mask[row : row + SIDE, column : column + SIDE].mean()) >= 0.5


def test_parts_and_halves_keep_their_masks(seen: Micrographs) -> None:
    assert torch.equal(seen.part([1]).mask(0), seen.mask(1))
    left, right = seen.part([1]).split()
    assert torch.equal(torch.cat([left.mask(0), right.mask(0)], 1), seen.mask(1))
    assert torch.equal(counted(seen, 1), seen[1][seen.mask(1)])
    assert seen.digest != replace(seen, masks=None).digest


def test_pictures_are_of_the_first_micrograph_and_of_those_of_which_most_is_hidden() -> None:
    images = torch.randn((5, 650, 480), generator=torch.Generator().manual_seed(1))
    masks = torch.ones(5, 650, 480, dtype=torch.bool)
    for index, rows in enumerate((0, 30, 60, 6, 90)):
        masks[index, :rows] = False
        images[index, :rows] = math.nan
    data = Micrographs(InMemory(images), 1.5, tuple(f"folder/{index}.mrc" for index in range(5)), masks=InMemory(masks))
    ready = prepare(data, voxel_size=3.0)
    corner = torch.tensor([[10.0, 20.0]])  # a place in working pixels, row and column
    found = pictures(ready, {"places": corner, "patches": torch.zeros(1, 9, 9)})
    assert found["names"] == ["0.mrc", "2.mrc", "4.mrc"] and found["total"] == 5
    assert found["pictures"].shape == found["hidden"].shape == (3, 216, 160) and found["pixel_size"] == 4.5
    assert found["pictures"].isfinite().all() and found["shares"] == [ready.corrections[k].hidden for k in (0, 2, 4)]
    torch.testing.assert_close(found["pictures"][1, 20:], images[2, 60:648].view(196, 3, 160, 3).mean((1, 3)))
    torch.testing.assert_close(found["hidden"].float().mean((1, 2)), torch.tensor([0, 60 / 648, 90 / 648]))
    x, y = ((ready.to_file_pixels(torch.tensor([20.0, 10.0])) + 0.5) / 3).tolist()
    assert found["marks"].tolist() == [[pytest.approx(x), pytest.approx(y)]] and found["width"] == pytest.approx(6)
    bare = pictures(prepare(replace(data, masks=None, source=InMemory(images.nan_to_num()))))
    assert bare["names"] == ["0.mrc", "1.mrc", "2.mrc"] and not {"hidden", "shares", "marks"} & set(bare)
    narrow = Micrographs(InMemory(images[:1, :24].repeat(1, 1, 25).nan_to_num()), 1.5, ("a\udcff.mrc",))
    strip = pictures(prepare(narrow, voxel_size=3.0))
    assert strip["pictures"].shape[1:] == (1, 500) and strip["names"][0].encode() == b"a?.mrc"


def test_what_knows_no_masks_refuses_them(seen: Micrographs) -> None:
    with pytest.raises(ValueError, match="no masks"):
        Centred().measured(1.0, 8, None, None, seen.masks)
    with pytest.raises(ValueError, match="masks are for images"):
        Chain(HardCore()).measured(1.0, 8, None, None, seen.masks)
    with pytest.raises(ValueError, match="autocorrelations know no masks"):
        Autocorrelation().init(seen, model(Patches()), None, 1)


@pytest.mark.parametrize("strength", [100, 424])
def test_gross_areas_are_found_and_particles_are_not(strength: float) -> None:
    specimen = bead_chain(SIDE, 1)
    data, _ = simulate_micrographs(
        specimen, count=1, size=(420, 400), density=0.2, noise=energy(strength), seed=6, spacing="arbitrary"
    )
    assert without_outlying(data).counted() == 1
    dirty, truth = contaminated(data, 0.15, 3)
    found = without_outlying(dirty)
    for index in range(1):
        mask, true = found.mask(index), truth.read(index)
        assert float((~mask)[~true].float().mean()) > 0.97
        assert not bool((~mask & grown(true, 16)).any())
        assert float((~mask)[true].float().mean()) < 0.25
    both = without_outlying(replace(dirty, masks=InMemory(truth.read(0)[None])))
    assert 0.845 < both.counted() <= 0.8501


def test_contamination_leaves_the_rest_as_it_was() -> None:
    data, _ = simulate_micrographs(bead_chain(SIDE, 1), count=2, size=(90, 110), density=0.1, noise=energy(50), seed=4)
    dirty, masks = contaminated(data, 0.25, 3)
    for index in range(2):
        mask = masks.read(index)
        assert int((~mask).sum()) == round(0.25 * 90 * 110)
        assert torch.equal(dirty[index][mask], data[index][mask])
        assert float((dirty[index] - data[index])[~mask].mean()) > float(data[index].std())
    assert not torch.equal(masks.read(0), masks.read(1))
    assert torch.equal(masks.read(0), TrueMasks(2, (90, 110), 0.25, 3).read(0))
    with pytest.raises(ValueError, match=r"share of the area, above 0 and at most 0\.9; got 0\.95"):
        contaminated(data, 0.95, 3)
