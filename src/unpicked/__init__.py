"""Structures straight from cryo-EM micrographs, without particle picking.

The public names below are imported at their first use; importing the package has no side effect.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_PLACES = {
    # records
    "Map": "data.maps",
    "Micrographs": "data.micrographs",
    "Occurrences": "data.poses",
    "Optics": "data.optics",
    "Particles": "data.particles",
    "Poses": "data.poses",
    "Signal": "data.signal",
    "Structure": "data.structure",
    # noise levels
    "energy": "data.snr",
    "snr_box": "data.snr",
    "snr_disc": "data.snr",
    "snr_db": "data.snr",
    "sigma": "data.snr",
    # the five parts of a model
    "Model": "model.model",
    "Ball": "objects.ball",
    "Classes": "objects.classes",
    "Disk": "objects.disk",
    "Gaussians": "objects.gaussians",
    "Pixels": "objects.pixels",
    "Samples": "objects.samples",
    "Voxels": "objects.voxels",
    "Identity": "model.views",
    "InPlane": "model.views",
    "OfClasses": "model.views",
    "Conical": "model.conical",
    "Projection": "model.views",
    "Directions": "model.directions",
    "Anywhere": "model.placements",
    "Patches": "model.placements",
    "Chain": "model.chain",
    "Centred": "model.centred",
    "HardCore": "model.spacing",
    "Histogram": "model.spacing",
    "geometric": "model.spacing",
    "White": "model.noise",
    "Coloured": "model.noise",
    "so3_grid": "ops.rotation",
    "super_fibonacci": "ops.rotation",
    "random_rotations": "ops.rotation",
    # methods and priors
    "EM": "estimators.em",
    "ExactEM": "estimators.exact_em",
    "Gradient": "estimators.gradient",
    "Known": "estimators.poses",
    "Table": "estimators.poses",
    "Encoder": "estimators.poses",
    "standard_errors": "estimators.exact_em",
    "log_likelihood": "estimators.base",
    "best_poses": "estimators.posterior",
    "Flat": "priors",
    "Ridge": "priors",
    "Shells": "priors",
    "globular": "priors",
    "Smooth": "priors",
    "Wilson": "priors",
    "wilson": "priors",
    "Support": "priors",
    "Positive": "priors",
    "Symmetric": "priors",
    "Both": "priors",
    "Denoiser": "priors",
    "precision": "priors",
    "data_share": "priors",
    "response_share": "priors",
    # verbs
    "simulate_micrographs": "simulate.micrographs",
    "simulate_particles": "simulate.particles",
    "dataset": "simulate.datasets",
    "simulate_signal": "simulate.signals",
    "simulate_images": "simulate.images",
    "random_targets": "simulate.images",
    "PixelTargets": "simulate.images",
    "target": "simulate.signals",
    "Specimen": "simulate.micrographs",
    "shepp_logan": "simulate.phantom",
    "potential": "simulate.potential",
    "specimen_from_structure": "simulate.specimens",
    "specimen_from_map": "simulate.specimens",
    "prepare": "preprocess",
    "CtfEstimates": "ctffit",
    "CtfFit": "ctffit",
    "CtfSearch": "ctffit",
    "estimate_ctf": "ctffit",
    "fit_ctf": "ctffit",
    "reconstruct": "reconstruct",
    "Reconstruction": "reconstruct",
    "Result": "reconstruct",
    "MicrographJob": "recipes",
    "from_micrographs": "recipes",
    "SignalJob": "recipes",
    "from_signal": "recipes",
    "ParticleJob": "recipes.particle_job",
    "from_particles": "recipes.particles",
    "ParticleEMJob": "recipes.particle_em",
    "from_particles_em": "recipes.particle_em",
    "ImageJob": "recipes",
    "from_images": "recipes",
    "verify": "verify",
    "Verdict": "verify",
    "SignalTrial": "recipes.trials",
    "ImageTrial": "recipes.trials",
    "MicrographTrial": "recipes.trials",
    "ParticleTrial": "recipes.stack_trials",
    "claimed": "recipes.claims",
    "judge_claim": "verify.claims",
    "plan": "plan",
    "Plan": "plan",
    "Microscope": "plan",
    "measured": "plan.measured",
    "forecast": "plan.measured",
    "compare": "evaluate.compare",
    "compare_signals": "evaluate.signals",
    "compare_images": "evaluate.images",
    "compare_picks": "evaluate.picks",
    "compare_poses": "evaluate.poses",
    "pseudo_symmetries": "evaluate.pseudosymmetry",
    "point_group": "ops.point_group",
    "fsc": "evaluate.fsc",
    "fsc_interval": "evaluate.fsc",
    "halves": "evaluate.halves",
    "mask_around": "evaluate.mask",
    "local_resolution": "evaluate.local",
    "directional": "evaluate.directional",
    "read_map": "io.mrc",
    "read_micrographs": "io.micrographs",
    "read_particles": "io.particles",
    "read_particle_table": "io.particles",
    "write_particles": "io.particle_files",
    "read_signal": "io.npy",
    "read_star": "io.particles",
    "read_structure": "io.structure",
    "write_map": "io.mrc",
    "convert": "io.convert",
    "templates": "recipes.templates",
    "report": "report",
    "write_run": "report.folder",
}

__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'unpicked' has no attribute {name!r}")
    value = getattr(import_module(f"unpicked.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """The package, where the verbs ``reconstruct`` and ``report`` win over the modules of the same name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _PLACES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
