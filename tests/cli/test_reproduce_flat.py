"""The experiments of approximate EM on signals and images, end to end at toy size."""

from __future__ import annotations

import json
from dataclasses import replace
from types import ModuleType

import pytest

from answers import answered
from unpicked.estimators.bispectrum_fit import Inversion
from unpicked.experiments import conditioning, consistency, mtd2d_em, noise_only, rct, talk_clean_moments, talk_em1d
from unpicked.recipes import ImageJob, MicrographJob, SignalJob

TOYS: dict[str, tuple[ModuleType, dict[str, object], int]] = {
    "talk-em1d": (talk_em1d, {"length": 5, "samples": 3000, "levels": (2.0,), "seeds": 1, "stride": 1.0}, 2),
    "mtd2d-em": (
        mtd2d_em,
        {"size": 48, "job": ImageJob(5, window=5, angles=6, starts=1, moves=0, iterations=(3, 3)), "seeds": 2},
        2,
    ),
    "noise-only": (
        noise_only,
        {
            "kinds": ("white",),
            "runs": 1,
            "with_structure": 1,
            "runs_3d": 1,
            "with_structure_3d": 1,
            "samples": 2000,
            "size": 40,
            "images": 2,
            "signals": SignalJob(5, starts=1, iterations=3, moves=0),
            "planar": ImageJob(5, reach=2.3, angles=4, starts=1, moves=0, iterations=(2, 2)),
            "volumes": MicrographJob(7, views=(8,), iterations=(2,), starts=1, moves=0),
            "micrographs": (2, 60),
        },
        6,
    ),
    "conditioning": (conditioning, {"degrees": (2,), "radii": 8}, 1),
    "talk-clean-moments": (
        talk_clean_moments,
        {
            "sizes": (talk_clean_moments.Size(7, 1, 6, 0.5),),
            "how": Inversion(starts=2, marches=(3,), steps=10, last=20),
        },
        3,
    ),
    "rct": (
        rct,
        {
            "cases": (rct.Rows(rct.TILTED, "autocorrelation", 1), rct.Rows(rct.ALL, "em", 1)),
            "job": MicrographJob(7, lmax=2, starts=1),
            "size": 120,
            "fine": 2,
            "voxel": 8.0,
        },
        2,
    ),
    "consistency": (consistency, {"length": 5, "samples": (1000, 4000), "levels": (1.0,), "seeds": 1}, 2),
}


@pytest.mark.parametrize("name", TOYS)
def test_experiments_run_end_to_end(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    module, sizes, rows = TOYS[name]
    monkeypatch.setenv("UNPICKED_SHARED", str(tmp_path))  # with what is shipped alone
    found = module.EXPERIMENT
    monkeypatch.setattr(module, "EXPERIMENT", replace(found, quick=replace(found.quick, **sizes)))
    status, out, err = answered(capsys, "reproduce", name, "--out", tmp_path, "--json")
    assert status == 0, err
    table = json.loads(out.splitlines()[-1])
    assert table["name"] == name
    assert len(table["rows"]) == rows
    assert table["checks"] and table["source"] and table["settings"]
    assert err.count("\n") == rows
