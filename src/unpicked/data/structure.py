"""An atomic structure: elements and positions."""

from __future__ import annotations

from dataclasses import dataclass

from unpicked._lazy import torch


@dataclass(frozen=True)
class Structure:
    """Heavy atoms of a molecule, in the file's order.

    Attributes:
        elements: symbol of every atom, e.g. "C".
        positions: ``(n, 3)`` x, y, z in angstrom, float64.
        b_factors: ``(n,)`` isotropic, square angstrom, float64.
        occupancies: ``(n,)`` in [0, 1], float64.
        name: what it is called, e.g. the entry's code.
        notes: sentences that tell what was left out and assumed.
        chains: name of every atom's chain; empty where unknown.
        sites: every atom's place in its chain, e.g. "MET1/CA"; empty where unknown.
    """

    elements: tuple[str, ...]
    positions: torch.Tensor
    b_factors: torch.Tensor
    occupancies: torch.Tensor
    name: str = ""
    notes: tuple[str, ...] = ()
    chains: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.elements)
        if count == 0:
            raise ValueError("a structure must hold at least one atom; got none")
        for name, shape in (("positions", (count, 3)), ("b_factors", (count,)), ("occupancies", (count,))):
            value = getattr(self, name)
            if tuple(value.shape) != shape:
                raise ValueError(f"{name} must have shape {shape}; got {tuple(value.shape)}")
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name} must be finite; got NaN or infinite values")
        for name in ("chains", "sites"):
            if len(getattr(self, name)) not in (0, count):
                raise ValueError(f"{name} must be one per atom, {count}, or none; got {len(getattr(self, name))}")

    def __len__(self) -> int:
        return len(self.elements)

    def chain(self, name: str) -> Structure:
        """The atoms of one chain.

        Raises:
            ValueError: if there is no such chain.
        """
        picks = [index for index, chain in enumerate(self.chains) if chain == name]
        if not picks:
            found = ", ".join(dict.fromkeys(self.chains)) or "none"
            raise ValueError(f"{self.name or 'the structure'} has no chain {name}; found {found}")
        return Structure(
            tuple(self.elements[index] for index in picks),
            self.positions[picks],
            self.b_factors[picks],
            self.occupancies[picks],
            f"{self.name}:{name}" if self.name else name,
            self.notes,
            (name,) * len(picks),
            tuple(self.sites[index] for index in picks) if self.sites else (),
        )

    @property
    def mass_kda(self) -> float:
        """Mass of the atoms held here (no hydrogens) in kDa, without regard to occupancy."""
        import gemmi

        weights = {element: float(gemmi.Element(element).weight) for element in set(self.elements)}
        return sum(weights[element] for element in self.elements) / 1000
