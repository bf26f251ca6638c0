"""Contrast transfer function (`docs/conventions.md`, section 7): positive means matter is bright."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from unpicked._lazy import torch
from unpicked.ops import fourier


def electron_wavelength(voltage_kv: float | Sequence[float] | torch.Tensor) -> Float[torch.Tensor, "*b"]:
    """Relativistic wavelength of the electron in angstrom: 12.2639 / sqrt(V + 0.97845e-6 V^2), V in volts.

    Args:
        voltage_kv: acceleration voltage in kV, a number or any shape; 300 gives 0.019687. Numbers give
            float64.

    Raises:
        ValueError: if a voltage is not positive, or above 10,000 (volts instead of kilovolts).
    """
    volts = 1e3 * _value(voltage_kv, torch.float64, None)
    _check(volts, "voltage_kv", "must lie between 0 and 10000, in kV", lambda v: (v > 0) & (v <= 1e7), 1e-3)
    return 12.2639 / (volts + 0.97845e-6 * volts.square()).sqrt()


def ctf(
    sx: Float[torch.Tensor, "*s"],
    sy: Float[torch.Tensor, "*s"],
    *,
    defocus_u: float | Sequence[float] | torch.Tensor,
    defocus_v: float | Sequence[float] | torch.Tensor,
    voltage_kv: float | Sequence[float] | torch.Tensor,
    cs_mm: float | Sequence[float] | torch.Tensor,
    amplitude_contrast: float | Sequence[float] | torch.Tensor,
    astigmatism_angle: float | Sequence[float] | torch.Tensor = 0.0,
    phase_shift: float | Sequence[float] | torch.Tensor = 0.0,
    b_factor: float | Sequence[float] | torch.Tensor = 0.0,
    scale: float | Sequence[float] | torch.Tensor = 1.0,
) -> Float[torch.Tensor, "*b_s"]:
    """Values C(s) = scale exp(-B |s|^2 / 4) (sqrt(1 - w^2) sin chi + w cos chi), real.

    chi = pi lambda Z(s) - (pi / 2) Cs lambda^3 |s|^4 + phase_shift, with the quadratic form Z(s) = u |s|^2
    along ``astigmatism_angle`` and v |s|^2 across it: no root and no division, hence finite gradients at
    u = v and s = 0.

    Args:
        sx: spatial frequency along x (columns), 1/angstrom, any shape ``(*s)``; gives dtype and device of
            the result.
        sy: the same along y (rows).
        defocus_u: defocus along the angle, angstrom, underfocus positive; u < v and u = v are legal.
        defocus_v: defocus across it, angstrom.
        voltage_kv: acceleration voltage, kV.
        cs_mm: spherical aberration, mm.
        amplitude_contrast: w, in [0, 1].
        astigmatism_angle: degrees from +x towards +y.
        phase_shift: phase plate, degrees.
        b_factor: envelope, square angstrom.
        scale: factor.

    Returns:
        ``(*b, *s)``, ``(*b)`` the common (broadcast) shape of the optics values; numbers give ``(*s)``.

    Raises:
        ValueError: if sx and sy differ in shape, a voltage is not positive, w lies outside [0, 1], or the
            optics values do not broadcast.
    """
    if sx.shape != sy.shape:
        raise ValueError(f"sx and sy must have one shape; got {tuple(sx.shape)} and {tuple(sy.shape)}")
    named = {
        "defocus_u": defocus_u,
        "defocus_v": defocus_v,
        "voltage_kv": voltage_kv,
        "cs_mm": cs_mm,
        "amplitude_contrast": amplitude_contrast,
        "astigmatism_angle": astigmatism_angle,
        "phase_shift": phase_shift,
        "b_factor": b_factor,
        "scale": scale,
    }
    values = {name: _value(value, torch.float64, sx.device).double() for name, value in named.items()}
    try:
        np.broadcast_shapes(*(value.shape for value in values.values()))
    except ValueError as error:
        shapes = {name: tuple(value.shape) for name, value in values.items() if value.dim()}
        raise ValueError(f"optics values must broadcast to one shape; got {shapes}") from error
    weight = values["amplitude_contrast"]
    _check(weight, "amplitude_contrast", "must lie between 0 and 1", lambda w: (w >= 0) & (w <= 1))

    # per optics group, in float64: a handful of numbers
    wavelength = electron_wavelength(values["voltage_kv"])
    u, v, angle = values["defocus_u"], values["defocus_v"], torch.deg2rad(values["astigmatism_angle"])
    cos, sin = angle.cos(), angle.sin()
    pi = math.pi
    xx = pi * wavelength * (u * cos.square() + v * sin.square())
    yy = pi * wavelength * (u * sin.square() + v * cos.square())
    xy = 2 * pi * wavelength * (u - v) * sin * cos
    quartic = -pi / 2 * 1e7 * values["cs_mm"] * wavelength**3
    constant = torch.deg2rad(values["phase_shift"])
    factors = (xx, xy, yy, quartic, constant, (1 - weight.square()).sqrt(), weight, values["b_factor"] / 4)

    def spread(value: torch.Tensor) -> torch.Tensor:
        return value.to(sx.dtype).reshape(value.shape + (1,) * sx.dim())

    a, b, d, q, c, phase_part, amplitude_part, envelope = (spread(value) for value in factors)
    square = sx.square() + sy.square()
    chi = a * sx.square() + b * (sx * sy) + d * sy.square() + q * square.square() + c
    oscillation = phase_part * chi.sin() + amplitude_part * chi.cos()
    return spread(values["scale"]) * torch.exp(-envelope * square) * oscillation


def ctf_grid(
    shape: tuple[int, int],
    pixel_size: float,
    *,
    defocus_u: float | Sequence[float] | torch.Tensor,
    defocus_v: float | Sequence[float] | torch.Tensor,
    voltage_kv: float | Sequence[float] | torch.Tensor,
    cs_mm: float | Sequence[float] | torch.Tensor,
    amplitude_contrast: float | Sequence[float] | torch.Tensor,
    astigmatism_angle: float | Sequence[float] | torch.Tensor = 0.0,
    phase_shift: float | Sequence[float] | torch.Tensor = 0.0,
    b_factor: float | Sequence[float] | torch.Tensor = 0.0,
    scale: float | Sequence[float] | torch.Tensor = 1.0,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> Float[torch.Tensor, "*b h w"]:
    """:func:`ctf` on the DC-first frequency grid of images of this shape; computed in float64.

    Args:
        shape: height and width of the image in pixels.
        pixel_size: angstrom.
        defocus_u: see :func:`ctf`, as for all optics values.
        defocus_v: angstrom.
        voltage_kv: kV.
        cs_mm: mm.
        amplitude_contrast: in [0, 1].
        astigmatism_angle: degrees.
        phase_shift: degrees.
        b_factor: square angstrom.
        scale: factor.
        dtype: of the result, float64 unless given.
        device: of the result.

    Returns:
        ``(*b, height, width)``, ``(*b)`` the shape of the optics values.

    Raises:
        ValueError: if pixel_size or a length is not positive, and as :func:`ctf`.
    """
    if not pixel_size > 0:
        raise ValueError(f"pixel_size must be positive, in angstrom; got {pixel_size}")
    if min(shape) < 1:
        raise ValueError(f"shape must be two positive lengths; got {tuple(shape)}")
    axes = [fourier.frequencies(n, device=device).double() / (n * pixel_size) for n in shape]
    sy, sx = torch.meshgrid(*axes, indexing="ij")
    values = ctf(
        sx,
        sy,
        defocus_u=defocus_u,
        defocus_v=defocus_v,
        voltage_kv=voltage_kv,
        cs_mm=cs_mm,
        amplitude_contrast=amplitude_contrast,
        astigmatism_angle=astigmatism_angle,
        phase_shift=phase_shift,
        b_factor=b_factor,
        scale=scale,
    )
    return values.to(dtype or torch.float64)


def _value(
    value: float | Sequence[float] | torch.Tensor, dtype: torch.dtype, device: torch.device | None
) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value.to(device, value.dtype if value.is_floating_point() else dtype)
    return torch.as_tensor(value, dtype=dtype, device=device)


def _check(
    value: torch.Tensor,
    name: str,
    rule: str,
    legal: Callable[[torch.Tensor], torch.Tensor],
    unit: float = 1.0,
) -> None:
    found = value.detach()
    wrong = found[~legal(found)]
    if wrong.numel():
        raise ValueError(f"{name} {rule}; got {float(wrong.flatten()[0]) * unit:g}")
