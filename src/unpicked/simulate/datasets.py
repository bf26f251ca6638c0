"""The particle stacks of Nashed et al. (2021), and two harder ones, of adenylate kinase (PDB 4AKE)."""

from __future__ import annotations

from dataclasses import dataclass

from unpicked._lazy import torch
from unpicked.data.snr import NoiseLevel, snr_db
from unpicked.data.structure import Structure
from unpicked.simulate.particles import Lens, Molecule

BOX = 128
FIELD = 102.4  # angstrom
COUNT = 10_000
B_FACTOR = 20.0


@dataclass(frozen=True)
class Dataset:
    """One of the stacks.

    Attributes:
        noise: level; None for none.
        lens: contrast transfer; None for none.
        max_shift: angstrom.
        monomer: chain A alone instead of the dimer.
    """

    noise: NoiseLevel | None = None
    lens: Lens | None = None
    max_shift: float = 0.0
    monomer: bool = False


LENS = Lens((4000.0, 12000.0))
DATASETS = {
    "A": Dataset(),
    "B": Dataset(snr_db(10.0)),
    "C": Dataset(snr_db(5.0)),
    "D": Dataset(snr_db(0.0)),
    "E": Dataset(snr_db(-5.0)),
    "F": Dataset(snr_db(-10.0)),
    "G": Dataset(snr_db(0.0), LENS),
    "H": Dataset(snr_db(-20.0), LENS, max_shift=4.0),
    "M": Dataset(monomer=True),
}


def molecule(dataset: Dataset, structure: Structure, box: int = BOX) -> Molecule:
    """The object of a data set: atoms of 4AKE in a field of view of 102.4 angstrom, B = 20 square angstrom.

    Raises:
        ValueError: for a structure that does not name its chains, where one of them is asked for.
    """
    if dataset.monomer:
        structure = first_chain(structure)
    return Molecule(structure, box, FIELD / box, B_FACTOR)


def first_chain(structure: Structure) -> Structure:
    """The atoms of the first chain.

    Raises:
        ValueError: for a structure that does not name its chains.
    """
    if not structure.chains:
        raise ValueError(f"{structure.name} names no chains; give a structure file with chain identifiers")
    first = structure.chains[0]
    own = torch.tensor([chain == first for chain in structure.chains])
    picks = own.nonzero().flatten().tolist()
    return Structure(
        tuple(structure.elements[i] for i in picks),
        structure.positions[own],
        structure.b_factors[own],
        structure.occupancies[own],
        f"{structure.name} chain {first}",
        structure.notes,
        chains=tuple(structure.chains[i] for i in picks),
    )
