"""Micrographs in tiles, and the likelihood that judges them: independent patches, seen through their own filters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from unpicked._lazy import torch
from unpicked.data.micrographs import Micrographs
from unpicked.estimators.base import filter_of, mixed, occupied_share, patch_images, patch_scene, patch_step
from unpicked.evaluate.nulls import Null, White
from unpicked.model.likelihoods import Scene
from unpicked.model.model import Model
from unpicked.model.noise import variance_of
from unpicked.model.placements import through_of
from unpicked.model.transfer import Transfer
from unpicked.verify.verdict import Score

CALIBRATED = 400  # patches to which the share of empty ones is fitted


@dataclass(frozen=True, eq=False)
class Tiles:
    """Square tiles ``(n, s, s)`` of piece ``index`` of some data."""

    values: torch.Tensor
    data: Micrographs
    index: int

    def __len__(self) -> int:
        return len(self.values)


def squares(image: torch.Tensor, side: int) -> torch.Tensor:
    """Squares of an image side by side, ``(n, side, side)``; a rest at the far edges is left out."""
    return image.unfold(0, side, side).unfold(1, side, side).flatten(0, 1)


def patches_across(data: Micrographs, side: int, most: int) -> int:
    """Patches of a side along a tile's edge: so many that tiles without hidden pixels hold half of what masks leave.

    Args:
        data: micrographs.
        side: of a patch, in pixels.
        most: patches at most, and without masks; at least one.
    """
    if data.masks is None:
        return most
    shares = [0.0] * (most + 1)
    for index in range(len(data)):
        mask = data.masks.read(index)
        for count in range(1, most + 1):
            if min(mask.shape) >= count * side:
                shares[count] += int(squares(mask, count * side).flatten(1).all(1).sum()) * (count * side) ** 2
        shares[0] += int(mask.sum())
    return next((count for count in range(most, 1, -1) if shares[count] >= 0.5 * shares[0]), 1)


@dataclass(frozen=True, eq=False)
class OfTiles:
    """A null of numbers, asked of tiles that know where they come from."""

    null: Null

    @property
    def name(self) -> str:
        """The null's."""
        return self.null.name

    def fitted(self, tiles: Iterable[Tiles]) -> OfTiles:
        """The null of their numbers."""
        return OfTiles(self.null.fitted(some.values for some in tiles))

    def log_likelihood(self, tiles: Tiles) -> torch.Tensor:
        """Of every tile's numbers."""
        return self.null.log_likelihood(tiles.values)


def by_patches(
    model: Model, x: torch.Tensor, known: Iterator[Tiles], share: torch.Tensor | None = None, *, once: bool = False
) -> Score:
    """Log-likelihood of tiles as patches of side 2 L, independent, of which a share is empty; ``known`` tell it.

    The patches are laid in four ways, half a patch apart along each axis: what one cuts through, another holds whole.
    Their logarithms are added in proportion, so that a tile counts as often as if they were laid once: a composite
    likelihood (Lindsay 1988), the same for all models, which errs less than one way alone.

    Args:
        model: object, views, placement and noise.
        x: coefficients.
        known: tiles to which the share is fitted, where it is not given.
        share: of patches that hold a particle or a part of one.
        once: lay the patches one way only.
    """
    white = White(model.noise.mean, float(variance_of(model.noise)))
    scenes, side = _scenes(model, x), 2 * model.side
    share = _share(scenes, side, known) if share is None else share

    def judged(tiles: Tiles) -> torch.Tensor:
        scene, ways = scenes(tiles), _laid(tiles.values, side, once=once)
        ratios = torch.cat([_ratios(scene, side, part) for part in ways], 1)
        whole = (tiles.values.shape[1] // side) * (tiles.values.shape[2] // side)
        found = mixed(ratios, share).sum(1) * (whole / ratios.shape[1])
        return white.log_likelihood(tiles.values).cpu() + found.cpu()

    return judged


def _laid(tiles: torch.Tensor, side: int, *, once: bool) -> Iterator[torch.Tensor]:
    """Parts ``(n, h, w)`` of tiles that whole patches fill, half a patch apart."""
    shifts = (0,) if once else (0, side // 2)
    for top in shifts:
        for left in shifts:
            height, width = (tiles.shape[1] - top) // side * side, (tiles.shape[2] - left) // side * side
            if height and width:
                yield tiles[:, top : top + height, left : left + width]


def share_of(model: Model, x: torch.Tensor, known: Iterator[Tiles]) -> torch.Tensor:
    """The likeliest share of patches of side 2 L that hold a particle or a part of one, from some hundreds of them."""
    return _share(_scenes(model, x), 2 * model.side, known)


def _scenes(model: Model, x: torch.Tensor) -> Callable[[Tiles], Scene]:
    """What the patches of a tile are compared with: the templates as its micrograph shows them."""
    made: dict[tuple[Transfer | None, int], Scene] = {}
    images = patch_images(model, x)

    def of(tiles: Tiles) -> Scene:
        here = model.measured(tiles.data)
        filter = filter_of(here, tiles.index)
        key = through_of(here.placement), filter
        if key not in made:
            if len(made) >= _SCENES:
                made.clear()
            made[key] = patch_scene(here, images, filter)
        return made[key]

    return of


_SCENES = 8  # sets of templates that are kept


def _share(scenes: Callable[[Tiles], Scene], side: int, known: Iterator[Tiles]) -> torch.Tensor:
    count = 0
    seen: list[torch.Tensor] = []
    for tiles in known:
        some = tiles.values[:: max(1, len(tiles) * (tiles.values.shape[1] // side) ** 2 // CALIBRATED)]
        seen.append(_ratios(scenes(tiles), side, some).flatten())
        count += len(seen[-1])
        if count >= CALIBRATED:
            break
    return occupied_share(torch.cat(seen))


def _ratios(scene: Scene, side: int, tiles: torch.Tensor) -> torch.Tensor:
    """Log-likelihood ratios of the patches of tiles, ``(n, patches)``, of one copy against none."""
    step = patch_step(scene, side)
    step.add(tiles.flatten(0, 1).to(step.device), 0)  # one below the other
    return torch.cat(step.ratios).view(len(tiles), -1)
