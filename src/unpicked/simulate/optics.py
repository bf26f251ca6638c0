"""Settings of a simulated microscope, drawn at random."""

from __future__ import annotations

import math
from collections.abc import Callable

from unpicked._lazy import torch
from unpicked.data.optics import Optics
from unpicked.ops import seeding


def drawn(seed: int) -> Callable[[int], torch.Tensor]:
    """Two random numbers for every group."""
    return lambda group: torch.rand(2, generator=seeding.generator(seed, "optics", group), dtype=torch.float64)


def draw_optics(
    count: int,
    groups: int | None,
    defocus: tuple[float, float],
    astigmatism: float,
    shared: dict[str, float],
    draw: Callable[[int], torch.Tensor],
) -> Optics:
    """Settings of every group from its own two draws; item i belongs to group i modulo their number.

    Args:
        count: items, which are images or micrographs.
        groups: different settings; None: one per item.
        defocus: least and largest in angstrom, underfocus positive, uniform.
        astigmatism: u - v in angstrom, at random angles.
        shared: ``voltage_kv``, ``cs_mm``, ``amplitude_contrast`` and ``phase_shift`` of all.
        draw: two numbers in [0, 1) for every group: place in the range of defoci, and the angle.

    Raises:
        ValueError: for numbers that make no sense.
    """
    least, largest = defocus
    if not (math.isfinite(least) and math.isfinite(largest) and 0 < least <= largest):
        raise ValueError(
            "defocus must be the least and the largest value in angstrom, underfocus positive, e.g. 4000 12000; "
            f"got {least:g} {largest:g}"
        )
    if not math.isfinite(astigmatism):
        raise ValueError(f"astigmatism must be a finite number, in angstrom; got {astigmatism}")
    if groups is not None and not 1 <= groups <= count:
        raise ValueError(f"ctf_groups must lie between 1 and the number of images, {count}; got {groups}")
    number = groups or count
    draws = [draw(group) for group in range(number)]
    centres = [least + (largest - least) * float(pair[0]) for pair in draws]

    def same(value: float) -> tuple[float, ...]:
        return (float(value),) * number

    return Optics(
        defocus_u=tuple(z + astigmatism / 2 for z in centres),
        defocus_v=tuple(z - astigmatism / 2 for z in centres),
        astigmatism_angle=tuple(180 * float(pair[1]) for pair in draws) if astigmatism else same(0.0),
        b_factor=same(0.0),
        scale=same(1.0),
        group=tuple(index % number for index in range(count)),
        **{name: same(value) for name, value in shared.items()},
    )


def facts(optics: Optics) -> dict[str, object]:
    """What a table of the truth says of the settings."""
    u, v = optics.defocus_u, optics.defocus_v
    return {
        "defocus": [min(*u, *v), max(*u, *v)],
        "groups": len(u),
        "astigmatism": max(abs(a - b) for a, b in zip(u, v, strict=True)),
        "voltage_kv": optics.voltage_kv[0],
        "cs_mm": optics.cs_mm[0],
        "amplitude_contrast": optics.amplitude_contrast[0],
        "phase_shift": optics.phase_shift[0],
    }
