"""Signals: what is read, what is simulated, how distances are distributed, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from unpicked.data.signal import Signal
from unpicked.evaluate.signals import compare_signals
from unpicked.io import npy
from unpicked.model.spacing import Counts, HardCore, Histogram, begins, geometric
from unpicked.model.views import Identity
from unpicked.objects.samples import Samples
from unpicked.objects.voxels import Voxels
from unpicked.ops.chain import Gaps, sums
from unpicked.ops.normal import normal
from unpicked.simulate import signals
from unpicked.simulate.signals import simulate_signal, target


def draw(seed: int, *size: int) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# data --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("block", "halo"), [(None, 0), (7, 0), (7, 5), (10, 9), (100, 3)])
def test_blocks_share_out_base_points_and_hold_every_window(block: int | None, halo: int) -> None:
    values = draw(1, 2, 50)
    data = Signal.of(values, block=block, halo=halo)
    seen = torch.zeros(2, 50)
    for index, part in enumerate(data):
        row, start, stop, end = data.extent(index)
        assert torch.equal(part, values[row, start:end])
        assert end == min(stop + halo, 50)
        assert len(part) <= data.shape[0]
        seen[row, start:stop] += 1
    assert bool((seen == 1).all())
    with pytest.raises(IndexError):
        data.extent(len(data))


def test_arrays_tensors_and_maps_are_the_same_signal(tmp_path: Path) -> None:
    values = draw(1, 40).float()
    np.save(tmp_path / "y.npy", values.numpy().astype(">f4"))
    mapped = np.load(tmp_path / "y.npy", mmap_mode="r")
    for data in (Signal.of(values), Signal.of(values.numpy()), Signal.of(mapped), npy.read_signal(tmp_path / "y.npy")):
        assert torch.equal(data[0], values)
        assert (data.rows, data.length, data.samples, data.pixel_size) == (1, 40, 40, 1.0)


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        (np.arange(9), TypeError, "float32 or float64"),
        (np.ones(9, complex), TypeError, "complex"),
        (np.array(["a", "b"]), TypeError, "float32 or float64"),
        (torch.arange(9), TypeError, "int64"),
        (np.zeros((2, 3, 4)), ValueError, "one signal"),
        (np.zeros(()), ValueError, "one signal"),
        (np.zeros(1), ValueError, "at least two"),
        (np.ones(9), ValueError, "constant"),
        (np.array([1.0, 2.0, np.nan, 3.0]), ValueError, "first at sample 2"),
        (np.array([1.0, np.inf]), ValueError, "infinity"),
    ],
)
def test_what_is_no_signal_is_refused(values: object, error: type[Exception], words: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=words):
        Signal.of(values)
    if isinstance(values, np.ndarray):
        np.save(tmp_path / "y.npy", values)
        with pytest.raises((TypeError, ValueError)):
            npy.read_signal(tmp_path / "y.npy")


def test_files_that_are_no_arrays_are_refused(tmp_path: Path) -> None:
    (tmp_path / "junk.npy").write_bytes(b"junk")
    np.savez(tmp_path / "many.npz", a=np.ones(3))
    with pytest.raises(ValueError, match=r"not a \.npy file"):
        npy.read_signal(tmp_path / "junk.npy")
    with pytest.raises(ValueError, match=r"not a \.npy file"):
        npy.read_signal(tmp_path / "many.npz")
    with pytest.raises(FileNotFoundError):
        npy.read_signal(tmp_path / "none.npy")
    np.save(tmp_path / "cut.npy", draw(1, 900).numpy())
    whole = (tmp_path / "cut.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-80])
    with pytest.raises(ValueError, match="cut"):
        npy.read_signal(tmp_path / "cut.npy")


@pytest.mark.parametrize("block", [0, -3])
def test_bad_blocks_are_refused(block: int) -> None:
    with pytest.raises(ValueError, match="block"):
        Signal.of(draw(1, 9), block=block)
    with pytest.raises(ValueError, match="halo"):
        Signal.of(draw(1, 9), halo=-1)


@pytest.mark.parametrize("rows", [1, 3])
def test_written_block_by_block_and_read_back(rows: int, tmp_path: Path) -> None:
    data, _ = simulate_signal(target("step", 5), density=0.2, samples=500, sigma=1.0, seed=1, rows=rows, block=64)
    npy.write_signal(data, tmp_path / "y.npy")
    found = np.load(tmp_path / "y.npy")
    assert found.dtype == np.float32
    assert found.shape == ((500,) if rows == 1 else (rows, 500))
    assert torch.equal(torch.from_numpy(found).reshape(rows, 500), torch.stack(list(data.cut(None))))
    with pytest.raises(FileExistsError):
        npy.write_signal(data, tmp_path / "y.npy")


# object and view ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("object", [Samples(6), Voxels(4)], ids=["samples", "voxels"])
def test_identity_view_is_linear_with_its_adjoint(object: Samples | Voxels) -> None:
    view, x = Identity(), draw(1, 2, object.size)
    operator = view.operator(object, x)
    images = operator.project(x)
    assert images.shape == (2, 1, *object.shape)
    assert view.image_shape(object) == object.shape
    weights = draw(2, *images.shape)
    assert float((images * weights).sum()) == pytest.approx(float((x * operator.backproject(weights)).sum()))
    assert torch.equal(object.fit(object.values(x)), x)


def test_samples_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="x must end in"):
        Samples(4).values(draw(1, 5))
    with pytest.raises(ValueError, match="values must end in"):
        Samples(4).fit(draw(1, 5))
    with pytest.raises(ValueError, match="length"):
        Samples(0)


# simulation --------------------------------------------------------------------------------------------------------


def test_normal_numbers_are_normal() -> None:
    """Moments, tails and correlations of three million numbers, within four standard deviations."""
    values = torch.cat([normal(1 << 20, 7, "test", index) for index in range(3)]).double()
    count = len(values)
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float((values**power).mean()) - moment) < 4 * math.sqrt(spread / count)
    for level in (1.0, 3.0, 4.5):
        chance = math.erfc(level / math.sqrt(2))
        found = float((values.abs() > level).double().sum())
        assert abs(found - chance * count) < 4 * math.sqrt(chance * count) + 1
    for lag in (1, 2, 31, 32, 64, 2048, 4096):
        assert abs(float((values[lag:] * values[:-lag]).mean())) < 4 / math.sqrt(count)
        squares = values.square() - 1
        assert abs(float((squares[lag:] * squares[:-lag]).mean())) < 8 / math.sqrt(count)


def test_normal_numbers_depend_on_the_stream_and_not_on_their_number() -> None:
    first = normal(5000, 1, "a")
    assert torch.equal(first[:77], normal(77, 1, "a"))
    assert torch.equal(2 * first, normal(5000, 1, "a", scale=2.0))
    for other in (normal(5000, 2, "a"), normal(5000, 1, "b"), normal(5000, 1, "a", 1)):
        assert abs(float((first * other).mean())) < 0.06


@pytest.mark.parametrize(
    ("spacing", "least", "density"), [("separated", 13, 0.5), ("arbitrary", 7, 0.9), ("dense", 4, 1.6)]
)
def test_copies_keep_their_distance_and_lie_inside(spacing: str, least: int, density: float) -> None:
    data, truth = simulate_signal(target("bump", 7), density=density, samples=3000, sigma=1.0, seed=2, spacing=spacing)  # type: ignore[arg-type]
    places = truth.positions(0)
    assert len(places) == truth.occurrences == round(density * 3000 / 7)
    assert int(places.diff().min()) >= least
    assert int(places[0]) >= 0
    assert int(places[-1]) + 7 <= 3000
    noise = data[0].double() - truth.clean(0, 0, 3000)
    assert float(noise.std()) == pytest.approx(1.0, abs=4 / math.sqrt(6000))


def test_places_have_the_law_of_the_hard_core_gas() -> None:
    """All configurations of two copies on a short signal are equally likely."""
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(3000):
        _, truth = simulate_signal(torch.ones(3), density=0.5, samples=12, sigma=1.0, seed=seed)
        places = tuple(truth.positions(0).tolist())
        counts[places] = counts.get(places, 0) + 1
    possible = [(a, b) for a in range(10) for b in range(a + 5, 10)]
    assert set(counts) == set(possible)
    expected = 3000 / len(possible)
    chi2 = sum((counts[places] - expected) ** 2 / expected for places in possible)
    assert chi2 < len(possible) - 1 + 4 * math.sqrt(2 * (len(possible) - 1))


def test_pieces_make_one_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in blocks of any size, across the borders of the pieces in which it is drawn; kinds included."""
    monkeypatch.setattr(signals, "PIECE", 256)
    targets = torch.stack([target("step", 9), target("bump", 9)])
    data, truth = simulate_signal(targets, density=0.4, samples=2000, sigma=0.5, seed=3, rows=2, shares=(0.7, 0.3))
    for row in range(2):
        whole = truth.read(row, 0, 2000)
        assert torch.equal(whole, data[row])
        for block in (100, 256, 700):
            parts = [truth.read(row, start, min(start + block, 2000)) for start in range(0, 2000, block)]
            assert torch.equal(torch.cat(parts), whole)
        places = truth.positions(row)
        assert torch.equal(torch.cat([truth.positions(row, a, a + 100) for a in range(0, 2000, 100)]), places)
        clean = torch.zeros(2000, dtype=torch.float64)
        for place, kind in zip(places.tolist(), truth.kinds(row, places).tolist(), strict=True):
            clean[place : place + 9] += targets[kind]
        assert torch.allclose(truth.clean(row, 0, 2000), clean)
        assert float((whole.double() - clean).std()) == pytest.approx(0.5, rel=0.1)
    kinds = torch.cat([truth.kinds(row, truth.positions(row)) for row in range(2)])
    assert float((kinds == 1).double().mean()) == pytest.approx(0.3, abs=0.15)


def test_counts_of_giant_lines_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_GIANT", 1000)
    generator = np.random.Generator(np.random.Philox(1))
    sizes = [100] * 50
    counts = np.array([signals._marked(generator, sizes, 700) for _ in range(400)])
    assert (counts.sum(1) == 700).all()
    assert (counts <= 100).all()
    assert abs(counts.mean(0) - 14).max() < 4 * math.sqrt(14 / 400) + 0.1
    assert counts.var(0).mean() == pytest.approx(14 * 0.86, rel=0.1)


def test_facts_are_the_realised_ones() -> None:
    _, truth = simulate_signal(2 * target("step", 10), density=0.2, occurrences=30, sigma=0.5, seed=1)
    facts = truth.facts()
    assert facts["occurrences"] == 30
    assert facts["samples"] == 1500
    assert facts["density"] == pytest.approx(0.2)
    assert facts["energy"] == pytest.approx(4 * 10 / 0.25)
    assert facts["snr_box"] == pytest.approx(16)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"density": 0.6}, "density must lie between 0 and 0.556"),
        ({"density": 0.0}, "density"),
        ({"density": math.nan}, "density"),
        ({"sigma": 0.0}, "sigma"),
        ({"sigma": -1.0}, "sigma"),
        ({"sigma": math.inf}, "sigma"),
        ({"samples": 9}, "at least 2 x 5"),
        ({"samples": 12, "density": 0.05}, "less than one copy"),
        ({"samples": None}, "exactly one"),
        ({"samples": 100, "occurrences": 3}, "exactly one"),
        ({"samples": None, "occurrences": 0}, "occurrences"),
        ({"rows": 0}, "rows"),
        ({"shares": (0.5, 0.5)}, "shares"),
        ({"spacing": "tight"}, "spacing"),
    ],
)
def test_impossible_simulations_are_refused(settings: dict[str, object], words: str) -> None:
    usual: dict[str, object] = {"density": 0.2, "sigma": 1.0, "samples": 200, "seed": 1}
    with pytest.raises(ValueError, match=words):
        simulate_signal(target("step", 5), **usual | settings)  # type: ignore[arg-type]


def test_bad_targets_are_refused() -> None:
    with pytest.raises(ValueError, match="target must be"):
        target("square", 9)
    for values in (torch.zeros(5), torch.tensor([1.0, math.nan]), torch.ones(2, 3, 4)):
        with pytest.raises(ValueError, match="targets must be"):
            simulate_signal(values, density=0.2, sigma=1.0, samples=200, seed=1)


# spacing laws ------------------------------------------------------------------------------------------------------

LAWS = [HardCore("separated", 0.3), geometric(0.5), HardCore("dense", 0.9), HardCore(8, 0.4)]
FREE = Histogram.like(geometric(0.4), 7, 20)


@pytest.mark.parametrize("law", [*LAWS, FREE], ids=repr)
def test_laws_are_normalised_and_have_the_density_they_say(law: HardCore | Histogram) -> None:
    gaps = law.gaps(7)
    assert sum(gaps.chances) + gaps.tail == pytest.approx(1)
    assert 7 / gaps.mean == pytest.approx(law.density)
    mean = sum((gaps.least + i) * chance for i, chance in enumerate(gaps.chances))
    mean += sum((gaps.reach + i) * gaps.tail * gaps.hazard * (1 - gaps.hazard) ** i for i in range(20000))
    assert gaps.mean == pytest.approx(mean)
    chances, slopes = begins(law, 7, 10**6)
    assert len(slopes) == len(chances) + 1 == gaps.reach + 1
    assert chances[0] == pytest.approx(1 / gaps.mean)
    assert sum(chances) < 1
    again = law.thinned(7, gaps.hazard).gaps(7)
    assert again.hazard == pytest.approx(gaps.hazard)


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_fitted_laws_find_what_they_were_drawn_from(law: HardCore) -> None:
    """Known starts stand for the posterior: distances drawn from the law give it back."""
    gaps = law.gaps(7)
    generator = np.random.default_rng(1)
    distances = gaps.least + generator.geometric(gaps.hazard, 20000) - 1
    explicit = np.bincount(distances - gaps.least, minlength=len(gaps.chances))[: len(gaps.chances)]
    tail = (distances >= gaps.reach).sum()
    free = (distances[distances >= gaps.reach] - gaps.reach + 1).sum()
    counts = Counts(torch.tensor([*explicit, tail]).double(), torch.zeros(gaps.reach + 1), float(tail), float(free))
    fitted = HardCore(law.least, 0.1).fitted(7, counts)
    assert fitted.density == pytest.approx(law.density, rel=0.03)


def test_a_free_law_takes_the_shares_it_is_given() -> None:
    counts = Counts(torch.tensor([*([0.0] * 4), 30.0, *([0.0] * 8), 10.0]).double(), torch.zeros(21), 10.0, 200.0)
    fitted = FREE.fitted(7, counts)
    assert fitted.chances[4] == pytest.approx(0.75)
    assert fitted.hazard == pytest.approx(0.05)
    assert FREE.present(fitted.parameters) == fitted
    nothing = Counts(torch.zeros(14).double(), torch.zeros(21), 0.0, 0.0)
    assert FREE.fitted(7, nothing) == FREE


@pytest.mark.parametrize("density", [0.0, -0.1, math.nan, math.inf])
def test_densities_that_are_none_are_refused(density: float) -> None:
    with pytest.raises(ValueError, match="density"):
        HardCore("separated", density)


def test_impossible_laws_are_refused() -> None:
    with pytest.raises(ValueError, match=r"density must be below 0\.538"):
        HardCore("separated", 0.55).gaps(7)
    with pytest.raises(ValueError, match="least"):
        HardCore(0)
    with pytest.raises(ValueError, match="at least half"):
        HardCore(3).gaps(7)
    with pytest.raises(ValueError, match="least"):
        Histogram(7, 3, (0.1,) * 5, 0.1)
    with pytest.raises(ValueError, match="reach"):
        Histogram(7, 4, (0.1,), 0.1)
    with pytest.raises(ValueError, match="leave something"):
        Histogram(7, 7, (0.6, 0.5), 0.1)
    with pytest.raises(ValueError, match="hazard"):
        Histogram(7, 7, (0.1,), 1.0)
    with pytest.raises(ValueError, match="made for copies of 7"):
        FREE.gaps(8)


def test_sums_that_cannot_be_taken_are_refused() -> None:
    zero = torch.zeros(1)
    with pytest.raises(ValueError, match="does not hold"):
        sums(draw(1, 4), draw(2, 1, 5), zero, 1.0, Gaps(9, (), 1.0, 0.1))
    with pytest.raises(ValueError, match="at least half"):
        sums(draw(1, 40), draw(2, 1, 5), zero, 1.0, Gaps(2, (), 1.0, 0.1))
    with pytest.raises(ValueError, match="chances of their own"):
        sums(draw(1, 40), draw(2, 1, 5), zero, 1.0, Gaps(3, (), 1.0, 0.1))


# comparison --------------------------------------------------------------------------------------------------------


def test_comparison_finds_shift_and_order() -> None:
    x = torch.tensor([1.0, 2.0, 3.0, 4.0, 3.0, 0.0, 0.0])
    moved = torch.tensor([0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 3.0])
    found = compare_signals(moved, x)
    assert found.shift == -2
    assert found.relative_error_shifted == pytest.approx(0, abs=1e-7)
    assert found.relative_error == pytest.approx(float((moved - x).norm() / x.norm()))
    two = torch.stack([x, -moved])
    assert compare_signals(two[[1, 0]], two).order == (1, 0)
    assert compare_signals(two[[1, 0]], two).relative_error == 0
    assert compare_signals(1.1 * x, x).relative_error == pytest.approx(0.1)


@pytest.mark.parametrize("length", [14, 15])
def test_comparison_finds_a_fraction_of_a_sample(length: int) -> None:
    places = torch.arange(length, dtype=torch.float64)
    x, moved = (torch.exp(-0.5 * (places - centre).square() / 1.5**2) for centre in (7.0, 7.37))
    found = compare_signals(moved, x)
    assert found.shift == pytest.approx(-0.37)
    assert found.relative_error > 0.1
    assert found.relative_error_shifted < 2e-3


def test_signals_that_cannot_be_compared_are_refused() -> None:
    x = torch.ones(4)
    for estimate, truth, words in (
        (x, torch.ones(5), "one shape"),
        (x, torch.zeros(4), "zero everywhere"),
        (torch.tensor([1.0, 2.0, math.nan, 0.0]), x, "NaN"),
        (torch.ones(9, 4), torch.ones(9, 4), "at most 8"),
    ):
        with pytest.raises(ValueError, match=words):
            compare_signals(estimate, truth)
