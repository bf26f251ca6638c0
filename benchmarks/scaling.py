"""Weak scaling on two cores, the messages of a pass, and what they let expect of 64 GPUs.

Two processes of one thread each share 2 M micrographs; beside that, two processes that know nothing of each other have
M micrographs each, at the same time. The ratio of the rates is what sharing costs: waiting for the slower one, and the
steps that one process takes while the other waits. Rounds of both alternate, and the median counts, because other
programs may use the same cores.

The model for P GPUs: the E-step of a pass takes W / P; a ring all-reduce of S bytes takes 2 (P - 1) / P S / B and
2 (P - 1) latencies; the new state is sent along a tree, log2 P times; the M-step is taken once, as measured here by one
core. W, B and the latency are assumed, and told. Everything that is read once (preparation, spectra) goes as W does.
"""

from __future__ import annotations

import argparse
import io
import math
import statistics
import tempfile
import time
from typing import Any

import torch

from common import save
from em_throughput import world
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.estimators.acceleration import Fisher
from unpicked.estimators.base import Batch
from unpicked.estimators.em import EM
from unpicked.priors import Flat
from unpicked.recipes.moments import moments_of
from unpicked.reconstruct import reconstruct

BOX = 11
AGAIN = 8  # times that moments read the same micrographs, so that they take seconds
PASS = 625.0  # seconds of an E-step over 5,000 micrographs of 4096 x 4096 on one GPU: 1 s for 8 of them, assumed
BANDWIDTH, LATENCY = 20e9, 30e-6  # bytes per second and seconds of a message between machines, assumed
GPUS = (1, 2, 4, 8, 16, 32, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--micrographs", type=int, default=2, help="of every process")
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--views", type=int, default=200)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, object] = {"micrographs per process, edge, views, passes": [*vars(options).values()][:4]}
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(worker, (folder, options), nprocs=2)
        times = [torch.load(f"{folder}/{rank}.pt", weights_only=True) for rank in range(2)]
    for name in ("EM", "moments"):
        shared, apart = ([max(one[name][kind][i] for one in times) for i in range(options.rounds)] for kind in (0, 1))
        ratios = [b / a for a, b in zip(shared, apart, strict=True)]
        found |= {
            f"{name}, two processes together, s": shared,
            f"{name}, two side by side, s": apart,
            f"{name}, rate over that of two side by side, rounds": [round(ratio, 3) for ratio in ratios],
            f"{name}, rate over that of two side by side": statistics.median(ratios),
        }
    save("scaling", found | model())


def worker(rank: int, folder: str, options: argparse.Namespace) -> None:
    """Seconds of EM and of moments, together and side by side, one round after the other."""
    torch.set_num_threads(1)
    count = options.micrographs
    setting, x, data = world(options.views, options.size, 2 * count, "cpu")
    data = Micrographs(InMemory(torch.stack(list(data))), data.pixel_size, data.names)
    own = data.part(range(rank, 2 * count, 2))
    method = EM(iterations=options.passes, frozen=0, acceleration=Fisher(warm=0))
    tasks = {
        "EM": lambda some: reconstruct(some, setting, method, start=x, moves=0),
        "moments": lambda some: moments_of(some.part([*range(len(some))] * AGAIN), BOX),
    }
    store = torch.distributed.FileStore(f"{folder}/meet", 2)
    found: dict[str, Any] = {name: ([], []) for name in tasks}
    for turn in range(-1, options.rounds):  # the first one compiles, and does not count
        for name, task in tasks.items():
            for kind, some in enumerate((data, own)):
                group = torch.distributed.PrefixStore(f"{turn} {name} {kind}", store)
                torch.distributed.init_process_group("gloo", store=group, rank=rank, world_size=2)
                torch.distributed.barrier()
                if kind:
                    torch.distributed.destroy_process_group()
                began = time.perf_counter()
                task(some)
                took = time.perf_counter() - began
                if not kind:
                    torch.distributed.destroy_process_group()
                if turn >= 0:
                    found[name][kind].append(took)
    torch.save(found, f"{folder}/{rank}.pt")


def model() -> dict[str, object]:
    """Messages of a pass of three stages, and the efficiency that they leave to many GPUs."""
    out: dict[str, object] = {"assumed: s per pass on one GPU, bytes/s, s per message": [PASS, BANDWIDTH, LATENCY]}
    for count in (100, 400, 1600):
        setting, x, data = world(count, 256, 1, "cpu")
        estimator = EM(iterations=2, frozen=0, acceleration=Fisher(warm=0))
        state = estimator.init(data, setting, x, 0)
        now = estimator.current(setting, state)
        stats = estimator.accumulate(now, Batch(data, [0]), state)
        estimator.update(now, state, stats, Flat())  # compiles
        began = time.perf_counter()
        new = estimator.update(now, state, stats, Flat())
        step = time.perf_counter() - began
        sums, told = sum(value.numel() * value.element_size() for value in stats.values()), _bytes(new)

        times = [seconds(gpus, sums, told, len(stats), step) for gpus in GPUS]
        out |= {
            f"{count} views: bytes summed per pass": sums,
            f"{count} views: bytes of the new state": told,
            f"{count} views: M-step on one core, s": step,
            f"{count} views: efficiency on {GPUS} GPUs": [
                round(times[0] / n / t, 3) for n, t in zip(GPUS, times, strict=True)
            ],
        }
    return out


def seconds(gpus: int, sums: int, told: int, tensors: int, step: float) -> float:
    """Of a pass."""
    reduced = 2 * (gpus - 1) * (sums / gpus / BANDWIDTH + tensors * LATENCY)
    return PASS / gpus + reduced + math.log2(gpus) * (told / BANDWIDTH + LATENCY) + step


def _bytes(state: dict[str, Any]) -> int:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return len(buffer.getvalue())


if __name__ == "__main__":
    main()
