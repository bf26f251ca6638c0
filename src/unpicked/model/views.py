"""Views: how an object becomes templates."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from unpicked._lazy import torch
from unpicked.model.directions import Directions
from unpicked.objects.base import Image, Object, Projector, Volume
from unpicked.objects.classes import Classes
from unpicked.ops import rotation, special

_CHUNK = 512  # views whose slices are planned together


class View(Protocol):
    """A finite set of linear maps from an object's coefficients to templates, each with a weight."""

    def __len__(self) -> int: ...

    @property
    def log_weights(self) -> torch.Tensor:
        """``(k,)`` logarithms of the views' probabilities."""

    @property
    def digest(self) -> str:
        """A short text that tells this set of views from others."""

    def image_shape(self, object: Any) -> tuple[int, ...]:
        """Shape of one template; each view says which kind of object it needs."""

    def operator(self, object: Any, like: torch.Tensor) -> Projector:
        """Coefficients to all templates ``(k, *image_shape)``, with its adjoint, in the dtype of ``like``."""

    def turned(self, rotation: torch.Tensor) -> View:
        """The same views of the object turned by ``rotation``; a view that knows no turn returns itself."""


@runtime_checkable
class Directed(View, Protocol):
    """Views of a volume by rotations, which a law spreads."""

    @property
    def rotations(self) -> torch.Tensor:
        """``(k, 3, 3)``, object to view."""

    def spread(self, count: int) -> Directed:
        """So many views by the same law."""


@runtime_checkable
class Weighable(Protocol):
    """A view whose weights can be estimated."""

    @property
    def log_weights(self) -> torch.Tensor:
        """``(k,)`` log-probabilities of the views."""
        ...

    @property
    def parameters(self) -> torch.Tensor:
        """What the weights follow from: as a rule their logarithms."""
        return self.log_weights

    @property
    def energy(self) -> float:
        """-log of what is believed of the parameters, up to a constant: as a rule nothing is."""
        return 0.0

    def estimated(self, counts: torch.Tensor, *, turning: bool) -> torch.Tensor:
        """Most likely ``parameters`` given the expected copies ``(k,)`` of every view.

        Views that turn between passes are other views in the next one: ``turning`` keeps what would say nothing then.
        """

    def weighted(self, parameters: torch.Tensor) -> View:
        """The same views with the weights that follow from these."""


@dataclass(frozen=True)
class Identity:
    """The object as it is: one view, for signals, and for images that are never turned."""

    def __len__(self) -> int:
        return 1

    @property
    def log_weights(self) -> torch.Tensor:
        """``(1,)``: zero."""
        return torch.zeros(1, dtype=torch.float64)

    @property
    def digest(self) -> str:
        """Its name."""
        return "identity"

    def turned(self, rotation: torch.Tensor) -> Identity:
        """Itself: it knows no turn."""
        return self

    def image_shape(self, object: Object) -> tuple[int, ...]:
        """Shape of the object's values."""
        return object.shape

    def operator(self, object: Object, like: torch.Tensor) -> Projector:
        """Coefficients ``(..., size)`` to the one template ``(..., 1, *shape)``, in the dtype of ``like``.

        Its adjoint is taken by autograd; where the coefficients are the values themselves it is a change of shape.
        """
        axis = -1 - len(object.shape)
        if object.size == math.prod(object.shape):
            return Projector(
                lambda x: object.values(x).unsqueeze(axis), lambda images: object.fit(images.squeeze(axis))
            )
        pull = torch.func.vjp(object.values, torch.zeros(object.size, dtype=like.dtype, device=like.device))[1]

        def backproject(images: torch.Tensor) -> torch.Tensor:
            flat = images.squeeze(axis)
            many = flat.reshape(-1, *object.shape)
            return torch.stack([pull(one)[0] for one in many]).reshape(*flat.shape[: axis + 1], object.size)

        return Projector(lambda x: object.values(x).unsqueeze(axis), backproject)


@dataclass(frozen=True, eq=False)
class Projection:
    """Projections of a volume along a set of rotations.

    Attributes:
        rotations: ``(k, 3, 3)`` active, object to view; spread evenly, as those of ``ops.rotation``.
        seen: density of the directions of view; None means that all rotations are equally likely.
    """

    rotations: torch.Tensor
    seen: Directions | None = None

    def __post_init__(self) -> None:
        r = self.rotations
        if r.dim() != 3 or tuple(r.shape[1:]) != (3, 3) or r.shape[0] == 0:
            raise ValueError(f"rotations must be (k, 3, 3) with k >= 1; got {tuple(r.shape)}")
        error = float((r @ r.mT - torch.eye(3, dtype=r.dtype, device=r.device)).abs().max())
        if not error < 1e-4:
            raise ValueError(f"rotations must be orthogonal matrices; R R^T misses the identity by {error:.2g}")

    def __len__(self) -> int:
        return int(self.rotations.shape[0])

    @cached_property
    def log_weights(self) -> torch.Tensor:
        """``(k,)``: -log k each, or what the density of directions says."""
        if self.seen is not None:
            return self.seen.log_weights(self.rotations[:, 2])
        return torch.full((len(self),), -math.log(len(self)), dtype=torch.float64, device=self.rotations.device)

    @cached_property
    def digest(self) -> str:
        """Number of rotations and the sum of their entries' cosines; the same of the density of directions."""
        told = "" if self.seen is None else f", seen {float(self.seen.coefficients.double().cos().sum()):.12g}"
        return f"{len(self)} rotations {float(self.rotations.double().cos().sum()):.12g}" + told

    @property
    def _law(self) -> Directions:
        return self.seen or Directions.uniform()

    @property
    def parameters(self) -> torch.Tensor:
        """Coefficients of the density of directions."""
        return self._law.coefficients

    @property
    def energy(self) -> float:
        """-log of the belief that the density of directions is smooth, up to a constant."""
        return 0.0 if self.seen is None else self.seen.energy

    def estimated(self, counts: torch.Tensor, *, turning: bool) -> torch.Tensor:
        """Coefficients of the likeliest smooth density of directions, which says the same of views that turn."""
        return self._law.fitted(self.rotations[:, 2], counts).coefficients

    @property
    def scores(self) -> torch.Tensor:
        """``(k, m)`` gradient of every view's log-weight by the coefficients of the density of directions."""
        return self._law.scores(self.rotations[:, 2])

    def gradient(self, counts: torch.Tensor) -> torch.Tensor:
        """Of the log-posterior by the coefficients of the density, given the expected copies of every view."""
        return self._law.gradient(self.rotations[:, 2], counts)

    def stepped(self, counts: torch.Tensor, information: torch.Tensor) -> torch.Tensor:
        """Coefficients a step of scoring on, given the expected copies of every view and the data's information."""
        return self._law.stepped(self.rotations[:, 2], counts, information).coefficients

    def weighted(self, parameters: torch.Tensor) -> Projection:
        """The same rotations with this density of directions."""
        return replace(self, seen=Directions(parameters))

    def turned(self, rotation: torch.Tensor) -> Projection:
        """The views of the object turned by ``rotation``, ``(3, 3)``; the density of directions stays where it is."""
        return replace(self, rotations=self.rotations @ rotation.to(self.rotations))

    def spread(self, count: int) -> Projection:
        """So many rotations, spread evenly, with the density of directions."""
        return replace(self, rotations=rotation.super_fibonacci(count).to(self.rotations))

    def image_shape(self, object: Volume) -> tuple[int, int]:
        """Height and width of a template."""
        return object.shape[-2], object.shape[-1]

    def at(self, object: Volume, x: torch.Tensor, rotations: torch.Tensor) -> torch.Tensor:
        """Projections ``(n, L, L)`` along any rotations ``(n, 3, 3)``."""
        return object.projector(rotations.to(x)).project(x)

    def operator(self, object: Volume, like: torch.Tensor) -> Projector:
        """All views as one linear operator, in the dtype and on the device of ``like``; the last one is kept."""
        if self.rotations.requires_grad:
            return _joined(object, self.rotations.to(like))
        return _kept(object, _Rotations(self.rotations), like.dtype, like.device)


@dataclass(frozen=True)
class _Rotations:
    """Rotations that are known by their bytes: equal views of one pass, and of passes on frozen views, share work."""

    values: torch.Tensor = field(compare=False)
    key: bytes = field(init=False)

    def __post_init__(self) -> None:
        held = self.values.detach().cpu().contiguous()
        content = hashlib.blake2b(held.numpy().tobytes(), digest_size=16).digest()
        object.__setattr__(self, "key", content + str(held.dtype).encode())


@special.constants(1)
def _kept(object: Volume, rotations: _Rotations, dtype: torch.dtype, device: torch.device) -> Projector:
    return _joined(object, rotations.values.detach().to(device, dtype))


def _joined(object: Volume, rotations: torch.Tensor) -> Projector:
    parts = [object.projector(some) for some in rotations.split(_CHUNK)]
    if len(parts) == 1:
        return parts[0]

    def project(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([part.project(x) for part in parts], dim=-3)

    def backproject(images: torch.Tensor) -> torch.Tensor:
        pieces = images.split(_CHUNK, dim=-3)
        return torch.stack([part.backproject(piece) for part, piece in zip(parts, pieces, strict=True)]).sum(0)

    return Projector(project, backproject)


@dataclass(frozen=True, eq=False)
class InPlane(Weighable):
    """An image turned in its plane by equally spaced angles.

    Attributes:
        count: number of angles; error of the nearest one at most pi / count.
        first: the first angle in radians, from +x towards +y.
        shares: ``(count,)`` logarithms of the angles' probabilities; None means equal.

    Raises:
        ValueError: if count < 1, or shares of another number.
    """

    count: int = 36
    first: float = 0.0
    shares: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1 angle; got {self.count}")
        if self.shares is not None and tuple(self.shares.shape) != (self.count,):
            raise ValueError(f"shares must be ({self.count},), one per angle; got {tuple(self.shares.shape)}")

    def __len__(self) -> int:
        return self.count

    @cached_property
    def angles(self) -> torch.Tensor:
        """``(k,)`` in radians, float64."""
        return self.first + torch.arange(self.count, dtype=torch.float64) * (2 * math.pi / self.count)

    @cached_property
    def log_weights(self) -> torch.Tensor:
        """``(k,)``: log-probabilities of the angles."""
        return _equal(self.count) if self.shares is None else self.shares

    @property
    def digest(self) -> str:
        """Number of angles, the first, and their weights."""
        return f"{self.count} angles from {self.first:.12g}" + _told(self.shares)

    def turned(self, rotation: torch.Tensor) -> InPlane:
        """The same views of the object turned by the azimuth of ``rotation``, ``(3, 3)``: of where +x goes."""
        return replace(self, first=self.first + math.atan2(float(rotation[1, 0]), float(rotation[0, 0])))

    def image_shape(self, object: Image) -> tuple[int, ...]:
        """Height and width of a template."""
        return object.shape

    def operator(self, object: Image, like: torch.Tensor) -> Projector:
        """All angles as one linear operator."""
        return object.rotator(self.angles.to(like.device))

    def estimated(self, counts: torch.Tensor, *, turning: bool) -> torch.Tensor:
        """Shares of the copies; as they are while the angles turn."""
        return self.log_weights if turning else _log_shares(counts)

    def weighted(self, parameters: torch.Tensor) -> InPlane:
        """The same angles with these weights."""
        return replace(self, shares=parameters)


@dataclass(frozen=True, eq=False)
class OfClasses(Weighable):
    """Each of several kinds of object, seen from the same views; a template is (kind, view), kinds first.

    Attributes:
        view: of one kind.
        count: number of kinds.
        shares: ``(count * views,)`` log-probabilities of (kind, view); None means equal shares of the kinds.

    Raises:
        ValueError: if count < 1, or shares of another number.
    """

    view: View
    count: int
    shares: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1 kind; got {self.count}")
        if self.shares is not None and tuple(self.shares.shape) != (len(self),):
            raise ValueError(f"shares must be ({len(self)},), one per kind and view; got {tuple(self.shares.shape)}")

    def __len__(self) -> int:
        return self.count * len(self.view)

    @cached_property
    def log_weights(self) -> torch.Tensor:
        """``(kinds * views,)`` log-probabilities."""
        if self.shares is not None:
            return self.shares
        return self.view.log_weights.repeat(self.count) - math.log(self.count)

    @property
    def digest(self) -> str:
        """Number of kinds, and the views of each."""
        return f"{self.count} kinds of {self.view.digest}" + _told(self.shares)

    def turned(self, rotation: torch.Tensor) -> OfClasses:
        """The same, with the views of all kinds turned."""
        return replace(self, view=self.view.turned(rotation))

    def image_shape(self, object: Classes) -> tuple[int, ...]:
        """Shape of a template of one kind."""
        return self.view.image_shape(object.object)

    def operator(self, object: Classes, like: torch.Tensor) -> Projector:
        """All kinds and views as one linear operator."""
        if object.count != self.count:
            raise ValueError(f"object must have {self.count} kinds, as the view has; got {object.count}")
        one, dims = self.view.operator(object.object, like), len(self.image_shape(object))

        def project(x: torch.Tensor) -> torch.Tensor:
            seen = one.project(object.apart(x))
            return seen.flatten(-dims - 2, -dims - 1)

        def backproject(images: torch.Tensor) -> torch.Tensor:
            apart = images.unflatten(-dims - 1, (self.count, -1))
            return one.backproject(apart).flatten(-2)

        return Projector(project, backproject)

    def estimated(self, counts: torch.Tensor, *, turning: bool) -> torch.Tensor:
        """Shares of the kinds; of (kind, view) where the views stay."""
        if not turning and len(self.view) > 1:
            return _log_shares(counts)
        kinds = _log_shares(counts.unflatten(0, (self.count, -1)).sum(1))
        within = self.log_weights.unflatten(0, (self.count, -1)).to(kinds)
        return (within - within.logsumexp(1, keepdim=True) + kinds[:, None]).flatten()

    def weighted(self, parameters: torch.Tensor) -> OfClasses:
        """The same kinds and views with these weights."""
        return replace(self, shares=parameters)


def _equal(count: int) -> torch.Tensor:
    return torch.full((count,), -math.log(count), dtype=torch.float64)


def _log_shares(counts: torch.Tensor) -> torch.Tensor:
    """Logarithms of shares; none is ever given up for lost."""
    smooth = counts + 1e-3 * counts.mean() + 1e-9
    return (smooth / smooth.sum()).log()


def _told(shares: torch.Tensor | None) -> str:
    return "" if shares is None else f", weights {float(shares.double().cos().sum()):.12g}"
