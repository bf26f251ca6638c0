"""How far estimated poses are from the truth, after one registration of all images, on both hands.

The frame and the hand of an estimate are free: R_est = F R_true Q A, with one rotation A of the frame, F = 1 or
diag(-1, -1, 1) (the other hand), and for every image a member Q of the symmetry group or a pseudo-symmetry. So
(F R_true)^T R_est of all right images fall on one place, Q A: the registration is where most of them meet, and wrong
images do not count (`docs/particles.md`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.data.poses import Poses
from unpicked.evaluate.pseudosymmetry import PseudoSymmetry
from unpicked.ops import rotation
from unpicked.ops.point_group import axis_angle, distinct, point_group

Kind = Literal["geodesic", "view", "frobenius", "mae"]
Hand = Literal["same", "mirrored", "undetermined"]

KERNEL = 12.0  # degrees: exp(-(error / KERNEL)^2) is an image's vote
VOTERS = 1000  # images that vote on the candidates
CANDIDATES = 300  # images that propose a registration, each on both hands
CHANCE = 0.005  # a hand is named where chance votes as clearly with a lower probability
_PAIRS = 10_000_000  # distances held at a time


@dataclass(frozen=True)
class PoseComparison:
    """Figures of estimated poses beside true ones; errors in degrees, shifts in angstrom.

    Attributes:
        median_deg: median error modulo the symmetry, of the kind that was asked for.
        mean_deg: its mean. Half of the images at a pseudo-symmetric answer make it useless: see ``median_deg_pseudo``.
        p90_deg: the error that 90 % of the images stay below.
        below_10_deg: fraction of the images below 10 degrees.
        below_30_deg: the same below 30 degrees.
        view_median_deg: median angle between the viewing directions (last rows of R).
        inplane_median_deg: median angle in the plane that is left once the viewing directions are laid on each other
            by the shortest turn.
        shift_rmse_A: root mean square length of t_true - t_est - (R_est o)_xy over all images, with the 3-D offset o
            of the object's centre fitted robustly.
        hand: "same", "mirrored", or "undetermined" where chance or too few views would explain as much; the figures
            are then those of the better hand.
        hand_margin: fraction of the votes that the better hand has more than the other.
        count: number of images.
        median_deg_pseudo: median error modulo symmetry and pseudo-symmetry; None without one.
        below_10_deg_pseudo: fraction below 10 degrees modulo both; None without one.
        mean_deg_pseudo: mean error modulo both; None without one.
        pseudo_axis: x, y, z of the first pseudo-symmetry's axis in the truth's frame; None without one.
        pseudo_angle_deg: its angle; None without one.
        copies: fraction of the images at one copy and at each of its pseudo-symmetric ones, a rotation and its inverse
            counted together; which is named first is free, as the frame is.
        rotation: 3 x 3 rows of A, the turn of the truth's frame.
        offset_A: o, where the estimate's origin is missed: x, y, z in the estimate's frame.
        symmetry: the group that was named.
        kind: what the errors are.
    """

    median_deg: float
    mean_deg: float
    p90_deg: float
    below_10_deg: float
    below_30_deg: float
    view_median_deg: float
    inplane_median_deg: float
    shift_rmse_A: float
    hand: Hand
    hand_margin: float
    count: int
    median_deg_pseudo: float | None
    below_10_deg_pseudo: float | None
    mean_deg_pseudo: float | None
    pseudo_axis: tuple[float, float, float] | None
    pseudo_angle_deg: float | None
    copies: tuple[float, ...]
    rotation: tuple[tuple[float, ...], ...]
    offset_A: tuple[float, float, float]
    symmetry: str
    kind: Kind

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, strings and lists for ``json.dumps``; what does not apply is None (null)."""
        axis = None if self.pseudo_axis is None else list(self.pseudo_axis)
        lists = {"copies": list(self.copies), "offset_A": list(self.offset_A)}
        return {**self.__dict__, **lists, "pseudo_axis": axis, "rotation": [list(row) for row in self.rotation]}


def compare_poses(
    estimate: Poses,
    truth: Poses,
    *,
    symmetry: str = "C1",
    pseudo: torch.Tensor | Sequence[PseudoSymmetry] | None = None,
    kind: Kind = "geodesic",
) -> PoseComparison:
    """Register all poses on both hands and measure what is left, plain and modulo a pseudo-symmetry.

    300 images propose a registration (both hands), up to 1,000 vote on each with exp(-(error / 12 degrees)^2), and
    the best are polished by weighted means on SO(3) whose kernel narrows to the errors found. Errors, per image:

    - "geodesic": angle of the rotation between the two; its mean is ASPIRE's figure, but for outliers, which do not
      pull the registration here.
    - "view": angle between the viewing directions only (cryoDRGN).
    - "frobenius": 2 asin sqrt(||R - R'||_F^2 / 8) (cryoSPIN); the same number as "geodesic", another formula.
    - "mae": mean absolute error, the word of Nashed et al. 2021, who do not say of what; taken as the geodesic
      angle's absolute value, plain, so ``mean_deg`` is the figure to read beside theirs.

    The registration, and the copy that an image is compared with, go by the geodesic angle in every kind.

    Args:
        estimate: poses to judge.
        truth: poses to judge by, of the same images in the same order.
        symmetry: point group of the truth in its own frame: "Cn", "Dn", "T", "O" or "I" (:func:`point_group`).
        pseudo: rotations ``(g, 3, 3)`` that nearly keep the true object, in its frame, or what
            :func:`pseudo_symmetries` found; the identity and inverses need not be given.
        kind: of the error; see above.

    Raises:
        ValueError: for fewer than 2 images, different counts, values that are not finite, matrices that are not
            rotations, an unknown group or kind.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}; got {kind!r}")
    group = point_group(symmetry)
    _check(estimate, truth)
    first, second = (
        estimate.rotations.detach().double(),
        truth.rotations.detach().double().to(estimate.rotations.device),
    )
    group = group.to(first.device)
    turns = None if pseudo is None else _turns(pseudo).to(first.device)
    hands = [second, second * second.new_tensor([-1.0, -1.0, 1.0])[:, None]]
    copies = group if turns is None else _products(group, turns)
    found = [_register(hand.mT @ first, copies) for hand in hands]
    best = 0 if found[0].votes >= found[1].votes else 1
    other, registered, moved = found[1 - best], found[best], hands[best]
    seen = moved.mT @ first
    frames = [registered] if turns is None else [_polished(seen, turn @ registered.turn, group) for turn in turns]
    frame = max(frames, key=lambda choice: float(_votes(seen, choice.turn[None], group))).turn
    nearest = moved @ group[_nearest(seen, frame, group)] @ frame
    errors = _errors(first, nearest, kind)
    offset, left = _shift_errors(estimate, truth, first)
    axis, angle = (None, None) if turns is None else _named(pseudo, turns)
    modulo = None if turns is None else _modulo(first, moved, registered.turn, group, turns, kind)
    level = errors.new_tensor([0.5, 0.9])
    median, p90 = torch.quantile(errors, level).tolist()
    return PoseComparison(
        median_deg=median,
        mean_deg=float(errors.mean()),
        p90_deg=p90,
        below_10_deg=float((errors < 10).double().mean()),
        below_30_deg=float((errors < 30).double().mean()),
        view_median_deg=_median(_view_errors(first, nearest)),
        inplane_median_deg=_median(_inplane_errors(first, nearest)),
        shift_rmse_A=float(left.square().sum(-1).mean().sqrt()),
        hand=_named_hand(best, registered, other, len(copies)),
        hand_margin=(registered.votes - other.votes) / registered.voters,
        count=len(estimate),
        median_deg_pseudo=None if modulo is None else _median(modulo[0]),
        below_10_deg_pseudo=None if modulo is None else float((modulo[0] < 10).double().mean()),
        mean_deg_pseudo=None if modulo is None else float(modulo[0].mean()),
        pseudo_axis=axis,
        pseudo_angle_deg=angle,
        copies=(1.0,) if modulo is None else tuple(modulo[1]),
        rotation=tuple(tuple(row) for row in frame.tolist()),
        offset_A=(float(offset[0]), float(offset[1]), float(offset[2])),
        symmetry=symmetry,
        kind=kind,
    )


# ------------------------------------------------------------------------------------------ the registration


@dataclass(frozen=True)
class _Registration:
    """A turn A ``(3, 3)`` of the frame, the sum of its votes, and the number of voters."""

    turn: torch.Tensor
    votes: float
    voters: int


def _register(seen: Float[torch.Tensor, "n 3 3"], copies: Float[torch.Tensor, "g 3 3"]) -> _Registration:
    """The turn A such that the most of ``seen`` = (F R_true)^T R_est are near to a Q A."""
    picked = torch.randperm(len(seen), generator=torch.Generator().manual_seed(0)).to(seen.device)
    voters = seen[picked[:VOTERS]]
    proposals = voters[:CANDIDATES]
    votes = _votes(voters, proposals, copies)
    chosen: list[int] = []
    for index in votes.argsort(descending=True, stable=True).tolist():
        near = chosen and _distances(proposals[chosen], proposals[index], copies).min() < KERNEL / 2
        if not near:
            chosen.append(index)
        if len(chosen) == 5:
            break
    polished = [_polished(voters, proposals[index], copies) for index in chosen]
    return _polished(seen, max(polished, key=lambda found: found.votes).turn, copies)


def _votes(seen: torch.Tensor, turns: torch.Tensor, copies: torch.Tensor) -> Float[torch.Tensor, " c"]:
    """Sum over the images of exp(-(distance to the nearest copy of the turn / 12 degrees)^2)."""
    flat, totals = seen.flatten(1).T, []
    for part in turns.split(max(1, _PAIRS // (len(copies) * len(seen)))):
        traces = ((copies @ part[:, None]).flatten(0, 1).flatten(1) @ flat).reshape(len(part), len(copies), -1).amax(1)
        angle = torch.rad2deg(((traces - 1) / 2).clamp(-1, 1).acos())
        totals.append((-(angle / KERNEL).square()).exp().sum(-1))
    return torch.cat(totals)


def _polished(seen: torch.Tensor, turn: torch.Tensor, copies: torch.Tensor) -> _Registration:
    """The turn moved to the weighted mean on SO(3) of what lies near its copies; the kernel narrows to the errors."""
    scale = KERNEL
    for _ in range(30):
        nearest = copies[_nearest(seen, turn, copies)]
        errors = rotation.geodesic_distance(nearest @ turn, seen)
        close = errors[errors < 2 * scale]
        if len(close) == 0:
            break
        scale = min(scale, max(3 * float(close.median()), 1e-9))
        weight = (-(errors / scale).square()).exp()
        moved = _mean((weight[:, None, None] * (nearest.mT @ seen)).sum(0))
        step = float(rotation.geodesic_distance(moved, turn))
        turn = moved
        if step < 1e-10:
            break
    picked = torch.randperm(len(seen), generator=torch.Generator().manual_seed(0))[:VOTERS].to(seen.device)
    voters = seen[picked]
    return _Registration(turn, float(_votes(voters, turn[None], copies)), len(voters))


def _mean(total: torch.Tensor) -> torch.Tensor:
    """The rotation nearest to a sum of rotations (orthogonal Procrustes)."""
    left, _, right = torch.linalg.svd(total)
    sign = torch.ones(3, dtype=total.dtype, device=total.device)
    sign[2] = torch.linalg.det(left @ right).sign()
    return (left * sign) @ right


def _nearest(seen: torch.Tensor, turn: torch.Tensor, copies: torch.Tensor) -> torch.Tensor:
    """Index of the copy Q such that Q A is nearest, for every image."""
    flat = (copies @ turn).flatten(1).T
    parts = seen.flatten(1).split(max(1, _PAIRS // len(copies)))
    return torch.cat([(part @ flat).argmax(-1) for part in parts])


def _distances(turns: torch.Tensor, turn: torch.Tensor, copies: torch.Tensor) -> torch.Tensor:
    """Degrees from every one of ``turns`` to each copy of ``turn``."""
    return rotation.geodesic_distance(turns[:, None], copies @ turn)


def _named_hand(best: int, found: _Registration, other: _Registration, copies: int) -> Hand:
    """The better hand, unless chance gives one candidate as many votes more than another."""
    # a uniform rotation lies within d of a place with density d^2 / (2 pi), so it casts s^3 / (8 sqrt pi) votes
    chance = min(1.0, copies * math.radians(KERNEL) ** 3 / (8 * math.sqrt(math.pi)))
    tries = 2 * min(CANDIDATES, found.voters)
    margin = torch.tensor(max(found.votes - other.votes, 1e-9), dtype=torch.float64)
    tail = torch.special.gammainc(margin, torch.tensor((found.voters - 1) * chance, dtype=torch.float64))
    if tries * float(tail) > CHANCE:
        return "undetermined"
    return "mirrored" if best else "same"


# ------------------------------------------------------------------------------------------------ the errors


def _errors(first: torch.Tensor, second: torch.Tensor, kind: Kind) -> Float[torch.Tensor, " n"]:
    if kind == "view":
        return _view_errors(first, second)
    if kind == "frobenius":
        square = (first - second).square().sum((-2, -1))
        return torch.rad2deg(2 * (square / 8).sqrt().clamp(max=1).asin())
    return rotation.geodesic_distance(first, second)


def _view_errors(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    one, two = first[:, 2], second[:, 2]
    return torch.rad2deg(torch.atan2(torch.linalg.cross(one, two).norm(dim=-1), (one * two).sum(-1)))


def _inplane_errors(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Twist about the optical axis of the turn from ``second`` to ``first``; the swing moves the viewing direction."""
    turn = first @ second.mT
    return torch.rad2deg(torch.atan2(turn[:, 1, 0] - turn[:, 0, 1], turn[:, 0, 0] + turn[:, 1, 1])).abs()


def _modulo(
    first: torch.Tensor, moved: torch.Tensor, turn: torch.Tensor, group: torch.Tensor, turns: torch.Tensor, kind: Kind
) -> tuple[torch.Tensor, list[float]]:
    """Errors modulo symmetry and pseudo-symmetry, and the fraction of the images at each pseudo-symmetric copy."""
    seen, copies = moved.mT @ first, _products(group, turns)
    index = _nearest(seen, turn, copies)
    errors = _errors(first, moved @ copies[index] @ turn, kind)
    # which of the turns a copy stands for: the one that the group brings nearest
    apart = rotation.geodesic_distance(copies[:, None, None], group[:, None] @ turns).amin(1)
    inverse = rotation.geodesic_distance(turns[:, None], turns.mT).argmin(-1)
    pair = torch.minimum(inverse, torch.arange(len(turns), device=turns.device))
    shares = torch.bincount(pair[apart.argmin(-1)[index]], minlength=len(turns)).double() / len(seen)
    return errors, shares[pair.unique()].tolist()


def _shift_errors(estimate: Poses, truth: Poses, turns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Offset o ``(3,)`` and t_true - t_est - (R_est o)_xy ``(n, 2)``, by least squares with Cauchy weights."""
    device = turns.device
    difference = truth.shifts.detach().double().to(device) - estimate.shifts.detach().double().to(device)
    rows = turns[:, :2]
    weight = torch.ones(len(turns), dtype=torch.float64, device=device)
    offset = torch.zeros(3, dtype=torch.float64, device=device)
    for _ in range(50):
        weighted = weight[:, None, None] * rows
        normal = (weighted.mT @ rows).sum(0)
        moved = torch.linalg.pinv(normal, hermitian=True) @ (weighted.mT @ difference[..., None]).sum(0)[:, 0]
        left = difference - (rows @ moved)
        length = left.norm(dim=-1)
        scale = max(2 * float(length.median()), 1e-9)
        weight = 1 / (1 + (length / scale).square())
        done = float((moved - offset).norm()) < 1e-10
        offset = moved
        if done:
            break
    return offset, difference - rows @ offset


def _median(values: torch.Tensor) -> float:
    return float(torch.quantile(values, 0.5))


# ------------------------------------------------------------------------------------------------ the copies


def _turns(pseudo: torch.Tensor | Sequence[PseudoSymmetry]) -> Float[torch.Tensor, "g 3 3"]:
    """The identity, the pseudo-symmetries, and their inverses."""
    eye = torch.eye(3, dtype=torch.float64)[None]
    if isinstance(pseudo, torch.Tensor):
        if pseudo.dim() != 3 or tuple(pseudo.shape[1:]) != (3, 3):
            raise ValueError(f"pseudo must be rotations (g, 3, 3); got {tuple(pseudo.shape)}")
        turns = pseudo.detach().double().cpu()
    else:
        turns = torch.stack([eye[0], *(found.rotation.double().cpu() for found in pseudo)])
    _check_rotations("pseudo", turns)
    return distinct(torch.cat([eye, turns, turns.mT]))


def _products(group: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """All Q P and P Q: true and pseudo-symmetry together, the group first."""
    both = [group, (group[:, None] @ turns).flatten(0, 1), (turns[:, None] @ group).flatten(0, 1)]
    return distinct(torch.cat(both))


def _named(
    pseudo: torch.Tensor | Sequence[PseudoSymmetry] | None, turns: torch.Tensor
) -> tuple[tuple[float, float, float] | None, float | None]:
    """Axis and angle of the first pseudo-symmetry, if there is one."""
    if pseudo is not None and not isinstance(pseudo, torch.Tensor):
        return (pseudo[0].axis, pseudo[0].angle_deg) if len(pseudo) else (None, None)
    return axis_angle(turns[1]) if len(turns) > 1 else (None, None)


# ------------------------------------------------------------------------------------------------- the checks


def _check(estimate: Poses, truth: Poses) -> None:
    if len(estimate) != len(truth):
        raise ValueError(f"both must hold the same images; got {len(estimate)} estimated and {len(truth)} true poses")
    if len(estimate) < 2:
        raise ValueError(f"at least 2 images are needed, as the frame is free; got {len(estimate)}")
    for name, poses in (("estimate", estimate), ("truth", truth)):
        _check_rotations(f"rotations of the {name}", poses.rotations.detach().double())
        if not bool(torch.isfinite(poses.shifts).all()):
            raise ValueError(f"shifts of the {name} must be finite; got NaN or infinity")


def _check_rotations(name: str, turns: torch.Tensor) -> None:
    eye = torch.eye(3, dtype=turns.dtype, device=turns.device)
    off = (turns.mT @ turns - eye).abs().amax((-2, -1))
    bad = ~((off < 1e-3) & (torch.linalg.det(turns) > 0))
    if bool(bad.any()):
        raise ValueError(f"{name} must be rotation matrices; number {int(bad.nonzero()[0]) + 1} is not")
