"""The microscope's parameters, per optics group, in the units of the field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from unpicked._lazy import torch
from unpicked.ops.ctf import ctf, electron_wavelength


@dataclass(frozen=True)
class Optics:
    """Contrast transfer parameters, one value per group (conventions, section 7).

    Attributes:
        defocus_u: defocus along the direction ``astigmatism_angle``, angstrom, underfocus positive.
        defocus_v: defocus across it, angstrom.
        astigmatism_angle: degrees from +x towards +y.
        voltage_kv: acceleration voltage, kV.
        cs_mm: spherical aberration, mm.
        amplitude_contrast: fraction in [0, 1].
        phase_shift: of a phase plate, degrees.
        b_factor: envelope exp(-B s^2 / 4), square angstrom.
        scale: factor of the transfer function.
        group: group number of every item (micrograph or image).
    """

    defocus_u: tuple[float, ...]
    defocus_v: tuple[float, ...]
    astigmatism_angle: tuple[float, ...]
    voltage_kv: tuple[float, ...]
    cs_mm: tuple[float, ...]
    amplitude_contrast: tuple[float, ...]
    phase_shift: tuple[float, ...]
    b_factor: tuple[float, ...]
    scale: tuple[float, ...]
    group: tuple[int, ...]

    def __post_init__(self) -> None:
        groups = len(self.defocus_u)
        for name in (
            "defocus_v",
            "astigmatism_angle",
            "voltage_kv",
            "cs_mm",
            "amplitude_contrast",
            "phase_shift",
            "b_factor",
            "scale",
        ):
            if len(getattr(self, name)) != groups:
                raise ValueError(
                    f"{name} must have one value per optics group, {groups}; got {len(getattr(self, name))}"
                )
        if any(not 0 <= item < groups for item in self.group):
            raise ValueError(f"group must number the optics groups 0 .. {groups - 1}; got {sorted(set(self.group))}")
        for voltage in self.voltage_kv:
            if not voltage > 0:
                raise ValueError(f"voltage_kv must be positive, in kV; got {voltage:g}")
        for share in self.amplitude_contrast:
            if not 0 <= share <= 1:
                raise ValueError(f"amplitude_contrast must lie between 0 and 1, as a fraction; got {share:g}")

    def __len__(self) -> int:
        return len(self.group)

    def part(self, items: Sequence[int]) -> Optics:
        """The parameters of some items, in this order; groups that none of them uses are left out."""
        used = sorted({self.group[item] for item in items})
        place = {group: number for number, group in enumerate(used)}
        kept = {
            entry.name: tuple(getattr(self, entry.name)[group] for group in used)
            for entry in fields(self)
            if entry.name != "group"
        }
        return replace(self, **kept, group=tuple(place[self.group[item]] for item in items))

    def displacement(self, pixel_size: float) -> float:
        """Distance in angstrom over which contrast transfer carries frequencies below Nyquist, at most.

        It is |lambda z s - Cs lambda^3 s^3|, the gradient of chi / (2 pi), bounded by the larger of the two terms: Cs
        usually acts against the defocus.
        """
        s = 0.5 / pixel_size
        wavelength = electron_wavelength(self.voltage_kv)
        spherical = 1e7 * torch.tensor(self.cs_mm, dtype=torch.float64) * wavelength**3 * s**3
        defoci = (torch.tensor(z, dtype=torch.float64).abs() for z in (self.defocus_u, self.defocus_v))
        return float(torch.stack([spherical, *(wavelength * z * s for z in defoci)]).max())

    def values(self, sx: torch.Tensor, sy: torch.Tensor, items: Sequence[int] | None = None) -> torch.Tensor:
        """Contrast transfer ``(n, *s)`` of some items (None: all) at spatial frequencies ``(*s)`` in 1/angstrom."""
        picks = [self.group[item] for item in (range(len(self)) if items is None else items)]
        groups, inverse = sorted(set(picks)), {}
        for number, group in enumerate(groups):
            inverse[group] = number

        def of(name: str) -> torch.Tensor:
            column = getattr(self, name)
            return torch.tensor([column[group] for group in groups], dtype=torch.float64)

        table = ctf(sx, sy, **{entry.name: of(entry.name) for entry in fields(self) if entry.name != "group"})
        if len(groups) == len(picks) and [inverse[group] for group in picks] == list(range(len(picks))):
            return table
        return table[torch.tensor([inverse[group] for group in picks], device=table.device)]
