"""A template found in pure noise: python docs/pictures/template.py."""

import numpy as np
from _style import BLUE, GREY, ORANGE, plt, save

LENGTH, SAMPLES, SEED = 41, 400_000, 0


def main() -> None:
    """Average the windows of pure noise that look most like a template; beside it, all windows by their posterior."""
    t = np.linspace(-1, 1, LENGTH)
    template = (np.exp(-((t + 0.3) ** 2) / 0.05) - 0.7 * np.exp(-((t - 0.35) ** 2) / 0.03)) * (1 - t**2)
    template *= np.sqrt(12 / (template**2).sum())  # E = 12 in noise of variance 1
    noise = np.random.default_rng(SEED).standard_normal(SAMPLES)
    windows = np.lib.stride_tricks.sliding_window_view(noise, LENGTH)
    score = windows @ template
    picks = []
    for at in np.argsort(-score):  # the best, a length apart
        if all(abs(at - other) >= LENGTH for other in picks):
            picks.append(at)
        if len(picks) == 400:
            break
    # places summed over: how many copies are likely is estimated too (EM, in one parameter)
    share = 0.01
    for _ in range(200):
        odds = share / (1 - share) * np.exp(score - 6.0)
        share = float((odds / (1 + odds)).mean())
    weight = odds / (1 + odds)
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 2.4), sharey=True, layout="constrained")
    axes[0].plot(template, color=GREY, linestyle="--", label="template")
    axes[0].plot(windows[picks].mean(0), color=ORANGE, label="mean of the 400 best windows")
    axes[0].set_title("the best windows, picked")
    axes[1].plot(template, color=GREY, linestyle="--", label="template")
    axes[1].plot((weight @ windows) / (SAMPLES / 1000), color=BLUE, label="sum over expected copies, per 1,000 samples")
    axes[1].set_title("all windows, by their posterior")
    for axis in axes:
        axis.set(xticks=[], ylim=(-1.9, 3.1))
        axis.legend(loc="upper right")
    save(figure, __file__)


if __name__ == "__main__":
    main()
