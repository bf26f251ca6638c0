"""The map that slices of it, seen many times, imply: a linear system in the voxels, solved by conjugate gradients.

(B^T W B + Lambda) v = B^T b with B the slices on the whole plane, W the weights C^2 / s2, b = C Y / s2, and
Lambda = 1 / tau^2 per shell. B^T W B is a convolution, so that a step costs the same for any number of images.
"""

from __future__ import annotations

from dataclasses import dataclass

from unpicked._lazy import torch
from unpicked.ops import fourier, gridding, solve, window
from unpicked.ops.band import Band
from unpicked.ops.gridding import Cube


@dataclass(frozen=True, eq=False)
class Inserted:
    """Slices added up in Fourier cubes; additive over images.

    Attributes:
        numerator: ``(z, y, x, 2)`` of b.
        weight: ``(z, y, x)`` of W, in the cube of the lags.
        shells: ``(k,)`` sums of W over the shells of the whole plane, float64.
        radius: largest frequency that the cubes hold.
    """

    numerator: torch.Tensor
    weight: torch.Tensor
    shells: torch.Tensor
    radius: float


def cubes(box: int, radius: float) -> tuple[Cube, Cube]:
    """Geometry of numerator and weight."""
    return Cube(box, radius), Cube(box, radius, pad=3, span=2)


def inserted(
    band: Band, numerator: torch.Tensor, weight: torch.Tensor, rotations: torch.Tensor, radius: float | None = None
) -> Inserted:
    """Add slices ``(n, p)`` up: b complex and W real, one pair per rotation."""
    radius = radius or band.radius
    one, lags = cubes(band.box, radius)
    shells = torch.zeros(int(band.shells.max()) + 1, dtype=torch.float64, device=weight.device)
    shells.index_add_(0, band.shells.to(weight.device), 2 * weight.sum(0, dtype=torch.float64))
    return Inserted(
        gridding.insert(one, numerator, rotations, band.points),
        gridding.insert(lags, weight, rotations, band.points),
        shells,
        radius,
    )


def density(shells: torch.Tensor, box: int) -> torch.Tensor:
    """Weight per voxel of Fourier space, ``(k,)``, from the sums over shells."""
    counts = fourier.shell_sum(torch.ones((box,) * 3, device=shells.device))
    return shells / counts[: len(shells)].clamp(min=1)


def solved(
    sums: Inserted,
    band: Band,
    precision: torch.Tensor,
    start: torch.Tensor,
    mask: torch.Tensor,
    *,
    steps: int = 10,
    tolerance: float = 1e-3,
) -> torch.Tensor:
    """The map ``(N, N, N)``.

    Args:
        sums: of the slices.
        band: frequencies that the map may have; beyond them the map is zero.
        precision: ``(k,)`` 1 / tau^2 per shell 0 .. of the band, positive.
        start: first guess.
        mask: ``(N, N, N)`` by which the unknowns are multiplied.
        steps: of conjugate gradients.
        tolerance: relative residual at which they end.
    """
    box = band.box
    one, lags = cubes(box, sums.radius)
    kernel = gridding.normal_kernel(lags, sums.weight)
    right = gridding.backprojected(one, sums.numerator)
    reach = len(precision) - 1
    half = torch.meshgrid(
        *(fourier.frequencies(box, device=start.device),) * 2,
        torch.arange(box // 2 + 1, device=start.device),
        indexing="ij",
    )
    length = torch.stack([axis.double() for axis in half]).norm(dim=0)
    shell = length.round().long().clamp(max=reach)
    inside = length <= band.radius + 0.5
    prior = precision[shell].to(start.dtype)
    own = density(sums.shells, box)[shell].to(start.dtype)

    def filtered(volume: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        transform = torch.fft.rfftn(torch.fft.ifftshift(volume))
        return torch.fft.fftshift(torch.fft.irfftn(transform * factor * inside, s=(box,) * 3))

    def apply(flat: torch.Tensor) -> torch.Tensor:
        u = flat.view(box, box, box)
        return (mask * gridding.apply_normal(kernel, mask * u) + box * filtered(u, prior)).flatten()

    def precondition(flat: torch.Tensor) -> torch.Tensor:
        return (filtered(flat.view(box, box, box), 1 / (own + prior)) / box).flatten()

    first = filtered(start * mask, torch.ones_like(prior)).flatten()
    found = solve.conjugate_gradients(
        apply, (mask * right).flatten(), first, tolerance=tolerance, steps=steps, precondition=precondition
    )
    return mask * found.view(box, box, box)


def filtered(volume: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """The volume with every shell 0 .. k times its factor ``(k + 1,)``, and nothing beyond."""
    index = fourier.shells(volume.shape, device=volume.device)
    padded = torch.nn.functional.pad(factors.to(volume), (0, 1))
    return fourier.ifft3(fourier.fft3(volume) * padded[index.clamp(max=len(factors))])


def shell_power(volume: torch.Tensor, reach: int) -> torch.Tensor:
    """Mean |F_V|^2 over the shells 0 .. reach, float64."""
    spectrum = fourier.fft3(volume)
    power = fourier.shell_sum(spectrum.real.square() + spectrum.imag.square())
    counts = fourier.shell_sum(torch.ones_like(volume))
    means = power / counts
    return torch.nn.functional.pad(means, (0, max(0, reach + 1 - len(means))))[: reach + 1]


def soft_mask(box: int, radius: float | None, like: torch.Tensor) -> torch.Tensor:
    """A ball that falls off over two voxels about its radius, or up to the faces of the box where none is given."""
    inner = (box / 2 - 1 if radius is None else radius) - 1
    return window.soft_ball((box,) * 3, max(inner, 1.0), 2.0, device=like.device).to(like.dtype)
