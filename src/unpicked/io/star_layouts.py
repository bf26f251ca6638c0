"""STAR files of this package's own making: micrographs, stacks and particles in micrographs, as RELION 3.1 has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unpicked._lazy import torch
from unpicked.data.optics import Optics
from unpicked.data.poses import Poses
from unpicked.io.star import Column, read_star, write_star
from unpicked.ops.rotation import euler_to_matrix, matrix_to_euler


def write_micrographs_star(
    path: Path | str,
    names: Sequence[str],
    pixel_size: float,
    *,
    optics: Optics | None = None,
    overwrite: bool = False,
) -> None:
    """Write a list of micrographs with their pixel size and, where known, optics (RELION 3.1).

    Args:
        path: file name.
        names: one path per micrograph, as it shall stand in the file.
        pixel_size: angstrom.
        optics: parameters whose ``group`` has one entry per micrograph.
        overwrite: replace an existing file.

    Raises:
        FileExistsError: if the file exists and ``overwrite`` is False.
        ValueError: for no names, a bad pixel size, or optics of another number of micrographs.
    """
    size = _positive("pixel_size", pixel_size)
    head, columns = _transfer(optics, len(names), "micrograph")
    head["rlnMicrographPixelSize"] = [size] * len(head["rlnOpticsGroup"])
    write_star(
        path, {"optics": head, "micrographs": {"rlnMicrographName": list(names), **columns}}, overwrite=overwrite
    )


def write_stack_star(
    path: Path | str,
    names: Sequence[str],
    pixel_size: float,
    box: int,
    *,
    optics: Optics | None = None,
    poses: Poses | None = None,
    overwrite: bool = False,
) -> None:
    """Write a list of particle images with what is known of them: optics, rotations and shifts (RELION 3.1).

    Args:
        path: file name.
        names: one per image, ``000001@stack.mrcs``, as it shall stand in the file.
        pixel_size: angstrom.
        box: edge of an image in pixels.
        optics: parameters whose ``group`` has one entry per image.
        poses: written as rot, tilt, psi in degrees, and origins in angstrom: minus the shifts.
        overwrite: replace an existing file.

    Raises:
        FileExistsError: if the file exists and ``overwrite`` is False.
        ValueError: for no names, a bad pixel size or box, optics or poses of another number of images.
    """
    if poses is not None and len(poses) != len(names):
        raise ValueError(f"poses must be one per image, {len(names)}; got {len(poses)}")
    if box < 1:
        raise ValueError(f"box must be at least 1 pixel; got {box}")
    size = _positive("pixel_size", pixel_size)
    head, columns = _transfer(optics, len(names), "image")
    groups = len(head["rlnOpticsGroup"])
    head |= {
        "rlnImagePixelSize": [size] * groups,
        "rlnImageSize": [int(box)] * groups,
        "rlnImageDimensionality": [2] * groups,
    }
    posed: dict[str, Column] = {}
    if poses is not None:
        angles = matrix_to_euler(poses.rotations.detach().double().cpu())
        origins = -poses.shifts.detach().double().cpu()
        for k, name in enumerate(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")):
            posed[name] = angles[:, k].tolist()
        posed["rlnOriginXAngst"], posed["rlnOriginYAngst"] = origins[:, 0].tolist(), origins[:, 1].tolist()
    columns = {"rlnImageName": list(names), **columns, **posed}
    write_star(path, {"optics": head, "particles": columns}, overwrite=overwrite)


def write_particles_star(
    path: Path | str,
    micrographs: Sequence[str],
    coordinates: torch.Tensor,
    rotations: torch.Tensor,
    pixel_size: float,
    box: int,
    *,
    scores: torch.Tensor | None = None,
    overwrite: bool = False,
) -> None:
    """Write positions and orientations of particles on micrographs (RELION 3.1).

    Args:
        path: file name.
        micrographs: the micrograph's name for every particle.
        coordinates: ``(n, 2)`` x (column) and y (row) of the particle's centre, pixels, counted from 0.
        rotations: ``(n, 3, 3)``, active, object to image; written as rot, tilt, psi in degrees.
        pixel_size: of the micrograph, angstrom.
        box: edge of a particle's box in pixels.
        scores: ``(n,)``, the higher the surer (rlnAutopickFigureOfMerit).
        overwrite: replace an existing file.

    Raises:
        FileExistsError: if the file exists and ``overwrite`` is False.
        ValueError: for shapes that do not fit together or no particles.
    """
    count = len(micrographs)
    if tuple(coordinates.shape) != (count, 2):
        raise ValueError(f"coordinates must be ({count}, 2), x and y per name; got {tuple(coordinates.shape)}")
    if tuple(rotations.shape) != (count, 3, 3):
        raise ValueError(f"rotations must be ({count}, 3, 3); got {tuple(rotations.shape)}")
    if count == 0:
        raise ValueError(f"no particles to write to {path}: a STAR loop needs at least one row")
    if box < 1:
        raise ValueError(f"box must be at least 1 pixel; got {box}")
    size = _positive("pixel_size", pixel_size)
    xy = coordinates.detach().double().cpu()
    angles = matrix_to_euler(rotations.detach().double().cpu())
    head: dict[str, Column] = {
        "rlnOpticsGroup": [1],
        "rlnOpticsGroupName": ["opticsGroup1"],
        "rlnMicrographPixelSize": [size],
        "rlnImagePixelSize": [size],
        "rlnImageSize": [int(box)],
        "rlnImageDimensionality": [2],
    }
    columns: dict[str, Column] = {
        "rlnMicrographName": list(micrographs),
        "rlnCoordinateX": xy[:, 0].tolist(),
        "rlnCoordinateY": xy[:, 1].tolist(),
        "rlnAngleRot": angles[:, 0].tolist(),
        "rlnAngleTilt": angles[:, 1].tolist(),
        "rlnAnglePsi": angles[:, 2].tolist(),
        "rlnOpticsGroup": [1] * count,
    }
    if scores is not None:
        columns["rlnAutopickFigureOfMerit"] = scores.detach().double().cpu().tolist()
    write_star(path, {"optics": head, "particles": columns}, overwrite=overwrite)


def read_particles_positions(path: Path | str) -> tuple[tuple[str, ...], torch.Tensor, torch.Tensor]:
    """Micrograph names, centres and rotations of particles, in the file's order.

    Returns:
        names (n), coordinates ``(n, 2)`` x, y in pixels from 0, rotations ``(n, 3, 3)`` active; float64.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a STAR file with coordinates and angles.
    """
    tables = read_star(path)
    angle_names = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
    wanted = ("rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", *angle_names)
    table = next((t for name, t in tables.items() if name != "optics" and "rlnCoordinateX" in t), None)
    if table is None:
        raise ValueError(f"{path} holds no particle positions; expected the columns {', '.join(wanted)}")
    names = table.strings(wanted[0])
    coordinates = torch.tensor(np.stack([table.floats(name) for name in wanted[1:3]], -1))
    angles = torch.tensor(np.stack([table.floats(name) for name in angle_names], -1))
    return names, coordinates, euler_to_matrix(angles)


def _transfer(optics: Optics | None, count: int, item: str) -> tuple[dict[str, list[Any]], dict[str, Column]]:
    """Columns of the optics block, and of the items' table, that tell of contrast transfer and its groups."""
    if optics is None:
        head: dict[str, list[Any]] = {"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["opticsGroup1"]}
        return head, {"rlnOpticsGroup": [1] * count}
    if len(optics.group) != count:
        raise ValueError(f"optics must have one group per {item}, {count}; got {len(optics.group)}")
    every = list(zip(optics.voltage_kv, optics.cs_mm, optics.amplitude_contrast, strict=True))
    kinds = [every[group] for group in optics.group]
    found = {kind: k + 1 for k, kind in enumerate(dict.fromkeys(kinds))}
    head = {
        "rlnOpticsGroup": list(found.values()),
        "rlnOpticsGroupName": [f"opticsGroup{k}" for k in found.values()],
        "rlnVoltage": [kind[0] for kind in found],
        "rlnSphericalAberration": [kind[1] for kind in found],
        "rlnAmplitudeContrast": [kind[2] for kind in found],
    }
    return head, {"rlnOpticsGroup": [found[kind] for kind in kinds], **defocus_columns(optics)}


def defocus_columns(optics: Optics) -> dict[str, Column]:
    """Defocus, phase shift, B factor and scale of every item."""
    columns = (
        ("rlnDefocusU", optics.defocus_u),
        ("rlnDefocusV", optics.defocus_v),
        ("rlnDefocusAngle", optics.astigmatism_angle),
        ("rlnPhaseShift", optics.phase_shift),
        ("rlnCtfBfactor", optics.b_factor),
        ("rlnCtfScalefactor", optics.scale),
    )
    return {name: [float(values[group]) for group in optics.group] for name, values in columns}


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive, in angstrom; got {value}")
    return float(value)
