"""Masks in files: whose they are, what they mark, and whatever is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from answers import fails
from unpicked.io.masks import read_masks
from unpicked.io.micrographs import files_of, read_micrographs
from unpicked.io.mrc import write_image

SIZE = (24, 33)


def marked(seed: int, size: tuple[int, int] = SIZE, share: float = 0.2) -> torch.Tensor:
    return (torch.rand(size, generator=torch.Generator().manual_seed(seed)) < share).float()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "masks").mkdir()
    for name in ("a", "b"):
        write_image(torch.randn(SIZE, generator=torch.Generator().manual_seed(1)), tmp_path / f"{name}.mrc", 2.0)
        write_image(marked(ord(name)), tmp_path / "masks" / f"{name}.mrc", 2.0)
    return tmp_path


def read(folder: Path, masks: object = None, mark: object = None):
    given = folder / "masks" if masks is None else masks
    return read_micrographs([folder / "a.mrc", folder / "b.mrc"], masks=given, masks_mark=mark)


def test_masks_belong_to_micrographs_by_name(folder: Path) -> None:
    data = read(folder)
    for index, name in enumerate("ab"):
        assert torch.equal(data.mask(index), marked(ord(name)) == 0)
    told = " ".join(data.notes)
    assert "masks: 2 files; pixels that are not zero are left out" in told and "smaller" not in told
    assert [path.name for path in files_of(data)] == ["a.mrc", "b.mrc"] * 2
    second = data.mask(1)
    for name in "ab":
        (folder / "masks" / f"{name}.mrc").rename(folder / "masks" / f"{name}_mask.mrc")
    write_image(marked(5), folder / "masks" / "other.mrc", 2.0)
    again = read(folder, str(folder / "masks" / "*.mrc"))
    assert torch.equal(again.mask(1), second) and "1 masks belong to none" in " ".join(again.notes)


def test_masks_may_lie_beside_their_micrographs(folder: Path) -> None:
    for name in "ab":
        (folder / "masks" / f"{name}.mrc").rename(folder / f"{name}_mask.mrc")
    assert torch.equal(read(folder, folder).mask(1), marked(ord("b")) == 0)


def test_marks_may_be_of_what_is_good(folder: Path) -> None:
    junk, good = read(folder), read(folder, mark="good")
    assert torch.equal(junk.mask(0), ~good.mask(0))
    assert "pixels that are zero are left out" in " ".join(good.notes)


@pytest.mark.parametrize(("height", "width", "factor"), [(12, 17, 2), (12, 16, 2), (8, 11, 3), (6, 8, 4)])
def test_smaller_masks_are_enlarged(folder: Path, height: int, width: int, factor: int) -> None:
    small = marked(3, (height, width))
    for name in "ab":
        write_image(small, folder / "masks" / f"{name}.mrc", 2.0 * factor, overwrite=True)
    data = read(folder)
    found = data.mask(0)
    assert f"smaller than their micrographs by {factor}" in " ".join(data.notes)
    for row in range(SIZE[0]):
        for column in range(SIZE[1]):
            own = small[min(row // factor, height - 1), min(column // factor, width - 1)]
            assert bool(found[row, column]) == (float(own) == 0)


def test_an_empty_mask_hides_nothing(folder: Path) -> None:
    for name in "ab":
        write_image(torch.zeros(SIZE), folder / "masks" / f"{name}.mrc", 2.0, overwrite=True)
    data = read(folder)
    assert bool(data.mask(0).all()) and data.counted() == 1


def test_what_is_wrong_is_said(folder: Path) -> None:
    def rewritten(values: torch.Tensor, name: str = "b") -> bool:
        write_image(values, folder / "masks" / f"{name}.mrc", 2.0, overwrite=True)
        return True

    own = folder / "masks" / "b.mrc"
    assert rewritten(torch.rand(SIZE)) and fails(lambda: read(folder), own, "0 and one other value", "threshold")
    assert rewritten(marked(1, (23, 33))) and fails(lambda: read(folder), own, "23 x 33", "24 x 33")
    assert rewritten(marked(1, (48, 66))) and fails(lambda: read(folder), own, "48 x 66")
    assert rewritten(marked(1, SIZE, 0.95), "a") and rewritten(marked(1, SIZE, 0.95))
    assert fails(lambda: read(folder), "leave out 9", "--masks-mark")
    assert read(folder, mark="junk").counted() < 0.1 and read(folder, mark="good").counted() > 0.9
    write_image(marked(1), folder / "b_mask.mrc", 2.0)
    assert fails(lambda: read(folder, [folder / "masks", folder / "b_mask.mrc"]), "b.mrc has several masks")
    own.unlink()
    assert fails(lambda: read(folder), "b.mrc has no mask", "b_mask.mrc")
    assert fails(lambda: read(folder, folder / "none.mrc"), "none.mrc", error=FileNotFoundError)
    (folder / "empty").mkdir()
    assert fails(lambda: read(folder, folder / "empty"), "holds no masks", error=FileNotFoundError)
    assert fails(lambda: read(folder, folder / "m*.mrc"), "no file matches", error=FileNotFoundError)
    assert fails(lambda: read(folder, (), "junk"), "--masks-mark", "--masks")
    assert fails(lambda: read_masks(folder / "masks", ["x/a.mrc", "y/a.mrc"], SIZE), "x/a.mrc and y/a.mrc")
