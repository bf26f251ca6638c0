"""What remains of products of three spherical harmonics when all three are turned by every rotation."""

from __future__ import annotations

from collections.abc import Iterator

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.ops import special


def degrees(lmax: int) -> Iterator[tuple[int, int, int]]:
    """Triples of degrees up to lmax with an even sum, each at most the sum of the other two, in every order."""
    for first in range(lmax + 1):
        for second in range(lmax + 1):
            for third in range(abs(first - second), min(first + second, lmax) + 1, 2):
                yield first, second, third


@special.constants(512)
def invariant(first: int, second: int, third: int) -> Float[torch.Tensor, "a b c"]:
    """The invariant W of three degrees with an even sum, ``(2 l1 + 1, 2 l2 + 1, 2 l3 + 1)`` float64, of norm 1.

    The mean over all rotations of D_l1(R) x D_l2(R) x D_l3(R) is the projection W W^T. W is Wigner's 3j symbol in
    real harmonics, up to a sign; where the sum is even it is in proportion to the integral of the product of three
    harmonics over the sphere, which a quadrature gives exactly. For odd sums that integral vanishes.

    Raises:
        ValueError: if no such invariant exists.
    """
    total = first + second + third
    if total % 2 or not abs(first - second) <= third <= first + second:
        raise ValueError(f"degrees need an even sum and sides of a triangle; got {first}, {second}, {third}")
    points, weights = special.sphere_rule(total)
    harmonics = special.spherical_harmonics(max(first, second, third), points)
    a, b, c = (harmonics[..., n * n : (n + 1) ** 2] for n in (first, second, third))
    whole = torch.einsum("pa,pb,pc,p->abc", a, b, c, weights)
    return whole / whole.norm()
