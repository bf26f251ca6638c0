"""Rotations that nearly keep an object: the copies among which noisy images cannot choose.

From a map: peaks of its autocorrelation over all rotations. From atoms: the rotations that lay equal chains on each
other. The 4AKE dimer is the standing example: swapping its two chains changes images by a few percent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.data.structure import Structure
from unpicked.evaluate.align import Candidates, Stage, masked_cosine, scan, spread
from unpicked.evaluate.resample import centred, match_grid, sphere, voxel_grid
from unpicked.ops import fourier, rotation
from unpicked.ops.point_group import axis_angle

SMALLEST = 15.0  # degrees: smaller turns are the identity's own peak
POWER = 0.97  # of the power that is not spherical lies in the band of the autocorrelation
LARGEST_BAND = 20  # shells, at most
VALLEY = 0.03  # on the way to the identity the score must fall this far below the peak's
RESOLUTION = 8.0  # angstrom, of the scores of atoms


@dataclass(frozen=True)
class PseudoSymmetry:
    """A rotation that nearly keeps an object.

    Attributes:
        axis: unit vector x, y, z, in the object's frame; its largest component is positive.
        angle_deg: degrees about it, 15 to 180. For atoms: axis and angle of one chain laid on another
            (C-alpha or phosphorus atoms), as tables of non-crystallographic symmetry give them.
        score: cosine of the object and the turned object, both without their spherical average; 1 is a true symmetry.
        rotation: ``(3, 3)`` Q with V(Q p) nearly V(p), float64: that of the whole object on itself, which is what
            images see. A swap of two chains is its own inverse, so its Q turns by 180 degrees exactly, even where one
            chain laid on the other alone turns by a little less.
        rmsd: root mean square distance of the atoms under Q, angstrom; None for a map.
    """

    axis: tuple[float, float, float]
    angle_deg: float
    score: float
    rotation: torch.Tensor
    rmsd: float | None = None


def pseudo_symmetries(source: Map | Structure, *, threshold: float = 0.9) -> list[PseudoSymmetry]:
    """Rotations that nearly keep a map or a structure, the best first; a rotation and its inverse count once.

    A map: its part without spherical average, in the shells that hold 97 % of that part's power, is laid on itself
    by all rotations (15 degrees apart, with shifts), and the peaks are refined over rotation and shift. A peak counts
    if its score exceeds the threshold and falls on the way to the identity: an object that looks the same at every
    angle about an axis has none. True symmetries are found too, with a score near 1.

    A structure: every chain equal to a first one proposes a rotation; it stays if it lays all chains on equal ones.

    Args:
        source: the object; a map should hold one particle and little else.
        threshold: least score, between 0 and 1.

    Raises:
        ValueError: for a constant map or one that is not finite, a structure without names of chains, or a threshold
            outside (0, 1).
        TypeError: for a complex map.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must lie between 0 and 1; got {threshold}")
    found = _of_structure(source) if isinstance(source, Structure) else _of_map(source, threshold)
    found = sorted((one for one in found if one.score > threshold), key=lambda one: -one.score)
    kept: list[PseudoSymmetry] = []
    for one in found:
        if not any(_apart(one.rotation, other.rotation) < SMALLEST / 2 for other in kept):
            kept.append(one)
    return kept


def _named(turn: torch.Tensor, score: float, rmsd: float | None = None) -> PseudoSymmetry:
    axis, angle = _canonical(turn)
    return PseudoSymmetry(axis, angle, score, turn, rmsd)


def _canonical(turn: torch.Tensor) -> tuple[tuple[float, float, float], float]:
    """Axis and angle of a rotation or of its inverse, whichever has the axis with a positive largest component."""
    (x, y, z), angle = axis_angle(turn)
    sign = 1.0 if max((x, y, z), key=abs) > 0 else -1.0
    return (sign * x, sign * y, sign * z), angle


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Degrees between two rotations or one and the other's inverse."""
    return float(rotation.geodesic_distance(one, torch.stack([other, other.mT])).min())


# ---------------------------------------------------------------------------------------------------- of a map


def _of_map(source: Map, threshold: float) -> list[PseudoSymmetry]:
    values = centred(match_grid(source, source).values)
    values = _without_spherical(_on_centre(values))
    if float(values.norm()) == 0:
        return []
    band = _band(values)
    rotations, scores, shifts = scan(values, values)
    angle = rotation.geodesic_distance(rotations, torch.eye(3, dtype=torch.float64))
    first = torch.tensor([_is_canonical(turn) for turn in rotations])  # of a rotation and its inverse one is enough
    usable = (scores[0] > 0.5 * threshold) & (angle > SMALLEST) & first
    order = [int(i) for i in scores[0].argsort(descending=True, stable=True) if bool(usable[i])][:1000]
    chosen = spread(rotations, order, 64, 15.0)
    if not chosen:
        return []
    index = torch.tensor(chosen)
    poses = Candidates(rotations[index], shifts[0, index].double(), scores[0, index].double())
    last = min(len(values), 2 * band + 2)
    stage = Stage.at(values, values, min(last, 16))
    for size, iterations in ((16, 8), (24, 8), (last, 15)):
        stage = Stage.at(values, values, min(size, last))
        poses = _above(stage.refine(poses, iterations=iterations), 0.85 * threshold)
        if len(poses.scores) == 0:
            return []
    found = _peaks(stage, poses, threshold)
    if products := _products(found):
        turns = torch.stack(products)
        missed = Candidates(turns, torch.zeros(len(turns), 3, dtype=torch.float64), torch.zeros(len(turns)))
        found += _peaks(stage, _above(stage.refine(missed, iterations=15), threshold), threshold)
    return found


def _peaks(stage: Stage, poses: Candidates, threshold: float) -> list[PseudoSymmetry]:
    return [
        _named(turn, float(score))
        for turn, shift, score in zip(poses.rotations, poses.shifts, poses.scores, strict=True)
        if float(score) > threshold and _is_peak(stage, turn, shift, float(score))
    ]


def _products(found: list[PseudoSymmetry]) -> list[torch.Tensor]:
    """What the rotations found make of each other and the search has missed: large groups have many narrow peaks."""
    known = [torch.eye(3, dtype=torch.float64), *(one.rotation for one in found)]
    turns = torch.stack([turn for one in found for turn in (one.rotation, one.rotation.mT)] or known)
    missed: list[torch.Tensor] = []
    for product in (turns[:12, None] @ turns).flatten(0, 1):
        taken = torch.stack([*known, *missed])
        if float(rotation.geodesic_distance(torch.cat([taken, taken.mT]), product).min()) > SMALLEST / 2:
            missed.append(product)
    return missed[:64]


def _above(poses: Candidates, least: float) -> Candidates:
    """Distinct candidates of at least this score that have not run into the identity."""
    angle = rotation.geodesic_distance(poses.rotations, torch.eye(3, dtype=torch.float64))
    index = ((poses.scores > least) & (angle > SMALLEST)).nonzero().flatten()
    kept = Candidates(poses.rotations[index], poses.shifts[index], poses.scores[index])
    return kept.best(len(index)) if len(index) else kept


def _is_peak(stage: Stage, turn: torch.Tensor, shift: torch.Tensor, score: float) -> bool:
    """Whether the score falls on the way from the peak to the identity."""
    (x, y, z), angle = axis_angle(turn)
    axis = torch.tensor([x, y, z], dtype=torch.float64)
    parts = torch.linspace(0.1, 0.9, 17, dtype=torch.float64)
    between = rotation.exp_map(parts[:, None] * math.radians(angle) * axis)
    values = stage.values(between, parts[:, None] * shift * stage.size)
    return float(masked_cosine(values, stage.target, stage.weights).min()) < score - VALLEY


def _is_canonical(turn: torch.Tensor) -> bool:
    """Whether it is the one of a rotation and its inverse whose axis has a positive largest component."""
    skew = (turn - turn.mT)[(2, 0, 1), (1, 2, 0)]
    return bool(skew[skew.abs().argmax()] >= 0)


def _on_centre(values: torch.Tensor) -> torch.Tensor:
    """The map moved such that the centroid of its power within the ball lies at the centre of the box."""
    size = len(values)
    power = sphere(size) * values.square()
    centre = (power[..., None] * voxel_grid(size)).sum((0, 1, 2)) / power.sum().clamp_min(1e-300)
    spectrum = fourier.drop_nyquist(fourier.fft3(values), (-3, -2, -1))
    q = fourier.frequencies(size).double()
    for axis, dim in enumerate((2, 1, 0)):
        phase = torch.exp(2j * math.pi / size * q * centre[axis])
        spectrum = spectrum * phase.reshape([-1 if d == dim else 1 for d in range(3)])
    return fourier.ifft3(spectrum)


def _without_spherical(values: torch.Tensor) -> torch.Tensor:
    """The map within the soft ball, less its average over all rotations (linear between radii one voxel apart)."""
    mask = sphere(len(values))
    radius = fourier.distances(mask.shape).flatten()
    low = radius.floor().long()
    part = radius - low
    flat = values.flatten()
    last = int(low.max()) + 2
    count = torch.bincount(low, 1 - part, last) + torch.bincount(low + 1, part, last)
    total = torch.bincount(low, flat * (1 - part), last) + torch.bincount(low + 1, flat * part, last)
    mean = total / count.clamp_min(1e-12)
    return mask * (flat - mean[low] * (1 - part) - mean[low + 1] * part).reshape(values.shape)


def _band(values: torch.Tensor) -> int:
    """The shell within which 97 % of the power lies, at most 20, at least 5."""
    power = fourier.shell_sum(fourier.fft3(values).abs().square()).cumsum(0)
    shell = int((power < POWER * power[-1]).sum()) + 1
    return max(5, min(shell, LARGEST_BAND, (len(values) - 1) // 2))


# ------------------------------------------------------------------------------------------------- of atoms


def _of_structure(source: Structure) -> list[PseudoSymmetry]:
    if not source.chains or not source.sites:
        raise ValueError("the structure does not say which chain its atoms belong to; try its map instead")
    atoms: dict[str, dict[str, int]] = {}
    for index, (chain, site) in enumerate(zip(source.chains, source.sites, strict=True)):
        atoms.setdefault(chain, {}).setdefault(site, index)
    equal = {one: [other for other in atoms if _are_equal(atoms[one], atoms[other])] for one in atoms}
    reference = max(equal, key=lambda chain: len(equal[chain]))
    x = source.positions.double().cpu()
    found = []
    for other in equal[reference]:
        if other == reference:
            continue
        turn, shift = _superposed(*(x[side] for side in _backbone(atoms[reference], atoms[other])))
        start, end = _swapped(x, atoms, equal, turn, shift)
        if len(start) < 0.8 * len(x):
            continue
        whole, shift = _superposed(x[start], x[end])
        moved = x @ whole.mT + shift
        rmsd = float((moved[start] - x[end]).square().sum(-1).mean().sqrt())
        if rotation.geodesic_distance(whole, torch.eye(3, dtype=torch.float64)) < SMALLEST:
            continue
        axis, angle = _canonical(turn)
        found.append(replace(_named(whole, _overlap(x, moved), rmsd), axis=axis, angle_deg=angle))
    return found


def _are_equal(one: dict[str, int], other: dict[str, int]) -> bool:
    """Whether two chains share at least 70 % of the larger one's sites, and three at least."""
    return len(one.keys() & other.keys()) >= max(3, 0.7 * max(len(one), len(other)))


def _pairs(one: dict[str, int], other: dict[str, int]) -> tuple[list[int], list[int]]:
    """Indices of the atoms at common sites of two chains."""
    common = [site for site in one if site in other]
    return [one[site] for site in common], [other[site] for site in common]


def _backbone(one: dict[str, int], other: dict[str, int]) -> tuple[list[int], list[int]]:
    """Pairs of C-alpha and phosphorus atoms, by which chains are superposed; of all atoms where these are few."""
    traced = [{site: i for site, i in chain.items() if site.endswith(("/CA", "/P"))} for chain in (one, other)]
    start, end = _pairs(traced[0], traced[1])
    return (start, end) if len(start) >= 10 else _pairs(one, other)


def _swapped(
    x: torch.Tensor,
    atoms: dict[str, dict[str, int]],
    equal: dict[str, list[str]],
    turn: torch.Tensor,
    shift: torch.Tensor,
) -> tuple[list[int], list[int]]:
    """Pairs of atoms that a move lays on each other: every chain goes to the nearest equal one that is still free."""
    start: list[int] = []
    end: list[int] = []
    free = set(atoms)
    for chain in atoms:
        best, least = None, math.inf
        for other in equal[chain]:
            if other in free:
                first, second = _pairs(atoms[chain], atoms[other])
                distance = float((x[first] @ turn.mT + shift - x[second]).square().sum(-1).mean())
                best, least = (other, distance) if distance < least else (best, least)
        if best is not None:
            free.discard(best)
            first, second = _pairs(atoms[chain], atoms[best])
            start, end = start + first, end + second
    return start, end


def _superposed(start: torch.Tensor, end: torch.Tensor) -> tuple[Float[torch.Tensor, "3 3"], Float[torch.Tensor, " 3"]]:
    """Rotation and shift that lay one set of points on another (Kabsch 1976)."""
    before, after = start.mean(0), end.mean(0)
    left, _, right = torch.linalg.svd((end - after).mT @ (start - before))
    sign = torch.ones(3, dtype=start.dtype)
    sign[2] = torch.linalg.det(left @ right).sign()
    turn = (left * sign) @ right
    return turn, after - turn @ before


def _overlap(x: torch.Tensor, moved: torch.Tensor) -> float:
    """Cosine of equal point scatterers at both sets of places to 8 A, each without its spherical average."""
    centre = x.mean(0)
    radii = (torch.arange(12, dtype=torch.float64) + 0.5) / 12 / RESOLUTION
    directions = rotation.super_fibonacci(300)[:, 2]
    places = (radii[:, None, None] * directions).reshape(-1, 3)
    first, second = (_scattered(points - centre, places).reshape(len(radii), -1) for points in (x, moved))
    mean = (first.mean(-1, keepdim=True) + second.mean(-1, keepdim=True)) / 2
    first, second, weight = first - mean, second - mean, radii.square()[:, None]
    norm = ((weight * first.abs().square()).sum() * (weight * second.abs().square()).sum()).sqrt()
    return float((weight * first * second.conj()).real.sum() / norm.clamp_min(1e-300))


def _scattered(points: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    phases = (places @ points.mT) * (2 * math.pi)
    return torch.complex(phases.cos().sum(-1), phases.sin().sum(-1))
