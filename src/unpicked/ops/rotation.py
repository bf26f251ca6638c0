"""Rotations in three dimensions: conversions, grids, random draws, distances.

R is active, object to view: a point p (x, y, z) of the object is seen at R p (`docs/conventions.md`, section 4).
Angles are degrees at this surface.
"""

from __future__ import annotations

import math

from jaxtyping import Float

from unpicked._lazy import torch


def euler_to_matrix(angles: Float[torch.Tensor, "*b 3"]) -> Float[torch.Tensor, "*b 3 3"]:
    """RELION's (rot, tilt, psi) in degrees to R = Rz(-psi) Ry(-tilt) Rz(-rot) (conventions, section 5).

    Args:
        angles: ``(..., 3)`` rot, tilt, psi in degrees; use float64 to keep 1e-12 degrees.
    """
    a, b, g = torch.deg2rad(angles).unbind(-1)
    ca, sa, cb, sb, cg, sg = a.cos(), a.sin(), b.cos(), b.sin(), g.cos(), g.sin()
    rows = [
        torch.stack([cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb], -1),
        torch.stack([-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb], -1),
        torch.stack([sb * ca, sb * sa, cb], -1),
    ]
    return torch.stack(rows, -2)


def matrix_to_euler(rotations: Float[torch.Tensor, "*b 3 3"]) -> Float[torch.Tensor, "*b 3"]:
    """R to RELION's (rot, tilt, psi) in degrees, accurate at every tilt; rot = 0 where tilt is 0 or 180 degrees.

    Near tilt 0 only rot + psi is well determined, near 180 only psi - rot: psi is what remains of that one.
    """
    r = rotations
    sine = torch.hypot(r[..., 2, 0], r[..., 2, 1])
    tilt = torch.atan2(sine, r[..., 2, 2])
    rot = torch.atan2(r[..., 2, 1], r[..., 2, 0])
    rot = torch.where(sine > 4 * torch.finfo(r.dtype).eps, rot, torch.zeros_like(rot))  # else a pole, to rounding
    total = torch.atan2(r[..., 0, 1] - r[..., 1, 0], r[..., 0, 0] + r[..., 1, 1])
    difference = torch.atan2(r[..., 0, 1] + r[..., 1, 0], r[..., 1, 1] - r[..., 0, 0])
    psi = torch.where(r[..., 2, 2] >= 0, total - rot, difference + rot)
    psi = psi - 2 * math.pi * (psi / (2 * math.pi)).round()
    return torch.rad2deg(torch.stack([rot, tilt, psi], -1))


def quaternion_to_matrix(quaternion: Float[torch.Tensor, "*b 4"]) -> Float[torch.Tensor, "*b 3 3"]:
    """Quaternion (w, x, y, z), normalised here, to R."""
    w, x, y, z = (quaternion / quaternion.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)


def matrix_to_quaternion(rotations: Float[torch.Tensor, "*b 3 3"]) -> Float[torch.Tensor, "*b 4"]:
    """R to the unit quaternion (w, x, y, z) with w >= 0 (Shepperd 1978: the largest component is taken first)."""
    r = rotations
    trace = r[..., 0, 0] + r[..., 1, 1] + r[..., 2, 2]
    # rows of 4 q q^T, exact for every rotation; the row of the largest diagonal entry is safe to normalise
    diagonal = torch.stack([trace, r[..., 0, 0], r[..., 1, 1], r[..., 2, 2]], -1)
    first = torch.stack(
        [1 + trace, r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]], -1
    )
    outer = r + r.mT
    eye = torch.eye(3, dtype=r.dtype, device=r.device)
    lower = outer + (1 - trace)[..., None, None] * eye
    rows = torch.cat([first[..., None, :], torch.cat([first[..., 1:, None], lower], -1)], -2)
    best = diagonal.argmax(-1)
    q = torch.take_along_dim(rows, best[..., None, None].expand(*best.shape, 1, 4), dim=-2).squeeze(-2)
    q = q / q.norm(dim=-1, keepdim=True)
    return torch.where(q[..., :1] < 0, -q, q)


def s2s2_to_matrix(vectors: Float[torch.Tensor, "*b 6"]) -> Float[torch.Tensor, "*b 3 3"]:
    """Two 3-vectors to R by Gram-Schmidt; e1, e2, e1 x e2 are the rows (Zhou et al. 2019; Nashed et al. 2021)."""
    a, b = vectors[..., :3], vectors[..., 3:]
    e1 = a / (a.norm(dim=-1, keepdim=True) + 1e-8)
    b = b - (e1 * b).sum(-1, keepdim=True) * e1
    e2 = b / (b.norm(dim=-1, keepdim=True) + 1e-8)
    return torch.stack([e1, e2, torch.linalg.cross(e1, e2)], -2)


def unit_cube_to_matrix(numbers: Float[torch.Tensor, "*b 3"]) -> Float[torch.Tensor, "*b 3 3"]:
    """Three numbers through a sigmoid to R, uniform on SO(3) where the sigmoids are uniform (Shoemake 1992).

    With u, v, w in (0, 1) the quaternion is (sqrt(1 - u) sin a, sqrt(1 - u) cos a, sqrt(u) sin b, sqrt(u) cos b), a = 2
    pi v and b = 2 pi w; u stays 1e-9 away from 0 and 1 (in float32 1e-7), so that gradients are finite.
    """
    u, v, w = torch.sigmoid(numbers).unbind(-1)
    least = 1e-9 if numbers.dtype == torch.float64 else 1e-7
    u, a, b = u.clamp(least, 1 - least), 2 * math.pi * v, 2 * math.pi * w
    one, two = (1 - u).sqrt(), u.sqrt()
    return quaternion_to_matrix(torch.stack([one * a.sin(), one * a.cos(), two * b.sin(), two * b.cos()], -1))


def exp_map(vectors: Float[torch.Tensor, "*b 3"]) -> Float[torch.Tensor, "*b 3 3"]:
    """Rotation vector w (radians) to exp([w]x) by Rodrigues' formula; its gradient at 0 is finite."""
    square = vectors.square().sum(-1)[..., None, None]
    small = square < 1e-8
    safe = torch.where(small, torch.ones_like(square), square)
    angle = safe.sqrt()
    first = torch.where(small, 1 - square / 6, angle.sin() / angle)
    second = torch.where(small, 0.5 - square / 24, 2 * (angle / 2).sin().square() / safe)
    x, y, z = vectors.unbind(-1)
    o = torch.zeros_like(x)
    cross = torch.stack([torch.stack([o, -z, y], -1), torch.stack([z, o, -x], -1), torch.stack([-y, x, o], -1)], -2)
    eye = torch.eye(3, dtype=vectors.dtype, device=vectors.device)
    return eye + first * cross + second * (cross @ cross)


def log_map(rotations: Float[torch.Tensor, "*b 3 3"]) -> Float[torch.Tensor, "*b 3"]:
    """R to the rotation vector w (radians) with exp([w]x) = R and |w| <= pi, accurate at 0 and at pi.

    At |w| = pi both w and -w are right; one of them is given.
    """
    w, vector = matrix_to_quaternion(rotations).split((1, 3), dim=-1)
    sine = vector.norm(dim=-1, keepdim=True)
    small = sine < 1e-12
    safe = torch.where(small, torch.ones_like(sine), sine)
    return vector * torch.where(small, torch.full_like(sine, 2.0), 2 * torch.atan2(sine, w) / safe)


def geodesic_distance(
    first: Float[torch.Tensor, "*b 3 3"], second: Float[torch.Tensor, "*c 3 3"]
) -> Float[torch.Tensor, "*d"]:
    """Angle in degrees between rotations, accurate at 0 and at 180 degrees."""
    turn = first.mT @ second
    skew = torch.stack([turn[..., i, j] - turn[..., j, i] for i, j in ((2, 1), (0, 2), (1, 0))], -1)
    trace = turn.diagonal(dim1=-2, dim2=-1).sum(-1)
    return torch.rad2deg(torch.atan2(skew.norm(dim=-1), trace - 1))


def random_rotations(
    count: int, generator: torch.Generator, *, dtype: torch.dtype | None = None
) -> Float[torch.Tensor, "n 3 3"]:
    """Rotations drawn uniformly (normalised 4-D Gaussian quaternions), float64 unless a dtype is given."""
    quaternions = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    return quaternion_to_matrix(quaternions).to(dtype or torch.float64)


def super_fibonacci(count: int) -> Float[torch.Tensor, "n 3 3"]:
    """A nearly uniform, deterministic set of rotations of any size (Alexa 2022, super-Fibonacci spirals), float64.

    Raises:
        ValueError: if count < 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1; got {count}")
    phi, psi = math.sqrt(2), 1.533751168755204288118041413  # psi: the real root of x^4 = x + 4
    s = torch.arange(count, dtype=torch.float64) + 0.5
    alpha, beta = 2 * math.pi * s / phi, 2 * math.pi * s / psi
    inner, outer = (s / count).sqrt(), (1 - s / count).sqrt()
    quaternions = torch.stack([inner * alpha.sin(), inner * alpha.cos(), outer * beta.sin(), outer * beta.cos()], -1)
    return quaternion_to_matrix(quaternions)


def direction_grid(angle: int | float) -> Float[torch.Tensor, "n 3 3"]:
    """One rotation for each of about 4 pi / angle^2 directions of view, neighbours about ``angle`` degrees apart.

    Directions lie on a Fibonacci spiral over the whole sphere: the view from the other side is a mirror image. None is
    turned in its plane (psi = 0).

    Args:
        angle: angular step in degrees, 1 to 90; 15 gives 183 directions.

    Returns:
        ``(n, 3, 3)`` active, object to view, float64; the third row is the direction.

    Raises:
        ValueError: for an angle outside this range.
    """
    if not 1 <= angle <= 90:
        raise ValueError(f"angle must lie between 1 and 90 degrees; got {angle}")
    count = max(1, round(4 * math.pi / math.radians(angle) ** 2))
    index = torch.arange(count, dtype=torch.float64)
    tilt = torch.rad2deg(torch.arccos(1 - (2 * index + 1) / count))
    rot = torch.remainder(index * 180 * (3 - math.sqrt(5)) + 180, 360) - 180
    return euler_to_matrix(torch.stack([rot, tilt, torch.zeros_like(rot)], -1))


def so3_grid(angle: int | float) -> Float[torch.Tensor, "n 3 3"]:
    """Super-Fibonacci grid of about 8 pi^2 / angle^3 rotations: neighbours about ``angle`` degrees apart.

    Args:
        angle: angular step in degrees, 1 to 180; 15 gives 4,400 rotations, 30 gives 550, 53 gives 100.

    Raises:
        ValueError: for an angle outside this range.
    """
    if not 1 <= angle <= 180:
        raise ValueError(f"angle must lie between 1 and 180 degrees; got {angle}")
    return super_fibonacci(max(1, round(8 * math.pi**2 / math.radians(angle) ** 3)))
