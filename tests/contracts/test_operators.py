"""The contract of every linear operator of `ops/`: adding an operator means adding one row to ROWS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from unpicked.ops import correlate, fourier, project, rotation, shift, window

Tensor = torch.Tensor


@dataclass(frozen=True)
class Row:
    """One linear operator, its adjoint in closed form, and calls that must be refused.

    `apply` maps `(*shape)` and, if `batched`, `(..., *shape)`; its parameters follow the dtype and device of x.
    A refusal is a call, the argument that it gets wrong, and how the message must show what was got.
    """

    name: str
    shape: tuple[int, ...]
    apply: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor] | None = None
    refused: tuple[tuple[Callable[[], object], str, str], ...] = ()
    complex: bool = False
    batched: bool = True


def noise(*shape: int, seed: int = 0, complex: bool = False, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    out = torch.randn(*shape, generator=generator, dtype=torch.float64)
    if complex:
        out = torch.complex(out, torch.randn(*shape, generator=generator, dtype=torch.float64))
        return out.to(torch.complex64 if dtype == torch.float32 else torch.complex128)
    return out.to(dtype)


def along(x: Tensor, *values: float) -> Tensor:
    """A constant in the real dtype and on the device of x."""
    return torch.tensor(values, dtype=x.real.dtype, device=x.device)


def plan(x: Tensor, box: int, pad: int = 2) -> project.SlicePlan:
    turns = rotation.random_rotations(2, torch.Generator().manual_seed(5))
    return project.plan_slices(turns.to(x), box, pad)


def convolution(x: Tensor, kernels: Tensor) -> Tensor:
    """Valid part of the 2-D convolutions, `(..., s, s)` and `(k, l, l)` to `(..., k, s - l + 1, s - l + 1)`."""
    flat = x.reshape(-1, 1, *x.shape[-2:])
    out = torch.nn.functional.conv2d(flat, backwards(kernels)[:, None])
    return out.reshape(*x.shape[:-2], *out.shape[-3:])


def backwards(x: Tensor) -> Tensor:
    """Both image axes backwards, without regard to a centre."""
    rows, columns = (torch.arange(n - 1, -1, -1) for n in x.shape[-2:])
    return x[..., rows[:, None], columns]


TEMPLATES = noise(3, 4, 4, seed=8)
WINDOWS = noise(2, 6, 6, seed=9)


def scores(windows: Tensor) -> Tensor:
    stack = windows.reshape(-1, *windows.shape[-2:])
    out = correlate.correlate(stack, TEMPLATES.to(windows))
    return out.reshape(*windows.shape[:-2], *out.shape[1:])


def scores_adjoint(y: Tensor) -> Tensor:
    """A window collects, per offset, the score times the template at that offset: the valid convolution."""
    return sum(convolution(y[..., k, :, :], TEMPLATES[k : k + 1]) for k in range(3))[..., 0, :, :]


def scores_by_template(templates: Tensor) -> Tensor:
    stack = templates.reshape(-1, *templates.shape[-2:])
    out = correlate.correlate(WINDOWS.to(templates), stack).movedim(1, 0)
    return out.reshape(*templates.shape[:-2], *out.shape[1:])


def scores_by_template_adjoint(y: Tensor) -> Tensor:
    """A template pixel collects, per offset, the score times the window pixel that it meets there."""
    pieces = [convolution(backwards(y[..., n, :, :]), WINDOWS[n : n + 1]) for n in range(2)]
    return sum(pieces)[..., 0, :, :]


def untile(y: Tensor) -> Tensor:
    out = y.new_zeros(9, 11)
    corners = [(row, column) for row in (0, 2, 4) for column in (0, 2, 4, 6)]
    for piece, (row, column) in zip(y, corners, strict=True):
        out[row : row + 4, column : column + 4] += piece
    return out


def zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.float64)


def resize_images(old: tuple[int, int], new: tuple[int, int]) -> Row:
    return Row(
        f"resize_image {old} to {new}",
        old,
        lambda x: fourier.resize_image(x, new),
        lambda y: fourier.resize_image(y, old),  # coefficients stay what they are, orthonormally
        (
            (lambda: fourier.resize_image(zeros(*old), (0, 4)), "size", "(0, 4)"),
            (lambda: fourier.resize_image(zeros(*old), (4, -1)), "size", "(4, -1)"),
        ),
    )


def resize_volumes(old: int, new: int) -> Row:
    return Row(
        f"resize_volume {old} to {new}",
        (old, old, old),
        lambda x: fourier.resize_volume(x, new),
        lambda y: fourier.resize_volume(y, old) * (old / new),  # fft3 is sqrt(N) times the orthonormal one
        (
            (lambda: fourier.resize_volume(zeros(4, 4, 5), 4), "volume", "(4, 4, 5)"),
            (lambda: fourier.resize_volume(zeros(4, 4), 4), "volume", "(4, 4)"),
            (lambda: fourier.resize_volume(zeros(4, 4, 4), 0), "size", "0"),
        ),
    )


def mirrors(shape: tuple[int, ...], dims: tuple[int, ...]) -> Row:
    return Row(
        f"mirror {shape} along {dims}",
        shape,
        lambda x: fourier.mirror(x, dims),
        lambda y: fourier.mirror(y, dims),
    )


def crops(old: tuple[int, ...], new: tuple[int, ...]) -> Row:
    return Row(
        f"crop_or_pad {old} to {new}",
        old,
        lambda x: window.crop_or_pad(x, new),
        lambda y: window.crop_or_pad(y, old),
        (
            (lambda: window.crop_or_pad(zeros(3), (4, 4)), "size", "(4, 4)"),
            (lambda: window.crop_or_pad(zeros(*old), (0,)), "size", "(0,)"),
        ),
    )


def image_shifts(shape: tuple[int, int]) -> Row:
    return Row(
        f"shift_image {shape}",
        shape,
        lambda x: shift.shift_image(x, along(x, 0.7, -1.3)),
        lambda y: shift.shift_image(y, along(y, -0.7, 1.3)),
        (
            (lambda: shift.shift_image(zeros(4, 4), zeros(3)), "shifts", "(3,)"),
            (lambda: shift.shift_image(zeros(4, 4), zeros(2, 1)), "shifts", "(2, 1)"),
        ),
    )


def volume_shifts(shape: tuple[int, int, int]) -> Row:
    return Row(
        f"shift_volume {shape}",
        shape,
        lambda x: shift.shift_volume(x, along(x, 0.7, -1.3, 0.4)),
        lambda y: shift.shift_volume(y, along(y, -0.7, 1.3, -0.4)),
        ((lambda: shift.shift_volume(zeros(4, 4, 4), zeros(2)), "shifts", "(2,)"),),
    )


def projections(box: int, pad: int) -> Row:
    wrong = f"({box + 1}, {box}, {box})"
    return Row(
        f"project box {box} pad {pad}",
        (box, box, box),
        lambda x: project.project(x, plan(x, box, pad)),
        lambda y: project.backproject(y, plan(y, box, pad)),
        (
            (lambda: project.project(zeros(box + 1, box, box), plan(zeros(1), box)), "volume", wrong),
            (lambda: project.backproject(zeros(3, box, box), plan(zeros(1), box)), "images", f"(3, {box}, {box})"),
            (lambda: project.plan_slices(zeros(3, 3), box), "rotations", "(3, 3)"),
            (lambda: project.plan_slices(zeros(2, 3, 2), box), "rotations", "(2, 3, 2)"),
            (lambda: project.plan_slices(zeros(2, 3, 3), 3), "box", "3"),
            (lambda: project.plan_slices(zeros(2, 3, 3), box, 0), "pad", "0"),
        ),
    )


def backprojections(box: int) -> Row:
    return Row(
        f"backproject box {box}",
        (2, box, box),
        lambda y: project.backproject(y, plan(y, box)),
        lambda x: project.project(x, plan(x, box)),
    )


ROWS = [
    *(Row(f"fft2 {s}", s, fourier.fft2, fourier.ifft2) for s in ((6, 5), (4, 8))),
    *(Row(f"ifft2 {s}", s, fourier.ifft2, fourier.fft2, complex=True) for s in ((6, 5), (5, 4))),
    Row(
        "centred_fft2",
        (6, 5),
        fourier.centred_fft2,
        lambda y: fourier.ifft2(torch.fft.ifftshift(y, dim=(-2, -1))),
    ),
    *(Row(f"fft3 {n}", (n, n, n), fourier.fft3, lambda y, n=n: n * fourier.ifft3(y)) for n in (4, 5)),
    *(Row(f"ifft3 {n}", (n, n, n), fourier.ifft3, lambda y, n=n: fourier.fft3(y) / n, complex=True) for n in (4, 5)),
    resize_images((8, 8), (6, 6)),
    resize_images((9, 8), (5, 6)),
    resize_images((6, 6), (9, 9)),
    resize_images((6, 7), (10, 8)),
    resize_images((8, 6), (5, 9)),
    resize_volumes(6, 4),
    resize_volumes(6, 5),
    resize_volumes(4, 6),
    resize_volumes(5, 6),
    *(
        Row(
            f"drop_nyquist {s} along {d}",
            s,
            lambda x, d=d: fourier.drop_nyquist(x, d),
            lambda y, d=d: fourier.drop_nyquist(y, d),
            complex=True,
        )
        for s, d in (((6, 5), (-2, -1)), ((4, 6), (-1,)), ((4, 3, 6), (-3, -2, -1)))
    ),
    mirrors((6, 5), (-2, -1)),
    mirrors((4, 6), (-1,)),
    mirrors((4, 3, 4), (-3,)),
    crops((7, 6), (4, 5)),
    crops((4, 5), (7, 6)),
    crops((6, 3), (3, 8)),
    crops((4, 4, 4), (8, 8, 8)),
    crops((5, 5, 5), (4, 4, 4)),
    Row(
        "tile",
        (9, 11),
        lambda x: window.tile(x, 4, 2),
        untile,
        (
            (lambda: window.tile(zeros(5, 9), 6, 2), "window", "(5, 9)"),
            (lambda: window.tile(zeros(5, 9), 4, 0), "stride", "0"),
            (lambda: window.tile(zeros(5, 9), 0, 1), "side", "0"),
            (lambda: window.tile(zeros(2, 5, 9), 4, 1), "image", "(2, 5, 9)"),
        ),
        batched=False,
    ),
    image_shifts((6, 5)),
    image_shifts((7, 8)),
    volume_shifts((4, 5, 6)),
    projections(4, 2),
    projections(5, 2),
    projections(5, 1),
    projections(4, 3),
    backprojections(4),
    backprojections(5),
    Row(
        "correlate, of windows",
        (6, 6),
        scores,
        scores_adjoint,
        (
            (lambda: correlate.correlate(zeros(6, 6), TEMPLATES), "windows", "(6, 6)"),
            (lambda: correlate.correlate(zeros(2, 6, 5), TEMPLATES), "windows", "(2, 6, 5)"),
        ),
    ),
    Row(
        "correlate, of templates",
        (4, 4),
        scores_by_template,
        scores_by_template_adjoint,
        (
            (lambda: correlate.correlate(WINDOWS, zeros(3, 4, 3)), "templates", "(3, 4, 3)"),
            (lambda: correlate.correlate(WINDOWS, zeros(1, 1, 4, 4)), "templates", "(1, 1, 4, 4)"),
        ),
    ),
]

every = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def draw(row: Row, *batch: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return noise(*batch, *row.shape, seed=seed, complex=row.complex, dtype=dtype)


def dot(a: Tensor, b: Tensor) -> float:
    """Real inner product, Re sum conj(a) b."""
    return float((a.conj() * b).sum().real)


def test_names_are_unique() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)


@every
def test_vjp_is_the_adjoint(row: Row) -> None:
    x, other = draw(row).requires_grad_(), draw(row, seed=1)
    y = row.apply(x)
    z = noise(*y.shape, seed=2, complex=y.is_complex())
    (back,) = torch.autograd.grad(y, x, z)
    forth = row.apply(other)
    assert back.shape == other.shape
    assert dot(forth, z) == pytest.approx(dot(other, back), rel=1e-10, abs=1e-10)
    assert float(back.abs().max()) > 0


@every
def test_adjoint_in_closed_form(row: Row) -> None:
    if row.adjoint is None:
        pytest.skip("no closed form is given")
    x = draw(row).requires_grad_()
    y = row.apply(x)
    z = noise(*y.shape, seed=2, complex=y.is_complex())
    (back,) = torch.autograd.grad(y, x, z)
    found = row.adjoint(z)
    assert found.dtype == back.dtype
    assert torch.allclose(found, back, rtol=1e-10, atol=1e-10)


@every
def test_linear(row: Row) -> None:
    a, b = draw(row), draw(row, seed=1)
    both = row.apply(2.5 * a - 0.75 * b)
    apart = 2.5 * row.apply(a) - 0.75 * row.apply(b)
    assert torch.allclose(both, apart, rtol=0, atol=1e-10)
    assert float(both.abs().max()) > 0.01
    assert float(row.apply(torch.zeros_like(a)).abs().max()) == 0


@every
def test_gradcheck(row: Row) -> None:
    assert torch.autograd.gradcheck(row.apply, (draw(row).requires_grad_(),), fast_mode=True)


@every
def test_batched_equals_looped(row: Row) -> None:
    if not row.batched:
        pytest.skip("takes one item")
    x = draw(row, 2, 3)
    looped = torch.stack([torch.stack([row.apply(item) for item in part]) for part in x])
    batched = row.apply(x)
    assert batched.shape == looped.shape
    assert torch.allclose(batched, looped, rtol=0, atol=1e-11)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_dtype_is_kept(row: Row, dtype: torch.dtype) -> None:
    x = draw(row, dtype=dtype)
    y = row.apply(x)
    assert y.real.dtype == dtype
    exact = row.apply(x.to(torch.complex128 if row.complex else torch.float64))
    scale = float(exact.abs().max())
    assert float((y - exact).abs().max()) < (2e-5 if dtype == torch.float32 else 1e-12) * scale


@every
@pytest.mark.parametrize("device", ["meta", "cuda"] if torch.cuda.is_available() else ["meta"])
def test_device_is_kept(row: Row, device: str) -> None:
    """The meta device computes shapes only: an operator that makes a tensor elsewhere fails on it."""
    x = draw(row)
    there, here = row.apply(x.to(device)), row.apply(x)
    assert there.device.type == device
    assert there.shape == here.shape
    if device != "meta":
        assert torch.allclose(there.cpu(), here, rtol=0, atol=1e-9)


@every
def test_input_is_not_changed(row: Row) -> None:
    x = draw(row)
    kept = x.clone()
    y = row.apply(x)
    assert torch.equal(x, kept)
    if row.adjoint is not None:
        z = noise(*y.shape, seed=2, complex=y.is_complex())
        copy = z.clone()
        row.adjoint(z)
        assert torch.equal(z, copy)


@pytest.mark.parametrize(
    ("call", "argument", "got"),
    [pytest.param(*refusal, id=f"{row.name}-{i}") for row in ROWS for i, refusal in enumerate(row.refused)],
)
def test_bad_shapes_are_refused_in_one_line(call: Callable[[], object], argument: str, got: str) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert argument in message and got in message
    assert " must " in message or "does not fit" in message
