"""What reads files, and small valid files of every kind, from which ``fuzz`` makes damaged ones."""

from __future__ import annotations

import bz2
import gzip
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
import torch

from fuzz_mutations import unzipped, zipped
from unpicked import checkpoint
from unpicked.cli import runs
from unpicked.cli.micrographs import gains_of_run
from unpicked.data.maps import Map
from unpicked.data.micrographs import InMemory
from unpicked.data.moments import Moments
from unpicked.data.optics import Optics
from unpicked.data.particles import Particles
from unpicked.data.poses import Poses
from unpicked.io.convert import convert
from unpicked.io.cryosparc import cs_table, read_cs, write_cs
from unpicked.io.ctffind import ctffind_optics
from unpicked.io.masks import read_masks
from unpicked.io.micrographs import read_micrographs
from unpicked.io.mrc import map_notes, read_map, write_image, write_map, write_stack
from unpicked.io.npy import read_array, read_signal
from unpicked.io.particle_files import write_particles
from unpicked.io.particles import read_particles
from unpicked.io.picks import read_picks
from unpicked.io.poses import read_poses
from unpicked.io.star_layouts import write_micrographs_star
from unpicked.io.structure import read_structure
from unpicked.ops.rotation import random_rotations
from unpicked.report import archives, reading

PICKS = """data_

loop_
_rlnMicrographName #1
_rlnCoordinateX #2
_rlnCoordinateY #3
_rlnAutopickFigureOfMerit #4
m0.mrc 10.5 20.0 0.5
m0.mrc 30.0 5.25 -1.0
m1.mrc 1.0 2.0 3.0
"""
OLD = """data_images

loop_
_rlnImageName #1
_rlnDefocusU #2
_rlnDefocusV #3
_rlnDefocusAngle #4
_rlnVoltage #5
_rlnSphericalAberration #6
_rlnAmplitudeContrast #7
_rlnAngleRot #8
_rlnAngleTilt #9
_rlnAnglePsi #10
_rlnOriginX #11
_rlnOriginY #12
_rlnMagnification #13
_rlnDetectorPixelSize #14
000001@s.mrcs 12000 11000 30 300 2.7 0.1 10 20 30 1.5 -1 50000 7.5
000003@s.mrcs 13000 12000 -5 300 2.7 0.1 -10 120 3 0.5 2 50000 7.5
"""
CTFFIND = """# Output from CTFFind version 4.1.14, run on 2024-01-01 10:00:00
# Input file: m.mrcs ; Number of micrographs: 2
# Pixel size: 1.5 Angstroms ; acceleration voltage: 300.0 keV ; spherical aberration: 2.70 mm ; amplitude contrast: 0.1
# Box size: 512 pixels ; min. res.: 30.0 Angstroms ; max. res.: 5.0 Angstroms ; min. def.: 5000.0 um; max. def. 50000 um
# Columns: #1 - micrograph number; #2 - defocus 1 [Angstroms]; #3 - defocus 2; #4 - azimuth of astigmatism; #5 - ...
1.000000 12000.500000 11000.250000 30.500000 0.000000 0.100000 5.000000
2.000000 13000.500000 12000.250000 -3.500000 1.570796 0.120000 inf
"""
ATOMS = (("N", 27.3, "N"), ("CA", 26.1, "C"), ("C", 25.2, "C"), ("O", 25.9, "O"), ("HA", 26.5, "H"))
PDB = "HEADER    PROTEIN" + " " * 45 + "1ABC\nCRYST1   30.000   40.000   50.000  90.00  90.00  90.00 P 1           1\n"
PDB += "MODEL        1\n" + "".join(
    f"ATOM  {5 * k + j + 1:5d}  {name:<3s}{'AB '[j % 3]}{('ALA', 'MSE', 'GLY')[k]} A{k + 1:4d}    "
    f"{x + k:8.3f}{3.5 * k - j:8.3f}{-1.25 * j:8.3f}{1 - 0.1 * j:6.2f}{20.0 + j:6.2f}          {element:>2s}\n"
    for k in range(3)
    for j, (name, x, element) in enumerate(ATOMS)
)
PDB += "HETATM   16  O   HOH A 101       1.000   2.000   3.000  1.00 10.00           O\nTER\nENDMDL\nEND\n"
CIF = "data_1ABC\n_entry.id 1ABC\n_cell.length_a 30\n_cell.length_b 40\n_cell.length_c 50\nloop_\n"
CIF += "".join(
    f"_atom_site.{name}\n"
    for name in """group_PDB id type_symbol label_atom_id label_alt_id label_comp_id label_asym_id label_entity_id
    label_seq_id pdbx_PDB_ins_code Cartn_x Cartn_y Cartn_z occupancy B_iso_or_equiv auth_seq_id auth_asym_id
    pdbx_PDB_model_num""".split()
) + "".join(
    f"ATOM {j + 1} {element} {name} . ALA A 1 1 ? {x} {3.5 - j} {-1.25 * j} 1.00 {20.0 + j} 1 A 1\n"
    for j, (name, x, element) in enumerate(ATOMS)
)
HISTORY = """run,step,objective,sigma,seconds
stage-1 start-0,0,-12.5,1.0,0.1
stage-1 start-0,1,-11.5,0.9,0.1
stage-1 start-1,0,-13.5,1.0,0.1
stage-2 start-0,0,-10.25,0.8,nan
"""
WHITENING = {"curves": [[1.0, 0.9, 0.8], [1.0, 1.1, 1.2]], "group": [0, 1, 1]}
RESULT = {
    "version": "0.1.0", "seed": 0, "command": ["unpicked", "reconstruct", "micrographs"],
    "settings": {"box": 4, "voxel": 2.0, "views": [60, 240], "symmetry": "C1", "ctf": True},
    "data": {"kind": "micrographs", "files": 2, "pixel_size": 1.5, "notes": ["a note"], "truth": None},
    "result": "converged", "verdict": "supported", "seconds": 1.5, "peak_memory_mb": 100.0,
    "figures": {
        "density": 0.1, "sigma": 1.0, "gamma": 2.0, "data_share": [1.0, 0.9, 0.5],
        "halves": {"fsc": [1.0, 0.9, 0.4], "resolution_0143": 8.0, "cutoff_angstrom": 9.0, "at_nyquist": False},
        "verify": {"verdict": "supported", "floor": [0.1, 0.2, 0.3],
                   "agreement": {"fsc": [1.0, 0.8, 0.2], "resolution_0143": 9.0}},
    },
}  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """Files of one kind.

    Attributes:
        name: of the file.
        kind: how it is changed; see ``mutations``.
        share: of all inputs.
        calls: what reads it.
        seeds: valid ones.
    """

    name: str
    kind: str
    share: float
    calls: Sequence[Callable[[Path], object]]
    seeds: Sequence[bytes]


def readers(home: Path) -> dict[str, Reader]:
    """All readers; what their files name, and the rest of a run folder, is written to ``home``."""
    values = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))
    write(home, values)

    def of(*names: str) -> list[bytes]:
        return [(home / name).read_bytes() for name in names]

    image, volume, stack, hidden = of("m0.mrc", "volume.mrc", "s.mrcs", "mask.mrc")
    single = [image, volume, hidden]
    single += [recoded(image, *code) for code in ((0, "<i1"), (1, ">i2"), (6, "<u2"), (12, "<f2"))]
    star = [*of("p.star", "m.star"), PICKS.encode(), OLD.encode()]
    gz, bz = [gzip.compress(data, mtime=0) for data in single], [bz2.compress(data) for data in single]
    packed = [gzip.compress(data, mtime=0) for data in star]
    numbers = [saved(array) for array in (values[0, 0], values[0].double(), values[0], torch.arange(5))]
    npz = [zipped(unzipped(data)) for data in of("moments.npz", "patches.npz", "micrographs.npz")]
    return {
        "MRC": Reader("x.mrc", "bytes", 16, (micrographs, read_map, map_notes, mask), single),
        "MRC stack": Reader("x.mrcs", "bytes", 8, (images,), [image, volume, stack]),
        "MRC, gzip": Reader("x.mrc.gz", "gzip", 4, (micrographs, read_map), gz),
        "MRC, bzip2": Reader("x.mrc.bz2", "bzip2", 4, (micrographs, read_map), bz),
        "TIFF": Reader("x.tif", "bytes", 5, (micrographs,), tiffs(values[0])),
        "STAR": Reader("x.star", "text", 14, (particles, micrographs, read_poses, read_picks), star),
        "STAR, gzip": Reader("x.star.gz", "gzip text", 2, (particles, micrographs, read_picks), packed),
        "cryoSPARC": Reader("x.cs", "npy", 5, (particles, micrographs, joined), of("p.cs", "m.cs")),
        "CTFFIND": Reader("x.txt", "text", 8, (fits,), [CTFFIND.encode()]),
        "PDB": Reader("x.pdb", "text", 12, (read_structure,), [PDB.encode()]),
        "mmCIF": Reader("x.cif", "text", 8, (read_structure,), [CIF.encode()]),
        "npy": Reader("x.npy", "npy", 6, (read_array, read_signal), numbers),
        "npz, moments": Reader("x.npz", "zip", 2, (Moments.load,), npz[:1]),
        "npz, pictures of a run": Reader("x.npz", "zip", 2, (patches, pictures), npz[1:]),
        "JSON, result": Reader("result.json", "json", 1.5, (finished, run), of("result.json")),
        "JSON, whitening": Reader("whitening.json", "json", 0.5, (whitening,), of("whitening.json")),
        "CSV, history": Reader("history.csv", "text", 1, (reading.read_history,), of("history.csv")),
        "checkpoint": Reader("x.pt", "zip", 0.5, (held,), of("held.pt")),
        "convert, STAR": Reader("x.star", "text", 0.3, (converted,), star[:2]),
        "convert, cryoSPARC": Reader("x.cs", "npy", 0.2, (converted,), of("p.cs", "m.cs")),
    }


def large(home: Path) -> dict[str, bytes]:
    """Valid files of several MB, by reader; call :func:`readers` before."""
    write_image(torch.randn(1448, 1448), home / "large.mrc", 1.5, overwrite=True)
    image = (home / "large.mrc").read_bytes()
    table = (home / "p.star").read_bytes()
    rows = table[table.index(b"\n000001@") + 1 :].rstrip() + b"\n"
    write_cs(np.tile(read_cs(home / "p.cs"), 10_000), home / "large.cs", overwrite=True)
    head, atom, rest = PDB.partition("ATOM")
    atoms = atom + rest.partition("HETATM")[0]
    return {
        "MRC": image,
        "MRC, gzip": gzip.compress(image, 1),
        "STAR": table.rstrip() + b"\n" + rows * 10_000,
        "cryoSPARC": (home / "large.cs").read_bytes(),
        "PDB": (head + atoms * 4_000 + "END\n").encode(),
        "npy": saved(torch.randn(500_000).double()),
    }


def write(home: Path, values: torch.Tensor) -> None:
    """Images, lists of them, and the files of a run."""
    for number in range(2):
        write_image(values[number], home / f"m{number}.mrc", 1.5)
    write_stack(values, home / "s.mrcs", 1.5)
    write_map(Map(values[:, :4, :4].contiguous(), 2.0), home / "volume.mrc")
    write_image((values[0] > 1).float(), home / "mask.mrc", 1.5)
    one = ((12000.0,), (11000.0,), (30.0,), (300.0,), (2.7,), (0.1,), (0.0,), (0.0,), (1.0,))
    poses = Poses(random_rotations(4, torch.Generator().manual_seed(1)), values[:, 0, :2].double())
    names = tuple(f"{number:06d}@s.mrcs" for number in range(1, 5))
    stack = Particles(InMemory(values), 1.5, names, Optics(*one, group=(0,) * 4), poses, (1, 2) * 2)
    write_particles(home / "p.star", stack)
    write_particles(home / "p.cs", stack)
    write_micrographs_star(home / "m.star", ("m0.mrc", "m1.mrc"), 1.5, optics=Optics(*one, group=(0, 0)))
    convert(home / "m.star", home / "m.cs")
    (home / "history.csv").write_text(HISTORY)
    (home / "result.json").write_text(json.dumps(RESULT))
    (home / "whitening.json").write_text(json.dumps(WHITENING))
    sums = (torch.ones(4).double(), torch.eye(4).double(), 5, torch.ones(2, 4).double(), ("a", "b"))
    Moments("volume", 3, *sums).save(home / "moments.npz")
    found = {"pictures": values, "names": list("abcd"), "pixel_size": 2.0, "total": 4}
    np.savez_compressed(home / "micrographs.npz", **found)
    np.savez(home / "patches.npz", patches=values, projections=values, posterior=np.ones(4))
    state = {"x": values[0], "step": torch.tensor(3)}
    checkpoint.save(home / "held.pt", "f", checkpoint.Checkpoint(state, [{"step": 1.0}], note="n"))


def micrographs(path: Path) -> object:
    """All pixels; lists name no TIFF file, which alone needs a pixel size."""
    return [*read_micrographs(path, pixel_size=1.0 if path.suffix == ".tif" else None)]


def images(path: Path) -> object:
    found = read_particles(path, pixel_size=1.0, check=0)
    return found.images(range(min(4, len(found))))


def particles(path: Path) -> object:
    return read_particles(path, check=0).images()


def joined(path: Path) -> object:
    return cs_table(path, passthrough=path.with_name("p.cs"))


def mask(path: Path) -> object:
    return read_masks(path, ["x.mrc"], (8, 8))


def fits(path: Path) -> object:
    return ctffind_optics([path], ["m0.mrc", "m1.mrc"], 1.5)


def patches(path: Path) -> object:
    return archives.patches(path, [])


def pictures(path: Path) -> object:
    return archives.pictures(path, [])


def finished(path: Path) -> object:
    return runs.finished(path.parent)


def run(path: Path) -> object:
    return reading.read(path.parent, None)


def whitening(path: Path) -> object:
    return gains_of_run(path.parent)


def held(path: Path) -> object:
    return checkpoint.load(path, "f")


def converted(path: Path) -> object:
    return convert(path, path.with_name("out.cs" if path.suffix == ".star" else "out.star"), overwrite=True)


def recoded(data: bytes, mode: int, code: str) -> bytes:
    """An MRC image in another type and order of bytes."""
    words = np.frombuffer(data[:1024], "<i4").astype(code[0] + "i4")
    words[3] = mode
    head = words.tobytes()
    stamp = b"\x11\x11\0\0" if code[0] == ">" else data[212:216]
    values = (np.frombuffer(data[1024:], "<f4") * 20).clip(0).astype(code)
    return head[:208] + b"MAP " + stamp + head[216:] + values.tobytes()


def tiffs(image: torch.Tensor) -> list[bytes]:
    """An image in several types, packed or not."""
    out = []
    for kind, packing in (("f4", None), ("f8", None), ("u2", None), ("i1", "zlib"), ("f4", "zlib")):
        file = io.BytesIO()
        tifffile.imwrite(file, (image.numpy() * 20).clip(0).astype(kind), compression=packing)
        out.append(file.getvalue())
    return out


def saved(values: torch.Tensor) -> bytes:
    file = io.BytesIO()
    np.save(file, values.numpy())
    return file.getvalue()
