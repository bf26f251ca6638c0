"""A smooth target of two bumps from the moments of a million copies at sigma 3: plain least squares, and marching with
a prior of smooth targets.

Per seed: relative error unmoved, and at the best shift; then its root mean square over the seeds, beside the error that
the covariance of these moments allows without a prior. A smooth target that ends in small samples has nearly the same
moments when it lies a fraction of a sample, or one sample, further on: the second figure is the error of its shape.
The starts of copies are ten least distances 2 L - 1 apart on average; density and sigma are unknown.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace

import torch

from common import save
from unpicked.estimators import moment_fit
from unpicked.estimators.autocorrelation import Autocorrelation
from unpicked.evaluate.signals import compare_signals
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.placements import Anywhere
from unpicked.model.views import Identity
from unpicked.objects.samples import Samples
from unpicked.priors import Flat, Smooth
from unpicked.simulate.signals import simulate_signal, target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--length", type=int, default=21)
    parser.add_argument("--copies", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    truth = target("bump", options.length)
    model = Model(Samples(options.length), Identity(), Anywhere(0.1))
    methods = {
        "plain": (Autocorrelation(), Flat()),
        "marching, smooth": (Autocorrelation(marching=True), Smooth(1.0, 2.0)),
    }
    figures: dict[str, object] = {"L, copies, seeds": [options.length, options.copies, options.seeds]}
    errors: dict[str, list[float]] = {f"{name}, {what}": [] for name in methods for what in ("unmoved", "best shift")}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    allowed: list[float] = []
    for seed in range(options.seeds):
        data, _ = simulate_signal(
            truth,
            density=options.length / (10 * (2 * options.length - 1)),
            sigma=3.0,
            seed=seed,
            occurrences=options.copies,
            block=1 << 20,
            halo=options.length - 1,
        )
        moments = Autocorrelation().measure(data, model)
        spread = moment_fit.expected_errors(moments, replace(model, noise=White(3.0)), Autocorrelation(), truth)
        allowed.append(float(spread.diagonal()[: options.length].sum().sqrt() / truth.norm()))
        for name, (method, prior) in methods.items():
            began = time.process_time()
            found = compare_signals(method.fit(moments, model, prior, seed).x, truth)
            seconds[name].append(round(time.process_time() - began, 1))
            errors[f"{name}, unmoved"].append(round(found.relative_error, 3))
            errors[f"{name}, best shift"].append(round(found.relative_error_shifted, 3))
        print(seed, {name: values[-1] for name, values in errors.items()}, flush=True)
    figures["error that the moments allow without a prior, to first order"] = round(sum(allowed) / len(allowed), 3)
    for name, values in errors.items():
        figures[f"{name}, root mean square"] = round(math.sqrt(sum(value**2 for value in values) / len(values)), 3)
    save("two_bumps", figures | errors | {f"seconds, {name}": values for name, values in seconds.items()})


if __name__ == "__main__":
    main()
