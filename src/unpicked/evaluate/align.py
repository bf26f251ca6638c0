"""Rotation, shift and hand that lay one map on another.

A coarse search over all rotations and shifts in a low band, then Gauss-Newton refinement of the best
candidates in growing bands, always for both hands. V'(p) = V(R^T (p - t)),
after an optional mirror in z about the centre.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Complex, Float

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.evaluate.resample import (
    Sampler,
    Sinc,
    Spline,
    centred,
    chunks,
    match_grid,
    sphere,
    transform,
    voxel_grid,
)
from unpicked.ops import fourier, rotation, window

COARSE_ROTATIONS = 4608  # about 15 degrees apart
COARSE_BAND = 5  # shells of the coarse search: at 15 degrees a wider band decorrelates between neighbours
STARTS = 10  # kept per hand and per ranking (plain, whitened)
EXACT_BOX = 24  # up to here the refinement evaluates the sinc series exactly, above by splines on a x2 grid
LARGEST_BOX = 64  # band of the last refinement

Hand = Literal["same", "mirrored"]


@dataclass(frozen=True)
class Alignment:
    """The transform that lays the estimate on the truth: mirror (if mirrored), rotate, shift.

    Attributes:
        rotation: ``(3, 3)`` active R, float64.
        shift: ``(3,)`` t = (x, y, z) in angstrom, applied after the rotation.
        hand: "same", or "mirrored" where the estimate is first mirrored in z about the centre.
        hand_margin: score of this hand minus score of the other.
        hand_z: ``hand_margin`` in standard deviations, as the estimate's error per shell predicts them.
        score: cosine of the estimate and the truth moved onto it, after removal of the mean in a soft
            spherical mask of the box's diameter, in at most 64 voxels an edge.
        scores: best score of the hands (same, mirrored).
    """

    rotation: torch.Tensor
    shift: torch.Tensor
    hand: Hand
    hand_margin: float
    hand_z: float
    score: float
    scores: tuple[float, float]

    @property
    def hand_decidable(self) -> bool:
        """Whether the margin exceeds 0.001 and 3 standard deviations."""
        return self.hand_margin > 1e-3 and self.hand_z > 3


def align(estimate: Map, truth: Map, *, mirrored: bool = True) -> Alignment:
    """Find the mirror, rotation and shift to apply to the estimate so that it lies on the truth.

    Coarse: shells 1-5, 4,608 rotations, shifts by FFT, ranked by the plain and by the shell-whitened cosine.
    Fine: Gauss-Newton over (w, t) at <= 17, <= 24 and <= 64 voxels an edge. Both hands always; the scores of
    both are returned. The estimate is first brought to the truth's grid (:func:`match_grid`).

    Args:
        estimate: the map to move.
        truth: the map to land on; its box and voxel size are used.
        mirrored: whether the mirrored estimate may be the better one; otherwise its hand is kept.

    Returns:
        See :class:`Alignment`; apply it with :func:`apply`.

    Raises:
        ValueError: if a map is not finite, is constant or has fewer than 4 voxels an edge, or the grids
            cannot be matched.
        TypeError: if a map is complex.
    """
    estimate = match_grid(estimate, truth)
    # the truth is moved onto the estimate, whose error then stays put and favours no pose; inverted below
    fixed, moving = centred(estimate.values), centred(truth.values)
    box = truth.box
    poses = []
    for target in (fixed, fourier.mirror(fixed, (0,))):
        pose = _search(moving, target)
        pose = Stage.at(moving, target, box if box <= 17 else 16, unwrap=True).refine(pose, iterations=6)
        pose = Stage.at(moving, target, min(box, EXACT_BOX)).refine(pose.best(4), iterations=12)
        poses.append(Stage.at(moving, target, min(box, LARGEST_BOX)).refine(pose.best(1), iterations=25))
    scores = [float(pose.scores[0]) for pose in poses]
    best = 0 if scores[0] >= scores[1] or not mirrored else 1
    turn, move = poses[best].rotations[0].T, poses[best].shifts[0] * box * truth.voxel_size
    return Alignment(
        rotation=turn.contiguous(),
        shift=-turn @ move,
        hand="mirrored" if best else "same",
        hand_margin=scores[best] - scores[1 - best],
        hand_z=_hand_z(moving, fixed, poses, best),
        score=scores[best],
        scores=(scores[0], scores[1]),
    )


def apply(alignment: Alignment, estimate: Map, truth: Map) -> Map:
    """The estimate on the truth's grid, mirrored, rotated and shifted by an :class:`Alignment`.

    Raises:
        ValueError: as :func:`match_grid`.
    """
    moved = match_grid(estimate, truth)
    shift = alignment.shift / truth.voxel_size
    values = transform(moved.values, alignment.rotation, shift, alignment.hand == "mirrored")
    return Map(values, truth.voxel_size, truth.origin)


def masked_cosine(
    first: Float[torch.Tensor, "*b n"],
    second: Float[torch.Tensor, "*b n"],
    weights: Float[torch.Tensor, " n"],
) -> Float[torch.Tensor, "*b"]:
    """Cosine of flattened maps after removal of the weighted mean; 0 where one of them is constant."""
    one, two = _demean(first, weights), _demean(second, weights)
    norm = ((weights * one.square()).sum(-1) * (weights * two.square()).sum(-1)).sqrt()
    return (weights * one * two).sum(-1) / norm.clamp_min(1e-300)


# ---------------------------------------------------------------------------------------- the coarse search


@dataclass(frozen=True)
class Candidates:
    """Candidates: rotations (c, 3, 3), shifts (c, 3) xyz as fractions of the box, scores (c,)."""

    rotations: torch.Tensor
    shifts: torch.Tensor
    scores: torch.Tensor

    def best(self, count: int) -> Candidates:
        """The ``count`` best; a candidate within 3 degrees of a better one is its duplicate and left out."""
        order = [int(i) for i in self.scores.argsort(descending=True, stable=True)]
        index = torch.tensor(spread(self.rotations, order, count, 3.0))
        return Candidates(self.rotations[index], self.shifts[index], self.scores[index])


def scan(moving: torch.Tensor, fixed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Low-band cosine of ``fixed`` and the turned ``moving``, at the best (circular) shift, over all rotations.

    Returns:
        Rotations ``(4608, 3, 3)``; scores ``(2, 4608)`` plain and whitened by shell; shifts ``(2, 4608, 3)`` x, y, z
        as fractions of the box.
    """
    size = min(len(fixed), 2 * COARSE_BAND + 2)
    side = 16  # the grid of shifts
    q, weight, index = _half_ball(min(COARSE_BAND, (size - 1) // 2), side)
    target = _at_integers(fourier.fft3(fourier.resize_volume(fixed, size)), q)
    spectrum = _padded_spectrum(fourier.resize_volume(moving, size), 4)
    whitening = 1 / _shell_rms(_at_integers(fourier.fft3(fourier.resize_volume(moving, size)), q), q, weight)
    rotations = rotation.super_fibonacci(COARSE_ROTATIONS)
    scores: list[list[torch.Tensor]] = [[], []]
    peaks: list[list[torch.Tensor]] = [[], []]
    for turns in chunks(rotations, 256):
        sampled = _sample(spectrum, 4 * (q.float() @ turns.float()))
        for which, gain in enumerate((torch.ones_like(whitening), whitening)):
            score, peak = _best_shift(sampled * gain, target * gain, weight, index, side)
            scores[which].append(score)
            peaks[which].append(peak)
    return rotations, torch.stack([torch.cat(s) for s in scores]), torch.stack([torch.cat(p) for p in peaks]) / side


def _search(moving: torch.Tensor, fixed: torch.Tensor) -> Candidates:
    """The best distinct rotations of a low-band search, each with its best shift (circular)."""
    rotations, scores, peaks = scan(moving, fixed)
    kept, shifts = [], []
    for score, peak in zip(scores, peaks, strict=True):
        order = [int(i) for i in score.argsort(descending=True, stable=True)[:1000]]
        chosen = torch.tensor(spread(rotations, order, STARTS, 10.0))
        kept.append(chosen)
        shifts.append(peak[chosen])
    chosen = torch.cat(kept)
    return Candidates(rotations[chosen], torch.cat(shifts).double(), torch.zeros(len(chosen), dtype=torch.float64))


def _best_shift(
    sampled: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, index: torch.Tensor, side: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Highest cosine over circular shifts on a side^3 grid, and that shift (x, y, z) in steps of the grid."""
    half = sampled.new_zeros(len(sampled), side * side * (side // 2 + 1))
    half[:, index] = sampled.conj() * target
    shape = (len(sampled), side, side, side // 2 + 1)
    scores = torch.fft.irfftn(half.reshape(shape), s=(side,) * 3, dim=(1, 2, 3), norm="forward").flatten(1)
    score, peak = scores.max(-1)
    norm = ((weight * sampled.abs().square()).sum(-1) * (weight * target.abs().square()).sum()).sqrt()
    z, y, x = peak // side**2, peak // side % side, peak % side
    steps = torch.stack([x, y, z], -1)
    return score / norm.clamp_min(1e-30), (steps + side // 2) % side - side // 2


def _half_ball(band: int, side: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Integer vectors (x, y, z), x >= 0, 0 < |q| <= band; weights 1 or 2; places in a half spectrum."""
    axis = torch.arange(-band, band + 1)
    q = torch.stack(torch.meshgrid(axis[band:], axis, axis, indexing="ij"), -1).reshape(-1, 3)
    square = q.square().sum(-1)
    q = q[(square > 0) & (square <= band * band)]
    weight = torch.where(q[:, 0] > 0, 2.0, 1.0)
    index = (q[:, 2] % side * side + q[:, 1] % side) * (side // 2 + 1) + q[:, 0]
    return q, weight, index


def _at_integers(spectrum: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    size = len(spectrum)
    return spectrum[q[:, 2] % size, q[:, 1] % size, q[:, 0] % size].to(torch.complex64)


def _shell_rms(values: torch.Tensor, q: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Root mean square of the coefficients' shell, never below 3 % of the largest."""
    shell = q.double().square().sum(-1).sqrt().round().long()
    power = torch.bincount(shell, (weight * values.abs().square()).double()) / torch.bincount(
        shell, weight.double()
    ).clamp_min(1)
    rms = power.sqrt()
    return rms.clamp_min(0.03 * float(rms.max()))[shell].float()


def _padded_spectrum(volume: torch.Tensor, pad: int) -> Float[torch.Tensor, "1 2 m m m"]:
    """Centred transform of the zero-padded volume (real, imaginary), made ready for linear interpolation."""
    size = len(volume)
    taper = torch.sinc((torch.arange(size).double() - size // 2) / (pad * size)).square()
    volume = volume / (taper[:, None, None] * taper[:, None] * taper)
    padded = window.crop_or_pad(volume, (pad * size,) * 3)
    spectrum = torch.fft.fftshift(fourier.fft3(padded)) * pad
    return torch.stack([spectrum.real, spectrum.imag])[None].float()


def _sample(spectrum: torch.Tensor, points: Float[torch.Tensor, "c n 3"]) -> Complex[torch.Tensor, "c n"]:
    """Linear interpolation of a centred spectrum at points (x, y, z) in its own frequency steps."""
    size = spectrum.shape[-1]
    grid = (2 * (points + size // 2) + 1) / size - 1
    out = torch.nn.functional.grid_sample(spectrum, grid[None, None], align_corners=False)
    return torch.complex(out[0, 0, 0], out[0, 1, 0])


def spread(rotations: torch.Tensor, order: list[int], count: int, angle: float) -> list[int]:
    """The first ``count`` of ``order`` that lie further than ``angle`` degrees from those before."""
    kept: list[int] = []
    for i in order:
        if len(kept) == count:
            break
        if not kept or float(rotation.geodesic_distance(rotations[kept], rotations[i]).min()) > angle:
            kept.append(i)
    return kept


# ------------------------------------------------------------------------------------------- the refinement


@dataclass(frozen=True)
class Stage:
    """A refinement: sampler of the moving map; points (p, 3) in the mask; values and weights there."""

    sampler: Sampler
    points: torch.Tensor
    target: torch.Tensor
    weights: torch.Tensor
    size: int
    unwrap: bool

    @staticmethod
    def at(moving: torch.Tensor, fixed: torch.Tensor, size: int, *, unwrap: bool = False) -> Stage:
        """Both maps Fourier-cropped to ``size`` voxels an edge."""
        if size != len(fixed):
            moving, fixed = _low_pass(moving, size), _low_pass(fixed, size)
        weights = sphere(size).flatten()
        inside = weights > 0
        sampler: Sampler = Sinc(moving) if size <= EXACT_BOX else Spline.of(moving, order=3, gradient=True)
        points = voxel_grid(size).reshape(-1, 3)[inside]
        return Stage(sampler, points, fixed.flatten()[inside], weights[inside], size, unwrap)

    def refine(self, poses: Candidates, *, iterations: int) -> Candidates:
        """Damped Gauss-Newton on |x/|x| - y/|y||^2 over (w, t), all candidates side by side."""
        turns, moves = poses.rotations.clone(), poses.shifts * self.size
        if self.unwrap:
            moves = self._unwrapped(turns, moves)
        damping = torch.full((len(turns),), 1e-3, dtype=torch.float64)
        score, slope, curvature = self._expand(turns, moves)
        active = torch.ones(len(turns), dtype=torch.bool)
        for _ in range(iterations):
            diagonal = curvature.diagonal(dim1=-2, dim2=-1)
            floor = 1e-9 * diagonal.sum(-1, keepdim=True) + 1e-30
            ridge = torch.diag_embed(damping[:, None] * diagonal + floor)
            step = torch.linalg.solve(curvature + ridge, slope / score.clamp_min(0.2)[:, None])
            turned, moved = step[:, :3].norm(dim=-1), step[:, 3:].norm(dim=-1) / self.size
            longest = torch.maximum(turned / 0.3, moved / 0.1)
            step = step / longest.clamp_min(1)[:, None]
            active &= ((turned > 1e-5) | (moved > 1e-6)) & (damping < 1e4)
            if not bool(active.any()):
                break
            index = active.nonzero().flatten()
            new_turns = rotation.exp_map(step[index, :3]) @ turns[index]
            new_moves = moves[index] + step[index, 3:]
            new_score, new_slope, new_curvature = self._expand(new_turns, new_moves)
            gain = new_score - score[index]
            better = gain > 0
            damping[index] = torch.where(better, (damping[index] / 10).clamp_min(1e-6), damping[index] * 10)
            good = index[better]
            turns[good], moves[good], score[good] = new_turns[better], new_moves[better], new_score[better]
            slope[good], curvature[good] = new_slope[better], new_curvature[better]
            active[index[better & (gain < 1e-9)]] = False
        return Candidates(turns, moves / self.size, score)

    def values(self, turns: torch.Tensor, moves: torch.Tensor) -> Float[torch.Tensor, "c p"]:
        """Values of the moved map at the points."""
        places = (self.points - moves[:, None]) @ turns
        return self.sampler.values(places.reshape(-1, 3)).reshape(places.shape[:2])

    def _expand(self, turns: torch.Tensor, moves: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Score (c,), its gradient (c, 6) and the Gauss-Newton curvature (c, 6, 6)."""
        results = [self._expand_one(turn, move) for turn, move in zip(turns, moves, strict=True)]
        score, slope, curvature = zip(*results, strict=True)
        return torch.stack(score), torch.stack(slope), torch.stack(curvature)

    def _expand_one(self, turn: torch.Tensor, move: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        arms = self.points - move
        values, gradient = self.sampler.values_and_gradient(arms @ turn)
        gradient = gradient @ turn.T  # R grad V, in the frame of the truth
        # x(p) = V(R^T exp(-[w]x) (p - t)):  dx/dw = grad x arm,  dx/dt = -grad
        jacobian = torch.cat([torch.linalg.cross(gradient, arms), -gradient], -1)
        root = self.weights.sqrt()
        x = root * _demean(values, self.weights)
        y = root * _demean(self.target, self.weights)
        jacobian = root[:, None] * (jacobian - (self.weights @ jacobian) / self.weights.sum())
        length = x.norm().clamp_min(1e-150)
        x, y = x / length, y / y.norm()
        jacobian = jacobian / length
        jacobian = jacobian - x[:, None] * (x @ jacobian)
        return x @ y, jacobian.T @ y, jacobian.T @ jacobian

    def _unwrapped(self, turns: torch.Tensor, moves: torch.Tensor) -> torch.Tensor:
        """Coarse shifts are known modulo the box: of t and t -+ box (per axis) take what scores best."""
        other = moves - self.size * torch.where(moves < 0, -1.0, 1.0)
        best, highest = moves.clone(), torch.full((len(moves),), -2.0, dtype=torch.float64)
        for choice in itertools.product((False, True), repeat=3):
            trial = torch.where(torch.tensor(choice), other, moves)
            index = (trial.abs() <= 0.75 * self.size).all(-1).nonzero().flatten()
            if len(index) == 0:
                continue
            score = masked_cosine(self.values(turns[index], trial[index]), self.target, self.weights)
            won = score > highest[index]
            best[index[won]], highest[index[won]] = trial[index[won]], score[won]
        return best


# ------------------------------------------------------------------------------------------------- the rest


def _hand_z(moving: torch.Tensor, fixed: torch.Tensor, poses: list[Candidates], best: int) -> float:
    """Difference of the hands' cosines in standard deviations, seen in the estimate's frame.

    There both hands are templates y1, y2 (unit length) for one estimate x with error e = x - (x.y1) y1, so
    the difference x.(y1 - y2) / |x| has variance sum_q S(|q|) |Y1 - Y2|^2 / |x|^2, S the error's power per
    shell.
    """
    size = min(len(fixed), EXACT_BOX)
    mask = sphere(size)
    sampler, grid = Sinc(_low_pass(moving, size)), voxel_grid(size).reshape(-1, 3)
    templates = []
    for which in (best, 1 - best):
        turn, move = poses[which].rotations[0], poses[which].shifts[0] * size
        seen = sampler.values((grid - move) @ turn).reshape(mask.shape)
        seen = mask * (fourier.mirror(seen, (0,)) if which else seen)
        seen = seen - mask * seen.sum() / mask.sum()
        templates.append(seen / seen.norm().clamp_min(1e-150))
    estimate = mask * _low_pass(fixed, size)
    estimate = estimate - mask * estimate.sum() / mask.sum()
    error = estimate - (estimate * templates[0]).sum() * templates[0]
    power, difference = (torch.fft.fftn(v, norm="ortho").abs().square() for v in (error, templates[0] - templates[1]))
    index = fourier.shells(mask.shape).flatten()
    shell = torch.bincount(index, power.flatten()) / torch.bincount(index).clamp_min(1)
    variance = (shell[index] * difference.flatten()).sum()
    gain = (estimate * (templates[0] - templates[1])).sum()
    return float(gain / variance.sqrt().clamp_min(1e-9 * float(estimate.norm())))


def _low_pass(values: torch.Tensor, size: int) -> torch.Tensor:
    """Fourier crop that keeps a ball |q| < size / 2, so that it commutes with rotations."""
    if size == len(values):
        return values
    spectrum = fourier.fft3(fourier.resize_volume(values, size))
    return fourier.ifft3(spectrum * (fourier.radius(spectrum.shape) < size / 2))


def _demean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return values - (weights * values).sum(-1, keepdim=True) / weights.sum()
