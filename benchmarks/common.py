"""What the benchmarks share: a table on the screen and a JSON file in benchmarks/results."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import torch


def save(name: str, figures: dict[str, object]) -> None:
    """Print the figures and write them with the machine they were measured on."""
    machine = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
    }
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"machine": machine, **figures}, indent=2) + "\n")
    for key, value in figures.items():
        print(f"{key:40s} {value}")
