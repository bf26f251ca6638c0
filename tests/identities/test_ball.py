"""The Ball object: expansion, exact rotation, exact projection and its adjoint."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from unpicked._lazy import torch
from unpicked.objects.ball import Ball
from unpicked.objects.ball_basis import largest_reach, radial_counts
from unpicked.objects.base import Projector
from unpicked.ops import rotation, special

BALLS = [(4, 2), (6, 3), (7, 3), (10, 10), (11, 10), (12, 7)]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turns(count: int, seed: int = 1) -> torch.Tensor:
    return rotation.random_rotations(count, torch.Generator().manual_seed(seed))


def grid(side: int, depth: int | None = None) -> torch.Tensor:
    """Voxel positions (depth, side, side, 3), xyz, from the centre."""
    z = torch.arange(depth or side, dtype=torch.float64) - (depth or side) // 2
    line = torch.arange(side, dtype=torch.float64) - side // 2
    zz, yy, xx = torch.meshgrid(z, line, line, indexing="ij")
    return torch.stack([xx, yy, zz], -1)


def test_radial_counts() -> None:
    assert radial_counts(11, 10) == (4, 4, 4, 3, 3, 2, 2, 2, 1, 1, 1)
    assert Ball(11).size == 219 and Ball(11, lmax=10).shape == (11, 11, 11)
    index = Ball(11).index
    assert index.shape == (219, 3) and index[4].tolist() == [1, 1, -1] and index[7].tolist() == [1, 2, -1]


def test_reach_adds_radial_functions() -> None:
    assert Ball(11, 10, 5) == Ball(11, 10, 5.0) and Ball(11, 10, 5).size == Ball(11).size == 219
    assert radial_counts(11, 10, 5.0) == radial_counts(11, 10)
    assert radial_counts(11, 10, 6.5) == (6, 6, 5, 5, 4, 4, 3, 3, 3, 2, 2)
    assert Ball(11, 10, 6.5).size == 379 and Ball(11, 10, 6.5).index.shape == (379, 3)
    assert Ball(11, 7, 4).size < Ball(11, 7).size


@pytest.mark.parametrize(
    ("box", "lmax", "reach", "largest"),
    [
        (11, 10, 0.5, "8.25"),
        (11, 10, 8.3, "8.25"),
        (11, 10, math.nan, "8.25"),
        (4, 2, 3.5, "3"),
        (20, 10, 13.1, "13"),
    ],
)
def test_a_reach_that_the_voxels_do_not_determine_is_refused(box: int, lmax: int, reach: float, largest: str) -> None:
    with pytest.raises(ValueError, match=f"reach must lie between 1 and {largest} voxels, .* box of {box}") as caught:
        Ball(box, lmax, reach)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("box", [4, 5, 6, 7, 8, 11])
def test_the_largest_reach_is_still_determined_by_the_voxels(box: int) -> None:
    best = max(degree for degree, count in enumerate(radial_counts(box, 10, largest_reach(box))) if count)
    ball = Ball(box, best, largest_reach(box))
    values = torch.linalg.svdvals(ball.values(torch.eye(ball.size, dtype=torch.float64)).flatten(1))
    assert float(values[0] / values[-1]) < 1e4  # measured at most 8,400, at box 6


@pytest.mark.parametrize("reach", [6, 6.5, 7])
@pytest.mark.parametrize(("box", "lmax"), [(10, 8), (11, 10)])
def test_fit_inverts_values_at_a_larger_reach(box: int, lmax: int, reach: float) -> None:
    ball = Ball(box, lmax, reach)
    x, r = draw(ball.size), turns(3)
    assert torch.allclose(ball.fit(ball.values(x)), x, atol=1e-9, rtol=0)
    images = draw(3, box, box, seed=4)
    left, right = (ball.project(x, r) * images).sum(), (x * ball.backproject(images, r)).sum()
    assert abs(float(left - right)) < 1e-12 * float(x.norm() * images.norm())
    points = 3 * draw(40, 3, seed=5)
    assert torch.allclose(ball.evaluate(ball.rotate(x, r[0]), points), ball.evaluate(x, points @ r[0]), atol=1e-12)


def test_larger_reach_holds_more_of_a_sharp_edge() -> None:
    """A solid ball off the centre, its edge a third of a voxel wide."""
    radius = (grid(11) - torch.tensor([1.8, -1.0, 1.2], dtype=torch.float64)).norm(dim=-1)
    body = torch.sigmoid((2.0 - radius) / 0.15)
    missing = []
    for reach in (None, 5.5, 6.0, 6.5):
        ball = Ball(11, 10, reach)
        missing.append(float((ball.values(ball.fit(body)) - body).norm() / body.norm()))
    assert missing == sorted(missing, reverse=True)
    assert missing[-1] < 0.88 * missing[0], missing  # measured 0.163 and 0.191


def test_constants_may_first_be_made_inside_a_transform() -> None:
    """In a process of its own, so that nothing has been kept before."""
    code = """
import torch
from unpicked.objects.ball import Ball
from unpicked.priors import Shells
ball = Ball(6, 3)
x = torch.arange(1.0, ball.size + 1, dtype=torch.float64)
def energy(y): return Shells((1.0,)).energy(y, ball)
first = torch.func.grad(energy)(x)
again = torch.func.vmap(torch.func.grad(energy))(x[None])[0]
turned = torch.func.grad(lambda y: ball.project(y, torch.eye(3, dtype=torch.float64)[None]).square().sum())(x)
with torch.inference_mode():
    Ball(7, 3).values(torch.ones(Ball(7, 3).size))
y = torch.ones(Ball(7, 3).size, requires_grad=True)
Ball(7, 3).values(y).sum().backward()
assert torch.equal(first, again) and bool(torch.isfinite(turned).all()) and y.grad is not None
y = x.clone().requires_grad_()
energy(y).backward()
assert torch.allclose(y.grad, first)
print("done")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.stdout == "done\n", run.stderr


@pytest.mark.parametrize(("box", "best"), [(4, 2), (5, 2), (8, 7), (10, 10)])
def test_too_high_a_degree(box: int, best: int) -> None:
    Ball(box, best)
    with pytest.raises(ValueError, match=f"at most {best}; got {best + 1}") as caught:
        Ball(box, best + 1)
    assert "\n" not in str(caught.value)


def test_construction_errors() -> None:
    with pytest.raises(ValueError, match="box"):
        Ball(3, 1)
    with pytest.raises(ValueError, match="lmax"):
        Ball(8, -1)


@pytest.mark.parametrize(("box", "lmax"), BALLS)
def test_fit_inverts_values(box: int, lmax: int) -> None:
    ball = Ball(box, lmax)
    x = draw(2, 3, ball.size)
    values = ball.values(x)
    assert values.shape == (2, 3, box, box, box)
    assert torch.allclose(ball.fit(values), x, atol=1e-8, rtol=0)
    single = ball.fit(ball.values(x.float()))
    assert single.dtype == torch.float32 and torch.allclose(single.double(), x, atol=1e-4)
    norms = ball.values(torch.eye(ball.size, dtype=torch.float64)).flatten(1).norm(dim=1)
    assert (norms < 1).all() and (norms > (0.85 if box % 2 == 0 else 0.98)).all()


@pytest.mark.parametrize(("box", "lmax"), [(6, 3), (7, 3), (11, 10)])
def test_values_are_zyx(box: int, lmax: int) -> None:
    ball = Ball(box, lmax)
    x = draw(ball.size)
    points = grid(box)
    spots = [(1, 2, 3), (box // 2,) * 3, (0, box - 1, 2)]
    expected = ball.evaluate(x, torch.stack([points[s] for s in spots]))
    assert torch.allclose(torch.stack([ball.values(x)[s] for s in spots]), expected, atol=1e-12)
    assert float(ball.values(x[None] * (ball.index[:, 0] > 0))[0][(box // 2,) * 3].abs()) < 1e-14


def test_orthonormal_in_space() -> None:
    # on all integer points the Gram matrix is exactly 1; what a finite grid leaves out falls like 1 / side^3
    ball = Ball(6, 3)
    basis = ball.evaluate(torch.eye(ball.size, dtype=torch.float64), grid(61).reshape(-1, 3))
    gram = basis @ basis.mT
    assert float((gram - torch.eye(ball.size)).abs().max()) < 1e-4
    assert (gram.diagonal() < 1 + 1e-12).all()


def test_closed_form_is_continuous_where_u_equals_v() -> None:
    ball = Ball(11)
    index = ball.index
    for degree, number in ((0, 2), (3, 1), (10, 1)):
        which = int(((index[:, 0] == degree) & (index[:, 1] == number)).nonzero()[0])
        x = torch.zeros(ball.size, dtype=torch.float64)
        x[which] = 1
        radius = float(special.spherical_bessel_zeros(degree, number)[-1]) / math.pi
        steps = torch.tensor([-1e-2, -1e-3, -1e-6, 0, 1e-6, 1e-3, 1e-2], dtype=torch.float64)
        direction = torch.tensor([0.48, -0.6, 0.64], dtype=torch.float64)
        values = ball.evaluate(x, (radius + steps)[:, None] * direction)
        smooth = torch.linalg.lstsq(steps[:, None] ** torch.arange(4), values[:, None])
        fitted = (steps[:, None] ** torch.arange(4)) @ smooth.solution
        assert torch.allclose(fitted[:, 0], values, atol=1e-9)


@pytest.mark.parametrize(("box", "lmax"), BALLS)
def test_rotation_is_exact(box: int, lmax: int) -> None:
    ball = Ball(box, lmax)
    x, points = draw(ball.size), 3 * draw(40, 3, seed=5)
    rotations = torch.cat([turns(4), torch.diag(torch.tensor([1.0, -1, -1]).double())[None]])
    for r in rotations:
        turned = ball.rotate(x, r)
        assert torch.allclose(ball.evaluate(turned, points), ball.evaluate(x, points @ r), atol=1e-12)  # R^T p
        assert torch.allclose(turned.norm(), x.norm())
        assert torch.allclose(ball.rotate(turned, r.mT), x, atol=1e-12)
    assert torch.allclose(ball.rotate(x, rotations)[2], ball.rotate(x, rotations[2]), atol=1e-13)


@pytest.mark.parametrize(("box", "lmax"), [(4, 2), (6, 3), (7, 3)])
def test_projection_is_the_sum_along_z(box: int, lmax: int) -> None:
    ball = Ball(box, lmax)
    x = draw(ball.size)
    rotations = torch.cat([torch.eye(3, dtype=torch.float64)[None], turns(2)])
    images = ball.project(x, rotations)
    depth = 301
    for r, image in zip(rotations, images, strict=True):
        points = grid(box, depth).reshape(-1, 3)
        summed = ball.evaluate(x, points @ r).reshape(depth, box, box).sum(0)
        assert torch.allclose(image, summed, atol=1e-6)  # the rest of the sum beyond |z| = 150
    inside = ball.values(x).sum(0)
    assert float((images[0] - inside).norm() / images[0].norm()) < (0.05 if box % 2 else 0.25)


@pytest.mark.parametrize(("box", "lmax"), BALLS)
def test_projection_is_the_central_slice(box: int, lmax: int) -> None:
    # only k_z = 0 counts, so odd l + m vanish and an in-plane turn of the image is a turn of R
    ball = Ball(box, lmax)
    index = ball.index
    eye = torch.eye(3, dtype=torch.float64)[None]
    odd = (index[:, 0] + index[:, 2]) % 2 == 1
    assert float(ball.project(draw(ball.size) * odd, eye).abs().max()) < 1e-14
    x, r = draw(ball.size), turns(3)
    flip = torch.diag(torch.tensor([-1.0, -1, 1], dtype=torch.float64))
    first, turned = ball.project(x, r), ball.project(x, flip @ r)
    kept = slice(1 - box % 2, None)
    assert torch.allclose(turned[:, kept, kept], first[:, kept, kept].rot90(2, (-2, -1)), atol=1e-12)
    assert torch.allclose(ball.project(ball.rotate(x, r[0]), eye)[0], first[0], atol=1e-12)


@pytest.mark.parametrize(("box", "lmax"), BALLS)
def test_backproject_is_the_adjoint(box: int, lmax: int) -> None:
    ball = Ball(box, lmax)
    x, images, rotations = draw(2, ball.size), draw(2, 5, box, box, seed=3), turns(5)
    left = (ball.project(x, rotations) * images).sum()
    right = (x * ball.backproject(images, rotations)).sum()
    assert abs(float(left - right)) < 1e-12 * float(x.norm() * images.norm())
    looped = torch.stack([ball.project(one, rotations) for one in x])
    assert torch.allclose(ball.project(x, rotations), looped, atol=1e-12)
    single = ball.project(x.float(), rotations.float())
    assert single.dtype == torch.float32 and torch.allclose(single.double(), looped, atol=1e-4)
    assert ball.backproject(images.float(), rotations).dtype == torch.float32


TILTS = [[0.0, 0.0, 0.0], [33.0, 0.0, 71.0], [20.0, 180.0, 5.0], [0.0, 180.0, 0.0], [10.0, 90.0, -200.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("box", "lmax"), BALLS)
def test_the_projector_equals_project_and_backproject(box: int, lmax: int, dtype: torch.dtype) -> None:
    """Any view, the poles of the Euler angles among them; leading axes; rotations of either precision."""
    ball, tolerance = Ball(box, lmax), 1e-12 if dtype == torch.float64 else 1e-5
    rotations = torch.cat([turns(4), rotation.euler_to_matrix(torch.tensor(TILTS, dtype=torch.float64))]).to(dtype)
    x, images = draw(2, 3, ball.size).to(dtype), draw(2, 3, len(rotations), box, box, seed=3).to(dtype)
    operator = ball.projector(rotations)
    seen, back = operator.project(x), operator.backproject(images)
    assert seen.dtype == back.dtype == dtype
    for ours, expected in (
        (seen, ball.project(x.double(), rotations.double())),
        (back, ball.backproject(images.double(), rotations.double())),
    ):
        assert ours.shape == expected.shape
        assert float((ours.double() - expected).abs().max()) < tolerance * float(expected.abs().max())
    left, right = (seen * images).sum(), (x * back).sum()
    assert abs(float(left - right)) < 10 * tolerance * float(x.norm() * images.norm())
    alone = operator.project(x[0, 1])
    assert alone.shape == (len(rotations), box, box) and torch.allclose(alone, seen[0, 1], atol=10 * tolerance)


@pytest.mark.parametrize("angles", TILTS[::2])
def test_the_projector_is_differentiable(angles: list[float]) -> None:
    ball = Ball(5, 2)
    base = rotation.euler_to_matrix(torch.tensor([angles], dtype=torch.float64))
    w = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    x, images = draw(2, ball.size).requires_grad_(), draw(1, 5, 5).requires_grad_()
    options = {"eps": 1e-6, "atol": 1e-7}

    def at(vector: torch.Tensor) -> Projector:
        return ball.projector(rotation.exp_map(vector) @ base)

    assert torch.autograd.gradcheck(lambda x, w: at(w).project(x), (x, w), **options)
    assert torch.autograd.gradcheck(lambda y, w: at(w).backproject(y), (images, w), **options)
    fixed = ball.projector(base)
    assert torch.autograd.gradcheck(fixed.project, (x,), **options)
    assert torch.autograd.gradcheck(fixed.backproject, (images,), **options)
    slope = torch.func.grad(lambda y: fixed.project(y).square().sum())(x.detach())
    assert torch.allclose(slope, 2 * fixed.backproject(fixed.project(x.detach())), atol=1e-12)
    turned = torch.func.grad(lambda v: at(v).project(x.detach()).square().sum())(w.detach())
    (expected,) = torch.autograd.grad(at(w).project(x.detach()).square().sum(), w)
    assert torch.allclose(turned, expected, atol=1e-12)


@pytest.mark.parametrize("angles", [[0.0, 0.0, 0.0], [20.0, 180.0, 5.0], [20.0, 70.0, 5.0]])
def test_gradients(angles: list[float]) -> None:
    ball = Ball(5, 2)
    base = rotation.euler_to_matrix(torch.tensor([angles], dtype=torch.float64))
    w = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    x, images = draw(2, ball.size).requires_grad_(), draw(1, 5, 5).requires_grad_()
    options = {"eps": 1e-6, "atol": 1e-7}

    def at(vector: torch.Tensor) -> torch.Tensor:
        return rotation.exp_map(vector) @ base

    assert torch.autograd.gradcheck(lambda x, w: ball.project(x, at(w)), (x, w), **options)
    assert torch.autograd.gradcheck(lambda y, w: ball.backproject(y, at(w)), (images, w), **options)
    assert torch.autograd.gradcheck(lambda x, w: ball.rotate(x, at(w)), (x, w), **options)
    assert torch.autograd.gradcheck(lambda x: ball.fit(ball.values(x)), (x,), **options)


def gaussian_errors(box: int, lmax: int, sigma: float, centre: list[float]) -> tuple[float, float]:
    """Mean relative errors, over 8 rotations, of projections with R and with R^T against the closed form."""
    ball, mu, rotations = Ball(box, lmax), torch.tensor(centre, dtype=torch.float64), turns(8)
    volume = torch.exp(-(grid(box) - mu).square().sum(-1) / (2 * sigma**2))
    plane = grid(box, 1)[0, ..., :2]
    seen = (rotations @ mu)[:, None, None, :2]
    expected = math.sqrt(2 * math.pi) * sigma * torch.exp(-(plane - seen).square().sum(-1) / (2 * sigma**2))
    x = ball.fit(volume)

    def error(images: torch.Tensor) -> float:
        return float(((images - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)).mean())

    return error(ball.project(x, rotations)), error(ball.project(x, rotations.mT.contiguous()))


@pytest.mark.parametrize(("box", "lmax", "limit"), [(10, 10, 0.02), (11, 10, 0.02), (16, 12, 4e-4), (17, 12, 4e-4)])
def test_off_centre_gaussian(box: int, lmax: int, limit: float) -> None:
    # truncation of a Gaussian of this width: measured 0.016, 0.017, 3e-4 and 3e-4; with R^T 0.63
    right, wrong = gaussian_errors(box, lmax, 1.3, [1.2, -0.7, 0.6])
    assert right < limit and wrong > 0.5, (right, wrong)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("x", lambda b: b.values(torch.zeros(5))),
        ("values", lambda b: b.fit(torch.zeros(6, 6, 5))),
        ("x", lambda b: b.project(torch.zeros(5), torch.eye(3)[None])),
        ("rotations", lambda b: b.project(torch.zeros(b.size), torch.eye(3))),
        ("images", lambda b: b.backproject(torch.zeros(2, 6, 6), torch.eye(3)[None])),
        ("x", lambda b: b.projector(torch.eye(3)[None]).project(torch.zeros(5))),
        ("rotations", lambda b: b.projector(torch.eye(3))),
        ("images", lambda b: b.projector(torch.eye(3)[None]).backproject(torch.zeros(2, 6, 6))),
        ("rotations", lambda b: b.rotate(torch.zeros(b.size), torch.zeros(3))),
        ("points", lambda b: b.evaluate(torch.zeros(b.size), torch.zeros(3))),
    ],
)
def test_shape_errors(name: str, call: object) -> None:
    with pytest.raises(ValueError, match=f"^{name} must have") as caught:
        call(Ball(6, 3))  # type: ignore[operator]
    assert "got" in str(caught.value) and "\n" not in str(caught.value)
