"""``unpicked doctor``: what is installed, what the machine has, and a short self-test with known answers."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import unpicked
from unpicked._lazy import torch
from unpicked.cli.common import Common

OPTIONAL = {"tifffile": "read TIFF micrographs", "cryosparc-tools": "compare .cs files with cryoSPARC's own reader"}
LEAST_MEMORY = 2e9  # free bytes that small jobs need
EXACT, FOUND = 1e-10, 0.8  # relative error of identities at most, correlation of the recovery at least


@dataclass(frozen=True)
class Check:
    """One line: whether something is as it should be, what was found, and what to try where it is not."""

    name: str
    ok: bool
    told: str
    remedy: str = ""

    def __str__(self) -> str:
        end = "" if self.ok else f"; try: {self.remedy}"
        return f"{'ok' if self.ok else 'NOT OK':8s}{self.name}: {self.told}{end}"


def doctor(*, common: Common = Common()) -> int:
    """Tell versions, devices, threads and memory, and test in a few seconds whether known answers come out.

    Exit status 0 where everything is as it should be, else 1.

    Example:
        unpicked doctor
    """
    device = common.begin()
    checks = list[Check]()

    def add(check: Check) -> None:
        checks.append(check)
        common.say(str(check))

    common.say(f"unpicked {unpicked.__version__}, Python {platform.python_version()}, {platform.platform()}")
    for check in (_packages(), _threads(), _memory(), _gpus(), _processes()):
        add(check)
    for name, test in TESTS.items():
        add(_tested(name, test, device))
    good = all(check.ok for check in checks)
    common.say("all is well" if good else "something is wrong; see the lines that are NOT OK")
    facts = {"unpicked": unpicked.__version__, "python": platform.python_version(), "device": device}
    common.end({"ok": good, **facts, "packages": _versions(), "checks": [asdict(check) for check in checks]})
    return 0 if good else 1


def projections(device: str) -> tuple[bool, str]:
    """<A x, y> = <x, A* y> for the projections of a volume."""
    model = _model(device)
    x, images = _drawn(model.object.size, device), _drawn(3 * 25, device).view(3, 5, 5)
    operator = model.operator(x)
    one, other = operator.project(x).flatten() @ images.flatten(), x @ operator.backproject(images)
    error = float((one - other).abs() / one.abs())
    return error < EXACT, f"adjoint to {error:.1e} ({EXACT:.0e} at most)"


def likelihood(device: str) -> tuple[bool, str]:
    """The log-likelihood of one patch, against the sum over all views and offsets written down."""
    from unpicked.data.micrographs import InMemory, Micrographs
    from unpicked.estimators.base import log_likelihood

    model, patch = _model(device), _drawn(25, device).view(5, 5)
    x = 0.3 * _drawn(model.object.size, device)
    ours = log_likelihood(Micrographs(InMemory(patch[None].cpu()), 1.0, ("patch",)), model, x)[0]
    shown = torch.nn.functional.pad(model.templates(x), (4,) * 4).unfold(1, 5, 1).unfold(2, 5, 1)
    misfit = (patch - shown).square().sum((3, 4)).flatten() / 2
    occupied = model.placement.density * (9 / 5) ** 2
    terms = [math.log(occupied / len(misfit)) - misfit, (math.log(1 - occupied) - patch.square().sum() / 2)[None]]
    brute = torch.cat(terms).logsumexp(0) - 12.5 * math.log(2 * math.pi)
    error = float((ours.cpu() - brute.cpu()).abs() / brute.abs())
    return error < EXACT, f"the sum over all places and views, to {error:.1e} ({EXACT:.0e} at most)"


def files(device: str) -> tuple[bool, str]:
    """A map written and read again."""
    from unpicked.data.maps import Map
    from unpicked.io import mrc

    with TemporaryDirectory() as folder:
        values = _drawn(6**3, "cpu").view(6, 6, 6).float()
        mrc.write_map(Map(values, 2.5), Path(folder) / "map.mrc")
        found = mrc.read_map(Path(folder) / "map.mrc")
    same = bool((found.values == values).all()) and found.voxel_size == 2.5
    return same, "a map comes back from MRC as it was" if same else "a map comes back from MRC changed"


def recovery(device: str) -> tuple[bool, str]:
    """BPTI from two simulated micrographs, without picking."""
    from unpicked.evaluate.compare import compare
    from unpicked.io.structure import read_structure
    from unpicked.recipes import MicrographJob, from_micrographs
    from unpicked.simulate.micrographs import simulate_micrographs
    from unpicked.simulate.specimens import specimen_from_structure

    structure = read_structure(Path(unpicked.__file__).parent / "simulate" / "5pti.cif")
    specimen = specimen_from_structure(structure, box=9, voxel=6.0)
    data, _ = simulate_micrographs(specimen, count=2, size=(160, 160), density=0.12, noise=unpicked.energy(424), seed=1)
    job = MicrographJob(box=9, lmax=6, starts=1, views=(60,), iterations=(8,), moves=0)
    answer = from_micrographs(data, job, seed=2, device=device)
    found = compare(answer.map, specimen.truth()).correlation
    return (
        found > FOUND,
        f"BPTI from two small micrographs, correlation with the truth {found:.3f} ({FOUND:g} at least)",
    )


TESTS: dict[str, Callable[[str], tuple[bool, str]]] = {
    "files": files,
    "projections": projections,
    "likelihood": likelihood,
    "recovery": recovery,
}
"""What takes a device, and gives whether the answer is right, and what it is."""


def _tested(name: str, test: Callable[[str], tuple[bool, str]], device: str) -> Check:
    """A self-test, which may fail in any way."""
    began = time.perf_counter()
    try:
        ok, told = test(device)
    except Exception as error:
        ok, told = False, " ".join(f"{type(error).__name__}: {error}".split())
    remedy = "--device cpu, to see whether the GPU is at fault" if device == "cuda" else "a fresh environment"
    return Check(name, ok, f"{told}, {time.perf_counter() - began:.1f} s on {device}", remedy)


def _model(device: str) -> Any:
    from unpicked.model.model import Model
    from unpicked.model.noise import White
    from unpicked.model.patches import Patches
    from unpicked.model.placements import Anywhere
    from unpicked.model.views import Projection
    from unpicked.objects.voxels import Voxels
    from unpicked.ops import rotation

    views = Projection(rotation.super_fibonacci(3).to(device))
    return Model(Voxels(5), views, Anywhere(0.1, Patches()), noise=White(1.0))


def _drawn(count: int, device: str) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(count), dtype=torch.float64).to(device)


def _names() -> list[str]:
    """Packages that are needed."""
    listed = [entry for entry in requires("unpicked") or () if "extra ==" not in entry]
    return ["".join(c if c.isalnum() or c in "-_." else " " for c in entry).split()[0] for entry in listed]


def _versions() -> dict[str, str | None]:
    """Of what is needed and of what may be there; None where it is not."""
    found: dict[str, str | None] = {}
    for name in (*_names(), *OPTIONAL):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _packages() -> Check:
    found = _versions()
    missing = [name for name, number in found.items() if number is None and name not in OPTIONAL]
    told = [f"{name} {number}" for name, number in found.items() if number]
    told += [f"{name} is not there, and only needed to {use}" for name, use in OPTIONAL.items() if not found[name]]
    told += [f"{name} is missing" for name in missing]
    return Check("packages", not missing, ", ".join(told), f"pip install {' '.join(missing)}")


def _threads() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    remedy = f"--threads {cores}, or leave OMP_NUM_THREADS unset: more threads than cores wait for one another"
    return Check("threads", threads <= cores, f"{threads} on {cores} cores", remedy)


def _memory() -> Check:
    from unpicked.recipes.parts import free_memory

    free = free_memory()
    told = f"{free / 1e9:.1f} GB are free" if free else "the system does not say how much is free"
    return Check("memory", not 0 < free < LEAST_MEMORY, told, "to close other programs; jobs take fewer --views")


def _gpus() -> Check:
    if not torch.cuda.is_available():
        return Check("GPUs", True, "none that PyTorch can use; the CPU computes")
    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return Check("GPUs", True, ", ".join(f"{one.name} ({one.total_memory / 1e9:.0f} GB)" for one in found))


def _processes() -> Check:
    there = torch.distributed.is_available() and torch.distributed.is_gloo_available()
    nccl = there and torch.distributed.is_nccl_available()
    told = f"{'gloo' if there else 'no gloo'}, {'nccl' if nccl else 'no nccl'}: "
    told += f"torchrun {'can' if there else 'cannot'} start several on CPUs, {'also' if nccl else 'not'} on GPUs"
    return Check("processes", there, told, "a build of PyTorch with torch.distributed")
