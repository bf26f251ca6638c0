"""Agreement of two independently solved halves: alignment by low shells only, then Fourier shell correlation.

Halves solved from random starts differ by a rotation, a shift and the hand. An alignment that may use every shell
lays noise on noise and so raises the very curve that is read afterwards; here it sees the lowest shells only, and
the answer says which.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.data.maps import Map
from unpicked.evaluate.align import Alignment, Hand, align, apply
from unpicked.evaluate.fsc import Resolution, fsc, fsc_area, fsc_error, fsc_interval, resolution, shell_counts
from unpicked.evaluate.resample import centred, sphere
from unpicked.ops import fourier, seeding

THRESHOLD = 0.143  # between independent halves (Rosenthal & Henderson 2003)
RANDOMISE_BELOW = 0.8  # phases are randomised from the first shell whose unmasked correlation is lower
RANDOMISE_MARGIN = 2  # shells from there on that are left uncorrected
DRAWS = 4  # sets of random phases, averaged


@dataclass(frozen=True)
class Halves:
    """Agreement of half b, laid on half a, with half a.

    Attributes:
        fsc: curve of the shells 0 .. (N - 1) // 2, both maps without background inside the soft sphere of the
            box's diameter, outside which a turned map is not known. The shells up to ``cutoff_shell`` were made to
            agree and are too high by about what chance allows there.
        fsc_low: lower end of the curve's 95 % confidence interval (:func:`unpicked.evaluate.fsc.fsc_interval`).
        fsc_high: upper end.
        fsc_area: mean of the curve over the shells from 1.
        error: standard deviation per shell, (1 - FSC^2) / sqrt(n_k), n_k times the sphere's share of the box.
        resolution_0143: angstrom where ``fsc`` falls below 0.143; None where it does so in shell 1 already, or not
            beyond ``cutoff_shell`` while there are shells beyond it: those up to it were made to agree.
        at_nyquist: whether ``fsc`` never falls below 0.143; ``resolution_0143`` is then ``nyquist``.
        nyquist: two voxels, angstrom.
        cutoff_shell: last shell that the alignment saw.
        cutoff_angstrom: N a / cutoff_shell.
        hand: "same", or "mirrored" where b was mirrored in z first.
        hand_margin: alignment score of this hand minus that of the other, in the low shells.
        rotation: 3 x 3 rows of the active rotation of the (mirrored) b.
        shift: x, y, z in angstrom, after the rotation.
        shared_start: whether the halves had one start; the curve then is consistency, not validation.
        fsc_full: 2 F / (1 + F), the correlation with the whole data's map; 0 where F is negative.
        fsc_masked: the curve inside the mask; None without a mask, like all that follows.
        fsc_randomised: the curve inside the mask of the maps with random phases from ``randomised_from`` on.
        fsc_corrected: (masked - randomised) / (1 - randomised) from two shells further on, masked before.
        randomised_from: first shell of random phases, where ``fsc`` falls below 0.8; None where it never does.
        resolution_masked: angstrom where ``fsc_masked`` falls below 0.143.
        resolution_corrected: the same of ``fsc_corrected``, the figure to quote of masked halves.
        notes: sentences for the reader.
    """

    fsc: list[float]
    fsc_low: list[float]
    fsc_high: list[float]
    fsc_area: float
    error: list[float]
    resolution_0143: float | None
    at_nyquist: bool
    nyquist: float
    cutoff_shell: int
    cutoff_angstrom: float
    hand: Hand
    hand_margin: float
    rotation: list[list[float]]
    shift: list[float]
    shared_start: bool
    fsc_full: list[float]
    fsc_masked: list[float] | None
    fsc_randomised: list[float] | None
    fsc_corrected: list[float] | None
    randomised_from: int | None
    resolution_masked: float | None
    resolution_corrected: float | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Plain numbers, strings and lists for ``json.dumps``; what is missing is None (null)."""
        return {**self.__dict__, "notes": list(self.notes)}


def halves(
    a: Map, b: Map, *, mask: Map | None = None, shared_start: bool = False, cutoff_shell: int | None = None
) -> tuple[Halves, Map]:
    """Lay half b on half a by their low shells, and measure how far they agree.

    FSC(k) = Re sum F_a conj(F_b) / sqrt(sum |F_a|^2 sum |F_b|^2) over hard shells (see :mod:`unpicked.evaluate.fsc`);
    mask correction by random phases (Chen et al. 2013).

    Args:
        a: first half; its box, voxel size and orientation are used.
        b: second half, on the same grid.
        mask: values 0 to 1 on the grid and in the orientation of a; None means no mask beside the soft sphere.
        shared_start: whether the halves were solved from one start.
        cutoff_shell: last shell that the alignment may use; default the lower third of the band, 3 at least.

    Returns:
        The figures, and b on a: mirrored, rotated and shifted, limited to |q| < N / 2.

    Raises:
        ValueError: for maps that are not finite, constant or on different grids, for halves that hold nothing in
            the low shells, for a mask that is empty, not between 0 and 1 or on another grid, or for a cutoff
            outside the band.
        TypeError: if a map is complex.
    """
    check_map("the first half", a, a)
    check_map("the second half", b, a)
    cutoff = _cutoff(a.box, cutoff_shell)
    ball = sphere(a.box)
    window = None if mask is None else ball * check_mask(mask, a)
    found = align(_low(b, cutoff, "the second half"), _low(a, cutoff, "the first half"))
    limited = Map(_within(b.values.detach().double().cpu(), b.box / 2), b.voxel_size, b.origin)
    moved = apply(found, limited, a)
    curve = fsc(ball * centred(a.values), ball * centred(moved.values))
    where = _read(curve, a, cutoff)
    masked = None if window is None else _corrected(a, limited, found, window, curve, cutoff)
    counts = shell_counts(a.box) * share(ball)
    low, high = fsc_interval(curve, counts)
    return Halves(
        fsc=_floats(curve),
        fsc_low=_floats(low),
        fsc_high=_floats(high),
        fsc_area=fsc_area(curve),
        error=_floats(fsc_error(curve, counts)),
        resolution_0143=where.angstrom,
        at_nyquist=where.at_nyquist,
        nyquist=2 * a.voxel_size,
        cutoff_shell=cutoff,
        cutoff_angstrom=a.box * a.voxel_size / cutoff,
        hand=found.hand,
        hand_margin=found.hand_margin,
        rotation=[_floats(row) for row in found.rotation],
        shift=_floats(found.shift),
        shared_start=shared_start,
        fsc_full=_floats((2 * curve / (1 + curve).clamp_min(1e-12)).clamp_min(0)),
        fsc_masked=None if masked is None else _floats(masked.masked),
        fsc_randomised=None if masked is None else _floats(masked.randomised),
        fsc_corrected=None if masked is None else _floats(masked.corrected),
        randomised_from=None if masked is None else masked.start,
        resolution_masked=None if masked is None else masked.at_masked.angstrom,
        resolution_corrected=None if masked is None else masked.at_corrected.angstrom,
        notes=_notes(found, cutoff, a, shared_start, none=where.angstrom is None),
    ), moved


@dataclass(frozen=True)
class _Masked:
    """The curves inside a mask, and the first shell of random phases."""

    masked: torch.Tensor
    randomised: torch.Tensor
    corrected: torch.Tensor
    start: int | None
    at_masked: Resolution
    at_corrected: Resolution


def _corrected(a: Map, b: Map, found: Alignment, window: torch.Tensor, curve: torch.Tensor, cutoff: int) -> _Masked:
    """FSC inside the mask, freed of what the mask alone puts there.

    Phases are randomised in the whole box, before b is moved: there the noise is stationary, and stays what it was.
    Where shells of the alignment are among them, every draw is laid on as the maps were: that makes noise agree, too.
    """
    low = (curve[1:] < RANDOMISE_BELOW).nonzero().flatten()
    start = int(low[0]) + 1 if len(low) else None
    masked = fsc(window * centred(a.values), window * centred(apply(found, b, a).values))
    randomised, corrected = masked, masked
    if start is not None:
        draws = []
        for draw in range(DRAWS):
            one = random_phases(centred(a.values), start, 2 * draw)
            other = Map(random_phases(centred(b.values), start, 2 * draw + 1), b.voxel_size)
            if start <= cutoff:
                low_one = _low(Map(one, a.voxel_size), cutoff, "the first half")
                found = align(_low(other, cutoff, "the second half"), low_one)
            draws.append(fsc(window * one, window * apply(found, other, a).values))
        randomised = torch.stack(draws).mean(0)
        change = (masked - randomised) / (1 - randomised).clamp_min(1e-6)
        corrected = torch.where(torch.arange(len(curve)) >= start + RANDOMISE_MARGIN, change.clamp(-1, 1), masked)
    return _Masked(masked, randomised, corrected, start, _read(masked, a, cutoff), _read(corrected, a, cutoff))


def _read(curve: torch.Tensor, a: Map, cutoff: int) -> Resolution:
    """The resolution of a curve, none where it falls before the first shell that the alignment did not see."""
    where = resolution(curve, a.voxel_size, a.box, THRESHOLD)
    seen_all = cutoff + 1 >= len(curve)
    if seen_all or where.angstrom is None or a.box * a.voxel_size / where.angstrom >= cutoff + 1:
        return where
    return Resolution(None, False)


def random_phases(values: torch.Tensor, start: int, draw: int) -> torch.Tensor:
    """The map with its amplitudes, and from shell ``start`` on the phases of white noise."""
    noise = torch.randn(values.shape, generator=seeding.generator(0, "phases", draw), dtype=values.dtype)
    spectrum, other = fourier.fft3(values), fourier.fft3(noise)
    mixed = spectrum.abs() * other / other.abs().clamp_min(1e-300)
    return fourier.ifft3(torch.where(fourier.shells(values.shape) >= start, mixed, spectrum))


def _low(map: Map, last: int, name: str) -> Map:
    """The map's shells 1 .. ``last`` alone: all that the alignment sees."""
    values = centred(map.values)
    kept = _within(values, last + 0.5)
    kept = kept - kept.mean()
    if not float(kept.norm()) > 1e-9 * float(values.norm()):
        raise ValueError(
            f"{name} holds nothing in the shells 1 to {last}, by which halves are aligned; "
            "try a higher cutoff, or check the file"
        )
    return Map(kept, map.voxel_size)


def _within(values: Float[torch.Tensor, "n n n"], limit: float) -> Float[torch.Tensor, "n n n"]:
    """Only the frequencies |q| < limit."""
    spectrum = fourier.fft3(values)
    return fourier.ifft3(spectrum * (fourier.radius(spectrum.shape) < limit))


def _cutoff(box: int, cutoff: int | None) -> int:
    """Last shell of the alignment."""
    last = (box - 1) // 2
    if cutoff is None:
        return min(last, max(3, last // 3))
    if not 1 <= cutoff <= last:
        raise ValueError(f"the cutoff must be a shell from 1 to {last} in a box of {box} voxels; got {cutoff}")
    return cutoff


def share(window: torch.Tensor) -> float:
    """Independent voxels under a window per voxel of the box, (sum w^2)^2 / sum w^4 / N^3."""
    square = window.square()
    return float(square.sum().square() / square.square().sum()) / window.numel()


def check_map(name: str, map: Map, reference: Map) -> None:
    """Refuse a map that is not real, finite and on the grid of the reference."""
    if map.values.is_complex():
        raise TypeError(f"{name} must be a real map; got {map.values.dtype}; try values.real")
    if map.box < 4:
        raise ValueError(f"{name} must have at least 4 voxels an edge; got {map.box}")
    if not bool(torch.isfinite(map.values).all()):
        raise ValueError(f"{name} must be finite; found NaN or infinite voxels; repair the map first")
    if map.box != reference.box or abs(map.voxel_size / reference.voxel_size - 1) > 1e-3:
        raise ValueError(
            f"{name} must lie on the grid of the first map, {reference.box} voxels of {reference.voxel_size:g} A; "
            f"got {map.box} of {map.voxel_size:g} A; rescale it first"
        )


def check_mask(mask: Map, a: Map) -> torch.Tensor:
    """The mask's values, refused where they are not from 0 to 1 or empty inside the box's sphere."""
    check_map("the mask", mask, a)
    values = mask.values.detach().double().cpu()
    low, high = float(values.min()), float(values.max())
    if not (low >= -1e-6 and high <= 1 + 1e-6):
        raise ValueError(f"the mask must lie between 0 and 1; found values from {low:g} to {high:g}")
    if not bool((values * sphere(a.box) > 0).any()):
        raise ValueError("the mask is empty inside the sphere of the box's diameter; check the file")
    return values.clamp(0, 1)


def _notes(found: Alignment, cutoff: int, a: Map, shared_start: bool, *, none: bool) -> tuple[str, ...]:
    notes = [
        f"Aligned by the shells 1 to {cutoff} only ({a.box * a.voxel_size / cutoff:.3g} A); "
        "what lies beyond them took no part."
    ]
    if cutoff == (a.box - 1) // 2:
        notes = ["Aligned by all shells, so few are they: noise made to agree raises the whole curve."]
    elif none:
        notes.append("The halves agree in no shell beyond those, and up to there they were made to: no resolution.")
    if not found.hand_decidable:
        notes.append(f"hand undecidable in these shells: both hands fit alike (margin {found.hand_margin:.4f}).")
    if shared_start:
        notes.append("The halves shared a start: this is consistency, not validation.")
    return tuple(notes)


def _floats(values: torch.Tensor) -> list[float]:
    return [float(value) for value in values]
