"""What all tests share: the folder of real data, one thread, and the handler of SIGTERM."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # tests run side by side, one process per core

HERE = Path(__file__).parent


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """A file of the shared data (UNPICKED_SHARED, else ../shared beside the checkout), or a skip with a reason."""
    root = Path(os.environ.get("UNPICKED_SHARED", HERE.parent.parent / "shared"))

    def find(name: str) -> Path:
        for path in (root / "data" / name, root / name):
            if path.exists():
                return path
        pytest.skip("shared data not found: set UNPICKED_SHARED")

    return find


@pytest.fixture
def bpti() -> Path:
    """5PTI, the one structure that the repository ships (CC0)."""
    return HERE.parent / "src" / "unpicked" / "simulate" / "5pti.cif"


@pytest.fixture(autouse=True)
def own_handler() -> Iterator[None]:
    """Commands run in this process take over SIGTERM: give it back."""
    held = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, held)
