"""The page of a run whose answer is a signal or an image: curves with error bars, or tiles, beside the truth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unpicked._lazy import torch
from unpicked.evaluate.images import best_angle, turned
from unpicked.io._files import found_among
from unpicked.io.npy import read_array
from unpicked.report import figures, page, sections, tiles, verdict, words
from unpicked.report.reading import History, read_history, read_result
from unpicked.report.words import as_number, sentence

Values = NDArray[np.float64]


@dataclass(frozen=True)
class TargetRun:
    """A run folder.

    Attributes:
        name: of the folder.
        result: ``result.json``.
        history: rows by run.
        values: ``(kinds, L)`` of signals, ``(kinds, h, w)`` of images.
        errors: standard errors of the same shape, or None.
        truth: of the same shape, laid upon the estimate's order, or None.
        notes: sentences on what could not be used.
    """

    name: str
    result: Mapping[str, Any]
    history: History
    values: Values
    errors: Values | None
    truth: Values | None
    notes: tuple[str, ...]

    @property
    def image(self) -> bool:
        """Whether the target is an image."""
        return self.values.ndim == 3


def read(folder: Path) -> TargetRun:
    """Read a run folder.

    Raises:
        ValueError: if it is no run folder, or one of its files cannot be understood.
    """
    missing = [name for name in ("result.json", "history.csv", "target.npy") if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder} is not a finished run: {', '.join(missing)} not found; "
            "try the folder that was given to reconstruct as --out"
        )
    result = read_result(folder / "result.json")
    image = dict(result.get("data") or {}).get("kind") == "image"
    values = _kinds(read_array(folder / "target.npy").numpy(), image)
    notes: list[str] = []
    errors = _beside(folder / "errors.npy", values, image, notes)
    named = dict(result.get("data") or {}).get("truth")
    truth = _beside(Path(str(named)), values, image, notes) if named else None
    order = dict(dict(result.get("figures") or {}).get("compare") or {}).get("order")
    if truth is not None and isinstance(order, list) and sorted(order) == list(range(len(truth))):
        truth = truth[np.argsort(order)]
    history = read_history(folder / "history.csv")
    return TargetRun(folder.resolve().name, result, history, values, errors, truth, tuple(notes))


def render(run: TargetRun) -> str:
    """The page as text."""
    result = run.result
    kinds, size = len(run.values), run.values.shape[1:]
    lead = f"{' × '.join(map(str, size))} {_unit(run)}" + (
        f", {kinds} kinds, in no particular order" if kinds > 1 else ""
    )
    return page.template("target.html.j2").render(
        style=page.own("page.css"),
        name=run.name,
        version=result.get("version", "unknown"),
        source="images" if run.image else "a signal",
        found="target",
        file="target.npy",
        verdict=verdict.verdict(result),
        verdict_sentence=verdict.heading(result),
        result=sentence(str(result.get("result", "how the run ended is not recorded"))),
        key=_key(run),
        statements=_statements(run),
        lead=f"{lead}.",
        curves=[] if run.image else _curves(run),
        rows=_tiles(run) if run.image else [],
        errors=run.errors is not None,
        truth=_against(result),
        convergence=sections.convergence(run.history),
        passes=page.passes(run.history),
        data=page.data_rows(result),
        notes=[sentence(text) for text in page.notes_of(result) + list(run.notes)],
        settings=[(key, words.plain(value)) for key, value in dict(result.get("settings") or {}).items()],
        command=words.command(result.get("command")),
        seed=words.plain(result.get("seed")),
        effort=page.effort(result),
    )


def _unit(run: TargetRun) -> str:
    return "pixels" if run.image else "samples"


def _key(run: TargetRun) -> tuple[page.Figure, ...]:
    found = dict(run.result.get("figures") or {})
    names = ("energy", "particles", "density", "sigma")
    energy, particles, density, sigma = (as_number(found.get(name)) for name in names)
    out = []
    if energy is not None:
        per = energy / np.prod(run.values.shape[1:])
        note = f"sum of squares over σ²; SNR per {'pixel' if run.image else 'sample'} {words.number(float(per))}"
        out.append(page.Figure("energy per copy, E", words.number(energy), note))
    if particles is not None:
        out.append(page.Figure("copies seen", f"{particles:,.0f}", "expected number"))
    if density is not None:
        out.append(page.Figure("density", f"{100 * density:#.3g} %", "share of the data that copies cover"))
    if sigma is not None:
        out.append(page.Figure("noise, σ", words.number(sigma, 4), "in the units of the data"))
    compare = dict(found.get("compare") or {})
    error = as_number(compare.get("relative_error"))
    if error is not None:
        shifted, shift = as_number(compare.get("relative_error_shifted")), compare.get("shift")
        moved = (
            "" if shifted is None else f"; {words.number(shifted)} at the best shift, {words.plain(shift)} {_unit(run)}"
        )
        out.append(page.Figure("relative error", words.number(error), f"against the truth, unmoved{moved}"))
    return tuple(out)


def _statements(run: TargetRun) -> list[tuple[str, str]]:
    said = verdict.statements(run.result)
    if run.errors is not None:
        said.append(
            ("Errors", "Standard errors by the observed information of the data; they do not tell of a wrong optimum.")
        )
    if verdict.verdict(run.result) == "not verified":
        parts = ["No test on held-out data, so a target of noise or of the starting point is not excluded."]
        parts += [] if run.truth is not None else ["No comparison with a known target."]
        said.append(("Not done", " ".join(parts)))
    return said


def _against(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = dict(dict(result.get("figures") or {}).get("compare") or {})
    titles = {
        "relative_error": "relative error",
        "relative_error_shifted": "relative error, best shift",
        "shift": "that shift",
        "angle_deg": "angle",
    }
    return [(title, words.plain(found[key])) for key, title in titles.items() if found.get(key) is not None]


def _curves(run: TargetRun) -> list[dict[str, Any]]:
    from markupsafe import Markup

    out = []
    for kind, values in enumerate(run.values):
        errors = None if run.errors is None else run.errors[kind]
        truth = None if run.truth is None else run.truth[kind]
        said = f"target of {len(values)} samples from {words.number(values.min())} to {words.number(values.max())}"
        picture = Markup(_curve(f"target-{kind}", values, errors, truth))  # drawn here from numbers alone
        out.append({"title": f"kind {kind + 1}", "said": said, "svg": picture})
    return out


def _curve(name: str, values: Values, errors: Values | None, truth: Values | None) -> str:
    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        places = np.arange(len(values))
        axes.axhline(0, color=figures.MUTED, linewidth=0.8)
        if errors is not None:
            band = {"color": figures.BAND, "linewidth": 0, "step": "mid"}
            axes.fill_between(places, values - errors, values + errors, **band)
        if truth is not None:
            axes.step(places, truth, where="mid", color=figures.SECOND, linewidth=1.4)
        axes.step(places, values, where="mid", color=figures.FIRST, linewidth=2)
        axes.set_xlim(-0.5, len(values) - 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("sample")

    return figures.svg(name, draw, size=(4.6, 2.8))


def _tiles(run: TargetRun) -> list[tuple[str, tuple[tiles.Tile, ...]]]:
    """Per kind the reconstruction, and beside it the truth turned onto it: the frame is free."""
    rows = []
    for kind, values in enumerate(run.values):
        seen, labels = [values], ["reconstruction"]
        if run.truth is not None:
            first, second = torch.from_numpy(values).double(), torch.from_numpy(run.truth[kind]).double()
            turn = dict(dict(run.result.get("figures") or {}).get("compare") or {}).get("angle_deg")
            if turn:
                angle = best_angle(second, first)
                second = turned(second, angle)
            seen.append(second.numpy())
            labels.append(f"truth, turned by {math.degrees(angle):.0f}°" if turn else "truth")
        rows.append((f"kind {kind + 1}" if len(run.values) > 1 else "target", tiles.images(seen, labels)))
    return rows


def _kinds(values: Values, image: bool) -> Values:
    """With an axis of kinds in front."""
    wanted = 3 if image else 2
    values = values[None] if values.ndim == wanted - 1 else values
    if values.ndim != wanted:
        raise ValueError(f"target.npy must hold {'images' if image else 'signals'}; got shape {values.shape}")
    return values


def _beside(path: Path, values: Values, image: bool, notes: list[str]) -> Values | None:
    """An array of the same shape, or None."""
    if found_among((path,), str(path))[0] is None:
        return None
    try:
        found = _kinds(read_array(path).numpy(), image)
    except (ValueError, TypeError) as error:
        notes.append(f"not used: {error}")
        return None
    if found.shape != values.shape:
        notes.append(f"not used: {path} has shape {found.shape}, the target {values.shape}")
        return None
    return found
