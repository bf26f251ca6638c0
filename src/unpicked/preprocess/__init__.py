"""Micrograph to what the model assumes: no background, no bad pixels, working pixel size, noise of s.d. 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from unpicked._lazy import torch
from unpicked.data.masks import Covered, cleared
from unpicked.data.micrographs import Micrographs, Source
from unpicked.data.store import Store
from unpicked.ops.fourier import resize_image
from unpicked.preprocess.background import fit_background, polynomial, robust_sd

HOT = 12.0  # robust s.d. from background and neighbours at which a pixel is bad
MANY = 5e-3  # a larger share of such pixels is not a fault of the camera
LEAST_SHOWN = 0.02  # share of a micrograph that a mask must leave


@dataclass(frozen=True)
class Correction:
    """What was done to one micrograph: prepared = crop(image - background) / scale.

    Attributes:
        offset: background at the centre, in the file's grey values (matter bright).
        scale: divisor, in grey values after the crop; 1 without normalisation.
        replaced: pixels replaced by the median of their neighbours.
        kept_outliers: pixels as far out, kept because they are too many to be faults of the camera.
        skewness: of the low-passed image (details above about 20 angstrom), positive where matter is bright.
        skewness_error: its standard error for white noise.
        hidden: share of the prepared image that a mask leaves out.
    """

    offset: float
    scale: float
    replaced: int
    kept_outliers: int
    skewness: float
    skewness_error: float
    hidden: float = 0.0


@dataclass(frozen=True)
class Grid:
    """Size before and after the Fourier crop.

    Attributes:
        trimmed: height and width after rows and columns at the far edges were left out.
        size: height and width after the crop.
    """

    trimmed: tuple[int, int]
    size: tuple[int, int]

    @property
    def ratio(self) -> float:
        """Pixels of the file per working pixel."""
        return self.trimmed[0] / self.size[0]


@dataclass(frozen=True)
class PreparedSource:
    """Prepared images, computed when first read (a :class:`~unpicked.data.micrographs.Source`).

    Attributes:
        source: the images as read.
        names: one per image, for messages.
        grid: sizes before and after the crop.
        voxel_size: exact working voxel in angstrom.
        normalise: divide by the robust s.d.
        kept: whether images that were read stay, see :class:`unpicked.data.store.Store`.
        masks: which pixels of the prepared images count, or None where all do.
    """

    source: Source
    names: tuple[str, ...]
    grid: Grid
    voxel_size: float
    normalise: bool
    kept: bool = True
    masks: Covered | None = None
    _images: Store = field(default_factory=Store, repr=False, compare=False)
    _corrections: dict[int, Correction] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in working pixels."""
        return self.grid.size

    def read(self, index: int) -> torch.Tensor:
        """Prepared image ``index`` as ``(height, width)`` float32, matter bright.

        Raises:
            ValueError: if the image cannot be read or nothing varies in it.
        """
        index = range(len(self))[index]
        image = self._images.get(index)
        if image is not None:
            return image
        image, correction = _correct(
            self.source.read(index), self.grid, self.voxel_size, self.normalise, self.names[index],
            None if self.masks is None else (self.masks.source.read(index), self.masks.read(index)),
        )  # fmt: skip
        self._corrections[index] = correction
        return self._images.put(index, image) if self.kept else image

    def learn(self, corrections: Sequence[Correction]) -> None:
        """What was done to every image, where other processes have found it."""
        self._corrections.update(enumerate(corrections))

    def correction(self, index: int) -> Correction:
        """What was done to image ``index``; reads it if that has not happened yet."""
        index = range(len(self))[index]
        if index not in self._corrections:
            self.read(index)
        return self._corrections[index]


@dataclass(frozen=True)
class Prepared:
    """Micrographs ready for a model, and what was done to each.

    Attributes:
        micrographs: the prepared set; its ``pixel_size`` is the exact working voxel size.
        source: the same images with their corrections.
    """

    micrographs: Micrographs
    source: PreparedSource

    @property
    def corrections(self) -> tuple[Correction, ...]:
        """One per micrograph; images that were not read yet are read."""
        return tuple(self.source.correction(index) for index in range(len(self.source)))

    @property
    def scales(self) -> tuple[float, ...]:
        """Divisor of every micrograph."""
        return tuple(correction.scale for correction in self.corrections)

    @property
    def scale(self) -> float:
        """Median divisor: a map from these images times this is in the files' grey values after the crop."""
        return median(self.scales)

    @property
    def notes(self) -> tuple[str, ...]:
        """The set's notes and one for every micrograph in which pixels were replaced or are suspicious."""
        extra = []
        for name, correction in zip(self.micrographs.names, self.corrections, strict=True):
            if correction.replaced:
                extra.append(f"{name}: {correction.replaced} bad pixels replaced by the median around them")
            if correction.kept_outliers:
                extra.append(
                    f"{name}: {correction.kept_outliers} pixels lie over {HOT:g} s.d. from the background, "
                    "too many for bad pixels, kept; look for ice, carbon or gold, or noiseless data"
                )
        if self.source.masks is not None:
            shares = [correction.hidden for correction in self.corrections]
            extra.append(
                f"masks leave out {sum(shares) / len(shares):.1%} of the area, up to {max(shares):.1%} of a micrograph"
            )
        return (*self.micrographs.notes, *extra, *self.contrast_notes)

    @property
    def contrast_notes(self) -> tuple[str, ...]:
        """A warning where the images look inverted: matter should be bright now, and its images skewed to bright.

        Nothing else would tell: inverted data fit an inverted map just as well.
        """
        skewness = sum(c.skewness for c in self.corrections) / len(self.corrections)
        error = math.sqrt(sum(c.skewness_error**2 for c in self.corrections)) / len(self.corrections)
        if skewness > -5 * error:
            return ()
        return (
            f"WARNING: the contrast seems inverted: matter should be bright after reading, but the low-passed "
            f"micrographs are skewed to dark (skewness {skewness:.3f} +- {error:.3f}); try the other --contrast",
        )

    def to_file_pixels(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Positions ``(..., 2)`` x, y in working pixels to pixels of the files (both counted from 0)."""
        (old_h, old_w), (new_h, new_w) = self.source.grid.trimmed, self.source.grid.size
        old, new = (
            coordinates.new_tensor([old_w // 2, old_h // 2]),
            coordinates.new_tensor([new_w // 2, new_h // 2]),
        )
        return (coordinates - new) * self.source.grid.ratio + old


def prepare(
    micrographs: Micrographs,
    *,
    voxel_size: float | None = None,
    normalise: bool = True,
    keep: bool = True,
) -> Prepared:
    """Remove background and bad pixels, Fourier-crop to the working voxel, divide by the noise; when read.

    Of every micrograph: (1) a polynomial of order 2 is fitted to means of 4 x 4 pixels with Tukey's biweight
    and subtracted. Its level is that of the solvent where particles stand out of the noise in such means and
    cover up to about 15 % of the area; where they do not stand out, it is the mean, particles included.
    (2) Pixels more than 12 robust s.d. from both the background and the median of their 5 x 5 neighbourhood
    take that median. (3) Fourier crop, which keeps the variance of white noise. (4) Division by 1.4826 times
    the median absolute deviation.

    Where the set has masks, all of this is found from the pixels that count; others are zero afterwards, whatever they
    held.

    Args:
        micrographs: the set as read.
        voxel_size: working voxel in angstrom, at least the pixel size. Sizes become the nearest even ones;
            the exact voxel that results is the result's ``pixel_size``, and a note tells it. Of micrographs
            that are not square a few rows and columns at the far edges are left out, so that both axes are
            cropped by the same ratio to 1e-4. None keeps pixel size and size.
        normalise: divide by the robust s.d.
        keep: whether images that were read are kept for the next reading, in a bounded part of the memory and on
            disk; else they are computed again.

    Raises:
        ValueError: if the voxel is smaller than the pixel (nothing can be gained by that), or so large that
            fewer than 8 pixels remain.
    """
    grid = _grid(micrographs.shape, micrographs.pixel_size, voxel_size)
    exact = micrographs.pixel_size * grid.ratio
    masks = None if micrographs.masks is None else Covered(micrographs.masks, grid.trimmed, grid.size)
    source = PreparedSource(micrographs.source, micrographs.names, grid, exact, normalise, keep, masks)
    notes = [*micrographs.notes, "background (polynomial of order 2, robust) subtracted; bad pixels mended"]
    if grid.size != micrographs.shape:
        notes.append(
            f"Fourier-cropped from {_by(micrographs.shape)} to {_by(grid.size)} pixels: the working voxel is "
            f"{exact:.6g} A"
        )
    if grid.trimmed != micrographs.shape:
        rows, columns = (a - b for a, b in zip(micrographs.shape, grid.trimmed, strict=True))
        notes.append(f"{rows} rows and {columns} columns at the far edges are left out, for equal ratios")
    if normalise:
        notes.append("each micrograph is divided by its robust standard deviation")
    prepared = replace(micrographs, source=source, pixel_size=exact, notes=tuple(notes), masks=masks)
    return Prepared(prepared, source)


def _correct(
    image: torch.Tensor,
    grid: Grid,
    voxel_size: float,
    normalise: bool,
    name: str,
    masks: tuple[torch.Tensor, torch.Tensor] | None,
) -> tuple[torch.Tensor, Correction]:
    """The image prepared, and what was done; ``masks``: which pixels count before and after the crop."""
    before, after = (None, None) if masks is None else masks
    if after is not None and not float(after.float().mean()) > LEAST_SHOWN:
        raise ValueError(
            f"{name} has no more than {LEAST_SHOWN:.0%} of its area left by its mask; leave this micrograph out"
        )
    image = cleared(image.float(), before)
    if not bool(torch.isfinite(image).all()):
        raise ValueError(f"{name} holds pixels that are not finite; leave this micrograph out")
    coefficients = fit_background(image, before)
    flat = cleared(image - polynomial(coefficients, *image.shape), before)
    flat, replaced, outliers = _mend(flat, before)
    flat = flat[: grid.trimmed[0], : grid.trimmed[1]]
    if grid.size != grid.trimmed:
        flat = cleared(resize_image(flat, grid.size), after)
    scale = robust_sd(flat if after is None else flat[after]) if normalise else 1.0
    if not scale > 0:
        raise ValueError(f"{name} is constant once its background is removed; leave this micrograph out")
    skewness = _skewness(flat, voxel_size, after)
    hidden = 0.0 if after is None else 1 - float(after.float().mean())
    return flat / scale, Correction(float(coefficients[0]), scale, replaced, outliers, *skewness, hidden)


def _mend(flat: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, int, int]:
    """Replace isolated outliers: the image, how many were replaced, how many kept as they are too many."""
    limit = HOT * robust_sd(flat if mask is None else flat[mask])
    rows, columns = (flat.abs() > limit).nonzero(as_tuple=True)
    if len(rows) == 0 or limit == 0:
        return flat, 0, 0
    if len(rows) > max(MANY * flat.numel(), 4):
        return flat, 0, len(rows)
    step = torch.arange(-2, 3)
    near_rows, near_columns = rows[:, None, None] + step[:, None], columns[:, None, None] + step
    inside = (near_rows >= 0) & (near_rows < flat.shape[0]) & (near_columns >= 0) & (near_columns < flat.shape[1])
    inside &= (step[:, None] != 0) | (step != 0)
    height, width = flat.shape
    inner = near_rows.clamp(0, height - 1), near_columns.clamp(0, width - 1)
    near = flat[inner]
    if mask is not None:
        inside &= mask[inner]
    local = near.masked_fill(~inside, math.nan).flatten(1).nanmedian(-1).values
    # a particle's peak has neighbours that stand out too, a faulty pixel has none
    ring = near.masked_fill(~inside, math.nan)[:, 1:4, 1:4].flatten(1).nanmedian(-1).values.abs()
    bad = ((flat[rows, columns] - local).abs() > limit) & (ring < limit / 4)
    mended = flat.clone()
    mended[rows[bad], columns[bad]] = local[bad]
    return mended, int(bad.sum()), 0


def _skewness(flat: torch.Tensor, voxel_size: float, mask: torch.Tensor | None) -> tuple[float, float]:
    """Skewness of the image without details below 20 angstrom, and its standard error for white noise."""
    size = [max(16, 2 * round(n * min(1.0, voxel_size / 10) / 2)) for n in flat.shape]
    low = resize_image(flat, (min(size[0], flat.shape[0]), min(size[1], flat.shape[1]))).double()
    if mask is not None:  # where more than half of what a pixel of the low-passed image covers counts
        shown = torch.nn.functional.adaptive_avg_pool2d(mask[None, None].double(), (low.shape[0], low.shape[1]))[0, 0]
        low = low[shown > 0.5]
    low = low - low.mean()
    spread = float(low.square().mean())
    skewness = float(low.pow(3).mean()) / spread**1.5 if spread > 0 else 0.0
    return skewness, math.sqrt(6 / low.numel())


def _grid(shape: tuple[int, int], pixel_size: float, voxel_size: float | None) -> Grid:
    if voxel_size is None:
        return Grid(shape, shape)
    if not (math.isfinite(voxel_size) and voxel_size > 0):
        raise ValueError(f"voxel_size must be positive, in angstrom; got {voxel_size}")
    ratio = voxel_size / pixel_size
    if abs(ratio - 1) < 1e-6:
        return Grid(shape, shape)
    if ratio < 1:
        raise ValueError(
            f"voxel_size must be at least the pixel size of the data, {pixel_size:g} A; "
            f"got {voxel_size:g} A: finer voxels hold nothing new"
        )
    if min(shape) / ratio < 8:
        raise ValueError(
            f"voxel_size {voxel_size:g} A leaves {min(shape) / ratio:.1f} pixels of {min(shape)}; expected "
            f"at least 8; try at most {min(shape) * pixel_size / 8:g} A"
        )
    if shape[0] == shape[1]:
        even = min(2 * round(shape[0] / ratio / 2), shape[0])
        return Grid(shape, (even, even))
    return _common_ratio(shape, ratio)


def _common_ratio(shape: tuple[int, int], ratio: float) -> Grid:
    """Even sizes and trimmed lengths with equal ratios to 1e-4: least loss of area, least change."""
    best: tuple[float, Grid] | None = None
    sizes = [_even_near(length / ratio, length) for length in shape]
    for height in sizes[0]:
        for rows in range(shape[0], max(height, int(0.9 * shape[0])) - 1, -1):
            exact = rows / height
            loss = 1 - rows / shape[0] + abs(exact / ratio - 1)
            if best is not None and loss >= best[0]:
                continue
            for width in sizes[1]:
                columns = round(exact * width)
                if columns > shape[1] or abs(columns / width / exact - 1) > 1e-4:
                    continue
                cost = loss + 1 - columns / shape[1]
                if best is None or cost < best[0]:
                    best = cost, Grid((rows, columns), (height, width))
    if best is None:
        raise ValueError(f"no even size fits {_by(shape)} pixels cropped by {ratio:g}; try another voxel_size")
    return best[1]


def _even_near(length: float, most: int) -> list[int]:
    """Even lengths around a real one, from 10 % (at least 4) below to 2 above."""
    first = max(8, 2 * math.floor(min(0.9 * length, length - 4) / 2))
    return [n for n in range(first, 2 * math.floor(length / 2) + 3, 2) if n <= most] or [most - most % 2]


def _by(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"
