"""What is kept of images: little in memory, the rest in a file that nobody sees."""

import errno
import os
from pathlib import Path

import pytest
import torch

from unpicked.data.store import Store


@pytest.mark.parametrize("memory", [0, 2 * 30 * 4 + 5, 1 << 20])
def test_what_was_put_comes_back(memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    store = Store(memory)
    images = [torch.randn(5, 6) for _ in range(3)] + [torch.rand(5, 6) > 0.5, torch.randn(6, 5).mT]
    assert store.get(0) is None
    for index, image in reversed(list(enumerate(images))):
        assert store.put(index, image) is image
    for index, image in enumerate(images):
        found = store.get(index)
        assert found is not None and found.dtype == image.dtype and torch.equal(found, image)
    assert store.get(5) is None
    assert list(tmp_path.iterdir()) == [], "nothing is left behind, whatever happens"


def test_a_full_disk_keeps_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    store, image = Store(0), torch.randn(5, 6)
    store.put(0, image)
    real, calls = os.pwrite, []

    def full(file: int, buffer: memoryview, place: int) -> int:
        calls.append(place)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, buffer[:7], place)  # a part is written, as systems may

    monkeypatch.setattr(os, "pwrite", full)
    store.put(1, image + 1)
    store.put(2, image + 2)
    assert store.get(1) is None and store.get(2) is None and len(calls) == 2
    found = store.get(0)
    assert found is not None and torch.equal(found, image)


def test_no_disk_keeps_what_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/no such folder")
    store, image = Store(120), torch.randn(5, 6)
    store.put(0, image)
    store.put(1, image)
    found = store.get(0)
    assert found is not None and torch.equal(found, image) and store.get(1) is None
