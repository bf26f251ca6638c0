"""Poses of particle images from STAR files, and images of two files brought together by name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from unpicked.data.poses import Poses
from unpicked.io.particles import read_particle_table


def read_poses(path: Path | str) -> tuple[tuple[str, ...], Poses]:
    """Image names ``000001@stack`` and poses of a STAR or .cs file of particles, in its order; float64.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such file, has no poses, a value is not a finite number, an image occurs twice, or
            origins in pixels come without a pixel size.
    """
    table = read_particle_table(path, ctf=False)
    poses = table.poses()
    if poses is None:
        reason = next((note for note in table.notes if note.startswith("no poses")), "no poses")
        raise ValueError(
            f"{path} holds {reason}; expected rlnAngleRot, rlnAngleTilt, rlnAnglePsi, or alignments3D/pose"
        )
    count = Counter(table.names)
    if twice := next((name for name in table.names if count[name] > 1), None):
        raise ValueError(f"{path}: the image {twice} occurs {count[twice]} times; expected one row per image")
    return table.names, poses


def matched(
    estimate: Sequence[str], truth: Sequence[str], what: str = "image"
) -> tuple[list[int], list[int], tuple[str, ...]]:
    """Rows of both lists that name the same image, or ``what`` else has such names, and sentences on what was left out.

    The rows are in the order of the first list.

    Names agree if number and path do ("1@a.mrcs" is "000001@a.mrcs"); where no name does, the folders are left out.

    Raises:
        ValueError: if no image is named by both.
    """
    notes: list[str] = []
    keys = [[_key(name) for name in names] for names in (estimate, truth)]
    if not set(keys[0]) & set(keys[1]):
        keys = [[(number, path.rpartition("/")[2]) for number, path in part] for part in keys]
        if any(len(set(part)) < len(part) for part in keys) or not set(keys[0]) & set(keys[1]):
            raise ValueError(
                f"no {what} is named in both files: the estimate has {estimate[0] or 'no names'}, the truth "
                f"{truth[0] or 'no names'}; check that both come from the same data"
            )
        notes.append(f"{what.capitalize()}s were matched without their folders: {estimate[0]}, {truth[0]}.")
    places = {key: row for row, key in enumerate(keys[1])}
    first = [row for row, key in enumerate(keys[0]) if key in places]
    second = [places[keys[0][row]] for row in first]
    for name, names in (("estimate", estimate), ("truth", truth)):
        if len(names) > len(first):
            notes.append(
                f"{len(names) - len(first)} of the {len(names)} {what}s of the {name} are not in the other file."
            )
    return first, second, tuple(notes)


def _key(name: str) -> tuple[int, str]:
    """Number (0 for a file of one image) and path of an image name."""
    found = re.fullmatch(r"(\d+)@(.*)", name)
    return (int(found[1]), found[2]) if found else (0, name)
