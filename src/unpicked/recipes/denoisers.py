"""A user's denoiser by its name: a function in a Python file or in an installed module."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unpicked._lazy import torch
from unpicked.priors import Denoiser


@functools.cache
def denoiser(name: str) -> Callable[[Any], Any]:
    """The function that ``FILE.py:FUNCTION`` or ``package.module:FUNCTION`` names; the file is executed.

    Raises:
        ValueError: if there is no such file, module or function, or it cannot be executed.
    """
    place, _, function = name.rpartition(":")
    if not place or not function.isidentifier():
        raise ValueError(f"--denoiser must be FILE.py:FUNCTION or package.module:FUNCTION; got {name!r}")
    try:
        module = _file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except FileNotFoundError:
        raise ValueError(f"--denoiser {name}: {place} not found; give the path of a Python file") from None
    except Exception as error:  # whatever the user's code does
        said = " ".join(str(error).split())
        raise ValueError(f"--denoiser {name}: {place} cannot be executed: {type(error).__name__}: {said}") from error
    found: Callable[[Any], Any] | None = getattr(module, function, None)
    if not callable(found):
        raise ValueError(f"--denoiser {name}: {place} holds no function {function}")
    return found


def tried(name: str, box: int) -> None:
    """Call a denoiser once, on a map of the box's size, so that what is wrong with it is found before all else.

    Raises:
        ValueError: as :func:`denoiser`; or where the function fails, or gives something else than such a map.
    """
    function = denoiser(name)
    try:
        Denoiser(function, 1.0, name=name)(torch.ones(box, box, box, dtype=torch.float64))
    except ValueError as error:
        raise ValueError(
            f"--{error}" if str(error).startswith("denoiser ") else f"--denoiser {name}: {error}"
        ) from error
    except Exception as error:  # whatever the user's code does
        said = " ".join(str(error).split())
        raise ValueError(f"--denoiser {name} fails on a map of {box} voxels: {type(error).__name__}: {said}") from error


def _file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(path)
    spec = importlib.util.spec_from_file_location(f"denoiser_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
