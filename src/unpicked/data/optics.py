"""The microscope's parameters, per optics group, in the units of the field."""

from __future__ import annotations

from dataclasses import dataclass


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
        if any(not voltage > 0 for voltage in self.voltage_kv):
            raise ValueError(f"voltage_kv must be positive, in kV; got {self.voltage_kv}")
