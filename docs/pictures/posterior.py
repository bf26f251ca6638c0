"""Where copies lie in a signal, exactly, at three noise levels: python docs/pictures/posterior.py."""

import numpy as np
from _style import BLUE, GREY, ORANGE, plt, save

LENGTH, SAMPLES, DENSITY, SEED = 21, 400, 0.3, 3


def main() -> None:
    """Forward-backward over all configurations of copies, for the true target."""
    random = np.random.default_rng(SEED)
    target = np.ones(LENGTH) * np.linspace(1.3, 0.5, LENGTH)
    start, rate = [], DENSITY / LENGTH / (1 - DENSITY * (2 - 1 / LENGTH))  # chance of a start at a free sample
    at = 0
    while (at := at + int(random.geometric(rate)) - 1) <= SAMPLES - LENGTH:
        start.append(at)
        at += 2 * LENGTH - 1
    clean, noise = np.zeros(SAMPLES), random.standard_normal(SAMPLES)
    for s in start:
        clean[s : s + LENGTH] += target
    energies = (42, 12, 4)
    figure, axes = plt.subplots(2, 3, figsize=(7.2, 2.9), sharex=True, sharey="row", layout="constrained")
    for (above, below), energy in zip(axes.T, energies, strict=True):
        sigma = np.sqrt((target**2).sum() / energy)
        signal = clean + sigma * noise
        above.plot(signal / sigma, color=GREY, linewidth=0.5)
        above.plot(clean / sigma, color=ORANGE)
        below.vlines(np.array(start), -0.12, -0.02, color=ORANGE)
        below.plot(posterior(signal, target, sigma, rate), color=BLUE, linewidth=1)
        above.set_title(f"E = {energy}")
        below.set(ylim=(-0.14, 1.05), xlabel="sample")
    axes[0, 0].set_ylabel("signal / σ")
    axes[1, 0].set_ylabel("P(a copy begins)")
    save(figure, __file__)


def posterior(signal: np.ndarray, target: np.ndarray, sigma: float, rate: float) -> np.ndarray:
    """Probability that a copy begins at each sample; copies begin at least 2 L - 1 samples apart."""
    n, length = len(signal), len(target)
    ratio = np.full(n, -np.inf)
    ratio[: n - length + 1] = (np.correlate(signal, target) - (target**2).sum() / 2) / sigma**2
    gap, stay, begin = 2 * length - 1, np.log1p(-rate), np.log(rate) + ratio
    forward, backward = np.full(n + 1, -np.inf), np.full(n + 1, -np.inf)
    forward[0] = backward[n] = 0.0
    for t in range(n):
        free = 0.0 if t > n - length else stay
        forward[t + 1] = np.logaddexp(forward[t + 1], forward[t] + free)
        end = min(t + gap, n)
        forward[end] = np.logaddexp(forward[end], forward[t] + begin[t])
    for t in reversed(range(n)):
        free = 0.0 if t > n - length else stay
        backward[t] = np.logaddexp(backward[t + 1] + free, backward[min(t + gap, n)] + begin[t])
    ends = np.minimum(np.arange(n) + gap, n)
    return np.exp(forward[:-1] + begin + backward[ends] - backward[0])


if __name__ == "__main__":
    main()
