"""Images kept from one reading to the next, in memory that does not grow with their number."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path

from unpicked._lazy import torch

MEMORY = 256 << 20  # bytes of images that stay in memory; others lie on disk
_SHARE = 0.5  # of the free disk that may be taken


class Store:
    """The first images in memory, as many more as the disk has room for in a file that vanishes with the process.

    The file lies in ``TMPDIR``, else in ``/var/tmp``, which is a disk where ``/tmp`` often is memory.
    """

    def __init__(self, memory: int = MEMORY) -> None:
        self._memory = memory
        self._held: dict[int, torch.Tensor] = {}
        self._places: dict[int, tuple[int, tuple[int, ...], torch.dtype]] = {}
        self._file: int | None = None
        self._end, self._room = 0, 0

    def get(self, index: int) -> torch.Tensor | None:
        """What was put there, or None; not to be written to."""
        if index in self._held or index not in self._places:
            return self._held.get(index)
        assert self._file is not None
        place, shape, dtype = self._places[index]
        image = torch.empty(shape, dtype=dtype)
        buffer, done = image.numpy().reshape(-1).view("uint8").data, 0
        while done < len(buffer):
            done += os.preadv(self._file, [buffer[done:]], place + done)
        return image

    def put(self, index: int, image: torch.Tensor) -> torch.Tensor:
        """Keep an image, if there is room for it, and return it."""
        size = image.numel() * image.element_size()
        if size <= self._memory:
            self._memory -= size
            self._held[index] = image
        elif self._opened() and self._end + size <= self._room:
            self._write(index, image.contiguous(), size)
        return image

    def _opened(self) -> bool:
        if self._file is None:
            folder = os.environ.get("TMPDIR") or ("/var/tmp" if Path("/var/tmp").is_dir() else None)
            try:
                self._file, path = tempfile.mkstemp(prefix="unpicked-", dir=folder)
            except OSError:
                return False
            weakref.finalize(self, os.close, self._file)
            self._room = int(_SHARE * shutil.disk_usage(path).free)
            Path(path).unlink()  # the open file stays, nothing is left behind even by a killed process
        return True

    def _write(self, index: int, image: torch.Tensor, size: int) -> None:
        assert self._file is not None
        buffer, done = image.numpy().reshape(-1).view("uint8").data, 0
        try:
            while done < size:
                done += os.pwrite(self._file, buffer[done:], self._end + done)
        except OSError:  # the disk is full now
            self._room = 0
            return
        self._places[index] = (self._end, tuple(image.shape), image.dtype)
        self._end += size
