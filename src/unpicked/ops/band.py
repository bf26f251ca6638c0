"""The half disc of Fourier coefficients of a square image, on which likelihoods of particle images are summed.

D_r = {q : least <= |q| <= r, q_y > 0 or (q_y = 0 and q_x > 0)}: of real images it holds every coefficient once, up to
its conjugate; sums over it count twice (`docs/conventions.md`, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Complex, Float, Int

from unpicked._lazy import torch
from unpicked.ops import fourier


@dataclass(frozen=True)
class Band:
    """The frequencies of a half disc.

    Attributes:
        box: edge N of the images in pixels.
        radius: r in Fourier pixels; at most (N - 1) // 2, so that no Nyquist line is used.
        least: smallest |q|; 1 leaves out the mean of the image, which carries no structure.
    """

    box: int
    radius: float
    least: float = 1.0

    def __post_init__(self) -> None:
        if self.box < 4:
            raise ValueError(f"box must be at least 4 pixels; got {self.box}")
        if not self.least <= self.radius <= (self.box - 1) // 2:
            raise ValueError(
                f"radius must lie between {self.least} and {(self.box - 1) // 2} for a box of {self.box}; "
                f"got {self.radius}"
            )
        if not self.least > 0:
            raise ValueError(f"least must be positive: the mean has no conjugate partner; got {self.least}")

    def __len__(self) -> int:
        return int(self.points.shape[0])

    @cached_property
    def points(self) -> Int[torch.Tensor, "p 2"]:
        """``(p, 2)`` integer frequencies q_x, q_y, ring by ring, along every ring by angle.

        The band of a smaller whole radius is the first part of that of a larger one, and neighbours lie close.
        """
        reach = int(self.radius)
        axis = torch.arange(-reach, reach + 1)
        qy, qx = torch.meshgrid(axis, axis, indexing="ij")
        square = qx**2 + qy**2
        inside = (square <= self.radius**2 + 1e-9) & (square >= self.least**2 - 1e-9)
        inside &= (qy > 0) | ((qy == 0) & (qx > 0))
        points = torch.stack([qx[inside], qy[inside]], -1)
        ring = points.double().norm(dim=1).sub(1e-9).ceil()
        angle = torch.atan2(points[:, 1].double(), points[:, 0].double())
        return points[torch.argsort(ring * 8 + angle)]

    @cached_property
    def shells(self) -> Int[torch.Tensor, " p"]:
        """Shell round(|q|) of every frequency."""
        return self.points.double().norm(dim=1).round().long()

    def first(self, radius: int) -> int:
        """How many of the points, the first ones, are those of the band of a smaller whole radius."""
        return int((self.points.square().sum(1) <= radius**2).sum())

    def frequencies(self, pixel_size: float) -> tuple[torch.Tensor, torch.Tensor]:
        """s_x and s_y in 1/angstrom, each ``(p,)`` float64."""
        s = self.points.double() / (self.box * pixel_size)
        return s[:, 0], s[:, 1]

    def coefficients(self, images: Float[torch.Tensor, "*b n n"]) -> Complex[torch.Tensor, "*b p"]:
        """Orthonormal Fourier coefficients of images whose origin is at index N // 2.

        Raises:
            ValueError: if the images are not of the band's box.
        """
        if tuple(images.shape[-2:]) != (self.box, self.box):
            raise ValueError(f"images must end in ({self.box}, {self.box}); got {tuple(images.shape)}")
        half = torch.fft.rfft2(torch.fft.ifftshift(images, dim=(-2, -1)), norm="ortho")
        index, back = self._places(images.device)
        found = half.flatten(-2)[..., index]
        return torch.where(back, found.conj(), found)

    def images(self, coefficients: Complex[torch.Tensor, "*b p"]) -> Float[torch.Tensor, "*b n n"]:
        """Real images with these coefficients in the band and none outside; the adjoint of ``coefficients``, twice.

        Raises:
            ValueError: if the last axis is not that of the band.
        """
        if coefficients.shape[-1] != len(self):
            raise ValueError(f"coefficients must end in ({len(self)},); got {tuple(coefficients.shape)}")
        full = coefficients.new_zeros((*coefficients.shape[:-1], self.box * self.box))
        qx, qy = self.points.to(coefficients.device).unbind(1)
        full[..., (qy % self.box) * self.box + qx % self.box] = coefficients
        full[..., (-qy % self.box) * self.box + (-qx) % self.box] = coefficients.conj()
        return fourier.ifft2(full.unflatten(-1, (self.box, self.box)))

    def ramp(self, shifts: Float[torch.Tensor, "*c 2"]) -> Complex[torch.Tensor, "*c p"]:
        """exp(-2 pi i q.t / N): moves the content of images by t = (t_x, t_y) pixels."""
        angle = (-2 * torch.pi / self.box) * (shifts @ self.points.to(shifts).T)
        return torch.polar(torch.ones_like(angle), angle)

    def shell_mean(self, values: Float[torch.Tensor, "*b p"]) -> Float[torch.Tensor, "*b k"]:
        """Means over the shells 0 .. round(radius); 0 where a shell is empty."""
        index = self.shells.to(values.device)
        sums = values.new_zeros((*values.shape[:-1], int(self.shells.max()) + 1))
        counts = torch.bincount(index, minlength=sums.shape[-1]).clamp(min=1)
        return sums.index_add_(-1, index, values) / counts

    def _places(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the points lie in a transform of half the x axis, and which of them are read as conjugates."""
        qx, qy = self.points.to(device).unbind(1)
        back = qx < 0
        sign = torch.where(back, -1, 1)
        return ((sign * qy) % self.box) * (self.box // 2 + 1) + sign * qx, back
