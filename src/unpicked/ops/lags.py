"""Moments of images at all lags: what remains where images are not turned at will in their plane.

A product of three pixels does not know their order, so each is summed once, at p and the later pixels p + a and
p + b, a <= b in the order of reading; kept are those of which no two lie farther apart than the radius. Particles
farther apart than that never meet in a product (Lan, Boumal & Singer, Acta Cryst. A 78, 294, 2022).
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float, Int

from unpicked._lazy import torch
from unpicked.ops import special

TILE = 64  # pixels along the square of base points that is one draw for the error bars


class Lags(NamedTuple):
    """Lags of one radius.

    Attributes:
        radius: largest distance in pixels.
        values: ``(n, 2)`` lags (y, x) from 0 on in the order of reading, 0 first.
        first: ``(t,)`` index of a for every product of three pixels.
        second: ``(t,)`` index of b.
        between: ``(t,)`` index of b - a.
    """

    radius: int
    values: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    between: torch.Tensor

    @property
    def size(self) -> int:
        """Number of moments: the mean, those of two pixels, those of three."""
        return 1 + len(self.values) + len(self.first)

    def around(self, second: Float[torch.Tensor, "*b n"]) -> Float[torch.Tensor, "*b t"]:
        """Second moments of the three pairs of every product of three, summed."""
        return second[..., self.first] + second[..., self.second] + second[..., self.between]

    def split(self, moments: Float[torch.Tensor, "*b s"]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean ``(...,)``, second ``(..., n)`` and third moments ``(..., t)``."""
        count = 1 + len(self.values)
        return moments[..., 0], moments[..., 1:count], moments[..., count:]


@special.constants(8)
def lags(radius: int) -> Lags:
    """All lags up to a radius.

    Raises:
        ValueError: for radius < 1.
    """
    if radius < 1:
        raise ValueError(f"radius must be at least 1 pixel; got {radius}")
    line = torch.arange(-radius, radius + 1)
    y, x = torch.meshgrid(line, line, indexing="ij")
    kept = (y.square() + x.square() <= radius**2) & ((y > 0) | ((y == 0) & (x >= 0)))
    values = torch.stack([y[kept], x[kept]], 1)  # in the order of reading
    first, second = torch.triu_indices(len(values), len(values))
    apart = values[second] - values[first]
    near = apart.square().sum(1) <= radius**2
    place = torch.full((radius + 1, 2 * radius + 1), -1)
    place[values[:, 0], values[:, 1] + radius] = torch.arange(len(values))
    apart = apart[near]
    return Lags(radius, values, first[near], second[near], place[apart[:, 0], apart[:, 1] + radius])


def lag_sums(
    image: Float[torch.Tensor, "h w"], of: Lags
) -> tuple[Float[torch.Tensor, " s"], Float[torch.Tensor, " s"], int]:
    """Sums over the pixels whose lags all lie inside: count, mean, second and third moments; and of their squares.

    Args:
        image: float32 or float64; products have its precision.
        of: lags.

    Returns:
        ``(1 + s,)`` float64 sums, the sums over square tiles of the squares of each tile's sums, and how many tiles.
    """
    radius = of.radius
    height, width = image.shape[0] - radius, image.shape[1] - 2 * radius
    sums = torch.zeros(1 + of.size, dtype=torch.float64, device=image.device)
    squares, tiles = torch.zeros_like(sums), 0
    held = image.new_empty(0)
    for top in range(0, max(0, height) if width > 0 else 0, TILE):
        rows = min(TILE, height - top)
        for left in range(0, width, TILE):
            columns = min(TILE, width - left)
            if held.numel() < len(of.values) * rows * columns:
                held = image.new_empty(len(of.values) * rows * columns)
            shifted = held[: len(of.values) * rows * columns].view(len(of.values), rows, columns)
            for number, (y, x) in enumerate(of.values.tolist()):
                shifted[number] = image[top + y : top + y + rows, left + radius + x : left + radius + x + columns]
            row = _sums(shifted.flatten(1), of)
            row = torch.cat([row.new_full((1,), rows * columns), row])
            sums, squares, tiles = sums + row, squares + row.square(), tiles + 1
    return sums, squares, tiles


def template_moments(templates: Float[torch.Tensor, "k h w"], of: Lags) -> Float[torch.Tensor, " s"]:
    """Sums over all pixels of the moments of templates on nothing, their mean over the templates; differentiable."""
    return _sums(_shifted(templates, of), of) / len(templates)


def template_slope(
    templates: Float[torch.Tensor, "k h w"], ways: Float[torch.Tensor, "n k h w"], of: Lags
) -> Float[torch.Tensor, "n s"]:
    """Derivatives of :func:`template_moments` along ``ways``."""
    here, rows = _shifted(templates, of), []
    products = here * here[:1]
    for way in ways:
        there = _shifted(way, of)
        second = here @ there[0] + there @ here[0]
        third = products @ there.mT
        third = third + third.mT + (here * there[:1]) @ here.mT
        rows.append(torch.cat([there[:1].sum(1), second, third[of.first, of.second]]))
    return torch.stack(rows) / len(templates)


def noise_variance(of: Lags, variance: float) -> Float[torch.Tensor, " s"]:
    """Variance of the moments of white noise about its mean times the number of base points.

    A product of three pixels of which two are one has twice that of three different ones, of a single one six times.
    """
    second = torch.ones(len(of.values), dtype=torch.float64)
    second[0] = 2
    alike = (of.first == 0).long() + (of.between == 0).long()
    third = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)[alike]
    return torch.cat([second.new_tensor([variance]), second * variance**2, third * variance**3])


def central(moments: Float[torch.Tensor, " s"], of: Lags) -> Float[torch.Tensor, " s"]:
    """Moments about the mean, the cumulants, of moments about zero; the mean stays. Gaussian noise adds no third."""
    mean, second, third = of.split(moments)
    third = third - mean * of.around(second) + 2 * mean**3
    return torch.cat([mean[None], second - mean.square(), third])


def central_slope(
    moments: Float[torch.Tensor, " s"], slopes: Float[torch.Tensor, "n s"], of: Lags
) -> Float[torch.Tensor, "n s"]:
    """Derivatives of :func:`central`, of moments whose derivatives are ``slopes``."""
    mean, second, _ = of.split(moments)
    first, by_second, by_third = of.split(slopes)
    first = first[:, None]
    by_third = by_third - first * of.around(second) - mean * of.around(by_second) + 6 * mean.square() * first
    return torch.cat([first, by_second - 2 * mean * first, by_third], 1)


def _shifted(templates: torch.Tensor, of: Lags) -> torch.Tensor:
    """Pixels of all templates at all lags, ``(n, k h w)``; nothing beyond them."""
    count, height, width = templates.shape
    radius = of.radius
    padded = torch.nn.functional.pad(templates, (radius, radius, 0, radius)).flatten(1)
    shifted = padded[:, _places(height, width, radius)].view(count, len(of.values), height * width)
    return shifted.movedim(0, 1).flatten(1)


def _sums(shifted: torch.Tensor, of: Lags) -> torch.Tensor:
    """Moments of pixels and those at their lags, ``(n, pixels)``, summed; in the images' precision, then float64."""
    base = shifted[:1]
    products = (shifted * base) @ shifted.mT
    return torch.cat([base.sum(1), shifted @ base[0], products[of.first, of.second]]).double()


@special.constants(8)
def _places(height: int, width: int, radius: int) -> Int[torch.Tensor, " p"]:
    """Where in padded templates the pixels at all lags are."""
    values, wide = lags(radius).values, width + 2 * radius
    base = torch.arange(height)[:, None] * wide + torch.arange(width) + radius
    return (base.flatten() + (values[:, :1] * wide + values[:, 1:])).flatten()
