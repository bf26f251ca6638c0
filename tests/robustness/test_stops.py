"""A run that is told to stop finishes its batch and saves: nothing that was summed is summed again."""

from __future__ import annotations

import errno
import importlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from answers import fails
from unpicked.checkpoint import patient
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.estimators.em import EM
from unpicked.io._files import write_durably
from unpicked.model.model import Model
from unpicked.model.noise import White
from unpicked.model.patches import Patches
from unpicked.model.placements import Anywhere
from unpicked.model.views import Projection
from unpicked.objects.ball import Ball
from unpicked.ops import rotation
from unpicked.priors import Ridge
from unpicked.reconstruct import Reconstruction, reconstruct

COUNT, PASSES = 5, 3
LOOP = importlib.import_module("unpicked.reconstruct")  # the package has the function of that name


class Watched:
    """Micrographs in memory that remember what was read, and do something before one of the readings."""

    def __init__(self, at: int = -1, then: Callable[[], object] = lambda: None) -> None:
        self.images = InMemory(torch.randn(COUNT, 24, 24, generator=torch.Generator().manual_seed(1)))
        self.at, self.then, self.seen = at, then, list[int]()

    def __len__(self) -> int:
        return COUNT

    @property
    def shape(self) -> tuple[int, int]:
        return self.images.shape

    def read(self, index: int) -> torch.Tensor:
        if len(self.seen) == self.at:
            self.then()
        self.seen.append(index)
        return self.images.read(index)


def run(source: Watched, folder: Path | None, *, moves: int = 0) -> Reconstruction:
    """Two micrographs per batch, so that a pass has three."""
    model = Model(Ball(5, 1), Projection(rotation.super_fibonacci(4)), Anywhere(0.1, Patches()), noise=White(1.0))
    data = Micrographs(source, 1.0, tuple(f"m{i}" for i in range(COUNT)))
    start = model.object.fit(torch.ones(5, 5, 5, dtype=torch.float64))
    method = EM(PASSES, frozen=PASSES, tolerance=0.0, trial=1, polish=1)
    return reconstruct(
        data, model, method, prior=Ridge(0.1), start=start, moves=moves, checkpoint=folder, resume=True, batch_size=2
    )


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Ctrl-C as in a terminal: what a shell starts in the background may ignore it."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def whole() -> Reconstruction:
    """The undisturbed run."""
    return run(Watched(), None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_stop_in_a_pass_loses_no_batch(whole, tmp_path, number):
    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)  # as the commands do
    source = Watched(COUNT + 2, lambda: os.kill(os.getpid(), number))  # the second pass's second batch
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path)
    assert source.seen == [0, 1, 2, 3, 4, 0, 1, 2, 3], "the batch was finished"
    rest = Watched()
    again = run(rest, tmp_path)
    assert rest.seen == [4, 0, 1, 2, 3, 4]
    assert torch.equal(again.x, whole.x)
    assert [row["objective"] for row in again.history] == [row["objective"] for row in whole.history]


def test_long_passes_are_saved_on_the_way(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(LOOP, "_REST", 0.0)
    with pytest.raises(OSError):
        run(Watched(COUNT + 4, fail), tmp_path)
    rest = Watched()
    again = run(rest, tmp_path)
    assert rest.seen[0] == 4
    assert torch.equal(again.x, whole.x)


def fail() -> None:
    """As a file that has gone."""
    raise FileNotFoundError("m4")


def test_trials_of_moves_go_on_and_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(LOOP, "_TRIAL_REST", 0.0)
    source, rest = Watched(), Watched()
    first = run(source, None, moves=1)
    at = (PASSES + 5) * COUNT + 1  # five trials are done
    with pytest.raises(OSError):
        run(Watched(at, fail), tmp_path, moves=1)
    assert list(tmp_path.glob("move-0 (*.pt"))
    again = run(rest, tmp_path, moves=1)
    assert torch.equal(again.x, first.x) and again.notes == first.notes
    assert len(rest.seen) <= len(source.seen) - at + 1, "one pass was begun again"
    assert {path.name for path in tmp_path.iterdir()} >= {"start-0.pt", "move-0.pt"}
    assert not list(tmp_path.glob("move-0 (*"))


def test_a_second_interrupt_acts_at_once():
    with pytest.raises(KeyboardInterrupt), patient(hold=True) as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.came == signal.SIGINT
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it should have acted")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_that_came_too_late_acts_after_the_block():
    with pytest.raises(KeyboardInterrupt):
        with patient(hold=True):
            signal.raise_signal(signal.SIGINT)
        pytest.fail("it should have acted")
    with pytest.raises(KeyboardInterrupt), patient(hold=False):
        signal.raise_signal(signal.SIGINT)


def test_what_cannot_be_written_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path, before = tmp_path / "a.pt", tmp_path / "a.pt.old"
    for content in (b"one", b"two"):
        write_durably(path, content, before=before)
    monkeypatch.setattr(os, "fsync", full)
    assert fails(lambda: write_durably(path, b"three", before=before), path, "No space left", error=OSError)
    assert {name.name: name.read_bytes() for name in tmp_path.iterdir()} == {"a.pt": b"two", "a.pt.old": b"one"}
