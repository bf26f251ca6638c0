"""Commands on two processes: the same answer as on one, also where a run goes on with another number; and failures."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

from answers import answered, is_refused
from unpicked.cli import main
from unpicked.data.moments import Moments
from unpicked.io.mrc import read_map

SIM = "--phantom shepp-logan --box 8 --voxel 6 --size 64 --count 4 --energy 400 --quiet"
JOB = "--box 8 --lmax 2 --views 4 6 --iterations 2 2 --starts 2 --moves 0 --prior ridge --noise coloured "
JOB += "--threads 1 --no-verify --quiet"


def quietly(*words: object) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    assert caught.value.code == 0


def reconstructed(folder: Path, name: str, *more: str) -> None:
    """A run folder, but for its page."""
    words = ("reconstruct", "micrographs", folder / "sim" / "micrographs.star", "--out", folder / name)
    with patch("unpicked.report.report"):
        quietly(*words, *JOB.split(), *more)


def summed(folder: Path, name: str) -> None:
    quietly("moments", folder / "sim" / "micrographs.star", "--box", 7, "--out", folder / name, "--quiet")


def stopped(run: Path, copy: Path) -> None:
    """A copy of a run as it was before its last stage."""
    shutil.copytree(run, copy)
    (copy / "result.json").unlink()
    (copy / "checkpoint" / "stage-1" / "start-0.pt").unlink()


def difference(one: Path, other: Path) -> float:
    first, second = (read_map(run / "volume.mrc").values for run in (one, other))
    return float((first - second).norm() / first.norm())


def _worker(rank: int, folder: str) -> None:
    place = Path(folder)
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    reconstructed(place, "two")
    reconstructed(place, "one-then-two", "--resume")
    summed(place, "two.npz")
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_answer_of_one_and_go_on_with_its_run(tmp_path: Path) -> None:
    quietly("simulate", "micrographs", "--out", tmp_path / "sim", *SIM.split())
    reconstructed(tmp_path, "one")
    summed(tmp_path, "one.npz")
    stopped(tmp_path / "one", tmp_path / "one-then-two")
    torch.multiprocessing.spawn(_worker, args=(str(tmp_path),), nprocs=2)

    for name in ("two", "one-then-two"):
        assert difference(tmp_path / "one", tmp_path / name) < 1e-5, name
    one, two = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two"))
    assert (one["settings"], one["data"]) == (two["settings"], two["data"])
    for name in ("sigma", "density", "energy", "judge"):
        assert two["figures"][name] == pytest.approx(one["figures"][name], rel=1e-5)

    first, second = (Moments.load(tmp_path / f"{name}.npz") for name in ("one", "two"))
    assert first.names == second.names and first.blocks == second.blocks
    for values, others in ((first.sums, second.sums), (first.squares, second.squares), (first.pieces, second.pieces)):
        np.testing.assert_allclose(others.numpy(), values.numpy(), rtol=1e-12, atol=1e-12 * float(values.abs().max()))


def started(rank: int, port: int, *words: object) -> subprocess.Popen[str]:
    """One of two processes of a command, as ``torchrun`` starts them."""
    meet = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    command = [sys.executable, "-m", "unpicked", *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=os.environ | meet | {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}, **pipes)


def test_what_fails_on_one_process_ends_all_with_one_line(tmp_path: Path) -> None:
    quietly("simulate", "micrographs", "--out", tmp_path / "sim", *SIM.split())
    files = sorted((tmp_path / "sim" / "micrographs").glob("*.mrc"))
    with open(files[1], "r+b") as file:  # read by the second process only
        file.seek(2000)
        file.write(np.full(1000, np.nan, np.float32).tobytes())
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    words = ("reconstruct", "micrographs", *files, "--out", tmp_path / "run", *JOB.split())
    both = [started(rank, port, *words) for rank in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [2, 2]
    lines = [line for _, errors in said for line in errors.splitlines()]
    assert len(lines) == 1 and files[1].name in lines[0] and "not finite" in lines[0], lines
    assert not (tmp_path / "run").exists()


def test_a_command_for_one_process_says_so_once(capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = ("simulate", "image", "--out", tmp_path / "sim")
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        answer = answered(capsys, *words)
        assert is_refused(answer, "runs on one process") if rank == 0 else answer == (2, "", "")
