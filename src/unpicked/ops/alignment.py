"""Turns and shifts of single images, fitted to the slices of a map: Levenberg-Marquardt on SO(3) x R^2.

Unknowns per image are w and tau: R is replaced by exp([w]x) R and t by t + tau. The slopes of the slices are exact
ones of the interpolated transform; J^T J is also the inverse covariance of the pose, twice, since the half disc stands
for the whole plane.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.ops import gridding
from unpicked.ops.band import Band
from unpicked.ops.evidence import compiled, share_out
from unpicked.ops.gridding import Cube
from unpicked.ops.orientations import Images
from unpicked.ops.rotation import exp_map

_UPPER = tuple((u, v) for u in range(5) for v in range(u, 5))


@dataclass(frozen=True, eq=False)
class Fitted:
    """Poses of some images and how well they fit.

    Attributes:
        rotations: ``(n, 3, 3)``.
        shifts: ``(n, 2)`` in pixels.
        misfit: ``(n,)`` sum over the half disc of |Y - C S|^2 / s2, float64.
        spread: ``(n,)`` standard deviation of the rotation that the noise implies, in degrees (trace of the
            covariance of w).
    """

    rotations: torch.Tensor
    shifts: torch.Tensor
    misfit: torch.Tensor
    spread: torch.Tensor


def align(
    images: Images,
    spectrum: Float[torch.Tensor, "z y x 2"],
    cube: Cube,
    band: Band,
    noise: Float[torch.Tensor, " p"],
    rotations: Float[torch.Tensor, "n 3 3"],
    shifts: Float[torch.Tensor, "n 2"],
    *,
    steps: int = 4,
    turn: float = 8.0,
    move: float = 1.0,
    shifted: bool = True,
    reach: float = math.inf,
) -> Fitted:
    """Improve poses; a step that does not lower an image's misfit is not taken.

    Args:
        images: coefficients in the band.
        spectrum: of the map, by :func:`unpicked.ops.gridding.spectrum`.
        cube: its geometry.
        band: of the coefficients.
        noise: power per coefficient.
        rotations: first guesses.
        shifts: first guesses, pixels.
        steps: proposals; 0 only judges.
        turn: largest turn of a step, degrees.
        move: largest shift of a step, pixels.
        shifted: whether shifts are fitted.
        reach: largest shift, pixels.
    """
    white = noise.rsqrt()
    data = images.coefficients * white
    transfer = white[None] if images.transfer is None else images.transfer * white
    turned, moved = rotations.clone(), shifts.clone()
    square, slope, misfit = _equations(data, transfer, spectrum, cube, band, turned, moved)
    damping = torch.full_like(misfit, 0.02)
    last = 5 if shifted else 3
    for step in range(steps):
        system = square[:, :last, :last]
        scale = torch.diagonal(system, dim1=1, dim2=2)
        added = damping[:, None] * scale + 1e-6 * scale.mean(1, keepdim=True) + 1e-30
        move_by = torch.linalg.solve(system + torch.diag_embed(added), slope[:, :last, None])[..., 0]
        w = _capped(move_by[:, :3], math.radians(turn) * 0.75**step)
        new_r = (exp_map(w) @ turned.double()).to(turned)
        new_t = moved
        if shifted:
            new_t = (moved.double() + _capped(move_by[:, 3:], move)).to(moved)
            new_t = new_t * (reach / new_t.norm(dim=1, keepdim=True).clamp(min=1e-9)).clamp(max=1)
        trial = _equations(data, transfer, spectrum, cube, band, new_r, new_t)
        better = trial[2] < misfit
        turned = torch.where(better[:, None, None], new_r, turned)
        moved = torch.where(better[:, None], new_t, moved)
        square = torch.where(better[:, None, None], trial[0], square)
        slope = torch.where(better[:, None], trial[1], slope)
        misfit = torch.where(better, trial[2], misfit)
        damping = torch.where(better, damping * 0.3, damping * 8)
    information = 2 * square[:, :3, :3]
    ridge = 1e-9 * torch.diagonal(information, dim1=1, dim2=2).mean(1)[:, None, None] + 1e-12
    covariance = torch.linalg.inv(information + ridge * torch.eye(3, dtype=square.dtype, device=square.device))
    spread = torch.diagonal(covariance, dim1=1, dim2=2).sum(1).clamp(min=0).sqrt().rad2deg()
    return Fitted(turned, moved, misfit, spread)


def _equations(
    data: torch.Tensor,
    transfer: torch.Tensor,
    spectrum: torch.Tensor,
    cube: Cube,
    band: Band,
    rotations: torch.Tensor,
    shifts: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """J^T J ``(n, 5, 5)``, J^T r ``(n, 5)`` and |r|^2 ``(n,)``, float64; shifts in pixels."""
    count, unit = len(data), -2 * math.pi / band.box
    out = torch.zeros(count, 21, dtype=torch.float64, device=data.device)
    if compiled(spectrum):
        from unpicked.ops import _gridding

        pairs, places = torch.view_as_real(data.contiguous()), (band.points.float() * cube.pad).contiguous()
        arrays = (
            spectrum.numpy(),
            rotations.float().contiguous().numpy(),
            (shifts.float() * unit / cube.pad).contiguous().numpy(),
            pairs.numpy(),
            transfer.contiguous().numpy(),
            out.numpy(),
        )

        def work(first: int, last: int) -> None:
            part = slice(first, last)
            own = arrays[4] if len(arrays[4]) == 1 else arrays[4][part]
            _gridding.fit(
                arrays[0],
                arrays[1][part],
                arrays[2][part],
                places.numpy(),
                *cube.tables,
                arrays[3][part],
                own,
                arrays[5][part],
            )

        share_out(work, count, spectrum)
        shift_unit = unit / cube.pad
    else:
        slices, slopes = gridding.read_with_slopes(cube, spectrum, rotations, band.points)
        seen = transfer * band.ramp(shifts)
        model = seen * slices
        q = band.points.to(model.real)
        phase = 1j * model[:, None] * q.T
        jacobian = torch.cat([seen[:, None] * slopes * (1.0), phase], 1)
        rest = data - model
        jj = (jacobian[:, :, None].conj() * jacobian[:, None]).real.sum(-1).double()
        out[:, :15] = torch.stack([jj[:, u, v] for u, v in _UPPER], 1)
        out[:, 15:20] = (jacobian.conj() * rest[:, None]).real.sum(-1).double()
        out[:, 20] = (rest.real.square() + rest.imag.square()).sum(-1).double()
        shift_unit = unit
    unit_of = torch.tensor([1.0, 1.0, 1.0, shift_unit, shift_unit], dtype=torch.float64, device=out.device)
    square = out.new_zeros(count, 5, 5)
    for place, (u, v) in enumerate(_UPPER):
        square[:, u, v] = square[:, v, u] = out[:, place]
    return square * unit_of[:, None] * unit_of, out[:, 15:20] * unit_of, out[:, 20]


def _capped(vectors: torch.Tensor, most: float) -> torch.Tensor:
    return vectors * (most / vectors.norm(dim=1, keepdim=True).clamp(min=1e-30)).clamp(max=1)
