"""An estimator of one's own: the best windows of a signal are picked and averaged, again and again.

It is what a picker with a template does, and no good method: beside it stands the exact one, which sums places out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

import unpicked as up
from unpicked.data.base import Data
from unpicked.estimators.base import Batch, State
from unpicked.model.likelihoods import Stats
from unpicked.priors import Prior


@dataclass(frozen=True)
class Picking:
    """The target is the mean of the windows that look most like it, 2 L - 1 samples apart.

    Attributes:
        iterations: passes over the data.
    """

    iterations: int = 10
    monotone: bool = False  # nothing is promised of the objective
    trial: int = 2  # passes of the trial of a recentre move
    polish: int = 0  # passes that follow a move

    def init(self, data: Data, model: up.Model, start: torch.Tensor | None, seed: int) -> State:
        """First state: tensors only, so that the loop can save it. ``step`` counts the passes."""
        if start is None:
            raise ValueError("picking needs a template; give start=")
        return {"step": torch.tensor(0), "x": start.double().clone()}

    def moved(self, model: up.Model, state: State, x: torch.Tensor) -> State:
        """The state at other coefficients; nothing else is remembered."""
        return state | {"x": x}

    def current(self, model: up.Model, state: State) -> up.Model:
        """The model with present estimates; noise and density are taken as known here."""
        return model

    def accumulate(self, model: up.Model, batch: Batch, state: State) -> Stats:
        """Sums of the picked windows: they add over batches and processes, and no data give zeros."""
        x, sums = state["x"], {"windows": torch.zeros_like(state["x"]), "score": torch.zeros((), dtype=torch.float64)}
        count = torch.zeros((), dtype=torch.float64)
        for _, samples in batch:
            windows = samples.double().unfold(0, len(x), 1)
            score = (windows @ x - x.square().sum() / 2) / model.noise.sigma**2
            for _ in range(round(model.placement.density * len(samples) / len(x))):
                best = int(score.argmax())
                sums["windows"] += windows[best]
                sums["score"] += score[best]
                count += 1
                score[max(0, best - 2 * len(x) + 2) : best + 2 * len(x) - 1] = -torch.inf
        return sums | {"count": count}

    def update(self, model: up.Model, state: State, stats: Stats, prior: Prior) -> State:
        """Next state, a new one; the old is not changed."""
        x = stats["windows"] / stats["count"].clamp(min=1)
        if not bool(torch.isfinite(x).all()):
            raise FloatingPointError("the data hold NaN or infinity")
        return {"step": state["step"] + 1, "x": x}

    def record(self, model: up.Model, state: State, stats: Stats, prior: Prior) -> dict[str, float]:
        """One row of the history: figures of the state in which the statistics were taken."""
        return {"objective": float(stats["score"]), "particles": float(stats["count"])}

    def done(self, history: Sequence[dict[str, float]], state: State) -> bool:
        """Whether a pass changed hardly anything; the loop's row tells the relative change."""
        return history[-1]["change"] < 1e-6


def main(samples: int = 40_000) -> dict[str, tuple[float, float]]:
    target, found = up.target("step", 21), {}
    for level in (60.0, 6.0):
        sigma = float((target.square().sum() / level).sqrt())
        data, truth = up.simulate_signal(target, samples=samples, density=0.3, sigma=sigma, seed=1)
        model = up.Model(up.Samples(21), up.Identity(), up.Chain(up.HardCore("separated", 0.3)), noise=up.White(sigma))
        errors = []
        for method in (Picking(), up.ExactEM(iterations=15)):
            run = up.reconstruct(data, model, method, start=truth.targets[0].double(), seed=2, moves=0)
            errors.append(up.compare_signals(run.x, truth.targets[0]).relative_error_shifted)
        found[f"E = {level:g}"] = tuple(errors)
        print(f"E = {level:g}: relative error {errors[0]:.2f} picked, {errors[1]:.2f} summed out")
    return found


if __name__ == "__main__":
    main()
