"""Where an estimator by gradients gets its poses from: known ones, a table of its own, or an encoder.

Known poses make it tomography, a table the auto-decoder, an encoder the auto-encoder of Nashed et al. (2021) and its
relatives with several branches, of which the best one is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from unpicked._lazy import torch
from unpicked.data.particles import Particles
from unpicked.estimators import network
from unpicked.estimators.seen import Proposal, Seen, look
from unpicked.ops import dihedral, fourier, rotation, seeding

Shifts = Literal["none", "known", "estimated"]


@dataclass(frozen=True)
class Known:
    """The poses that came with the images: only the map is sought.

    Attributes:
        shifts: "known": of the data; "none": zero.
    """

    shifts: Literal["none", "known"] = "known"
    count: ClassVar[int] = 1
    outputs: ClassVar[int] = 1
    together: ClassVar[bool] = True
    spread: ClassVar[float] = 0.0

    def tried(self, fraction: float) -> int:
        """The only one."""
        return 1

    def check(self, data: Particles, max_shift: float) -> None:
        """Refuse data without poses."""
        if data.poses is None:
            raise ValueError("known poses need images that come with poses; got none; try Encoder()")

    def start(self, data: Particles, seed: int) -> torch.Tensor:
        """Nothing."""
        return torch.zeros(0)

    def scale(self, data: Particles) -> torch.Tensor:
        """No network is there to be shown anything."""
        return torch.tensor([0.0, 1.0])

    def rate(self, fraction: float) -> float:
        """Nothing moves."""
        return 0.0

    def seen(self, parameters: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """All are counted together."""
        return places.new_tensor(len(places))

    def propose(self, parameters: torch.Tensor, seen: Seen, branches: torch.Tensor | None = None) -> Proposal:
        """What is known."""
        if seen.rotations is None or seen.shifts is None:
            raise ValueError("known poses need images that come with poses; got none; try Encoder()")
        return Proposal(seen.rotations[:, None], seen.shifts[:, None] if self.shifts == "known" else None)

    def revived(self, parameters: torch.Tensor, usage: torch.Tensor, seed: int) -> torch.Tensor:
        """Nothing to revive."""
        return parameters


@dataclass(frozen=True)
class Table:
    """One pose per image, each with numbers of its own: the auto-decoder.

    Attributes:
        shifts: "estimated": two numbers more per image; "known": of the data; "none": zero.
        learning_rate: of the numbers: two vectors of about unit length per image, shifts in parts of the largest one.
        least_rate: at the end of a run, along a cosine.
    """

    shifts: Shifts = "none"
    learning_rate: float = 1e-2
    least_rate: float = 1e-3
    count: ClassVar[int] = 1
    outputs: ClassVar[int] = 1
    together: ClassVar[bool] = True
    spread: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        _check_rates(self.learning_rate, self.least_rate)

    def tried(self, fraction: float) -> int:
        """The only one."""
        return 1

    def check(self, data: Particles, max_shift: float) -> None:
        """Refuse data that do not fit."""
        _check_shifts(self.shifts, data, max_shift)

    def start(self, data: Particles, seed: int) -> torch.Tensor:
        """Random rotations ``(n, 6)``; with shifts, which begin at zero, ``(n, 8)``."""
        turns = rotation.random_rotations(len(data), seeding.generator(seed, "table"), dtype=torch.float32)
        more = 2 if self.shifts == "estimated" else 0
        return torch.nn.functional.pad(turns[:, :2].flatten(1), (0, more))

    def scale(self, data: Particles) -> torch.Tensor:
        """No network is there to be shown anything."""
        return torch.tensor([0.0, 1.0])

    def rate(self, fraction: float) -> float:
        """Length of a step."""
        return _cosine(self.learning_rate, self.least_rate, fraction)

    def seen(self, parameters: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """``(n, 1)``: every row counts its own image."""
        return torch.bincount(places, minlength=len(parameters))[:, None]

    def propose(self, parameters: torch.Tensor, seen: Seen, branches: torch.Tensor | None = None) -> Proposal:
        """The rows of these images."""
        if len(seen.places) and int(seen.places.max()) >= len(parameters):
            raise ValueError(
                f"a table of {len(parameters)} poses knows nothing of image {int(seen.places.max())}; try Encoder()"
            )
        rows = parameters[seen.places][:, None]
        return Proposal(rotation.s2s2_to_matrix(rows[..., :6]), _shifts(self.shifts, rows[..., 6:8], seen))

    def revived(self, parameters: torch.Tensor, usage: torch.Tensor, seed: int) -> torch.Tensor:
        """Nothing to revive."""
        return parameters


@dataclass(frozen=True)
class Encoder:
    """A network that reads the pose from the image.

    An image at low resolution looks nearly the same from in front and from behind, and a network that gives one answer
    averages the two. Branches give several, and the one that explains the image best is taken and learns.

    Attributes:
        rotation: form of the output: two vectors ("s2s2"), three numbers that stand for a quaternion, or Euler angles
            in radians.
        branches: "none": one answer, as published; "mirror": one more for the image turned by 180 degrees; "heads":
            several outputs of the network; "orbit": one for each of the eight flips and quarter turns of the image.
        heads: outputs of the network; 0 means 8 for "heads", and 1 for the others.
        widths: filters of the blocks; published are 32, 64, 128.
        hidden: units of both layers behind them.
        crop: edge in pixels to which images are cropped in Fourier space for the network; 0: as they are.
        flip_phases: show the network images whose phases are flipped by the sign of their contrast transfer.
        shifts: "estimated": two numbers more per head; "known": of the data; "none": zero.
        defocus: largest change of defocus in angstrom, for which one number more per head stands; 0: none.
        learning_rate: of the weights.
        least_rate: at the end of a run, along a cosine.
        spread: weight of one head drawn from those that lost, in the first half of a run.
        settled: part of the updates after which only some of the poses of "mirror" and "orbit" are tried, drawn anew
            each time: by then the network reads an image whichever way it is turned.
        few: how many.
        half: multiply in bfloat16 on a GPU.
    """

    rotation: Literal["s2s2", "quaternion", "euler"] = "s2s2"
    branches: Literal["none", "mirror", "heads", "orbit"] = "orbit"
    heads: int = 0
    widths: tuple[int, ...] = (32, 64, 128)
    hidden: int = 512
    crop: int = 0
    flip_phases: bool = False
    shifts: Shifts = "none"
    defocus: float = 0.0
    learning_rate: float = 5e-4
    least_rate: float = 1e-5
    spread: float = 0.05
    settled: float = 1.0
    few: int = 2
    half: bool = False

    def __post_init__(self) -> None:
        if self.rotation not in _NUMBERS:
            raise ValueError(f"rotation must be one of {', '.join(_NUMBERS)}; got {self.rotation!r}")
        if self.branches not in _ELEMENTS:
            raise ValueError(f"branches must be one of {', '.join(_ELEMENTS)}; got {self.branches!r}")
        if self.heads < 0 or (self.branches == "none" and self.heads > 1):
            raise ValueError(f"heads must be at least 1, and 1 without branches; got {self.heads}; try 'heads'")
        if self.crop < 0 or self.defocus < 0 or not 0 <= self.spread < 1:
            raise ValueError(
                f"crop and defocus must not be negative, spread at least 0 and below 1; got {self.crop}, "
                f"{self.defocus} and {self.spread}"
            )
        if not 0 <= self.settled <= 1 or self.few < 1:
            raise ValueError(f"settled must lie between 0 and 1, few be at least 1; got {self.settled} and {self.few}")
        _check_rates(self.learning_rate, self.least_rate)

    @property
    def outputs(self) -> int:
        """Heads of the network."""
        return self.heads or (8 if self.branches == "heads" else 1)

    @property
    def count(self) -> int:
        """Poses that are proposed per image: flips and turns times heads."""
        return len(_ELEMENTS[self.branches]) * self.outputs

    @property
    def together(self) -> bool:
        """Whether one look at the image gives all poses."""
        return len(_ELEMENTS[self.branches]) == 1

    def shape(self, box: int) -> network.Shape:
        """The network for images of edge ``box``."""
        return network.Shape(self.crop or box, self.widths, self.hidden, self.outputs * self._length)

    @property
    def _length(self) -> int:
        """Numbers per head."""
        return _NUMBERS[self.rotation] + (2 if self.shifts == "estimated" else 0) + (1 if self.defocus else 0)

    def tried(self, fraction: float) -> int:
        """All, and later on as many as are asked for."""
        return self.count if fraction < self.settled or self.together else min(self.few, self.count)

    def check(self, data: Particles, max_shift: float) -> None:
        """Refuse data that do not fit."""
        _check_shifts(self.shifts, data, max_shift)
        if self.crop > data.box:
            raise ValueError(f"crop must be at most the images' {data.box} pixels; got {self.crop}")
        if data.optics is None and (self.flip_phases or self.defocus):
            raise ValueError("flip_phases and defocus need images with contrast transfer parameters; got none")
        network.size(self.shape(data.box))

    def start(self, data: Particles, seed: int) -> torch.Tensor:
        """Random weights; several heads begin at poses that are spread over all rotations."""
        weights = network.start(self.shape(data.box), seed)
        if self.outputs > 1:
            turn = rotation.random_rotations(1, seeding.generator(seed, "heads"))
            spread = self._numbers(rotation.super_fibonacci(self.outputs) @ turn)
            bias = network.last_layer(weights, self.hidden, self.outputs * self._length)[1].view(self.outputs, -1)
            bias[:, : spread.shape[1]] = spread.to(bias)
        return weights

    def scale(self, data: Particles) -> torch.Tensor:
        """Mean and standard deviation of at most 256 images as the network is shown them."""
        places = range(0, len(data), -(-len(data) // 256))
        neutral = torch.tensor([0.0, 1.0])
        shown = self._shown(look(data, places, 0.0, neutral, neutral))
        return torch.stack([shown.mean(), shown.std().clamp(min=1e-30)])

    def rate(self, fraction: float) -> float:
        """Length of a step."""
        return _cosine(self.learning_rate, self.least_rate, fraction)

    def seen(self, parameters: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """All weights belong to all images."""
        return places.new_tensor(len(places))

    def propose(self, parameters: torch.Tensor, seen: Seen, branches: torch.Tensor | None = None) -> Proposal:
        """Poses by the network, in the images' own frame whichever way they were turned for it."""
        shown, elements = self._shown(seen), _ELEMENTS[self.branches]
        turned = torch.stack([dihedral.turn(shown, element) for element in elements], 1)
        if branches is None:
            branches = picks = torch.arange(self.count, device=shown.device).expand(len(shown), -1)
        elif self.together:
            picks = branches
        else:  # one look for each pose that is wanted
            turned = turned[torch.arange(len(shown), device=shown.device)[:, None], branches // self.outputs]
            looks = torch.arange(branches.shape[1], device=shown.device)
            picks = looks * self.outputs + branches % self.outputs
        found = network.call(self.shape(seen.images.shape[-1]), parameters, turned.flatten(0, 1), half=self.half)
        found = found.view(len(shown), turned.shape[1] * self.outputs, -1)
        numbers = torch.take_along_dim(found, picks[..., None], 1)
        return self._poses(numbers, branches // self.outputs, seen)

    def revived(self, parameters: torch.Tensor, usage: torch.Tensor, seed: int) -> torch.Tensor:
        """Heads with less than a fifth of their share become copies of a head in use, turned by 30 degrees."""
        dead = (usage < 0.2 / self.outputs).nonzero().flatten().tolist()
        if not dead or self.outputs == 1:
            return parameters
        parameters, generator = parameters.clone(), seeding.generator(seed, "revived")
        last = network.last_layer(parameters, self.hidden, self.outputs * self._length)
        weight, bias = (part.view(self.outputs, self._length, -1) for part in last)
        alive = usage.clone()
        alive[dead] = 0
        for head in dead:
            model = int(torch.multinomial(alive.double().cpu(), 1, generator=generator))
            axis = torch.randn(3, generator=generator, dtype=torch.float64)
            turn = rotation.exp_map(axis / axis.norm() * math.radians(30)).to(parameters)
            for part in (weight, bias):
                part[head] = part[model]
                if self.rotation == "s2s2":  # rows of R times a rotation of the object
                    for first in (0, 3):
                        part[head, first : first + 3] = turn.mT @ part[model, first : first + 3]
            if self.rotation != "s2s2":
                bias[head, :3, 0] += 0.5 * axis.to(parameters)
        return parameters

    def _shown(self, seen: Seen) -> torch.Tensor:
        """What the network is shown, ``(n, box, box)``: cropped, phases flipped, of mean 0 and variance 1."""
        images, box = seen.images, self.crop or seen.images.shape[-1]
        if box < images.shape[-1]:
            images = fourier.resize_image(images, (box, box))
        if self.flip_phases and seen.optics is not None:
            s = fourier.frequencies(box, device=images.device).double() / (seen.images.shape[-1] * seen.pixel_size)
            sy, sx = torch.meshgrid(s, s, indexing="ij")
            sign = torch.where(seen.optics.values(sx, sy) < 0, -1.0, 1.0).to(images)
            images = fourier.ifft2(fourier.fft2(images) * sign)
        return (images - seen.scale[0]) / seen.scale[1]

    def _numbers(self, rotations: torch.Tensor) -> torch.Tensor:
        """Outputs that stand for these rotations, or for as many spread numbers."""
        if self.rotation == "s2s2":
            return rotations[:, :2].flatten(1)
        if self.rotation == "euler":
            return torch.deg2rad(rotation.matrix_to_euler(rotations))
        q = rotation.matrix_to_quaternion(rotations)
        u = (q[:, 2].square() + q[:, 3].square()).clamp(1e-3, 1 - 1e-3)
        turns = torch.stack([torch.atan2(q[:, 0], q[:, 1]), torch.atan2(q[:, 2], q[:, 3])], 1) / (2 * math.pi)
        return torch.logit(torch.cat([u[:, None], (turns % 1).clamp(1e-2, 1 - 1e-2)], 1))

    def _poses(self, numbers: torch.Tensor, elements: torch.Tensor, seen: Seen) -> Proposal:
        """Numbers ``(n, k, m)`` that the network gave for images under the elements ``(n, k)`` of its branches."""
        size = _NUMBERS[self.rotation]
        if self.rotation == "s2s2":
            turns = rotation.s2s2_to_matrix(numbers[..., :6])
        elif self.rotation == "quaternion":
            turns = rotation.unit_cube_to_matrix(numbers[..., :3])
        else:
            turns = rotation.euler_to_matrix(torch.rad2deg(numbers[..., :3]))
        back = dihedral.matrices(dtype=numbers.dtype, device=numbers.device)[list(_ELEMENTS[self.branches])].mT
        back = back[elements]
        shifts = _shifts(self.shifts, numbers[..., size : size + 2], seen)
        if shifts is not None and self.shifts == "estimated":
            shifts = (back[..., :2, :2] @ shifts[..., None]).squeeze(-1)
        change = self.defocus * torch.tanh(numbers[..., -1]) if self.defocus else None
        return Proposal(back @ turns, shifts, change)


_NUMBERS = {"s2s2": 6, "quaternion": 3, "euler": 3}
_ELEMENTS = {"none": (0,), "mirror": (0, dihedral.HALF_TURN), "heads": (0,), "orbit": tuple(range(dihedral.COUNT))}


def _cosine(first: float, last: float, fraction: float) -> float:
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * min(max(fraction, 0.0), 1.0)))


def _check_rates(first: float, last: float) -> None:
    if not 0 <= last <= first:
        raise ValueError(f"least_rate must lie between 0 and learning_rate; got {last} and {first}")


def _check_shifts(shifts: Shifts, data: Particles, max_shift: float) -> None:
    if shifts not in ("none", "known", "estimated"):
        raise ValueError(f"shifts must be none, known or estimated; got {shifts!r}")
    if shifts == "known" and data.poses is None:
        raise ValueError("known shifts need images that come with poses; got none; try shifts='none'")
    if shifts == "estimated" and not max_shift > 0:
        raise ValueError(f"estimated shifts need a largest one; got {max_shift} angstrom; try Centred(max_shift=10)")


def _shifts(kind: Shifts, numbers: torch.Tensor, seen: Seen) -> torch.Tensor | None:
    """Shifts ``(n, k, 2)`` in angstrom from two numbers of a source, or those of the data."""
    if kind == "estimated":
        return seen.max_shift * torch.tanh(numbers)
    return seen.shifts[:, None] if kind == "known" and seen.shifts is not None else None
