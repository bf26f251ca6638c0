"""The background of a micrograph, and its noise, found robustly."""

from __future__ import annotations

from unpicked._lazy import torch

GAUSSIAN_MAD = 1.4826  # s.d. of a normal distribution over its median absolute deviation
CELL = 4  # the background is fitted to means of CELL x CELL pixels
TUKEY = 4.685  # of the biweight: 95 % efficient on normal noise


def fit_background(image: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Coefficients (6) of 1, x, y, x^2, x y, y^2 on [-1, 1]^2, by iteratively reweighted least squares.

    Args:
        image: ``(h, w)``, zero where it is hidden.
        mask: ``(h, w)`` booleans, which pixels count; None: all do.
    """
    cell = CELL if min(image.shape) >= 8 * CELL else 1
    means = torch.nn.functional.avg_pool2d(image[None, None].double(), cell)[0, 0]
    basis = torch.stack(_basis(image.shape[0], image.shape[1], cell), -1).reshape(-1, 6)
    values = means.reshape(-1)
    if mask is not None:  # cells that are seen whole, if there are enough of them
        shown = torch.nn.functional.avg_pool2d(mask[None, None].double(), cell)[0, 0].reshape(-1)
        whole = shown >= min(1 - 1e-9, float(shown.topk(min(60, len(shown))).values[-1]))
        values, basis = values[whole] / shown[whole].clamp(min=1e-9), basis[whole]
    weights = torch.ones_like(values)
    coefficients = basis.new_zeros(6)
    for _ in range(30):
        weighted = basis * weights[:, None]
        normal = basis.T @ weighted
        new = torch.linalg.lstsq(normal, weighted.T @ values, driver="gelsd").solution
        residual = values - basis @ new
        sd = robust_sd(residual)
        moved = float((new - coefficients).abs().max())
        coefficients = new
        if not sd > 0 or moved < 1e-4 * sd:
            break
        weights = (1 - (residual / (TUKEY * sd)).square()).clamp(min=0).square()
    return coefficients


def _basis(height: int, width: int, cell: int) -> tuple[torch.Tensor, ...]:
    """The six monomials at the centres of cells, coordinates from -1 to 1 over the whole image."""
    y, x = (
        ((torch.arange(n // cell, dtype=torch.float64) + 0.5) * cell - 0.5 - (n - 1) / 2) / max((n - 1) / 2, 1)
        for n in (height, width)
    )
    y, x = y[:, None].expand(-1, len(x)), x[None, :].expand(len(y), -1)
    return torch.ones_like(x), x, y, x * x, x * y, y * y


def polynomial(coefficients: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Its values at all pixels, ``(height, width)`` float32."""
    c: list[float] = coefficients.tolist()
    y, x = ((torch.arange(n, dtype=torch.float64) - (n - 1) / 2) / max((n - 1) / 2, 1) for n in (height, width))
    rows, columns = c[0] + c[2] * y + c[5] * y * y, c[1] * x + c[3] * x * x
    return (rows[:, None] + columns[None, :] + c[4] * y[:, None] * x[None, :]).float()


def robust_sd(values: torch.Tensor) -> float:
    """1.4826 median |v - median v|; the s.d. where more than half of the values are equal."""
    flat = values.reshape(-1)
    sd = GAUSSIAN_MAD * float((flat - flat.median()).abs().median())
    return sd if sd > 0 else float(flat.double().std(correction=0))
