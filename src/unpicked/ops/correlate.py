"""Cross-correlation of windows with templates at every offset, and its adjoint, by FFT.

A window y has side B, a template t side L; offset index j = 0 .. B + L - 2 puts the template's first pixel at
j - (L - 1) of the window, so that every partial overlap occurs once and nothing wraps around.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from jaxtyping import Complex, Float

from unpicked._lazy import torch


def fast_size(least: int) -> int:
    """Smallest even FFT length >= least whose prime factors are 2, 3, 5, 7 or one 11."""
    size = least + least % 2
    while True:
        rest = size // 11 if size % 11 == 0 else size
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 2


def window_spectra(windows: Float[torch.Tensor, "*b n m"], size: int) -> Complex[torch.Tensor, "*b f g"]:
    """Half spectra of zero-padded windows, the images' side of :func:`correlate`."""
    return torch.fft.rfft2(windows, s=(size, size))


def template_spectra(templates: Float[torch.Tensor, "*b n m"], size: int) -> Complex[torch.Tensor, "*b f g"]:
    """Conjugate half spectra of zero-padded templates, moved so that offset index 0 is the first overlap."""
    reach = templates.shape[-1] - 1
    padded = torch.nn.functional.pad(templates, (0, size - reach - 1, 0, size - reach - 1))
    return torch.fft.rfft2(padded.roll((-reach, -reach), (-2, -1))).conj().resolve_conj()


def correlate(
    windows: Float[torch.Tensor, "n b b"], templates: Float[torch.Tensor, "k l l"]
) -> Float[torch.Tensor, "n k s s"]:
    """Scores sum_p y[p] t[p - offset] of every window, template and offset, ``s = b + l - 1``.

    Raises:
        ValueError: unless both are stacks of square images.
    """
    for name, stack in (("windows", windows), ("templates", templates)):
        if stack.dim() != 3 or stack.shape[-1] != stack.shape[-2]:
            raise ValueError(f"{name} must be (n, side, side); got {tuple(stack.shape)}")
    offsets = windows.shape[-1] + templates.shape[-1] - 1
    size = fast_size(offsets)
    product = window_spectra(windows, size)[:, None] * template_spectra(templates, size)
    return torch.fft.irfft2(product, s=(size, size))[..., :offsets, :offsets]


def overlap_norms(templates: Float[torch.Tensor, "k l l"], side: int) -> Float[torch.Tensor, "k s s"]:
    """Sum of squares of the part of each template that lies inside a window of side ``side``, per offset.

    Exact sums from an integral image, not an FFT: small parts keep their relative accuracy.
    """
    length = templates.shape[-1]
    integral = torch.nn.functional.pad(templates.square().cumsum(-2).cumsum(-1), (1, 0, 1, 0))
    offset = torch.arange(side + length - 1, device=templates.device) - (length - 1)
    first, last = (-offset).clamp(min=0), (side - offset).clamp(max=length)
    rows = integral[:, last] - integral[:, first]
    return rows[:, :, last] - rows[:, :, first]


def overlaps(side: int, length: int) -> Iterator[tuple[tuple[int, int], tuple[slice, slice], tuple[slice, slice]]]:
    """Every offset (indices y, x), with what overlaps: pixels of the window, and those of the template."""
    ranges = []
    for index in range(side + length - 1):
        offset = index - (length - 1)
        first, last = max(0, offset), min(side, offset + length)
        ranges.append((slice(first, last), slice(first - offset, last - offset)))
    for y, (window_y, template_y) in enumerate(ranges):
        for x, (window_x, template_x) in enumerate(ranges):
            yield (y, x), (window_y, window_x), (template_y, template_x)


def fft_pays(side: int, length: int) -> bool:
    """Whether FFTs are less work than the products of all that overlaps, for many windows and templates.

    A flop of a small FFT and its complex products was measured to take as long as about 12 of a matrix product.
    """
    offsets = side + length - 1
    size = fast_size(offsets)
    direct = 2 * (side * length / offsets) ** 2  # flops per offset, on average
    return direct > 12 * 2.5 * math.log2(size**2) * (size / offsets) ** 2


def fold(weights: Float[torch.Tensor, "k s s"], side: int, length: int) -> Float[torch.Tensor, "k l l"]:
    """Weight of each template pixel: the sum over offsets of the weights where that pixel lies inside the window.

    Args:
        weights: expected counts per template and offset.
        side: side B of the windows.
        length: side L of the templates.
    """
    integral = torch.nn.functional.pad(weights.cumsum(-2).cumsum(-1), (1, 0, 1, 0))
    pixel = torch.arange(length, device=weights.device)
    first = length - 1 - pixel  # pixel p is inside for offset indices L - 1 - p .. L - 1 - p + B - 1
    rows = integral[:, first + side] - integral[:, first]
    return rows[:, :, first + side] - rows[:, :, first]


def gathered_windows(products: Complex[torch.Tensor, "k f g"], size: int, length: int) -> Float[torch.Tensor, "k l l"]:
    """From sums of (window spectrum x conjugate weight spectrum) to the weighted sums of windows, per template."""
    full = torch.fft.irfft2(products, s=(size, size))
    return full.roll((length - 1, length - 1), (-2, -1))[..., :length, :length]


def exp_(logarithms: Float[torch.Tensor, "*b"]) -> Float[torch.Tensor, "*b"]:
    """Exponential in place, where e^-80 stands for everything smaller.

    Below -87 float32 results are subnormal, which costs a CPU thirty times the time; 1e-35 is lost in any sum here.
    """
    return logarithms.clamp_(min=-80).exp_()
