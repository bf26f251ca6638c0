"""Resolution against noise: sets A to F of Nashed et al. (2021), beside known poses and the paper's words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from unpicked.data.maps import Map
from unpicked.estimators.base import State
from unpicked.experiments.stacks import COLUMNS, NEEDED, NOTES, SOURCE, Stack, Stacks, crossing, descend, solved
from unpicked.experiments.table import Check, Column, Experiment, Line, Plot, Row, Settings, Table
from unpicked.recipes.particle_job import ParticleJob
from unpicked.recipes.particle_methods import long_steps, short_steps
from unpicked.simulate.datasets import DATASETS

NYQUIST = ("A", "B", "C", "D")  # sets of which the paper says that the FSC never falls below 0.143
FIELD = 102.4  # angstrom
FAINT = 2.5  # angstrom, at -10 dB


@dataclass(frozen=True)
class PaperNoise:
    """Sets of falling signal, each solved from random starts and with known poses.

    Attributes:
        sizes: of the sets.
        sets: which ones.
        methods: of every set.
        job: settings of all methods.
        every: updates of the encoder between two looks at its map, on set A.
        seeds: runs per set and method.
        margin: target, angstrom that the resolution at 0.143 may be worse than with known poses.
    """

    sizes: Stacks = field(default_factory=Stacks)
    sets: tuple[str, ...] = ("A", "B", "C", "D", "E", "F")
    methods: tuple[Literal["known", "auto", "encoder"], ...] = ("known", "auto", "encoder")
    job: ParticleJob = field(default_factory=ParticleJob)
    every: int = 200
    seeds: int = 1
    margin: float = 0.3

    def run(self, settings: Settings) -> Table:
        """All sets, all methods, all seeds."""
        rows: list[Row] = []
        columns = (*COLUMNS, Column("Nyquist at update"))
        for seed in settings.runs(self.seeds):
            for name in self.sets:
                stack = self.sizes.read(name, seed)
                for method in self.methods:
                    job = replace(self.job, method=method)
                    compute = self.watched if (name, method) == ("A", "encoder") else solved
                    rows.append(settings.row(columns, (name, method, seed), compute, stack, job, seed, settings.device))
        return Table(
            name="paper-noise",
            title=f"Noise from none to -10 dB, {self.sizes.fitted} images of {self.sizes.box} pixels",
            source=SOURCE + ", figure 3",
            columns=columns,
            rows=tuple(rows),
            checks=self.checks(rows),
            notes=(
                *NOTES,
                "sets: " + ", ".join(f"{name} {_decibels(name)}" for name in self.sets),
                f"Nyquist at update: of the encoder alone, before refinement, seen every {self.every} updates; the "
                "update from which its map's FSC stays above 0.143 in all shells",
                "published are 9,000 images of 128 pixels of 0.8 A, Nyquist 1.6 A; coarser pixels leave out the shells "
                f"beyond {2 * FIELD / self.sizes.box:.3g} A",
            ),
            plot=_plot(rows, self.sizes.box),
            settings=asdict(self),
        )

    def watched(self, stack: Stack, job: ParticleJob, seed: int, device: str) -> dict[str, Any]:
        """A row of an encoder, with its course."""
        return solved(stack, job, seed, device) | self.course(stack, seed, device)

    def course(self, stack: Stack, seed: int, device: str) -> dict[str, Any]:
        """Resolution of the encoder's own map every so many updates, and where it crosses the paper's levels."""
        job, steps, found = replace(self.job, method="encoder"), list[int](), list[float | None]()
        box = stack.fitted.box

        def watch(state: State, row: dict[str, float]) -> None:
            steps.append(int(row["step"]))
            map = Map(state["x"].view((box,) * 3), stack.fitted.pixel_size)
            found.append(stack.judged(map).resolution_0143)

        gradients = [replace(one(stack.fitted, job), every=self.every) for one in (long_steps, short_steps)]
        descend(stack, gradients, watch, seed, device)
        return {
            "steps": steps,
            "FSC 0.143 at steps": found,
            "Nyquist at update": crossing(steps, found, stack.nyquist),
            "3.2 A at update": crossing(steps, found, max(3.2, stack.nyquist)),
        }

    def checks(self, rows: Sequence[Row]) -> tuple[Check, ...]:
        """The paper's words, and known poses on the same images."""
        out, nyquist = [], 2 * FIELD / self.sizes.box
        for name in self.sets:
            auto, known = (_resolutions(rows, name, method) for method in ("auto", "known"))
            if auto and known:
                worst = max(a - k for a, k in zip(auto, known, strict=True))
                out.append(
                    Check(
                        what=f"{name} ({_decibels(name)}): beside known poses",
                        published="not in the paper",
                        target=f"FSC 0.143 at most {self.margin:g} A worse",
                        ours=f"{_angstrom(auto)}, known poses {_angstrom(known)}",
                        passed=worst <= self.margin,
                    )
                )
            if auto:
                out.append(self._published(name, auto, nyquist))
        course = next((row for row in rows if "steps" in row), None)
        if course is not None:
            out.append(
                Check(
                    what="A: updates of the encoder to Nyquist",
                    published="600, at 1.6 A",
                    target="Nyquist of these pixels is reached",
                    ours=str(course["Nyquist at update"] or "not reached"),
                    passed=course["Nyquist at update"] is not None,
                )
            )
        return tuple(out)

    def _published(self, name: str, auto: list[float], nyquist: float) -> Check:
        """No worse than the paper, where these pixels can say."""
        if name in NYQUIST:
            words, level, decided = "Nyquist, 1.6 A", nyquist, True
        else:
            words, level, decided = "still better than 2.5 A at -10 dB", FAINT, name == "F" and nyquist < FAINT
        return Check(
            what=f"{name} ({_decibels(name)}): as published",
            published=words,
            target="Nyquist of these pixels" if name in NYQUIST else f"better than {FAINT:g} A",
            ours=_angstrom(auto),
            passed=max(auto) <= level * (1 + 1e-9) if decided else None,
        )


def _resolutions(rows: Sequence[Row], name: str, method: str) -> list[float]:
    """Angstrom at 0.143; infinite where the first shell already falls below."""
    found = [row["FSC 0.143"] for row in rows if (row["set"], row["method"]) == (name, method)]
    return [math.inf if value is None else value for value in found]


def _angstrom(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values) + " A"


def _decibels(name: str) -> str:
    level = DATASETS[name].decibels
    return "clean" if level is None else f"{level:g} dB"


def _plot(rows: Sequence[Row], box: int) -> Plot:
    lines = [
        Line(
            f"{row['set']} {row['method']}",
            [shell / FIELD for shell in range(1, len(row["FSC"]) + 1)],
            row["FSC"],
            "--" if row["method"] == "known" else "o-",
        )
        for row in rows
        if row["method"] != "encoder"
    ]
    return Plot(tuple(lines), "1/angstrom", "Fourier shell correlation with the truth")


EXPERIMENT = Experiment(
    name="paper-noise",
    summary="particle stacks from clean to -10 dB: ours beside known poses and the paper's resolutions",
    source=SOURCE,
    minutes=(30, 600),
    quick=PaperNoise(),
    full=PaperNoise(Stacks(128, 9000, 1000)),
    needs=(NEEDED,),
    cases=("sets",),
)
