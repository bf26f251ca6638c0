"""An exposure as a camera counts it: protein in ice, radiation damage, Poisson counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from unpicked._lazy import torch
from unpicked.data.structure import Structure
from unpicked.objects.gaussians import Gaussians
from unpicked.ops import filters, seeding
from unpicked.ops.scattering import (
    DALTONS_PER_ATOM,
    HYDROGEN_BOUND,
    HYDROGEN_WIDTH,
    ICE,
    VOLUME_PER_KDA,
    critical_dose,
    ice_power,
    interaction,
)
from unpicked.simulate.potential import VOLT, atoms

FINER = 2  # voxels of the object's own grid per pixel
DISPLACED = 155.0  # square angstrom: width b of the ice that an atom displaces, exp(-b k^2 / 4), so that it is smooth


@dataclass(frozen=True)
class Exposure:
    """How micrographs are taken. The image is that of a weak phase object: counts = N (1 - 2 h * phase).

    Attributes:
        dose: electrons per square angstrom.
        ice: thickness of the ice in nanometres.
        dqe: detective quantum efficiency: of the electrons, so many count.
        voltage_kv: acceleration voltage.
    """

    dose: float = 50.0
    ice: float = 30.0
    dqe: float = 0.6
    voltage_kv: float = 300.0

    def __post_init__(self) -> None:
        for name, unit in (("dose", "electrons per square angstrom"), ("voltage_kv", "kV")):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive, in {unit}; got {getattr(self, name)}")
        if not 0 <= self.ice < math.inf:
            raise ValueError(f"ice must not be negative, in nanometres; got {self.ice}")
        if not 0 < self.dqe <= 1:
            raise ValueError(f"dqe must lie above 0 and at most at 1; got {self.dqe}")

    def counts(self, pixel: float) -> float:
        """Mean number of electrons that count in a pixel of so many angstrom."""
        return self.dose * self.dqe * pixel**2

    def shown(self, pixel: float) -> float:
        """Counts per phase shift."""
        return 2 * self.counts(pixel)

    def damage(self, fx: torch.Tensor, fy: torch.Tensor, pixel: float) -> torch.Tensor:
        """Amplitude that is left of frequencies in cycles per pixel, mean over the frames of the exposure."""
        k = ((fx.square() + fy.square()).sqrt() / pixel).clamp(min=1e-4)
        decay = self.dose / (2 * critical_dose(k, self.voltage_kv))
        return -torch.expm1(-decay) / decay

    def ice_phase(self, size: tuple[int, int], pixel: float, seed: int, index: int) -> torch.Tensor:
        """Phase shifts by the ice of micrograph ``index``, without their mean."""
        generator = seeding.generator(seed, "ice", index)
        wide = (size[0] + size[0] % 2, size[1] + size[1] % 2)
        white = torch.randn(wide, generator=generator, dtype=torch.float32)
        fx, fy = filters.half_plane(wide)
        power = ice_power((fx.square() + fy.square()).sqrt() / pixel, 10 * self.ice) / pixel**2
        factors = interaction(self.voltage_kv) * power.sqrt()
        return torch.fft.irfft2(torch.fft.rfft2(white) * factors.float(), s=wide)[: size[0], : size[1]]

    def counted(self, signal: torch.Tensor, pixel: float, seed: int, index: int) -> torch.Tensor:
        """Poisson counts of an expected signal in counts (matter bright), matter bright: less is more."""
        generator = seeding.generator(seed, "counts", index)
        expected = (self.counts(pixel) - signal).clamp(min=0)
        return -torch.poisson(expected.float(), generator=generator)


def in_ice(
    structure: Structure, pixel: float, box: int, exposure: Exposure, *, b_factor: float
) -> tuple[Gaussians, torch.Tensor]:
    """Protein in ice as Gaussians whose projections are phase shifts per pixel times :meth:`Exposure.shown`.

    To every heavy atom come its share of bound hydrogens, and less the ice that it displaces.

    Args:
        structure: heavy atoms of a protein.
        pixel: angstrom.
        box: edge of an image in pixels.
        exposure: of the micrographs.
        b_factor: of all atoms, square angstrom.
    """
    fine = pixel / FINER
    object, x = atoms(structure, fine, FINER * box, b_factor=b_factor)
    each = object.size // len(structure.elements)
    places = object.positions[::each]
    displaced = ICE * VOLUME_PER_KDA * DALTONS_PER_ATOM / 1000
    occupied = torch.as_tensor(structure.occupancies, dtype=torch.float64)
    strengths = torch.stack([HYDROGEN_BOUND * occupied, -displaced * occupied], 1).flatten()
    widths = torch.tensor([HYDROGEN_WIDTH + b_factor, DISPLACED + b_factor], dtype=torch.float64).repeat(len(places))
    sigmas = (widths / (8 * math.pi**2)).sqrt() / fine
    amplitudes = torch.cat([x * fine**3 / VOLT, strengths])  # angstrom
    positions = torch.cat([object.positions, places.repeat_interleave(2, 0)])
    every = Gaussians(FINER * box, positions, torch.cat([object.sigmas, sigmas]))
    # the sum over pixels of the phase is the amplitude over a pixel's area; the crop to pixels divides sums by FINER
    return every, amplitudes * interaction(exposure.voltage_kv) / pixel**2 * exposure.shown(pixel) * FINER
