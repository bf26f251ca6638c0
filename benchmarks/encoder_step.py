"""Seconds of one step of the auto-encoder, split into the network, the map's transform, and slices with their misfit.

Batch 32 at 32, 64 and 128 pixels, the published network (three blocks of 32, 64, 128 filters, 512 units), one head. On
a GPU 10,000 steps at 128 pixels are to take at most 60 s; the paper needed about 5 hours on a V100.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from common import save
from unpicked.data.micrographs import InMemory
from unpicked.data.particles import Particles
from unpicked.estimators import decoder, network
from unpicked.estimators.base import Batch
from unpicked.estimators.gradient import Gradient
from unpicked.estimators.poses import Encoder
from unpicked.estimators.seen import Proposal, look
from unpicked.model.centred import Centred
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.views import Projection
from unpicked.objects.voxels import Voxels
from unpicked.ops import rotation
from unpicked.priors import Flat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--branches", default="none", choices=["none", "mirror", "heads", "orbit"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--half", action="store_true", help="the network in bfloat16, on a GPU")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures: dict[str, object] = {
        "device, threads, batch, branches, bfloat16": [
            options.device,
            options.threads,
            options.batch,
            options.branches,
            options.half,
        ]
    }
    for box in options.boxes:
        figures |= {f"{box} px: {name}": value for name, value in one(box, options).items()}
    save("encoder_step" if options.device == "cpu" else f"encoder_step_{options.device}", figures)


def one(box: int, options: argparse.Namespace) -> dict[str, float]:
    """Figures of one box size."""
    device, batch = options.device, options.batch
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2 * batch, box, box, generator=generator)
    data = Particles(InMemory(images.to(device)), 1.0, tuple(str(index) for index in range(2 * batch)))
    view = Projection(torch.eye(3, dtype=torch.float64, device=device)[None])
    model = Model(Voxels(box), view, Centred(), noise=White(1.0))
    encoder = Encoder(branches=options.branches, half=options.half)
    estimator = Gradient(encoder, batch=batch)
    state = estimator.init(data, model, None, 0)
    shape = encoder.shape(box)
    seen = look(data, range(batch), 0.0, state["scale"], state["x"])
    turns = rotation.random_rotations(batch, generator, dtype=torch.float32).to(device)[:, None]
    radius = (box - 1) // 2
    measured = decoder.measured(seen, radius)

    def step() -> None:
        nonlocal state
        with torch.no_grad():
            stats = estimator.accumulate(model, Batch(data, estimator.picks(len(data), state)), state)
            state = estimator.update(model, state, stats, Flat())

    def encode() -> None:
        weights = state["poses"].detach().requires_grad_()
        network.call(shape, weights, seen.images, half=options.half).square().sum().backward()

    def transform() -> None:
        x = state["x"].detach().requires_grad_()
        decoder.spectrum(model.object, x, radius).square().sum().backward()

    cube = decoder.spectrum(model.object, state["x"], radius).detach()

    def slices() -> None:
        volume, views = cube.clone().requires_grad_(), turns.clone().requires_grad_()
        decoder.misfit(volume, Proposal(views), measured, 2).sum().backward()

    repeats = 2 if box > 64 and device == "cpu" else 8
    whole = seconds(step, repeats, device)
    return {
        "weights of the network": float(network.size(shape)),
        "whole step, s": whole,
        "network, forward and backward, s": seconds(encode, repeats, device),
        "map to spectrum and back, s": seconds(transform, repeats, device),
        "slices and misfit, forward and backward, s": seconds(slices, repeats, device),
        "10,000 steps, min": whole * 10_000 / 60,
    }


def seconds(run: Callable[[], object], repeats: int, device: str) -> float:
    """The least of some, after one to warm up; of one thread on a CPU, that thread's own time."""
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    times = []
    for _ in range(repeats + 1):
        start = clock()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - start)
    return min(times[1:])


if __name__ == "__main__":
    main()
