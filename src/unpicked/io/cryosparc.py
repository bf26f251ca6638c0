"""cryoSPARC's tables (.cs): numpy structured arrays, read without pickles; those of particle images."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unpicked._lazy import torch
from unpicked.data.arrays import mapped
from unpicked.data.optics import Optics
from unpicked.data.poses import Poses
from unpicked.io._files import existing, one_line, output
from unpicked.io._relion import grouped
from unpicked.io.particle_table import ParticleTable, choose_pixel_size, doubles, half_sets
from unpicked.ops import seeding
from unpicked.ops.rotation import exp_map, log_map

_ALIGNMENTS = ("alignments3D", "alignments_class_0")
_CTF = ("df1_A", "df2_A", "df_angle_rad", "accel_kv", "cs_mm", "amp_contrast")
_ABERRATIONS = (
    ("beam tilt", ("ctf/tilt_A",)),
    ("higher-order aberrations", ("ctf/shift_A", "ctf/trefoil_A", "ctf/tetra_A", "ctf/scale_const")),
    ("anisotropic magnification", ("ctf/anisomag",)),
)


def read_cs(path: Path | str) -> NDArray[Any]:
    """The rows of a .cs file as a structured array.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a numpy structured array, or has no rows.
    """
    path = existing(path, ".cs file")
    with path.open("rb") as file:
        start = file.read(6)
    if start != b"\x93NUMPY":
        more = (
            ", in cryoSPARC's newer compressed format; save it again in numpy format" if start == b"\x94CSDAT" else ""
        )
        raise ValueError(f"{path} is not a numpy structured array{more}; expected a .cs file")
    try:
        rows = mapped(path)
    except ValueError as error:
        raise ValueError(f"{path} is damaged, or no .cs file: {error}") from None
    if rows.dtype.names is None or rows.ndim != 1:
        raise ValueError(f"{path} is not a table of rows with named fields; expected a .cs file")
    if len(rows) == 0:
        raise ValueError(f"{path} has no rows; expected at least one")
    return np.array(rows)


def cs_table(
    path: Path | str,
    *,
    passthrough: Path | str | Sequence[Path | str] = (),
    pixel_size: float | None = None,
    ctf: bool | None = None,
    given: Mapping[str, float] | None = None,
) -> ParticleTable:
    """The particles of a .cs file; the image files need not be there.

    Args:
        path: file name.
        passthrough: files with more fields of the same particles, joined by ``uid``.
        pixel_size: angstrom; overrides the file.
        ctf: True asks for contrast transfer, False leaves it out, None takes it where it is known.
        given: values for parameters that the file does not have, by RELION's column name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a .cs file of particle images, or its values make no sense.
    """
    path = existing(path, ".cs file")
    rows, remarks = joined(path, read_cs(path), passthrough)
    fields = rows.dtype.names or ()
    if missing := [name for name in ("blob/path", "blob/idx") if name not in fields]:
        raise ValueError(
            f"{path} lists no particle images: it has no {', '.join(missing)}; "
            "give the file that has them, or as passthrough= (--passthrough)"
        )
    texts = paths_of(path, rows, "blob/path")
    files = tuple(dict.fromkeys(texts))
    places = {name: number for number, name in enumerate(files)}
    which = tuple(places[name] for name in texts)
    indices = _indices(path, rows)
    names = tuple(f"{index + 1:06d}@{name}" for index, name in zip(indices, texts, strict=True))
    sizes = choose_pixel_size(path, pixel_size, pixel_sizes(path, rows, "blob/psize_A"), "blob/psize_A")
    box, mixed = _box(path, rows)
    signs, sign_notes = _signs(path, rows)
    rotations, shifts, in_pixels, pose_notes = _poses(path, rows)
    optics, remark = cs_optics(path, rows, ctf, given or {}, "images")
    halves, half_notes = _halves(path, rows)
    notes = [f"{len(rows)} particle images listed in {path}", *remarks, *doubles(names), *sizes.notes, *sign_notes,
             *pose_notes, remark, *cs_aberrations(rows), *half_notes]  # fmt: skip
    return ParticleTable(
        path, "cs", files, which, indices, names, signs, sizes.one, sizes.origin, sizes.each, mixed or sizes.mixed, box,
        rotations, shifts, in_pixels, False, optics, halves, tuple(notes), rows=rows,
    )  # fmt: skip


def write_cs(rows: NDArray[Any], path: Path | str, *, overwrite: bool = False) -> None:
    """Write a structured array as .cs file, whole or not at all.

    Raises:
        FileExistsError: if the file exists and ``overwrite`` is False.
    """
    with output(path, overwrite) as temporary, temporary.open("wb") as file:
        np.save(file, rows, allow_pickle=False)


@contextmanager
def narrowed(path: Path) -> Iterator[None]:
    """Numbers are put into the narrower types of a .cs file.

    Raises:
        ValueError: at the end of the block, where one does not fit.
    """
    try:
        with np.errstate(over="raise", invalid="raise"):
            yield
    except (FloatingPointError, OverflowError) as error:
        raise ValueError(f"not written, {path}: a number is too large for a .cs file: {one_line(error)}") from None


def with_poses(rows: NDArray[Any], poses: Poses, pixel_size: float) -> NDArray[Any]:
    """Rows with ``alignments3D/pose``, ``shift`` and ``psize_A`` put in or replaced; all other fields stay."""
    pose = log_map(poses.rotations.detach().double().cpu().mT)
    shift = -poses.shifts.detach().double().cpu() / pixel_size
    return with_fields(
        rows,
        {
            "alignments3D/pose": pose.numpy().astype("<f4"),
            "alignments3D/shift": shift.numpy().astype("<f4"),
            "alignments3D/psize_A": np.full(len(rows), pixel_size, "<f4"),
        },
    )


def with_fields(rows: NDArray[Any], fields: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Rows with some fields put in or replaced, in their own types."""
    names = list(dict.fromkeys((*(rows.dtype.names or ()), *fields)))
    kinds = {
        name: (fields[name].dtype, fields[name].shape[1:]) if name in fields else rows.dtype[name] for name in names
    }
    out = np.zeros(len(rows), [(name, kinds[name]) for name in names])
    for name in names:
        out[name] = fields[name] if name in fields else rows[name]
    return out


def new_rows(
    names: Sequence[str],
    box: int | None,
    pixel_size: float | None,
    optics: Optics | None,
    halves: Sequence[int] | None,
) -> NDArray[Any]:
    """Rows of a new .cs file for images ``000001@stack``; ``uid`` comes from the name and the place.

    A box or a pixel size that is not known is left out.
    """
    parts = [name.split("@", 1) if re.match(r"[0-9]+@.", name) else ("1", name) for name in names]
    count = len(names)
    fields: dict[str, NDArray[Any]] = {
        "uid": np.array([seeding.derive(row, name) for row, name in enumerate(names)], "<u8"),
        "blob/path": np.array([path.encode() for _, path in parts]),
        "blob/idx": np.array([int(number) - 1 for number, _ in parts], "<u4"),
        "blob/sign": np.ones(count, "<f4"),
    }
    if box is not None:
        fields["blob/shape"] = np.full((count, 2), box, "<u4")
    if pixel_size is not None:
        fields["blob/psize_A"] = np.full(count, pixel_size, "<f4")
    if optics is not None:
        fields |= ctf_fields(optics)
    if halves is not None:
        fields["alignments3D/split"] = np.array(halves, "<u4") - np.uint32(1)
    return with_fields(np.zeros(count, [("uid", "<u8")]), fields)


def ctf_fields(optics: Optics) -> dict[str, NDArray[Any]]:
    """Contrast transfer of every item as fields of a .cs file."""
    group, count = list(optics.group), len(optics)

    def of(values: Sequence[float]) -> NDArray[Any]:
        return np.array(values)[group].astype("<f4")

    return {
        "ctf/type": np.full(count, b"imported"),
        "ctf/exp_group_id": np.zeros(count, "<u4"),
        "ctf/accel_kv": of(optics.voltage_kv),
        "ctf/cs_mm": of(optics.cs_mm),
        "ctf/amp_contrast": of(optics.amplitude_contrast),
        "ctf/df1_A": of(optics.defocus_u),
        "ctf/df2_A": of(optics.defocus_v),
        "ctf/df_angle_rad": of([math.radians(angle) for angle in optics.astigmatism_angle]),
        "ctf/phase_shift_rad": of([math.radians(angle) for angle in optics.phase_shift]),
        "ctf/scale": of(optics.scale),
        "ctf/bfactor": of(optics.b_factor),
    }


def joined(
    path: Path, rows: NDArray[Any], passthrough: Path | str | Sequence[Path | str]
) -> tuple[NDArray[Any], list[str]]:
    """Rows with the fields of other files added by ``uid``, and sentences on it.

    Raises:
        ValueError: if a file has no ``uid``, one of them twice, or lacks one of the rows.
    """
    others = [passthrough] if isinstance(passthrough, str | Path) else list(passthrough)
    notes = []
    for other in others:
        more = read_cs(other)
        for table, where in ((rows, path), (more, other)):
            if "uid" not in (table.dtype.names or ()):
                raise ValueError(f"{where} has no field uid; passthrough files are joined by it")
        uids = more["uid"].tolist()
        place = {uid: row for row, uid in enumerate(uids)}
        if len(place) < len(uids):
            raise ValueError(f"{other} has {len(uids) - len(place)} rows with a uid of another row; expected each once")
        wanted = rows["uid"].tolist()
        if missing := [uid for uid in wanted if uid not in place]:
            raise ValueError(f"{other} lacks {len(missing)} of the {len(wanted)} rows of {path}, uid {missing[0]}")
        new = [name for name in more.dtype.names or () if name not in (rows.dtype.names or ())]
        order = [place[uid] for uid in wanted]
        rows = with_fields(rows, {name: more[name][order] for name in new})
        left = len(uids) - len(wanted)
        notes.append(
            f"{len(new)} fields joined from {other} by uid" + (f"; {left} of its rows not used" if left else "")
        )
    return rows, notes


def paths_of(path: Path, rows: NDArray[Any], name: str) -> list[str]:
    """A field of file names as text, without the ">" that may stand before them.

    Raises:
        ValueError: if one is not text, or names no file.
    """
    out = []
    for row, value in enumerate(rows[name].tolist(), start=1):
        if not isinstance(value, bytes | str):
            raise ValueError(f"{path}, row {row}: {name} must be text; got {type(value).__name__}")
        try:
            text = value if isinstance(value, str) else value.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"{path}, row {row}: {name} must be UTF-8; got {value[:40]!r}") from None
        text = text.removeprefix(">")
        if not text or not text.isprintable():
            raise ValueError(f"{path}, row {row}: {name} names no file; got {value!r}")
        out.append(text)
    return out


def numbers(path: Path, rows: NDArray[Any], name: str, width: tuple[int, ...] = ()) -> NDArray[np.float64]:
    """A field as finite float64.

    Raises:
        ValueError: if it holds anything else, or entries of another shape.
    """
    values = rows[name]
    if values.dtype.kind not in "fiub" or values.shape[1:] != width:
        raise ValueError(f"{path}: {name} must hold numbers of shape {width}; got {values.dtype}, {values.shape[1:]}")
    with np.errstate(all="ignore"):  # of signalling NaN
        out = values.astype(np.float64)
    finite = np.isfinite(out).reshape(len(out), -1).all(1)
    if not finite.all():
        raise ValueError(f"{path}, row {int(np.argmin(finite)) + 1}: {name} must be finite; got {out[~finite][0]}")
    return out


def _indices(path: Path, rows: NDArray[Any]) -> tuple[int, ...]:
    """Places in the stacks, counted from 0."""
    values = numbers(path, rows, "blob/idx")
    wrong = (values < 0) | (values != np.floor(values))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"{path}, row {row + 1}: blob/idx must be a whole number from 0 on; got {values[row]:g}")
    return tuple(int(value) for value in values)


def _decimal(values: NDArray[Any]) -> NDArray[np.float64]:
    """float32 numbers as float64 by their shortest decimals, which name the same float32: 1.345, not 1.3450000286."""
    if values.dtype != np.float32:
        return values.astype(np.float64)
    return np.array([float(str(value)) for value in values])


def pixel_sizes(path: Path, rows: NDArray[Any], name: str) -> NDArray[np.float64] | None:
    """A field of pixel sizes in angstrom, or None where there is no such field."""
    if name not in (rows.dtype.names or ()):
        return None
    sizes = numbers(path, rows, name)
    return np.array([float(f"{size:.7g}") for size in sizes])  # float32, often the last digit off: 1.3450001


def _box(path: Path, rows: NDArray[Any]) -> tuple[int | None, str]:
    """The stated box, and why there is not one, as an error would say it."""
    if "blob/shape" not in (rows.dtype.names or ()):
        return None, ""
    shapes = numbers(path, rows, "blob/shape", (2,))
    if shapes.max() != shapes.min():
        return None, f"{path}: blob/shape goes from {shapes.min():g} to {shapes.max():g}; expected one square box"
    return int(shapes[0, 0]), ""


def _signs(path: Path, rows: NDArray[Any]) -> tuple[tuple[int, ...] | None, list[str]]:
    if "blob/sign" not in (rows.dtype.names or ()):
        return None, []
    signs = numbers(path, rows, "blob/sign")
    if not np.isin(signs, (-1, 1)).all():
        raise ValueError(f"{path}: blob/sign must be 1 or -1; got {signs[~np.isin(signs, (-1, 1))][0]:g}")
    minus = int((signs < 0).sum())
    notes = [f"{minus} of {len(signs)} images are multiplied by blob/sign = -1"] if minus else []
    return tuple(int(sign) for sign in signs), notes


def _poses(path: Path, rows: NDArray[Any]) -> tuple[torch.Tensor | None, torch.Tensor | None, bool, list[str]]:
    """Rotations, shifts, whether these are in pixels of the images, and notes."""
    fields = rows.dtype.names or ()
    room = next((name for name in _ALIGNMENTS if f"{name}/pose" in fields), None)
    if room is None:
        flat = "; its alignments are two-dimensional" if "alignments2D/pose" in fields else ""
        return None, None, False, [f"no poses: the file has no alignments3D/pose{flat}"]
    rotations = exp_map(-torch.from_numpy(numbers(path, rows, f"{room}/pose", (3,))))
    notes = [f"poses from {room}/pose"]
    if "alignments_class_1/pose" in fields and room == "alignments_class_0":
        notes.append("the file has poses for several classes; those of class 0 are used")
    if f"{room}/shift" not in fields:
        notes.append(f"no shifts: the file has no {room}/shift; particles are taken as centred")
        return rotations, torch.zeros(len(rows), 2, dtype=torch.float64), False, notes
    shifts = 0.0 - numbers(path, rows, f"{room}/shift", (2,))
    if f"{room}/psize_A" not in fields:
        notes.append(f"shifts are minus {room}/shift, in pixels of the images: the file has no {room}/psize_A")
        return rotations, torch.from_numpy(shifts), True, notes
    sizes = numbers(path, rows, f"{room}/psize_A")
    if not (sizes > 0).all():
        raise ValueError(f"{path}: {room}/psize_A must be positive, in angstrom; got {sizes.min():g}")
    notes.append(f"shifts are minus {room}/shift times {room}/psize_A")
    return rotations, torch.from_numpy(shifts * sizes[:, None]), False, notes


def cs_optics(
    path: Path, rows: NDArray[Any], ctf: bool | None, given: Mapping[str, float], what: str
) -> tuple[Optics | None, str]:
    """Contrast transfer of every row, and a sentence on it; None where a needed field is missing.

    Args:
        path: for messages.
        rows: rows.
        ctf: True asks for it, False leaves it out.
        given: values for parameters that the file does not have, by RELION's column name.
        what: what the rows are, for the sentence.

    Raises:
        ValueError: if it is asked for and not known, or a value is not a finite number.
    """
    if ctf is False:
        return None, "contrast transfer is left out, as asked"
    fields, count = rows.dtype.names or (), len(rows)
    extra = {"accel_kv": "rlnVoltage", "cs_mm": "rlnSphericalAberration", "amp_contrast": "rlnAmplitudeContrast"}
    missing = [f"ctf/{name}" for name in _CTF if f"ctf/{name}" not in fields and extra.get(name) not in given]
    if missing:
        remark = f"no contrast transfer is known: the file has no {', '.join(missing)}"
        if ctf:
            raise ValueError(f"{path}: contrast transfer is asked for, but {remark}; give the passthrough file")
        return None, remark

    def of(name: str, default: float) -> NDArray[np.float64]:
        if f"ctf/{name}" not in fields:
            return np.full(count, default)
        values = numbers(path, rows, f"ctf/{name}")
        if name.endswith("_rad"):
            return np.array([float(f"{value:.7g}") for value in np.degrees(values)])  # float32 in the file
        return _decimal(rows[f"ctf/{name}"])

    columns = [of(name, given.get(extra.get(name, ""), 0.0)) for name in _CTF]
    columns += [of("phase_shift_rad", 0.0), of("bfactor", 0.0), of("scale", 1.0)]
    optics = grouped(np.stack(columns, -1), str(path))
    return optics, f"contrast transfer from the ctf fields: {len(optics.defocus_u)} settings for {count} {what}"


def _halves(path: Path, rows: NDArray[Any]) -> tuple[tuple[int, ...] | None, list[str]]:
    if "alignments3D/split" not in (rows.dtype.names or ()):
        return None, []
    split = numbers(path, rows, "alignments3D/split")
    return half_sets((split + (split.min() == 0)).tolist(), "alignments3D/split")


def cs_aberrations(rows: NDArray[Any]) -> list[str]:
    """Notes on what the contrast transfer of this package leaves out."""
    notes = []
    for what, names in _ABERRATIONS:
        found = [name for name in names if name in (rows.dtype.names or ()) and np.any(rows[name])]
        if found:
            notes.append(f"the file has {what} ({', '.join(found)}): kept there, but not modelled")
    return notes
