"""Masks of micrographs in MRC files: which pixels contamination, carbon or an edge takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from unpicked._lazy import torch
from unpicked.io._files import expanded
from unpicked.io._mrc import Header, by, read_header, read_values

PathLike = Path | str
Mark = Literal["junk", "good"]
ENDINGS = (".mrc", ".mrc.gz", ".mrc.bz2", ".map")
SUFFIXES = ("", "_mask")  # of a mask's name behind that of its micrograph
HALF = 0.5  # share of all pixels that masks take without being told what they mark


@dataclass(frozen=True)
class MaskFiles:
    """Masks in MRC files, a :class:`~unpicked.data.micrographs.Source` of booleans, True where a pixel counts.

    Attributes:
        files: one per micrograph.
        size: height and width of the micrographs; a mask may be smaller by a whole factor.
        mark: what pixels that are not zero mark.
        headers: what the files' headers say.
        factors: of every mask, micrograph pixels per pixel of it.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is not MRC, not one image, or of another size.
    """

    files: tuple[Path, ...]
    size: tuple[int, int]
    mark: Mark = "junk"
    headers: tuple[Header, ...] = field(init=False, repr=False, compare=False)
    factors: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        headers = tuple(read_header(path) for path in self.files)
        object.__setattr__(self, "headers", headers)
        object.__setattr__(self, "factors", tuple(_factor(header, self.size) for header in headers))

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.size

    def read(self, index: int) -> torch.Tensor:
        """Mask ``index`` as ``(height, width)`` booleans.

        Raises:
            ValueError: if the file is damaged, or holds anything but 0 and one other value.
        """
        header, factor = self.headers[index], self.factors[index]
        values = read_values(header)[0]
        marked = values != 0
        others = values[marked]
        if len(others) and not others.min() == others.max():
            raise ValueError(
                f"{header.path} holds values from {values.min():g} to {values.max():g}; expected a mask of 0 and one "
                "other value; cut probabilities off at a threshold first"
            )
        if factor > 1:
            marked = marked.repeat(factor, 0).repeat(factor, 1)
            more = [(0, max(0, n - m)) for n, m in zip(self.size, marked.shape, strict=True)]
            marked = np.pad(marked, more, mode="edge")[: self.size[0], : self.size[1]]
        return torch.from_numpy(np.ascontiguousarray(marked if self.mark == "good" else ~marked))


def read_masks(
    items: PathLike | Sequence[PathLike], names: Sequence[str], size: tuple[int, int], mark: Mark | None = None
) -> tuple[MaskFiles, list[str]]:
    """Masks of micrographs, matched by name: ``a.mrc`` or ``a_mask.mrc`` belongs to micrograph ``a``; and sentences.

    All are read once, so that whatever is wrong is found at once.

    Args:
        items: files, folders of them, or patterns.
        names: of the micrographs.
        size: height and width of the micrographs.
        mark: what pixels that are not zero mark: "junk", which is left out (as MicrographCleaner writes), or
            "good". None: junk, refused where that takes more than half of all pixels.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: for a micrograph without a mask or with several, micrographs of one name, masks that are not of two
            values or not of their micrograph's size, or where it is not plain what they mark.
    """
    listed = [items] if isinstance(items, str | Path) else list(items)
    paths = list(dict.fromkeys(path for item in listed for path in expanded(item, ENDINGS, "mask")))
    chosen = _matched(paths, names)
    masks = MaskFiles(tuple(chosen), size, mark or "junk")
    shares = [1 - float(masks.read(index).float().mean()) for index in range(len(masks))]
    hidden = sum(shares) / len(shares)
    if mark is None and hidden > HALF:
        raise ValueError(
            f"masks leave out {hidden:.0%} of all pixels if those that are not zero mark junk; say what they mark: "
            "masks_mark='junk' or 'good' (--masks-mark)"
        )
    notes = [f"masks: {len(masks)} files; pixels that are {'' if mark == 'good' else 'not '}zero are left out"]
    notes[0] += f", {hidden:.1%} of all"
    if smaller := sorted({factor for factor in masks.factors if factor > 1}):
        told = ", ".join(str(factor) for factor in smaller)
        notes.append(f"masks are smaller than their micrographs by {told}: enlarged")
    if unused := len(paths) - len(set(chosen)):
        notes.append(f"{unused} masks belong to none of the micrographs and are not used")
    return masks, notes


def _matched(paths: Sequence[Path], names: Sequence[str]) -> list[Path]:
    """The mask of every micrograph."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(_stem(path.name), []).append(path)
    taken: dict[str, str] = {}
    return [_of(name, found, taken) for name in names]


def _of(name: str, found: Mapping[str, list[Path]], taken: dict[str, str]) -> Path:
    stem = _stem(Path(name).name)
    if stem in taken:
        raise ValueError(
            f"{taken[stem]} and {name} have one name, so that their masks cannot be told apart; rename one"
        )
    taken[stem] = name
    named = found.get(stem + SUFFIXES[1], [])
    beside = {path.parent for path in named}  # there a.mrc is the micrograph, a_mask.mrc its mask
    own = [path for path in found.get(stem + SUFFIXES[0], []) if path.parent not in beside] + named
    if not own:
        raise ValueError(
            f"{name} has no mask; expected {stem}.mrc or {stem}_mask.mrc; give one without marks where all is good"
        )
    if len(own) > 1:
        raise ValueError(f"{name} has several masks: {', '.join(str(path) for path in own[:3])}; give one")
    return own[0]


def _stem(name: str) -> str:
    for ending in (".gz", ".bz2"):
        name = name.removesuffix(ending)
    return name.rpartition(".")[0] or name


def _factor(header: Header, size: tuple[int, int]) -> int:
    """Micrograph pixels per pixel of a mask."""
    if header.shape[0] != 1 or header.space_group >= 401:
        raise ValueError(f"{header.path} holds {header.kind}; expected one mask per file")
    height, width = header.shape[1:]
    for factor in range(1, min(size) + 1):
        if all(n in (m // factor, -(-m // factor)) for n, m in zip((height, width), size, strict=True)):
            return factor
    raise ValueError(
        f"{header.path} is {by((height, width))}, its micrograph {by(size)} pixels; expected a mask of that size, or "
        "of one smaller by a whole factor"
    )
