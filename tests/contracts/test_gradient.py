"""The estimators' contract for gradients on particle stacks, with every source of poses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from unpicked.data.micrographs import InMemory
from unpicked.data.optics import Optics
from unpicked.data.particles import Particles
from unpicked.data.poses import Poses
from unpicked.estimators.base import Batch, State
from unpicked.estimators.gradient import Gradient, Learned
from unpicked.estimators.poses import Encoder, Known, Table
from unpicked.model.centred import Centred
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.views import Projection
from unpicked.objects.gaussians import Gaussians
from unpicked.objects.pixels import Pixels
from unpicked.objects.voxels import Voxels
from unpicked.ops import rotation
from unpicked.priors import Flat, Ridge
from unpicked.reconstruct import Reconstruction, Result, reconstruct

BOX, PIXEL = 16, 4.0
SMALL = Gradient(Known(), iterations=6, batch=8, every=1, precision="float64")
SLIM = Encoder(widths=(4, 6), hidden=12, branches="none")
ROWS = {
    "known": SMALL,
    "known, shifts left out": replace(SMALL, poses=Known(shifts="none"), first_radius=3),
    "table": replace(SMALL, poses=Table()),
    "table, shifts": replace(SMALL, poses=Table(shifts="estimated")),
    "encoder": replace(SMALL, poses=SLIM),
    "encoder, quaternion": replace(SMALL, poses=replace(SLIM, rotation="quaternion", branches="mirror")),
    "encoder, heads": replace(SMALL, poses=replace(SLIM, branches="heads", heads=4, rotation="euler")),
    "encoder, orbit": replace(SMALL, poses=replace(SLIM, branches="orbit", crop=12)),
    "encoder, orbit, some": replace(SMALL, poses=replace(SLIM, branches="orbit", settled=0.3)),
    "encoder, orbit of heads": replace(
        SMALL,
        poses=replace(SLIM, branches="orbit", heads=2, flip_phases=True, shifts="estimated", defocus=500.0),
    ),
}
rows = pytest.mark.parametrize("estimator", ROWS.values(), ids=ROWS.keys())


def draw(seed: int, *size: int) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass(frozen=True)
class World:
    """A stack with its truth: Gaussians that are projected exactly."""

    data: Particles
    model: Model
    object: Gaussians
    x: torch.Tensor
    sigma: float

    @property
    def truth(self) -> torch.Tensor:
        return self.object.values(self.x)


def world(count: int = 40, *, sigma: float = 0.01, optics: bool = True, seed: int = 0) -> World:
    """Eight Gaussians in 16 pixels, at random views, shifted by up to half a pixel, with contrast transfer."""
    object = Gaussians(BOX, 2.0 * draw(1, 8, 3), torch.full((8,), 1.3, dtype=torch.float64))
    x = 1 + draw(2, 8).abs()
    turns = rotation.random_rotations(count, torch.Generator().manual_seed(50 + seed))
    shifts = 0.5 * PIXEL * (2 * torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)).double() - 1)
    frequency = torch.fft.fftfreq(BOX, dtype=torch.float64)
    sy, sx = torch.meshgrid(frequency, frequency, indexing="ij")
    spectra = torch.fft.fft2(object.projector(turns).project(x))
    spectra = spectra * torch.polar(
        torch.ones_like(spectra.real),
        -2 * math.pi * (sx * shifts[:, 0, None, None] + sy * shifts[:, 1, None, None]) / PIXEL,
    )
    record = None
    if optics:
        values = tuple(9000 + 2000.0 * index for index in range(4))
        record = Optics(
            values, values, (0.0,) * 4, (300.0,) * 4, (2.7,) * 4, (0.1,) * 4, (0.0,) * 4, (0.0,) * 4, (1.0,) * 4,
            tuple(index % 4 for index in range(count)),
        )  # fmt: skip
        spectra = spectra * record.values(sx / PIXEL, sy / PIXEL)
    images = torch.fft.ifft2(spectra).real
    images = images + sigma * draw(seed + 9, *images.shape)
    names = tuple(f"{index + 1:06d}@stack.mrcs" for index in range(count))
    data = Particles(InMemory(images.float()), PIXEL, names, optics=record, poses=Poses(turns, shifts))
    view = Projection(torch.eye(3, dtype=torch.float64)[None])
    model = Model(Voxels(BOX), view, Centred(max_shift=2 * PIXEL), noise=White(max(sigma, 1e-3)))
    return World(data, model, object, x, sigma)


def run(estimator: Gradient, made: World | None = None, **more: object) -> Reconstruction:
    made = made or world()
    settings = {"seed": 2, "moves": 0} | more
    return reconstruct(made.data, made.model, estimator, **settings)  # type: ignore[arg-type]


def figures(found: Reconstruction) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in found.history]


@rows
def test_resumed_run_equals_uninterrupted_and_same_seed_same_answer(estimator: Gradient, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(name: str, entry: dict[str, float]) -> None:
        if entry["step"] == 3:
            raise Killed

    whole = run(estimator)
    with pytest.raises(Killed):
        run(estimator, checkpoint=tmp_path, report=kill)
    again = run(estimator, checkpoint=tmp_path, resume=True)
    assert torch.equal(whole.x, again.x)
    assert all(torch.equal(value, again.state[name]) for name, value in whole.state.items())
    assert figures(whole) == figures(again)
    assert torch.equal(run(estimator, batch_size=1).x, whole.x)
    assert not torch.allclose(run(estimator, seed=3).x, whole.x)


@rows
def test_state_and_statistics_are_tensors_and_add(estimator: Gradient) -> None:
    made = world()
    kept, turns = made.data.images().clone(), made.data.poses.rotations.clone()  # type: ignore[union-attr]
    start = 0.3 * made.model.object.fit(made.truth)
    state = estimator.init(made.data, made.model, start, 0)
    picked = estimator.picks(len(made.data), state)
    before = {name: value.clone() for name, value in state.items()}
    none = estimator.accumulate(made.model, Batch(made.data, []), state)
    whole = estimator.accumulate(made.model, Batch(made.data, picked), state)
    parts = [estimator.accumulate(made.model, Batch(made.data, picked).shard(rank, 3), state) for rank in range(3)]
    for name, value in whole.items():
        assert isinstance(value, torch.Tensor)
        assert none[name].shape == value.shape
        assert not bool(none[name].any()), name
        assert torch.allclose(sum(part[name] for part in parts), value, rtol=1e-9, atol=1e-12), name
    new = estimator.update(made.model, state, whole, Ridge(1.0))
    assert all(isinstance(value, torch.Tensor) for value in new.values())
    assert {name: value.shape for name, value in new.items()} == {name: value.shape for name, value in state.items()}
    assert all(torch.equal(value, before[name]) for name, value in state.items() if not bool(value.isnan().any()))
    assert torch.equal(made.data.images(), kept)
    assert torch.equal(made.data.poses.rotations, turns)  # type: ignore[union-attr]
    assert not torch.equal(new["x"], state["x"])
    if state["poses"].numel():
        assert not torch.equal(new["poses"], state["poses"])
    with pytest.raises(ValueError, match="the data are empty"):
        estimator.update(made.model, state, none, Flat())


@rows
def test_float32_is_close_to_float64(estimator: Gradient) -> None:
    short = replace(estimator, iterations=3)
    double, single = run(short), run(replace(short, precision="float32"))
    assert single.x.dtype == torch.float32
    # a first step of Adam has the size of the rate, whatever the gradient
    assert float((single.x - double.x).norm() / double.x.norm()) < 2e-2
    assert single.history[0]["loss"] == pytest.approx(double.history[0]["loss"], rel=1e-4)


@rows
def test_nan_ends_in_a_typed_failure(estimator: Gradient) -> None:
    made = world()
    found = run(estimator, made, start=made.model.object.fit(made.truth) * math.nan)
    assert found.result is Result.NOT_FINITE


def test_nan_in_an_image_is_named() -> None:
    made = world()
    images = made.data.images()
    images[5, 3, 3] = math.nan
    broken = replace(made.data, source=InMemory(images))
    state = SMALL.init(made.data, made.model, None, 0)
    with pytest.raises(FloatingPointError, match=r"image 000006@stack\.mrcs holds NaN"):
        SMALL.accumulate(made.model, Batch(broken, [4, 5]), state)
    assert reconstruct(broken, made.model, SMALL, moves=0).result is Result.NOT_FINITE


@rows
def test_gradients_are_those_of_the_misfit(estimator: Gradient) -> None:
    """Finite differences of the summed misfit in a direction of the map and in one of the poses."""
    made = world(12)
    state = estimator.init(made.data, made.model, 0.5 * made.model.object.fit(made.truth), 1)
    # away from kinks: units whose inputs and biases are all zero
    state["poses"] = state["poses"] + 1e-2 * draw(4, *state["poses"].shape)
    batch = Batch(made.data, range(12))
    stats = estimator.accumulate(made.model, batch, state)
    for name in ("x", "poses"):
        if not state[name].numel():
            continue
        direction, h = draw(3, *state[name].shape), 1e-9 * float(state[name].abs().max())
        ahead, behind = (
            estimator.accumulate(made.model, batch, state | {name: state[name] + sign * h * direction})
            for sign in (1, -1)
        )
        slope = float(ahead["loss"] - behind["loss"]) / (2 * h)
        assert slope == pytest.approx(float((stats[name] * direction).sum()), rel=2e-4), name


def test_truth_is_a_fixed_point_without_noise_and_known_poses_find_it() -> None:
    """Tomography on a small clean stack; the slices themselves are wrong by half a percent of the images' power."""
    made = world(160, sigma=0.0, optics=False)
    truth = made.model.object.fit(made.truth)
    tomo = Gradient(Known(), iterations=300, batch=32, every=10)
    stays = run(replace(tomo, iterations=20, map_rate=0.002, least_map_rate=0.0), made, start=truth)
    assert all(row["loss"] < 1e-3 for row in stays.history)
    assert float((stays.x.double() - truth).norm() / truth.norm()) < 0.03
    found = run(tomo, made)
    assert found.map is not None and found.map.voxel_size == PIXEL
    assert found.history[-1]["loss"] < 2e-3
    mean = truth.mean()  # the mean of an image is not compared
    error = found.x.double() - found.x.double().mean() - (truth - mean)
    assert float(error.norm() / (truth - mean).norm()) < 0.2


def test_history_has_a_row_every_so_often_and_at_the_end() -> None:
    found = run(replace(SMALL, iterations=7, every=3))
    assert [row["step"] for row in found.history] == [2, 5, 6]


def test_every_image_is_read_once_before_any_is_read_again() -> None:
    read: list[int] = []
    for step in range(5):
        picked = SMALL.picks(40, {"step": torch.tensor(step), "seed": torch.tensor(5)})
        assert len(picked) == 8
        read += picked
    assert sorted(read) == list(range(40))


def test_an_update_reads_its_batch_only() -> None:
    made, reads = world(40), []

    class Watched(InMemory):
        def read(self, index: int) -> torch.Tensor:
            reads.append(index)
            return super().read(index)

    watched = replace(made.data, source=Watched(made.data.images()))
    reconstruct(watched, made.model, replace(SMALL, iterations=1), moves=0)
    first = len(reads)
    reads.clear()
    reconstruct(watched, made.model, replace(SMALL, iterations=4), moves=0)
    assert len(reads) - first == 3 * 8


def test_table_moves_only_rows_that_were_seen() -> None:
    made = world(40)
    estimator = replace(SMALL, poses=Table())
    state = estimator.init(made.data, made.model, None, 0)
    picked = estimator.picks(40, state)
    stats = estimator.accumulate(made.model, Batch(made.data, picked), state)
    new = estimator.update(made.model, state, stats, Flat())
    moved = (new["poses"] != state["poses"]).any(1).nonzero().flatten().tolist()
    assert moved == sorted(picked)
    with pytest.raises(ValueError, match="a table of 40 poses knows nothing of image 40; try Encoder"):
        estimator.poses_of(made.model, new, world(41).data)


def test_a_prior_pulls() -> None:
    loose, tight = run(replace(SMALL, iterations=40)), run(replace(SMALL, iterations=40), prior=Ridge(1e-9))
    assert float(tight.x.norm()) < 0.5 * float(loose.x.norm())
    assert tight.history[-1]["objective"] < tight.history[-1]["log_likelihood"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(SMALL, iterations=0), "iterations, batch and every must be at least 1; got 0, 8 and 1"),
        (lambda: replace(SMALL, map_rate=0.001), "least_map_rate must lie between 0 and map_rate; got 0.01 and 0.001"),
        (lambda: replace(SMALL, start_scale=0.0), "start_scale must be positive; got 0"),
        (lambda: replace(SMALL, radius=4, first_radius=5), "first_radius must lie between 0 and radius; got 5 and 4"),
        (lambda: replace(SMALL, growth=2.0), "growth must be a part of the updates, 0 to 1; got 2"),
        (lambda: run(SMALL, start=torch.zeros(5)), r"start must hold 4096 coefficients; got shape \(5,\)"),
        (lambda: replace(SLIM, heads=2), "heads must be at least 1, and 1 without branches; got 2; try 'heads'"),
        (lambda: replace(SLIM, rotation="axis"), "rotation must be one of s2s2, quaternion, euler; got 'axis'"),
        (lambda: replace(SLIM, branches="all"), "branches must be one of none, mirror, heads, orbit; got 'all'"),
        (lambda: replace(SLIM, spread=1.0), "crop and defocus must not be negative, spread at least 0 and below 1"),
        (lambda: replace(SLIM, settled=1.5), "settled must lie between 0 and 1, few be at least 1; got 1.5 and 2"),
        (lambda: Table(learning_rate=-1.0), "least_rate must lie between 0 and learning_rate; got 0.001 and -1"),
        (lambda: run(replace(SMALL, poses=replace(SLIM, crop=32))), "crop must be at most the images' 16 pixels"),
        (lambda: run(replace(SMALL, poses=replace(SLIM, widths=(2,) * 5))), "an input of 16 pixels is too small"),
    ],
)
def test_bad_settings_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_data_and_models_that_do_not_fit_are_refused() -> None:
    made = world(10, optics=False)
    bare, still = replace(made.data, poses=None), replace(made.model, placement=Centred())

    def refused(source: Known | Table | Encoder, model: Model, data: Particles, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            reconstruct(data, model, replace(SMALL, poses=source), moves=0)

    refused(Known(), made.model, bare, "known poses need images that come with poses")
    refused(Table(shifts="known"), made.model, bare, "known shifts need images that come with poses")
    refused(Table(shifts="estimated"), still, made.data, r"estimated shifts need a largest one; got 0.* try Centred")
    refused(replace(SLIM, defocus=10.0), made.model, made.data, "flip_phases and defocus need images with contrast")
    refused(SLIM, replace(made.model, object=Voxels(12)), made.data, "a map of 12 voxels does not fit images of 16")
    refused(SLIM, replace(made.model, object=Pixels(16)), made.data, r"needs an object on voxels; got Pixels")


def states(estimator: Gradient, made: World, state: State, updates: int) -> State:
    for _ in range(updates):
        picked = Batch(made.data, estimator.picks(len(made.data), state))
        stats = estimator.accumulate(made.model, picked, state)
        state = estimator.update(made.model, state, stats, Flat())
    return state


def test_poses_by_gradient_return_to_the_truth_at_the_true_map() -> None:
    """The table from poses that are 8 degrees off; the map stays."""
    made = world(32, sigma=0.0)
    estimator = Gradient(
        Table(learning_rate=2e-2, shifts="known"), iterations=120, batch=16, map_rate=1e-9, least_map_rate=0
    )
    state = estimator.init(made.data, made.model, made.model.object.fit(made.truth), 0)
    true = made.data.poses.rotations  # type: ignore[union-attr]
    off = rotation.exp_map(torch.nn.functional.normalize(draw(8, 32, 3), dim=1) * math.radians(8)) @ true
    state["poses"] = off[:, :2].flatten(1).to(state["poses"])
    found = estimator.poses_of(made.model, states(estimator, made, state, 120), made.data)
    errors = rotation.geodesic_distance(found.rotations, true)
    assert float(errors.median()) < 1.0
    assert torch.allclose(found.shifts, made.data.poses.shifts, atol=1e-5)  # type: ignore[union-attr]


SHARED = ("known", "table, shifts", "encoder, heads", "encoder, orbit of heads")


def _worker(rank: int, world: int, place: str, out: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=world)
    torch.save({name: run(ROWS[name]).state for name in SHARED}, f"{out}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_worker, args=(2, str(tmp_path / "meet"), str(tmp_path)), nprocs=2)
    others = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name in SHARED:
        whole = run(ROWS[name]).state
        for other in others:
            for part in ("x", "poses", "usage", "loss"):
                assert torch.allclose(other[name][part], whole[part], rtol=1e-6, atol=1e-9), (name, part)


def test_a_run_may_begin_with_what_another_has_learned(tmp_path: Path) -> None:
    there = world(24)
    first = ROWS["encoder"]
    before = reconstruct(there.data, there.model, first, seed=3, moves=0)
    learned = Learned.of(before.state)
    second = replace(first, begin=learned)
    state = second.init(there.data, there.model, before.x, 9)
    assert torch.equal(state["poses"], before.state["poses"]) and torch.equal(state["x"], before.x)
    assert not state["poses.first"].any() and not state["x.second"].any() and int(state["step"]) == 0
    state["poses"].zero_()
    assert learned.values.any(), "what was learned is copied"
    assert repr(learned) == repr(Learned(learned.values.clone())) != repr(Learned(learned.values + 1))
    reconstruct(there.data, there.model, second, seed=9, start=before.x, moves=0, checkpoint=tmp_path)
    other = replace(first, begin=Learned(learned.values + 1))
    with pytest.raises(ValueError, match="another"):
        reconstruct(there.data, there.model, other, seed=9, start=before.x, moves=0, checkpoint=tmp_path, resume=True)
    with pytest.raises(ValueError, match="begin must hold parameters of shape"):
        replace(first, begin=Learned(torch.zeros(3))).init(there.data, there.model, None, 0)
