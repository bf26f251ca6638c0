"""``unpicked compare-poses``."""

from __future__ import annotations

import json as js
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unpicked.evaluate.poses import PoseComparison
    from unpicked.evaluate.pseudosymmetry import PseudoSymmetry

STRUCTURES = (".pdb", ".ent", ".cif", ".mmcif")


def compare(
    estimate: Path,
    truth: Path,
    /,
    *,
    symmetry: str = "C1",
    pseudo: Path | None = None,
    kind: Literal["geodesic", "view", "frobenius", "mae"] = "geodesic",
    voxel: float | None = None,
    json: bool = False,
) -> int:
    """Compare the poses of images with the truth, after one registration of all of them on both hands.

    Example:
        unpicked compare-poses run/particles.star sim/particles.star --pseudo 4ake.pdb --json

    Parameters
    ----------
    estimate
        STAR file of particle images with angles; rows are matched by rlnImageName.
    truth
        STAR file of the same images, or of more or fewer.
    symmetry
        Point group of the truth: Cn, Dn, T, O or I.
    pseudo
        MRC map or PDB file of the true object in the truth's frame: its pseudo-symmetries are found, and errors
        are told modulo these too.
    kind
        Error that the figures are of: of the whole rotation, of the viewing direction, or under the names of peers.
    voxel
        Voxel size in angstrom of a map whose header has none.
    json
        Print one JSON object.
    """
    from unpicked.data.poses import Poses
    from unpicked.evaluate.poses import compare_poses
    from unpicked.io.poses import matched, read_poses

    (names, first), (others, second) = read_poses(estimate), read_poses(truth)
    rows, places, told = matched(names, others)
    notes = list(told)
    found = None if pseudo is None else _pseudo(pseudo, voxel)
    if found is not None and not found:
        notes.append(f"{pseudo} has no pseudo-symmetry above 0.9: there are no figures modulo one.")
    figures = compare_poses(
        Poses(first.rotations[rows], first.shifts[rows]),
        Poses(second.rotations[places], second.shifts[places]),
        symmetry=symmetry,
        pseudo=found or None,
        kind=kind,
    )
    if json:
        copies = [
            {"axis": list(one.axis), "angle_deg": one.angle_deg, "score": one.score, "rotation": one.rotation.tolist()}
            for one in found or []
        ]
        print(js.dumps({**figures.to_json(), "pseudo_symmetries": copies, "notes": notes}))
    else:
        _tell(figures, found or [], notes)
    return 0


def _pseudo(path: Path, voxel: float | None) -> list[PseudoSymmetry]:
    from unpicked.evaluate.pseudosymmetry import pseudo_symmetries
    from unpicked.io.mrc import read_map
    from unpicked.io.structure import read_structure

    if path.name.lower().removesuffix(".gz").endswith(STRUCTURES):
        return pseudo_symmetries(read_structure(path))
    return pseudo_symmetries(read_map(path, voxel_size=voxel))


def _tell(figures: PoseComparison, found: Sequence[PseudoSymmetry], notes: Sequence[str]) -> None:
    what = "" if figures.symmetry == "C1" else f" modulo {figures.symmetry}"
    print(f"images             {figures.count}")
    print(f"hand               {figures.hand} (margin {figures.hand_margin:.3f})")
    print(f"error              {figures.kind}{what}, degrees")
    print(f"  median, mean     {figures.median_deg:.3f}, {figures.mean_deg:.3f}")
    print(f"  90 % below       {figures.p90_deg:.3f}")
    print(f"  below 10, 30     {100 * figures.below_10_deg:.1f} %, {100 * figures.below_30_deg:.1f} %")
    print(f"  view, in plane   {figures.view_median_deg:.3f}, {figures.inplane_median_deg:.3f} (medians)")
    print(f"shift r.m.s.       {figures.shift_rmse_A:.3f} A")
    if figures.median_deg_pseudo is not None and figures.below_10_deg_pseudo is not None:
        for one in found:
            axis = ", ".join(f"{value:.4f}" for value in one.axis)
            print(f"pseudo-symmetry    {one.angle_deg:.2f} degrees about ({axis}), score {one.score:.3f}")
        print(f"  median modulo it {figures.median_deg_pseudo:.3f}")
        print(f"  below 10         {100 * figures.below_10_deg_pseudo:.1f} %")
        print(f"  images per copy  {', '.join(f'{100 * share:.1f} %' for share in figures.copies)}")
    for note in notes:
        print(note)
