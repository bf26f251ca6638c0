"""Point groups as rotations: V(Q p) = V(p), so that R and R Q are the same view (conventions, section 14)."""

from __future__ import annotations

import math
import re

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.ops import rotation

_GOLDEN = (1 + math.sqrt(5)) / 2
# generators: order of the axis, and the axis; RELION's settings
_GENERATORS: dict[str, tuple[tuple[int, tuple[float, float, float]], ...]] = {
    "T": ((3, (0.0, 0.0, 1.0)), (2, (0.0, math.sqrt(2), 1.0))),
    "O": ((3, (1.0, 1.0, 1.0)), (4, (0.0, 0.0, 1.0))),
    "I1": ((2, (1.0, 0.0, 0.0)), (5, (_GOLDEN, 0.0, -1.0))),
    "I2": ((2, (0.0, 0.0, 1.0)), (5, (1.0, 0.0, _GOLDEN))),
    "I3": ((2, (-1.0, 0.0, _GOLDEN)), (5, (0.0, 0.0, 1.0))),
    "I4": ((2, (1.0, 0.0, _GOLDEN)), (5, (2.0, 0.0, 1.0))),
}
_GENERATORS["I"] = _GENERATORS["I2"]


def point_group(name: str) -> Float[torch.Tensor, "n 3 3"]:
    """Rotations of a point group in RELION's setting, float64, the identity first.

    "Cn" has its axis along z, "Dn" a two-fold along x besides. "T" has a three-fold along z, "O" four-folds along
    x, y and z. "I" is "I2" (two-folds along x, y and z); "I1", "I3" and "I4" are the same group turned.

    Raises:
        ValueError: for another name.
    """
    found = re.fullmatch(r"([CD])([1-9][0-9]{0,2})", name) if isinstance(name, str) else None
    if found is None and name not in _GENERATORS:
        raise ValueError(
            f'symmetry must be "Cn" or "Dn" with n from 1 to 999, "T", "O", "I" or "I1" to "I4"; got {name!r};'
            ' try "C1", "C4" or "D2"'
        )
    if found is None:
        return _closure(torch.stack([axis_turn(axis, 360 / order) for order, axis in _GENERATORS[name]]))
    order = int(found[2])
    turns = torch.stack([axis_turn((0.0, 0.0, 1.0), 360 * k / order) for k in range(order)])
    flip = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
    return torch.cat([turns, turns * flip]) if found[1] == "D" else turns


def axis_turn(axis: tuple[float, float, float] | torch.Tensor, angle: float) -> Float[torch.Tensor, "3 3"]:
    """Active rotation by ``angle`` degrees about ``axis`` (x, y, z, of any length), float64."""
    vector = torch.as_tensor(axis, dtype=torch.float64)
    return rotation.exp_map(vector / vector.norm() * math.radians(angle))


def axis_angle(turn: Float[torch.Tensor, "3 3"]) -> tuple[tuple[float, float, float], float]:
    """Axis (unit x, y, z) and angle in degrees, 0 to 180, of a rotation; the axis of the identity is z."""
    quaternion = rotation.matrix_to_quaternion(turn.detach().double().cpu())
    sine = float(quaternion[1:].norm())
    angle = math.degrees(2 * math.atan2(sine, float(quaternion[0])))
    if sine < 1e-12:
        return (0.0, 0.0, 1.0), angle
    x, y, z = (quaternion[1:] / sine).tolist()
    return (x, y, z), angle


def distinct(turns: Float[torch.Tensor, "n 3 3"], *, within: float = 0.01) -> Float[torch.Tensor, "m 3 3"]:
    """The rotations without those that lie within so many degrees of an earlier one."""
    kept = turns[:1]
    for turn in turns[1:]:
        if float(rotation.geodesic_distance(kept, turn).min()) > within:
            kept = torch.cat([kept, turn[None]])
    return kept


def _closure(generators: torch.Tensor) -> torch.Tensor:
    group = torch.eye(3, dtype=torch.float64)[None]
    while True:
        products = (generators[:, None] @ group).reshape(-1, 3, 3)
        larger = distinct(torch.cat([group, products]))
        if len(larger) == len(group):
            return group
        group = larger
