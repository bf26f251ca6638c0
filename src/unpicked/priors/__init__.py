"""Priors: what is believed of the object before the data, as an energy.

Extending: one frozen dataclass with ``energy``; where the energy is a quadratic form centred at zero, say so by
``quadratic = True`` and the M-step stays one linear solve.
"""

from __future__ import annotations

from unpicked.priors.account import data_share, expected_error, expected_fsc, precision, response_share, unmoved
from unpicked.priors.base import Both, Flat, Prior, majorant
from unpicked.priors.constraints import Mass, Positive, Support, Symmetric, group
from unpicked.priors.denoiser import Denoiser
from unpicked.priors.evidence import learned, log_evidence
from unpicked.priors.gaussian import Ridge, Shells, Wilson, globular, wilson
from unpicked.priors.smooth import Smooth
from unpicked.priors.subspace import Subspace

__all__ = [
    "Both",
    "Denoiser",
    "Flat",
    "Mass",
    "Positive",
    "Prior",
    "Ridge",
    "Shells",
    "Smooth",
    "Subspace",
    "Support",
    "Symmetric",
    "Wilson",
    "data_share",
    "expected_error",
    "expected_fsc",
    "globular",
    "group",
    "learned",
    "log_evidence",
    "majorant",
    "precision",
    "response_share",
    "unmoved",
    "wilson",
]
