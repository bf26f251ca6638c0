"""Atomic structures from PDB and mmCIF files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from unpicked._lazy import torch
from unpicked.data.structure import Structure
from unpicked.io._files import existing, one_line, read_text

WATERS = frozenset({"HOH", "DOD", "WAT", "H2O", "OH2", "TIP", "TIP3", "TIP4", "TP3", "SOL", "SPC"})
# names of protonation states that CHARMM, NAMD and AMBER give to amino acids
VARIANTS = frozenset("HSD HSE HSP HID HIE HIP CYX CYM ASH GLH LYN ASPP GLUP LSN".split())

Key = tuple[str, str, str, str, str]  # chain, number with insertion code, residue, atom, alternate location


def read_structure(path: Path | str) -> Structure:
    """Read the heavy atoms of a PDB or mmCIF file, as deposited (the asymmetric unit), first model.

    Waters, hydrogen and deuterium are left out. Of alternate locations the one of highest occupancy stays,
    the first of equals. Where a PDB file's element column is blank, the element of an atom in a polymer
    residue is taken from its name (a plain reader takes CA for calcium). ``notes`` say what was left out and
    assumed.

    Args:
        path: file name; .gz is unpacked.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a structure or holds no heavy atom.
    """
    import gemmi

    path = existing(path, "structure file")
    text = read_text(path)
    if not text.strip():
        raise ValueError(f"{path} is empty; expected a PDB or mmCIF file")
    named_cif = path.name.lower().endswith((".cif", ".cif.gz", ".mmcif"))
    is_cif = named_cif or text.lstrip().startswith(("data_", "#"))
    try:
        if is_cif:
            entry = gemmi.make_structure_from_block(gemmi.cif.read_string(text).sole_block())
        else:
            entry = gemmi.read_pdb_string(text.encode("ascii", "replace"))  # columns of bytes: no letter is cut in two
    except (RuntimeError, ValueError, IndexError, OSError) as error:
        raise ValueError(f"{path} is not a PDB or mmCIF file: {one_line(error)}") from None
    if len(entry) == 0 or not any(True for chain in entry[0] for residue in chain for _ in residue):
        raise ValueError(f"{path} holds no atoms; expected a PDB or mmCIF file of a structure")
    notes = [f"the first of {len(entry)} models is used"] if len(entry) > 1 else []
    blank = set() if is_cif else _blank_elements(text)
    atoms = _heavy_atoms(entry[0], blank, notes)
    if not atoms:
        raise ValueError(f"{path} holds no heavy atom other than water; expected a molecule")
    b_factors = torch.tensor([atom.b_iso for _, atom, _, _ in atoms], dtype=torch.float64)
    if not bool(b_factors.any()):
        notes.append("all B factors are 0 in the file: the simulation's own B factor alone applies")
    name = str(entry.name).strip()
    try:
        return Structure(
            tuple(element for element, _, _, _ in atoms),
            torch.tensor([atom.pos.tolist() for _, atom, _, _ in atoms], dtype=torch.float64),
            b_factors,
            torch.tensor([atom.occ for _, atom, _, _ in atoms], dtype=torch.float64),
            name if name and name != "string" else path.name.split(".")[0],
            tuple(notes),
            tuple(chain for _, _, chain, _ in atoms),
            tuple(site for _, _, _, site in atoms),
        )
    except ValueError as error:
        raise ValueError(f"{path}: {one_line(error)}") from None


def _heavy_atoms(model: Any, blank: set[Key], notes: list[str]) -> list[tuple[str, Any, str, str]]:
    """Element, atom, chain and site of every heavy atom that stays; ``notes`` grows by what was left out."""
    out: Counter[str] = Counter()
    atoms: list[tuple[str, Any, str, str]] = []
    for chain in model:
        for residues in _sites(chain):
            if _is_water(residues[0]):
                out["water"] += sum(len(residue) for residue in residues)
                continue
            residue = max(residues, key=lambda r: sum(atom.occ for atom in r) / max(len(r), 1))
            out["alternate"] += sum(len(r) for r in residues) - len(residue)
            polymer = _is_polymer(residue)
            best: dict[str, tuple[str, Any]] = {}
            for number, atom in enumerate(residue):
                element = _element(chain.name, residue, atom, polymer, blank, out)
                if element in ("H", "D", "X"):
                    out["hydrogen" if element != "X" else "unknown"] += 1
                    continue
                name = atom.name if atom.has_altloc() else f"{atom.name}/{number}"
                out["alternate"] += name in best
                if name not in best or atom.occ > best[name][1].occ:
                    best[name] = (element, atom)
            place = f"{residue.name}{residue.seqid}"
            atoms += [(element, atom, chain.name, f"{place}/{atom.name}") for element, atom in best.values()]
    for key, sentence in (
        ("water", "{} atoms of waters left out"),
        ("hydrogen", "{} hydrogen or deuterium atoms left out"),
        ("alternate", "{} atoms at alternate locations left out (the highest occupancy stays)"),
        ("unknown", "{} atoms of unknown element left out"),
        ("derived", "blank element column: the elements of {} polymer atoms were taken from their names"),
        ("guessed", "blank element column: the elements of {} other atoms are guesses, check them"),
    ):
        if out[key]:
            notes.append(sentence.format(out[key]))
    return atoms


def _sites(chain: Any) -> Iterator[list[Any]]:
    """Residues of a chain; alternative kinds of residue at one place come together."""
    group: list[Any] = []
    for residue in chain:
        same = group and residue.seqid == group[0].seqid and residue.name not in {r.name for r in group}
        if same and all(atom.has_altloc() for r in (*group, residue) for atom in r):
            group.append(residue)
            continue
        if group:
            yield group
        group = [residue]
    if group:
        yield group


def _element(chain: str, residue: Any, atom: Any, polymer: bool, blank: set[Key], out: Counter[str]) -> str:
    element = str(atom.element.name)
    key = (chain, str(residue.seqid), residue.name, atom.name, atom.altloc.replace("\0", ""))
    if key not in blank and element != "X":
        return element
    if not polymer:
        out["guessed"] += element not in ("H", "D", "X")
        return element
    letters = atom.name.lstrip("0123456789'\"*")
    derived = "SE" if residue.name in ("MSE", "SEC") and letters.startswith("SE") else letters[:1]
    if derived not in ("C", "N", "O", "S", "P", "H", "D", "SE"):
        return element
    out["derived"] += derived not in ("H", "D")
    return derived.capitalize()


def _is_water(residue: Any) -> bool:
    return bool(residue.is_water()) or residue.name in WATERS


def _is_polymer(residue: Any) -> bool:
    import gemmi

    kind = gemmi.find_tabulated_residue(residue.name)
    if kind.is_amino_acid() or kind.is_nucleic_acid() or residue.name in VARIANTS:
        return True
    names = {atom.name for atom in residue}
    return {"N", "CA", "C"} <= names or {"P", "C1'", "C4'"} <= names


def _blank_elements(text: str) -> set[Key]:
    """Keys of the atoms of a PDB file whose element column (77-78) is blank."""
    return set(_keys(line for line in text.splitlines() if line[:6].upper() in ("ATOM  ", "HETATM")))


def _keys(lines: Iterable[str]) -> Iterator[Key]:
    for line in lines:
        if not line[76:78].strip():
            residue = line[17:21].strip() if line[20:21].strip() else line[17:20].strip()
            yield line[20:22].strip(), line[22:27].strip(), residue, line[12:16].strip(), line[16:17].strip()
