"""Micrographs as users bring them: MRC or TIFF files, STAR and .cs lists, with their contrast transfer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unpicked.data.micrographs import Micrographs
from unpicked.data.optics import Optics
from unpicked.io import tiff
from unpicked.io._files import around, expanded, found_among
from unpicked.io._mrc import header_pixel_size
from unpicked.io._relion import MICROSCOPE
from unpicked.io.ctffind import ctffind_optics
from unpicked.io.masks import Mark, MaskFiles, read_masks
from unpicked.io.micrograph_table import (
    BEFORE_BINNING,
    STARS,
    MicrographTable,
    check_once,
    optics_note,
    read_micrograph_table,
)
from unpicked.io.mrc import Contrast, MrcSource, check_contrast
from unpicked.io.tiff import TiffSource

PathLike = Path | str
ENDINGS = (".mrc", ".mrc.gz", ".mrc.bz2", ".map")
LISTS = (*STARS, ".cs")


def read_micrographs(
    files: PathLike | Sequence[PathLike],
    *,
    pixel_size: float | None = None,
    contrast: Contrast = "dark",
    ctf: PathLike | Sequence[PathLike] = (),
    passthrough: PathLike | Sequence[PathLike] = (),
    voltage_kv: float | None = None,
    cs_mm: float | None = None,
    amplitude_contrast: float | None = None,
    masks: PathLike | Sequence[PathLike] = (),
    masks_mark: Mark | None = None,
) -> Micrographs:
    """Micrographs with what is known of their contrast transfer; images are read one by one when asked for.

    Args:
        files: a file, a folder (its .mrc, .mrc.gz, .mrc.bz2 and .map files, sorted; without these its .tif and .tiff
            files), a pattern such as ``"data/*.mrc"``, a list of these, or one RELION micrographs STAR file (3.0 to 5)
            or .cs file of cryoSPARC's exposures.
        pixel_size: angstrom; overrides lists and headers. TIFF files need it, unless a list says it.
        contrast: "dark" (matter dark, as microscopes write; multiplied by -1 on reading) or "bright".
        ctf: text files of CTFFIND4 or a folder of them; they replace what a list says.
        passthrough: .cs files with more fields of the same exposures, joined by ``uid``.
        voltage_kv: for lists and CTFFIND files that do not say, as the next two; with ``ctf`` it wins over their heads.
        cs_mm: spherical aberration.
        amplitude_contrast: fraction.
        masks: MRC files, folders or patterns, matched by name (``a.mrc`` or ``a_mask.mrc`` of micrograph ``a``), of the
            micrographs' size or smaller by a whole factor; what they hide is no part of the data.
        masks_mark: what their pixels that are not zero mark, "junk" or "good"; None: junk, if it is at most half.

    Returns:
        The set; its ``notes`` say what was read, where pixel size and contrast transfer come from, and what was
        assumed.

    Raises:
        FileNotFoundError: if a file is missing (for a list: which row, and all places tried).
        ValueError: for files that are not single micrographs of one size and pixel size, or contrast transfer that
            only some of them have.
    """
    items = [files] if isinstance(files, str | Path) else list(files)
    if not items:
        raise ValueError("files must name at least one micrograph; got an empty list")
    check_contrast(contrast)
    values = (voltage_kv, cs_mm, amplitude_contrast)
    given = {name: float(value) for name, value in zip(MICROSCOPE, values, strict=True) if value is not None}
    lists = [item for item in items if str(item).lower().endswith(LISTS)]
    if lists and len(items) > 1:
        raise ValueError(f"a STAR or .cs file must stand alone; got {lists[0]} among {len(items)} inputs")
    if passthrough and not (lists and str(lists[0]).lower().endswith(".cs")):
        raise ValueError(f"passthrough files belong to a .cs file of exposures; got {items[0]}")
    table = read_micrograph_table(lists[0], passthrough=passthrough, ctf=not ctf, given=given) if lists else None
    paths, names = _listed(items, table)
    stated = None if table is None or pixel_size is not None else table.pixel_size
    if table is not None and table.stated_by == BEFORE_BINNING and stated is not None:
        stated = _after_binning(stated, paths)
    source = _source(tuple(paths), contrast, pixel_size if pixel_size is not None else stated)
    size, notes = _pixel_size(source, table, pixel_size, stated)
    optics, told = _optics(table, names, size, ctf, given)
    head = () if table is None else table.notes
    if masks_mark is not None and not masks:
        raise ValueError("masks_mark (--masks-mark) needs masks (--masks)")
    hidden, more = read_masks(masks, names, source.shape, masks_mark) if masks else (None, [])
    said = (*head, *_images_notes(source, table), *notes, *told, *more)
    return Micrographs(source, size, names, optics, said, masks=hidden)


def _listed(items: Sequence[PathLike], table: MicrographTable | None) -> tuple[list[Path], tuple[str, ...]]:
    """Files of images, and the names of the micrographs."""
    if table is not None:
        return [locate_micrograph(table.path, row, name) for row, name in enumerate(table.names, start=1)], table.names
    paths = [path for item in items for path in _expand(item)]
    check_once([str(path.resolve()) for path in paths], "the list of micrographs")
    return paths, tuple(str(path) for path in paths)


def images_of(micrographs: Micrographs) -> tuple[Path, ...]:
    """The image files that a set was read from, one for each; none for a set that was not."""
    return micrographs.source.files if isinstance(micrographs.source, MrcSource | TiffSource) else ()


def files_of(micrographs: Micrographs) -> tuple[Path, ...]:
    """The image files that a set was read from, then its masks; none for a set that was not."""
    masks = getattr(micrographs.masks, "masks", micrographs.masks)  # beside what was found
    return images_of(micrographs) + (masks.files if isinstance(masks, MaskFiles) else ())


def _source(files: tuple[Path, ...], contrast: Contrast, pixel_size: float | None) -> MrcSource | TiffSource:
    tiffs = [path for path in files if path.name.lower().endswith(tiff.ENDINGS)]
    if not tiffs:
        return MrcSource(files, contrast, pixel_size)
    if len(tiffs) < len(files):
        other = next(path for path in files if path not in tiffs)
        raise ValueError(f"micrographs must have one format; got {tiffs[0]} and {other}; treat them as separate sets")
    return TiffSource(files, contrast, pixel_size)


def _expand(item: PathLike) -> list[Path]:
    path = Path(item)
    if path.is_dir():
        visible = sorted(p for p in path.iterdir() if not p.name.startswith("."))
        for endings in (ENDINGS, tiff.ENDINGS):
            if found := [p for p in visible if p.name.lower().endswith(endings)]:
                return found
        raise FileNotFoundError(f"{path} holds no micrographs; expected files {', '.join((*ENDINGS, *tiff.ENDINGS))}")
    return expanded(item, ENDINGS, "micrograph")


def locate_micrograph(listed: Path, row: int, name: str) -> Path:
    """Where a list's image lies: seen from the list, the working folder, or a folder above the list (the project's).

    Raises:
        FileNotFoundError: if it is in none of them; all places tried are told.
    """
    found, places = found_among((folder / name for folder in around(listed)), name)  # an absolute name stays itself
    if found is not None:
        return found
    raise FileNotFoundError(f"{listed}, row {row}: micrograph {name[:400]} not found; tried {places}")


def _after_binning(stated: float, paths: Sequence[Path]) -> float | None:
    """The size before binning, unless the first header states another one: it tells what was done since."""
    if paths[0].name.lower().endswith(tiff.ENDINGS):
        return stated
    header = MrcSource((paths[0],), "bright", stated).stated
    return None if header > 0 and header != 1.0 and abs(header - stated) > 5e-3 * stated else stated


def _pixel_size(
    source: MrcSource | TiffSource, table: MicrographTable | None, given: float | None, stated: float | None
) -> tuple[float, list[str]]:
    """Pixel size, where it comes from, and disagreement: override, list, header, in this order."""
    where = "" if table is None else f"{table.stated_by} of {table.path.name}"
    if given is not None:
        size, origin = given, "as given"
    elif stated is not None:
        size, origin = stated, f"from {where}"
    elif isinstance(source, MrcSource):
        size, origin = header_pixel_size(source.headers[0]), "from the headers"
    else:
        raise ValueError(f"{source.files[0]} has no pixel size; give pixel_size= (--pixel-size), in angstrom")
    notes = [f"pixel size {size:g} A, {origin}"]
    if given is None and size == 1.0:
        notes.append(f"the pixel size is exactly 1 A ({origin}), a common filler; check it")
    others = [("the header", source.stated)] if table is not None and table.pixel_sizes is not None else []
    if table is not None and table.pixel_sizes is not None:
        kind = "STAR" if table.kind == "star" else ".cs"
        others += [(f"{table.stated_by} of the {kind} file", float(one)) for one in np.unique(table.pixel_sizes)[:3]]
    for what, other in others:
        if other > 0 and abs(other - size) > 5e-3 * size:
            notes.append(f"{what} says {other:g} A per pixel; {size:g} A is used, {origin}")
    return size, notes


def _images_notes(source: MrcSource | TiffSource, table: MicrographTable | None) -> list[str]:
    count, (height, width) = len(source), source.shape
    several = "s" if count > 1 else ""
    notes = [
        f"{count} micrograph{several} of {height} x {width} pixels (rows x columns), {', '.join(source.types)}",
        "contrast dark: values are multiplied by -1, matter is bright inside"
        if source.contrast == "dark"
        else "contrast bright: values are taken as they are",
        *source.notes,
    ]
    if table is not None and table.sizes is not None and (table.sizes != source.shape).any():
        said = " x ".join(str(length) for length in table.sizes[0])
        notes.append(f"{table.path.name} says {said} pixels; the files' own size is used")
    return notes


def _optics(
    table: MicrographTable | None,
    names: Sequence[str],
    pixel_size: float,
    ctf: PathLike | Sequence[PathLike],
    given: dict[str, float],
) -> tuple[Optics | None, list[str]]:
    """Contrast transfer: CTFFIND's, else the list's, and notes."""
    items = [ctf] if isinstance(ctf, str | Path) else list(ctf)
    optics = None if table is None else table.optics
    notes = [] if table is None else list(table.optics_notes)
    if items:
        known = {} if table is None else table.microscope
        optics, notes, _ = ctffind_optics(items, names, pixel_size, given=given, known=known)
        if table is not None:
            notes.append(f"it replaces what {table.path.name} may say of contrast transfer")
    elif table is None:
        if given:
            raise ValueError(
                "voltage, spherical aberration and amplitude contrast are of no use without a defocus; give ctf= "
                "(--ctf), or a STAR or .cs file"
            )
        notes.append("no contrast transfer is known: image files do not say it")
    return optics, notes if optics is None else [*notes, optics_note(optics)]
