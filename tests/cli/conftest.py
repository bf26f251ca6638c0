"""What the tests of the commands share."""

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def own_handler() -> Iterator[None]:
    """Commands run in this process take over SIGTERM: give it back."""
    held = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, held)
