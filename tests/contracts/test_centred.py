"""The contract of estimators, for EM on particle images: marginalised over views and shifts, in a band."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from test_estimators import PLAIN, blob, draw, history, objectives

from unpicked.data.micrographs import InMemory
from unpicked.data.optics import Optics
from unpicked.data.particles import Particles
from unpicked.estimators.acceleration import LBFGS, Anderson, Squarem
from unpicked.estimators.base import Batch, add, judge, log_likelihood
from unpicked.estimators.em import EM
from unpicked.model.centred import Centred
from unpicked.model.model import Model
from unpicked.model.noise import Coloured, White
from unpicked.model.placements import Anywhere
from unpicked.model.views import Projection
from unpicked.objects.ball import Ball
from unpicked.objects.voxels import Voxels
from unpicked.ops import rotation
from unpicked.priors import Flat, Prior, Ridge, globular
from unpicked.reconstruct import Result, reconstruct

BOX, PIXEL = 8, 3.0
ESTIMATORS = {
    "em": PLAIN,
    "noise known": replace(PLAIN, estimate_sigma=False),
    "relaxed": replace(PLAIN, frozen=3, relaxation=1.5),
    "minibatches": replace(PLAIN, frozen=2, batch=0.25),
    "squarem": replace(PLAIN, acceleration=Squarem()),
    "anderson": replace(PLAIN, acceleration=Anderson()),
    "anderson, joint": replace(PLAIN, acceleration=Anderson(), joint=True),
    "lbfgs": replace(PLAIN, acceleration=LBFGS()),
}
OBJECTS = {"voxels": Voxels(BOX), "ball": Ball(BOX, 3)}
PLACEMENTS = {
    "still": Centred(precise=True),
    "shifted": Centred(1.5 * PIXEL, precise=True),
    "spread": Centred(4.0, 2, 2, spread=2.5, precise=True),
}
NOISES = {"white": White(0.8), "coloured": Coloured((0.4, 0.6, 0.7, 0.9))}


def toy(
    object: object = OBJECTS["ball"],
    placement: Centred = PLACEMENTS["shifted"],
    views: int = 12,
    noise: White | Coloured = NOISES["white"],
) -> Model:
    return Model(object, Projection(rotation.super_fibonacci(views)), placement, noise=noise)  # type: ignore[arg-type]


def optics(count: int) -> Optics:
    """Five defoci and some astigmatism: no frequency of the box is lost in all of them."""
    defocus = tuple(9000.0 + 2500 * group for group in range(5))
    same = {"voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1, "phase_shift": 0.0, "b_factor": 0.0}
    return Optics(
        defocus_u=defocus,
        defocus_v=tuple(value - 1500 for value in defocus),
        astigmatism_angle=(20.0,) * 5,
        scale=(1.0,) * 5,
        group=tuple(index % 5 for index in range(count)),
        **{name: (value,) * 5 for name, value in same.items()},
    )


def particles(model: Model, x: torch.Tensor, sigma: float, *, count: int = 40, transfer: bool = True) -> Particles:
    """One copy per image, in continuous random views, shifted by up to a pixel, in white noise."""
    generator = torch.Generator().manual_seed(7)
    views = rotation.random_rotations(count, generator)
    images = model.view.at(model.object, x, views)  # type: ignore[attr-defined]
    shifts = 2 * torch.rand(count, 2, generator=generator, dtype=torch.float64) - 1
    return stack(images, shifts, sigma, transfer)


def stack(images: torch.Tensor, shifts: torch.Tensor, sigma: float, transfer: bool) -> Particles:
    seen = optics(len(images)) if transfer else None
    q = torch.fft.fftfreq(BOX, dtype=torch.float64) * BOX
    spectrum = torch.fft.fft2(torch.fft.ifftshift(images, dim=(-2, -1)))
    spectrum = spectrum * torch.exp(-2j * math.pi / BOX * (shifts[:, :1, None] * q + shifts[:, 1:, None] * q[:, None]))
    if seen is not None:
        s = q / (BOX * PIXEL)
        spectrum = spectrum * seen.values(s[None].expand(BOX, BOX), s[:, None].expand(BOX, BOX))
    images = torch.fft.fftshift(torch.fft.ifft2(spectrum).real, dim=(-2, -1))
    images = images + sigma * draw(3, *images.shape)
    return Particles(InMemory(images), PIXEL, tuple(f"p{i}" for i in range(len(images))), optics=seen)


@pytest.fixture(params=ESTIMATORS.values(), ids=ESTIMATORS.keys())
def estimator(request: pytest.FixtureRequest) -> EM:
    found: EM = request.param
    return found


# 1 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [Flat(), Ridge(0.05), globular(BOX, 40.0)], ids=["flat", "ridge", "shells"])
@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES.keys())
@pytest.mark.parametrize("name", PLACEMENTS)
def test_objective_never_falls_on_frozen_views(name: str, noise: White | Coloured, prior: Prior) -> None:
    model = toy(placement=PLACEMENTS[name], noise=noise)
    data = particles(model, blob(model), 0.8)
    values = objectives(
        reconstruct(data, model, replace(PLAIN, iterations=10, frozen=10), prior=prior, seed=3, moves=0)
    )
    assert len(values) == 10
    assert values[-1] > values[0] + 1
    for before, after in pairwise(values):
        assert after >= before - 1e-9 * abs(before)


def test_objective_never_falls_for_voxels() -> None:
    model = toy(Voxels(BOX))
    data = particles(model, blob(model), 0.8)
    values = objectives(reconstruct(data, model, PLAIN, prior=globular(BOX, 40.0), seed=1, moves=0))
    assert all(after >= before - 1e-9 * abs(before) for before, after in pairwise(values))


# 2 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transfer", [False, True], ids=["plain", "transfer"])
@pytest.mark.parametrize("object", OBJECTS.values(), ids=OBJECTS.keys())
def test_truth_is_a_fixed_point_without_noise(estimator: EM, object: object, transfer: bool) -> None:
    """Images in the estimator's own views and shifts (only here), hardly any noise: one step stays."""
    model = toy(object, views=12, noise=White(1e-2))
    x = blob(model)
    generator = torch.Generator().manual_seed(2)
    picks = torch.arange(60) % 12
    shifts = torch.randint(-1, 2, (60, 2), generator=generator).double()
    seen = model.templates(x)[picks] / math.sqrt(2)
    images = model.placement.band(BOX).images(torch.complex(seen[:, 0], seen[:, 1]))  # type: ignore[attr-defined]
    data = stack(images, shifts, 1e-4, transfer)
    estimator = replace(estimator, solver_tolerance=1e-6)
    state = estimator.init(data, model, x, 0) | {"turn": torch.eye(3, dtype=torch.float64)}
    now = estimator.current(model, state)
    stats = estimator.accumulate(now, Batch(data, range(60)), state)
    after = estimator.update(now, state, stats, Flat())["x"]
    seen, kept = now.templates(x), now.templates(after)
    assert float((seen - kept).norm() / seen.norm()) < 5e-3


# 3 -----------------------------------------------------------------------------------------------------------------


def test_resumed_run_equals_uninterrupted(estimator: EM, tmp_path: Path) -> None:
    model = toy(noise=NOISES["white" if estimator.joint else "coloured"])
    data = particles(model, blob(model), 0.8)
    estimator = replace(estimator, frozen=2)
    whole = reconstruct(data, model, estimator, prior=Ridge(0.05), seed=5, moves=0)

    class Killed(Exception):
        pass

    def kill(name: str, row: dict[str, float]) -> None:
        if row["step"] == 2:
            raise Killed

    with pytest.raises(Killed):
        reconstruct(data, model, estimator, prior=Ridge(0.05), seed=5, moves=0, checkpoint=tmp_path, report=kill)
    again = reconstruct(data, model, estimator, prior=Ridge(0.05), seed=5, moves=0, checkpoint=tmp_path, resume=True)
    assert torch.equal(whole.x, again.x)
    assert history(whole) == history(again)
    assert whole.model.noise == again.model.noise


def test_checkpoint_of_other_optics_is_refused(tmp_path: Path) -> None:
    model = toy()
    data = particles(model, blob(model), 0.8)
    short = EM(iterations=2, frozen=1)
    reconstruct(data, model, short, moves=0, checkpoint=tmp_path)
    other = replace(data, optics=None)
    for changed, theirs in ((model, other), (replace(model, optics=optics(7).part([0] * len(data))), data)):
        with pytest.raises(ValueError, match="other data or settings"):
            reconstruct(theirs, changed, short, moves=0, checkpoint=tmp_path, resume=True)


# 4 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES.keys())
def test_one_batch_equals_many_and_an_empty_batch_gives_zeros(estimator: EM, noise: White | Coloured) -> None:
    if estimator.joint and noise is not NOISES["white"]:
        pytest.skip("joint steps take white noise")
    model = toy(noise=noise)
    data = particles(model, blob(model), 0.8)
    state = estimator.init(data, model, blob(model, 2), 0)
    now = estimator.current(model, state)
    whole = estimator.accumulate(now, Batch(data, range(40)), state)
    parts = estimator.accumulate(now, Batch(data, [*range(9, 40)]), state)
    parts = add(parts, estimator.accumulate(now, Batch(data, range(9)), state))
    none = estimator.accumulate(now, Batch(data, []), state)
    for name, value in whole.items():
        assert torch.allclose(value, parts[name], rtol=1e-12, atol=1e-11), name
        assert not bool(none[name].any()), name
        assert none[name].shape == value.shape


def test_batch_size_does_not_change_the_answer(estimator: EM) -> None:
    model = toy()
    data = particles(model, blob(model), 0.8)
    single, many = (
        reconstruct(data, model, estimator, seed=1, moves=0, batch_size=size, prior=Ridge(0.05)) for size in (7, 40)
    )
    assert torch.allclose(single.x, many.x, rtol=1e-9, atol=1e-10)


def _worker(rank: int, world: int, place: str, out: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=world)
    torch.save({name: shared_run(name) for name in SHARED}, f"{out}/{rank}.pt")
    torch.distributed.destroy_process_group()


SHARED = ("em", "minibatches")


def shared_run(name: str) -> dict[str, object]:
    model = toy(noise=NOISES["coloured"])
    data = particles(model, blob(model), 0.8)
    run = reconstruct(data, model, ESTIMATORS[name], prior=Ridge(0.05), seed=1, moves=0)
    return {"x": run.x, "objective": run.objective}


def test_two_processes_equal_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_worker, args=(2, str(tmp_path / "meet"), str(tmp_path)), nprocs=2)
    others = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name in SHARED:
        run = shared_run(name)
        for other in others:
            assert float((other[name]["x"] - run["x"]).norm() / run["x"].norm()) < 1e-10  # type: ignore[operator]
            assert other[name]["objective"] == pytest.approx(run["objective"], rel=1e-9)


# 5, 6 --------------------------------------------------------------------------------------------------------------


def test_same_seed_same_answer_and_inputs_unchanged(estimator: EM) -> None:
    model = toy()
    data = particles(model, blob(model), 0.8)
    before, start = data.images().clone(), blob(model, 4)
    kept = start.clone()
    quick = replace(estimator, iterations=2, frozen=1)
    first, second = (reconstruct(data, model, quick, seed=9, start=start) for _ in range(2))
    assert torch.equal(first.x, second.x)
    assert torch.equal(start, kept)
    assert torch.equal(before, data.images())
    other = reconstruct(data, model, quick, seed=10, moves=0)
    assert not torch.equal(other.x, reconstruct(data, model, quick, seed=11, moves=0).x)


def test_nan_ends_in_a_typed_failure(estimator: EM) -> None:
    model = toy()
    data = particles(model, blob(model), 0.8)
    data[3][3, 3] = torch.nan
    run = reconstruct(data, model, estimator, seed=0, moves=0, start=blob(model))
    assert run.result is Result.NOT_FINITE
    assert bool(torch.isfinite(run.x).all())


def test_state_and_stats_hold_tensors_only(estimator: EM) -> None:
    model = toy(noise=NOISES["white" if estimator.joint else "coloured"])
    data = particles(model, blob(model), 0.8)
    state = estimator.init(data, model, None, 0)
    now = estimator.current(model, state)
    stats = estimator.accumulate(now, Batch(data, range(len(data))), state)
    new = estimator.update(now, state, stats, Flat())
    for held in (state, stats, new):
        assert all(isinstance(value, torch.Tensor) for value in held.values())
    assert new.keys() == state.keys()


# 8, 10 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NOISES)
def test_scaled_data_scale_the_answer(estimator: EM, name: str) -> None:
    if estimator.joint and name != "white":
        pytest.skip("joint steps take white noise")
    model = toy(noise=NOISES[name])
    data = particles(model, blob(model), 0.8)
    triple = replace(data, source=InMemory(3 * data.images()))
    louder = {"white": White(2.4), "coloured": Coloured(tuple(9 * value for value in NOISES["coloured"].power))}  # type: ignore[union-attr]
    loud = replace(model, noise=louder[name])
    plain = reconstruct(data, model, estimator, prior=Ridge(0.05), seed=2, start=blob(model), moves=0)
    three = reconstruct(triple, loud, estimator, prior=Ridge(0.45), seed=2, start=3 * blob(model), moves=0)
    assert torch.allclose(three.x, 3 * plain.x, rtol=1e-6, atol=1e-7)
    assert three.model.noise.sigma == pytest.approx(3 * plain.model.noise.sigma, rel=1e-9)


def test_turned_start_and_views_turn_the_answer(estimator: EM) -> None:
    ball, model = Ball(BOX, 3), toy()
    turn = rotation.random_rotations(1, torch.Generator().manual_seed(5))[0]
    data = particles(model, blob(model), 0.8)
    plain = estimator.init(data, model, blob(model), 0) | {"turn": torch.eye(3, dtype=torch.float64)}
    turned = plain | {"x": ball.rotate(blob(model), turn.T), "turn": turn}
    answers = []
    for state in (plain, turned):
        now = estimator.current(model, state)
        stats = estimator.accumulate(now, Batch(data, range(40)), state)
        answers.append(estimator.update(now, state, stats, Ridge(0.05))["x"])
    assert torch.allclose(ball.rotate(answers[0], turn.T), answers[1], atol=1e-6)


def test_float32_agrees_with_float64(estimator: EM) -> None:
    model = toy()
    data = particles(model, blob(model), 0.8)
    double = reconstruct(data, model, estimator, seed=2, moves=0, prior=Ridge(0.05))
    single = reconstruct(data, model, replace(estimator, precision="float32"), seed=2, moves=0, prior=Ridge(0.05))
    assert float((double.x - single.x).norm() / double.x.norm()) < 1e-3
    assert single.objective == pytest.approx(double.objective, rel=1e-5)


# 11, 12: exactness -------------------------------------------------------------------------------------------------


def enumerate_images(model: Model, x: torch.Tensor, data: Particles) -> torch.Tensor:
    """Log-likelihoods ``(n,)`` by writing down every (image, view, shift) on the whole plane of frequencies."""
    placement: Centred = model.placement  # type: ignore[assignment]
    radius = placement.radius or (BOX - 1) // 2
    q = torch.fft.fftfreq(BOX, dtype=torch.float64) * BOX
    length = (q.square() + q[:, None].square()).sqrt()
    inside = (length <= radius) & (length > 0)
    s = q / (BOX * PIXEL)
    contrast = torch.ones(len(data), BOX, BOX, dtype=torch.float64)
    if data.optics is not None:
        contrast = data.optics.values(s[None].expand(BOX, BOX), s[:, None].expand(BOX, BOX))
    power = torch.full_like(length, model.noise.sigma**2)
    if isinstance(model.noise, Coloured):
        power = torch.tensor(model.noise.power, dtype=torch.float64)[
            length.round().long().clamp(max=len(model.noise.power) - 1)
        ]
    images = torch.fft.fft2(torch.fft.ifftshift(data.images(), dim=(-2, -1))) / BOX
    clean = model.view.operator(model.object, x).project(x)
    views = torch.fft.fft2(torch.fft.ifftshift(clean, dim=(-2, -1))) / BOX
    step, reach = PIXEL / placement.subpixel, placement.max_shift + 1e-9
    count = int(reach / step)
    places = [(step * i, step * j) for i in range(-count, count + 1) for j in range(-count, count + 1)]
    places = [place for place in places if math.hypot(*place) <= reach]
    assert len(places) in (1, 9, 21)
    spread = placement.spread or 1e9
    chances = torch.tensor([-(a * a + b * b) / (2 * spread**2) for a, b in places], dtype=torch.float64).log_softmax(0)
    rows = []
    for image, own in zip(images, contrast, strict=True):
        terms = []
        for (a, b), chance in zip(places, chances, strict=True):
            ramp = torch.exp(-2j * math.pi * (a * q + b * q[:, None]) / (BOX * PIXEL))
            rest = (image - own * ramp * views).abs().square() / power * inside
            terms.append(chance - math.log(len(views)) - 0.5 * rest.sum((-2, -1)))
        constant = 0.5 * ((2 * math.pi * power).log() * inside).sum()
        rows.append(torch.cat(terms).logsumexp(0) - constant)
    return torch.stack(rows)


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES.keys())
@pytest.mark.parametrize("name", PLACEMENTS)
def test_e_step_equals_brute_force_enumeration(name: str, noise: White | Coloured) -> None:
    """20 images x 50 views x 9 (1, 21) shifts, with contrast transfer, in float64."""
    model = toy(Ball(BOX, 3), PLACEMENTS[name], 50, noise)
    x = 0.3 * draw(1, model.object.size)
    data = particles(model, blob(model), 0.8, count=20)
    ours, brute = log_likelihood(data, model, x), enumerate_images(model, x, data)
    assert float((ours - brute).abs().max()) < 1e-10 * float(brute.abs().max())
    assert float(judge(Batch(data, [3, 4]), model, x)) == pytest.approx(float(brute[3:5].sum()), rel=1e-10)
    step = model.measured(data).placement.step(model.templates(x), model.log_weights, noise)
    for index, image in enumerate(data):
        step.add(image, 0, index)
    assert float(step.finish()["log_likelihood"]) == pytest.approx(float(brute.sum()), rel=1e-10)


@pytest.mark.parametrize("transfer", [False, True], ids=["plain", "transfer"])
@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES.keys())
@pytest.mark.parametrize("name", PLACEMENTS)
@pytest.mark.parametrize("object", OBJECTS.values(), ids=OBJECTS.keys())
def test_statistics_are_the_gradient_of_the_log_likelihood(
    object: object, name: str, noise: White | Coloured, transfer: bool
) -> None:
    """Fisher's identity: sum_r A_r^T (Q_r - D_r A_r x) / s2 = d log p / d x; the same for the noise."""
    model = toy(object, PLACEMENTS[name], 9, noise)
    x = blob(model, 3).requires_grad_(True)
    data = particles(model, blob(model), 0.8, count=12, transfer=transfer)
    (gradient,) = torch.autograd.grad(log_likelihood(data, model, x).sum(), x)
    state = PLAIN.init(data, model, x.detach(), 0)
    stats = PLAIN.accumulate(model, Batch(data, range(12)), state)
    operator = model.operator(state["x"])
    residual = stats["numerator"] - stats["weight"] * operator.project(state["x"])
    fisher = operator.backproject(residual / model.variance(state["x"]))
    assert float((fisher - gradient).abs().max()) < 1e-8 * float(gradient.abs().max())

    # the new noise lies uphill of the old one, and where it is put in, the expected residual is what it says
    templates = operator.project(state["x"])
    found = model.placement.noise(stats, templates, noise, mean=True, sigma=True)
    assert "mean" not in found

    def at(other: White | Coloured) -> float:
        return float(log_likelihood(data, replace(model, noise=other), state["x"]).sum())

    if isinstance(noise, White):
        points, step = 2 * 12 * templates.shape[-1], 1e-5
        slope = points * (float(found["variance"]) / 0.8**3 - 1 / 0.8)
        numeric = (at(White(0.8 + step)) - at(White(0.8 - step))) / (2 * step)
        assert slope == pytest.approx(numeric, rel=1e-5)
        return
    shells = model.placement.band(BOX).shells.clamp(max=3)  # type: ignore[attr-defined]
    for shell in range(1, int(shells.max()) + 1):
        old, step = noise.power[shell], 1e-5
        moved = [
            Coloured(tuple(value + sign * step * (k == shell) for k, value in enumerate(noise.power)))
            for sign in (1, -1)
        ]
        count = 12 * int((shells == shell).sum())
        slope = count * (float(found["power"][shell]) / old**2 - 1 / old)
        assert slope == pytest.approx((at(moved[0]) - at(moved[1])) / (2 * step), rel=1e-5, abs=1e-6)


def test_weights_are_what_they_count() -> None:
    model = toy()
    data = particles(model, blob(model), 0.8, transfer=False)
    state = PLAIN.init(data, model, blob(model), 0)
    stats = PLAIN.accumulate(model, Batch(data, range(40)), state)
    assert float(stats["views"].sum()) == pytest.approx(40, rel=1e-12)
    assert torch.allclose(stats["weight"][:, 0], stats["views"][:, None].expand(-1, stats["weight"].shape[-1]))
    assert float(stats["windows"]) == 40
    assert 40 <= float(stats["effective"]) <= 40 * 12 * 9


def test_quick_slices_agree_with_precise_ones() -> None:
    model = toy(Voxels(12), replace(PLACEMENTS["still"], radius=4), 200)
    quick = replace(model, placement=replace(model.placement, precise=False))  # type: ignore[type-var]
    x = blob(model)
    precise, fast = model.operator(x), quick.operator(x)
    seen = precise.project(x)
    assert float((fast.project(x) - seen).norm() / seen.norm()) < 1e-5
    images = model.view.operator(model.object, x).project(x)
    found = model.placement.band(12).coefficients(images) * math.sqrt(2)  # type: ignore[attr-defined]
    assert float((torch.stack([found.real, found.imag], 1) - seen).norm() / seen.norm()) < 1e-2
    weights = torch.rand(200, 1, seen.shape[-1], generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    back = precise.backproject(weights * seen)
    assert float((fast.backproject(weights * seen) - back).norm() / back.norm()) < 1e-5
    assert precise.normal is None
    assert fast.normal is not None
    assert float((fast.normal(weights)(x) - back).norm() / back.norm()) < 2e-3
    inner, outer = draw(5, *seen.shape), draw(6, len(x))
    left, right = (precise.project(outer) * inner).sum(), outer.dot(precise.backproject(inner))
    assert float(left) == pytest.approx(float(right), rel=1e-10)


# refusals ----------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused() -> None:
    model = toy()
    data = particles(model, blob(model), 0.8)
    with pytest.raises(ValueError, match="max_shift must not be negative"):
        Centred(-1.0)
    with pytest.raises(ValueError, match="radius must lie between"):
        model.placement.band(4).points, replace(model.placement, radius=7).band(BOX)  # type: ignore[attr-defined, type-var]
    with pytest.raises(ValueError, match="optics must have one entry per piece"):
        log_likelihood(data, replace(model, optics=optics(3)), blob(model))
    with pytest.raises(ValueError, match="box of the model's views"):
        log_likelihood(replace(data, source=InMemory(draw(1, 40, 10, 10))), model, blob(model))
    with pytest.raises(ValueError, match=r"noise must be White\(\)"):
        anywhere = replace(model, placement=Anywhere(0.1), noise=NOISES["coloured"])
        log_likelihood(replace(data, optics=None), anywhere, blob(model))
    with pytest.raises(ValueError, match="neither contrast transfer nor whitening"):
        log_likelihood(data, replace(model, placement=Anywhere(0.1)), blob(model))
    with pytest.raises(ValueError, match="joint steps"):
        joint = replace(PLAIN, acceleration=Anderson(), joint=True)
        reconstruct(data, replace(model, noise=NOISES["coloured"]), joint, moves=0)
    with pytest.raises(ValueError, match="power must hold"):
        Coloured((1.0, 0.0))
