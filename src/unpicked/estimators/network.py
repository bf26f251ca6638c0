"""The encoder's network: three blocks of convolutions, a perceptron, one output per head (Nashed et al. 2021).

It has no state: its weights are one flat vector, put in where it is called.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from unpicked._lazy import torch
from unpicked.ops import seeding


@dataclass(frozen=True)
class Shape:
    """What fixes a network.

    Attributes:
        box: edge of the input in pixels; at least 2 to the number of blocks.
        widths: filters of every block, which is [convolution 3 x 3, convolution 3 x 3, maximum of 2 x 2].
        hidden: units of both layers of the perceptron.
        outputs: numbers at the end.
    """

    box: int
    widths: tuple[int, ...]
    hidden: int
    outputs: int

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1 or self.hidden < 1:
            raise ValueError(f"widths and hidden must be positive; got {self.widths} and {self.hidden}")
        if self.box < 2 ** len(self.widths):
            raise ValueError(
                f"an input of {self.box} pixels is too small for {len(self.widths)} blocks, each of which halves it; "
                f"try at least {2 ** len(self.widths)} pixels or fewer widths"
            )


@lru_cache(maxsize=8)
def _build(shape: Shape) -> torch.nn.Module:
    """The network without memory for its weights."""
    layers: list[torch.nn.Module] = []
    before, side = 1, shape.box
    with torch.device("meta"):
        for width in shape.widths:
            for channels in (before, width):
                layers += [torch.nn.Conv2d(channels, width, 3, padding=1), torch.nn.ReLU()]
            layers.insert(-1, torch.nn.MaxPool2d(2))  # the same after the rectifier as before it, and cheaper
            before, side = width, side // 2
        layers.append(torch.nn.Flatten())
        for inputs in (before * side**2, shape.hidden):
            layers += [torch.nn.Linear(inputs, shape.hidden), torch.nn.ReLU()]
        layers.append(torch.nn.Linear(shape.hidden, shape.outputs))
        return torch.nn.Sequential(*layers)


def size(shape: Shape) -> int:
    """Number of weights."""
    return sum(value.numel() for value in _build(shape).parameters())


def start(shape: Shape, seed: int) -> torch.Tensor:
    """Random weights ``(size,)`` float32: uniform with variance 2 / inputs (He et al. 2015), 1 / inputs in the last
    layer; no biases.
    """
    generator, parts = seeding.generator(seed, "network"), []
    parameters = list(_build(shape).parameters())
    for number, value in enumerate(parameters):
        if value.dim() == 1:
            parts.append(torch.zeros(value.shape))
            continue
        last = number >= len(parameters) - 2
        bound = math.sqrt((3.0 if last else 6.0) / value[0].numel())
        parts.append((2 * torch.rand(value.shape, generator=generator) - 1).flatten() * bound)
    return torch.cat(parts)


def call(shape: Shape, weights: torch.Tensor, images: torch.Tensor, *, half: bool = False) -> torch.Tensor:
    """Outputs ``(n, outputs)`` for normalised images ``(n, box, box)``.

    Args:
        shape: of the network.
        weights: ``(size,)``, in the images' type and on their device.
        images: to be looked at.
        half: on a GPU, multiply in bfloat16; the answer keeps the type of the images.
    """
    network = _build(shape)
    places = dict(network.named_parameters())
    parts = weights.split([value.numel() for value in places.values()])  # one gradient of the whole, not one per part
    named = {name: part.view(value.shape) for (name, value), part in zip(places.items(), parts, strict=True)}
    inputs = images[:, None].contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=half and images.is_cuda):
        found = torch.func.functional_call(network, named, (inputs,))
    return found.to(images)


def last_layer(weights: torch.Tensor, hidden: int, outputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Views of the last layer's weights ``(outputs, hidden)`` and biases ``(outputs,)`` in the flat vector."""
    tail = weights[-outputs * (hidden + 1) :]
    return tail[: outputs * hidden].view(outputs, hidden), tail[outputs * hidden :]
