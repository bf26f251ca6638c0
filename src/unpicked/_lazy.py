"""Torch, imported at its first use: help pages and settings must not wait a second for it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch as torch
else:

    class _Torch:
        """Stands for the module ``torch``; an attribute is looked up there once, then kept."""

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            value = getattr(import_module("torch"), name)
            self.__dict__[name] = value
            return value

    torch = _Torch()

__all__ = ["torch"]
