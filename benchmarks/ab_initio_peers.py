"""Poses ab initio of a 70S ribosome at 32 pixels: the default pipeline here, and peers on the same images if asked to.

1,000 images at SNR (box) 1, 0.3 and 0.1 and their first 200, no contrast transfer, no shifts, rotations uniform and
continuous. Errors are geodesic angles in degrees after one registration on both hands (`unpicked compare-poses`);
beside them CPU seconds on one thread, and correlation and resolution (FSC 0.5, A) with the truth: of the map that a
program gives, and of the one that the same reconstruction from known poses makes of any program's poses. The truth is
`maps/clean70SRibosome_vol_65p.mrc` of the folder UNPICKED_SHARED (or --map), taken at 5 A per voxel.

With --peers they run from environments of their own in a cache folder: ASPIRE and cryoDRGN from PyPI, RELION as
installed (as root the Debian package is fetched). A peer that fails, or exceeds --limit, is reported as such.
"""

from __future__ import annotations

import argparse
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import save
from unpicked.data import snr
from unpicked.data.maps import Map
from unpicked.data.micrographs import InMemory
from unpicked.data.particles import Particles
from unpicked.data.poses import Poses
from unpicked.evaluate.compare import compare
from unpicked.evaluate.poses import compare_poses
from unpicked.io.mrc import read_map, write_stack
from unpicked.io.particles import read_particles
from unpicked.ops.rotation import euler_to_matrix
from unpicked.recipes.particles import ParticleJob, from_particles
from unpicked.simulate.particles import simulate_particles
from unpicked.simulate.specimens import specimen_from_map

VOXEL, BOX = 5.0, 32
GOALS = {1.0: 5.0, 0.3: 10.0, 0.1: 20.0}  # degrees, median of 1,000 images, in 60 CPU seconds
STATED = {1.0: 18.7, 0.3: 97.0, 0.1: 112.0}  # degrees, mean of ASPIRE's CLSyncVoting on 200 images, 15 CPU seconds

Answer = tuple[Poses, Map | None]
Peer = Callable[[Path, Particles, argparse.Namespace], Answer]


class Failed(Exception):
    """A peer did not come to an end; the text says how."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--map", type=Path, help="another map, of the same voxel size")
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 200])
    parser.add_argument("--snr", type=float, nargs="+", default=[1.0, 0.3, 0.1], help="in the box")
    parser.add_argument("--seed", type=int, default=0, help="of the images and of ours")
    parser.add_argument("--peers", nargs="*", choices=sorted(PEERS), default=[])
    parser.add_argument("--only-peers", action="store_true", help="leave ours out")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds that a peer may take for one stack")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "unpicked-peers")
    parser.add_argument("--relion-iterations", type=int, nargs=3, default=[25, 60, 25], help="of its three SGD phases")
    parser.add_argument("--relion-refinement", type=int, default=10, help="iterations that follow them")
    parser.add_argument(
        "--cryodrgn-epochs", type=int, nargs=2, default=[2, 5], help="of pose search (its own default is 30), and after"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    truth, stacks = images(options)
    figures: dict[str, object] = {"box, pixel in A": [BOX, round(truth.voxel_size, 3)]}
    runs: list[tuple[str, Peer]] = [] if options.only_peers else [("ours", ours)]
    runs += [(name, PEERS[name]) for name in options.peers]
    for name, run in runs:
        try:
            prepare(name, options)
        except Failed as error:
            figures[name] = f"not installed: {error}"
            continue
        for level, count, data, known in stacks:
            figures[f"{name}, SNR {level:g}, {count} images"] = judged(name, run, data, known, truth, options)
    for level, count, _, _ in stacks:
        if count == 1000 and level in GOALS:
            figures[f"goal, SNR {level:g}, 1000 images"] = {"median_deg": GOALS[level], "cpu_s": 60}
        if count == 200 and level in STATED:
            stated = {"mean_deg": STATED[level], "cpu_s": 15}
            figures[f"ASPIRE 0.14.3 measured before, SNR {level:g}, 200 images"] = stated
    save("ab_initio_peers_beside" if options.peers else "ab_initio_peers", figures)


def images(options: argparse.Namespace) -> tuple[Map, list[tuple[float, int, Particles, Poses]]]:
    """The truth, and for every level and count the images in memory, with their poses apart."""
    path = options.map
    if path is None:
        root = Path(os.environ.get("UNPICKED_SHARED", Path(__file__).resolve().parents[2] / "shared"))
        found = [root / part / "clean70SRibosome_vol_65p.mrc" for part in ("data/maps", "maps")]
        path = next((one for one in found if one.exists()), None)
        if path is None:
            raise SystemExit("map not found: give it by --map, or set UNPICKED_SHARED to the folder with maps/")
    specimen = specimen_from_map(Map(read_map(path, voxel_size=VOXEL).values.double(), VOXEL), BOX)
    stacks = []
    for level in options.snr:
        data, simulation = simulate_particles(
            specimen, count=max(options.counts), noise=snr.snr_box(level), seed=options.seed
        )
        values, poses = data.images(range(len(data))), simulation.poses()
        for count in options.counts:
            names = tuple(f"{index + 1:06d}@particles.mrcs" for index in range(count))
            part = Particles(InMemory(values[:count].clone()), data.pixel_size, names)
            stacks.append((level, count, part, Poses(poses.rotations[:count], poses.shifts[:count])))
    return specimen.truth(), stacks


def judged(
    name: str, run: Peer, data: Particles, known: Poses, truth: Map, options: argparse.Namespace
) -> dict[str, Any] | str:
    """Figures of one stack, or how it failed."""
    before, began = cpu(), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
        try:
            poses, map = run(Path(folder), data, options)
        except Failed as error:
            return f"failed after {cpu() - before:.0f} CPU s, {time.perf_counter() - began:.0f} s: {error}"
    spent = cpu() - before, time.perf_counter() - began
    found = compare_poses(poses, known)
    row: dict[str, Any] = {
        "median_deg": round(found.median_deg, 2),
        "mean_deg": round(found.mean_deg, 2),
        "below_10_deg": round(found.below_10_deg, 3),
        "hand": found.hand,
        "cpu_s": round(spent[0], 1),
        "wall_s": round(spent[1], 1),
    }
    again = from_particles(replace(data, poses=poses), ParticleJob(method="known"), seed=options.seed).map
    for label, one in (("map", map), ("map_of_its_poses", again)):
        if one is not None:
            likeness = compare(one, truth)
            row[f"{label}_correlation"] = round(likeness.correlation, 3)
            row[f"{label}_resolution"] = None if likeness.resolution_05 is None else round(likeness.resolution_05, 1)
    print(name, len(data), row, flush=True)
    return row


def cpu() -> float:
    """CPU seconds of this process and of all that it waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def ours(folder: Path, data: Particles, options: argparse.Namespace) -> Answer:
    """The default pipeline."""
    answer = from_particles(data, ParticleJob(method="auto"), seed=options.seed)
    return answer.poses, answer.map


# ---------------------------------------------------------------------------------------------------------- the peers

ASPIRE = """
import sys, numpy as np
from aspire.abinitio import CLSyncVoting
from aspire.source import ArrayImageSource
from aspire.utils import Rotation
values = np.load(sys.argv[1])
source = ArrayImageSource(values, pixel_size=float(sys.argv[2]))
found = CLSyncVoting(source, n_theta=180, max_shift=1 / values.shape[-1])
given = found.estimate_rotations()  # some versions keep the answer and return nothing
turns = found.rotations if given is None else given
np.save(sys.argv[3], np.rad2deg(Rotation(np.asarray(turns)).angles))
"""


def aspire(folder: Path, data: Particles, options: argparse.Namespace) -> Answer:
    """Common lines, synchronised by votes; its Euler angles are those of RELION."""
    np.save(folder / "images.npy", data.images(range(len(data))).numpy())
    script = folder / "run.py"
    script.write_text(ASPIRE)
    python = options.cache / "aspire" / "bin" / "python"
    called([python, script, "images.npy", str(data.pixel_size), "angles.npy"], folder, options.limit)
    return _turned(euler_to_matrix(torch.from_numpy(np.load(folder / "angles.npy")).double())), None


def cryodrgn(folder: Path, data: Particles, options: argparse.Namespace) -> Answer:
    """`abinit --zdim 0`. It needs a CTF file: one of amplitude contrast 1, without defocus and Cs, is constant."""
    write_stack(data.images(range(len(data))), folder / "images.mrcs", data.pixel_size)
    row = [data.box, data.pixel_size, 0.0, 0.0, 0.0, 300.0, 0.0, 1.0, 0.0]
    with open(folder / "ctf.pkl", "wb") as file:
        pickle.dump(np.tile(np.array(row, np.float32), (len(data), 1)), file)
    program = options.cache / "cryodrgn" / "bin" / "cryodrgn"
    call: list[Path | str] = [
        program,
        "abinit",
        "images.mrcs",
        "-o",
        "out",
        "--zdim",
        "0",
        "--ctf",
        "ctf.pkl",
        "--no-trans",
    ]
    search, after = options.cryodrgn_epochs
    call += ["--num-epochs", str(search + after), "--epochs-pose-search", str(search), "--epochs-sgd", str(after)]
    call += ["--l-start", "6", "--l-end", str(data.box // 2 - 1), "--seed", str(options.seed), "--no-analysis"]
    called(call, folder, options.limit)
    saved = sorted((folder / "out").glob("pose*.pkl"), key=lambda path: path.stat().st_mtime)
    if not saved:
        raise Failed("it wrote no poses")
    with open(saved[-1], "rb") as file:  # written by the process above
        found = pickle.load(file)
    turns = found[0] if isinstance(found, tuple) else found
    return _turned(torch.as_tensor(np.asarray(turns)).double()), None


def relion(folder: Path, data: Particles, options: argparse.Namespace) -> Answer:
    """Stochastic gradient descent from nothing, then iterations of refinement from its map; no shifts, as ours."""
    write_stack(data.images(range(len(data))), folder / "particles.mrcs", data.pixel_size)
    (folder / "particles.star").write_text(_relion_star(data))
    (folder / "out").mkdir()
    program, diameter = str(shutil.which("relion_refine")), round(0.9 * data.box * data.pixel_size)
    shared = ["--particle_diameter", str(diameter), "--sym", "C1", "--flatten_solvent", "--zero_mask", "--j", "1"]
    shared += ["--oversampling", "1", "--offset_range", "0", "--offset_step", "1", "--dont_check_norm"]
    shared += ["--random_seed", str(options.seed), "--healpix_order"]
    first, middle, last = (str(number) for number in options.relion_iterations)
    sgd = ["--sgd", "--denovo_3dref", "--K", "1", "--sgd_ini_iter", first, "--sgd_inbetween_iter", middle]
    sgd += ["--sgd_fin_iter", last, "--sgd_ini_resol", "60", "--sgd_fin_resol", "22", "--sgd_write_iter", "1000"]
    called([program, "--i", "particles.star", "--o", "out/sgd", *shared, "1", *sgd], folder, options.limit)
    map = _last(folder / "out", "sgd_it*_class001.mrc")
    again = [
        "--ref",
        f"out/{map.name}",
        "--ini_high",
        "30",
        "--iter",
        str(options.relion_refinement),
        "--K",
        "1",
        "--firstiter_cc",
    ]
    called([program, "--i", "particles.star", "--o", "out/refined", *shared, "2", *again], folder, options.limit)
    found = read_particles(_last(folder / "out", "refined_it*_data.star")).poses
    if found is None:
        raise Failed("its STAR file holds no poses")
    return found, Map(read_map(_last(folder / "out", "refined_it*_class001.mrc")).values, data.pixel_size)


def _relion_star(data: Particles) -> str:
    """RELION wants to know of a microscope even where no contrast transfer is asked for."""
    names = ["OpticsGroup", "OpticsGroupName", "ImagePixelSize", "ImageSize", "ImageDimensionality"]
    names += ["Voltage", "SphericalAberration", "AmplitudeContrast"]
    values = f"1 optics {data.pixel_size:.6f} {data.box} 2 300 2.7 0.1"
    rows = "\n".join(f"{place:06d}@particles.mrcs 1" for place in range(1, len(data) + 1))
    head = "\n".join(f"_rln{name} #{place}" for place, name in enumerate(names, 1))
    return (
        f"data_optics\n\nloop_\n{head}\n{values}\n\n\n"
        f"data_particles\n\nloop_\n_rlnImageName #1\n_rlnOpticsGroup #2\n{rows}\n"
    )


PEERS: dict[str, Peer] = {"aspire": aspire, "cryodrgn": cryodrgn, "relion": relion}


def prepare(name: str, options: argparse.Namespace) -> None:
    """What a peer needs, fetched once.

    Raises:
        Failed: if it cannot be had.
    """
    hour = 3600.0
    if name == "relion" and shutil.which("relion_refine") is None:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise Failed("relion_refine is not on the PATH")
        called(["apt-get", "install", "-y", "-q", "relion"], options.cache.parent, hour)
    if name in ("aspire", "cryodrgn"):
        place = options.cache / name
        if not (place / "ready").exists():
            place.mkdir(parents=True, exist_ok=True)
            called([sys.executable, "-m", "venv", "--clear", place], place, hour)
            pip = [place / "bin" / "python", "-m", "pip", "install", "-q"]
            called([*pip, name, "torch<2.14"], place, hour)
            (place / "ready").touch()


def called(call: Sequence[Path | str], folder: Path, limit: float) -> None:
    """Run a program in a folder, with one thread.

    Raises:
        Failed: if it cannot start, ends badly or takes longer than the limit; nothing it started lives on.
    """
    apart = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    apart |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    log = folder / "log.txt"
    with open(log, "ab") as out:
        try:
            process = subprocess.Popen(
                [str(part) for part in call], cwd=folder, env=apart, stdout=out, stderr=out, start_new_session=True
            )
        except OSError as error:
            raise Failed(str(error)) from None
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            raise Failed(f"not finished after {limit:.0f} s; last: {_tail(log)}") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if code:
        raise Failed(f"exit status {code}: {_tail(log)}")


def _tail(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1][-160:] if lines else "nothing printed"


def _last(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        raise Failed(f"it wrote no {pattern}")
    return found[-1]


def _turned(rotations: torch.Tensor) -> Poses:
    return Poses(rotations, torch.zeros(len(rotations), 2, dtype=torch.float64))


if __name__ == "__main__":
    main()
