"""Several processes on one run, as ``torchrun`` starts them: who reads what, who writes, and how all come to agree.

Data are shared out by piece, and sums are added over processes by ``torch.distributed`` (gloo between CPUs, nccl
between GPUs). Such sums, and all that machines of different kinds compute, differ in the last digits: whatever decides
how a run goes on is found by the first process and told to the others. One process does all of it as if nothing of
this were here.
"""

from __future__ import annotations

import io
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar

from unpicked._lazy import torch

Found = TypeVar("Found")

PATIENCE = timedelta(hours=2)  # for which processes wait for one that is slower, or silent


class Lost(RuntimeError):
    """Another process has ended, or does not answer."""


def begin(device: str) -> None:
    """Join the processes that ``torchrun`` started, if it did; of several GPUs each takes that of its own number.

    Args:
        device: "cpu" or "cuda".

    Raises:
        ValueError: for more processes on a machine than it has GPUs.
    """
    if asked() == 1 or torch.distributed.is_initialized():
        return
    backend = "gloo"
    if device == "cuda":
        backend, local, most = "cpu:gloo,cuda:nccl", int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= most:
            raise ValueError(
                f"every process takes a GPU of its own; this machine has {most}; try --nproc-per-node {most}, "
                "or --device cpu"
            )
        torch.cuda.set_device(local)
    meet: Any = torch.distributed  # whose types do not tell all that it exports
    store, rank, count = next(meet.rendezvous("env://", timeout=PATIENCE))
    _stores.append(meet.PrefixStore("unpicked", store))
    torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=PATIENCE)


def end() -> None:
    """Leave the other processes, where :func:`begin` joined them."""
    if _stores:
        _stores.clear()
        torch.distributed.destroy_process_group()


def asked() -> int:
    """Number of processes that were started for this command."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def here() -> int:
    """How many of them are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if place()[1] > 1 else 1


def place() -> tuple[int, int]:
    """Rank and number of processes that share the present work."""
    if _alone.get() or "torch" not in sys.modules:
        return 0, 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def leads() -> bool:
    """Whether this is the first process, which alone writes and speaks."""
    return place()[0] == 0


def complains(error: BaseException | None) -> bool:
    """Whether this process is to tell why a command fails: of what fails on all, the first, else the first that asks.

    Args:
        error: why it fails.
    """
    if error is not None and any(error is one for one in _common):
        return leads()
    if not _stores:
        return int(os.environ.get("RANK", "0")) == 0
    try:
        return int(_stores[0].add("failed", 1)) == 1
    except RuntimeError:  # the store has gone with its process
        return True


def agreed(find: Callable[[], Found]) -> Found:
    """What the first process finds, told to all; what fails there, fails everywhere. It works on all data by itself."""
    rank, count = place()
    if count == 1:
        return find()
    found, error = _tried(find, alone=True) if rank == 0 else (None, None)
    packed = [_packed((found if error is None else None, error)) if rank == 0 else b""]
    with _met():
        torch.distributed.broadcast_object_list(packed, 0)
    if rank:
        found, error = _unpacked(packed[0])
    if error is not None:
        raise _on_all(error)
    return found  # type: ignore[return-value]


def first(work: Callable[[], Found]) -> Found | None:
    """What the first process does while the others wait; None for them. What fails there, fails everywhere."""
    kept: list[Found] = []
    agreed(lambda: kept.append(work()))
    return kept[0] if kept else None


def together(work: Callable[[], Found]) -> Found:
    """What every process does for its own part; what fails on one, fails on all of them alike."""
    rank, count = place()
    if count == 1:
        return work()
    found, error = _tried(work)
    with _met():
        failed = torch.tensor(count if error is None else rank)
        torch.distributed.all_reduce(failed, torch.distributed.ReduceOp.MIN)
        source = int(failed)
        if source == count:
            return found  # type: ignore[return-value]
        packed = [_packed(error) if rank == source else b""]
        torch.distributed.broadcast_object_list(packed, source)
    raise _on_all(_unpacked(packed[0]))


def gathered(value: Found) -> list[Found]:
    """What every process has, by rank."""
    count = place()[1]
    if count == 1:
        return [value]
    parts: list[Any] = [None] * count
    with _met():
        torch.distributed.all_gather_object(parts, _packed(value))
    return [_unpacked(part) for part in parts]


def mapped(work: Callable[[int], Found], count: int) -> list[Found]:
    """``work`` of 0 to ``count`` - 1, in this order, each done by one process."""
    rank, processes = place()
    parts = gathered(together(lambda: [work(index) for index in range(rank, count, processes)]))
    return [parts[index % processes][index // processes] for index in range(count)]


def added(sums: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Sums of tensors over all processes."""
    if place()[1] == 1:
        return dict(sums)
    out = {name: value.contiguous() for name, value in sums.items()}
    with _met():
        for value in out.values():
            torch.distributed.all_reduce(value)
    return out


_alone: ContextVar[bool] = ContextVar("alone", default=False)
_stores: list[Any] = []  # by which processes know of one another, once they met
_common: list[Exception] = []  # what failed on all of them


def _on_all(error: Exception) -> Exception:
    _common.append(error)
    return error


def _tried(work: Callable[[], Found], *, alone: bool = False) -> tuple[Found | None, Exception | None]:
    """What came of it, or why nothing did."""
    token = _alone.set(alone)
    try:
        return work(), None
    except Lost:
        raise
    except Exception as error:
        return None, error
    finally:
        _alone.reset(token)


def _packed(value: Any) -> bytes:
    """Values or an error as bytes; of an error that cannot be told as it is, the words."""
    if isinstance(value, Exception):
        try:
            pickle.loads(pickle.dumps(value))
        except Exception:
            value = RuntimeError(f"{type(value).__name__}: {value}")
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _unpacked(packed: bytes) -> Any:
    """Values on the devices of this process; they come from the other processes of this run, and from nowhere else."""

    def near(storage: Any, device: str) -> Any:
        return storage.cuda() if device.startswith("cuda") else storage

    return torch.load(io.BytesIO(packed), map_location=near, weights_only=False)


@contextmanager
def _met() -> Iterator[None]:
    """Exchange with the others.

    Raises:
        Lost: where one is no longer there.
    """
    try:
        yield
    except RuntimeError as error:
        raise Lost("another process has ended, or does not answer") from error
