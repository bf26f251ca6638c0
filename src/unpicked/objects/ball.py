"""Ball: band-limited volumes in spherical Bessel functions and spherical harmonics."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int

from unpicked._lazy import torch
from unpicked.objects import ball_basis as basis
from unpicked.objects.base import Projector
from unpicked.ops import special


@dataclass(frozen=True)
class Ball:
    """Volumes V(p) = sum x_lsm f_ls(|p|) S_lm(p / |p|), band-limited to |k| <= c = 1/2 cycle per voxel.

    The Fourier transform of a basis function is (-i)^l N_ls j_l(u_ls |k| / c) S_lm(k / |k|) inside the ball
    and 0 outside: u_ls is the s-th zero of j_l, S_lm a real harmonic, and (-i)^l makes the volume real
    (Bendory 2022; Levin et al. 2018). The functions are orthonormal in space, in voxel units, and f_ls has
    the closed form 4 pi N c^3 u j_{l+1}(u) j_l(v) / (u^2 - v^2), v = 2 pi c |p| (Lommel's integral). Kept are
    all (l, s) with u_ls < 2 pi c reach: f_ls peaks at |p| = u_ls / (2 pi c). The published choice, reach
    floor(box / 2), has 219 coefficients at box 11, lmax 10; the relative error of what it leaves out is 12 % for
    BPTI and a chain of 4AKE, 28 % for a 70S ribosome, 30 % for the Shepp-Logan phantom. One voxel and a half
    more, 379 coefficients, leaves 8, 9, 20 and 12 % (``benchmarks/basis.py``).

    A rotation acts exactly, x' = D(R) x, and a projection along z is exact too: it is the plane k_z = 0, to
    which only even l + m contribute. Coefficients run over l, then s, then m = -l .. l; see :attr:`index`.

    Attributes:
        box: side of the cube in voxels, >= 4, even or odd.
        lmax: largest degree.
        reach: radius in voxels up to which the basis is complete, at most :func:`largest_reach`; None means
            floor(box / 2).

    Raises:
        ValueError: if box < 4, lmax < 0, the box is too small to sample the degree lmax, or the reach too large.
    """

    box: int
    lmax: int = 10
    reach: float | None = None

    def __post_init__(self) -> None:
        if self.box < 4:
            raise ValueError(f"box must be at least 4 voxels; got {self.box}")
        if self.lmax < 0:
            raise ValueError(f"lmax must be at least 0; got {self.lmax}")
        if self.reach is not None and not 1 <= self.reach <= basis.largest_reach(self.box):
            raise ValueError(
                f"reach must lie between 1 and {basis.largest_reach(self.box):g} voxels, beyond which a box of "
                f"{self.box} voxels hardly determines the coefficients; got {self.reach}"
            )
        if not self.counts[-1]:
            best = max(degree for degree, count in enumerate(self.counts) if count)
            raise ValueError(
                f"lmax is too high for a box of {self.box} voxels: at most {best}; got {self.lmax}; "
                "try a smaller lmax or a larger box"
            )

    @property
    def _reach(self) -> float:
        return float(self.box // 2 if self.reach is None else self.reach)

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of radial functions of every degree."""
        return basis.radial_counts(self.box, self.lmax, self._reach)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the values, zyx."""
        return (self.box, self.box, self.box)

    @property
    def size(self) -> int:
        """Number of coefficients."""
        return sum((2 * degree + 1) * count for degree, count in enumerate(self.counts))

    @property
    def index(self) -> Int[torch.Tensor, "n 3"]:
        """Degree l, radial number s (from 1) and order m of every coefficient."""
        return basis.index_table(self.box, self.lmax, self._reach).clone()

    def values(self, x: Float[torch.Tensor, "*b n"]) -> Float[torch.Tensor, "*b d d d"]:
        """Volume on the voxels, ``(..., box, box, box)`` zyx, of coefficients ``(..., size)``.

        Raises:
            ValueError: if the last axis of x is not ``size``.
        """
        self._check(x)
        flat = x @ basis.grid(self.box, self.lmax, self._reach, x.dtype, x.device)
        return flat.reshape(*x.shape[:-1], *self.shape)

    def fit(self, values: Float[torch.Tensor, "*b d d d"]) -> Float[torch.Tensor, "*b n"]:
        """Least-squares coefficients of a volume (pseudo-inverse of :meth:`values`), ``(..., size)``.

        Raises:
            ValueError: if the last three axes are not ``(box, box, box)``.
        """
        if values.shape[-3:] != self.shape:
            raise ValueError(
                f"values must have shape (..., {self.box}, {self.box}, {self.box}); got {tuple(values.shape)}"
            )
        return values.flatten(-3) @ basis.inverse(self.box, self.lmax, self._reach, values.dtype, values.device)

    def evaluate(
        self, x: Float[torch.Tensor, "*b n"], points: Float[torch.Tensor, "p 3"]
    ) -> Float[torch.Tensor, "*b p"]:
        """Volume at any points, in closed form; the basis is computed in float64 at each call.

        Args:
            x: ``(..., size)`` coefficients.
            points: ``(p, 3)`` xyz in voxels, from the centre.

        Returns:
            ``(..., p)`` values in the dtype of x; no gradient in points.

        Raises:
            ValueError: if the last axis of x is not ``size`` or points is not ``(p, 3)``.
        """
        self._check(x)
        if points.dim() != 2 or points.shape[-1] != 3:
            raise ValueError(f"points must have shape (p, 3), x y z in voxels; got {tuple(points.shape)}")
        return x @ basis.basis_at(self.box, self.lmax, self._reach, points.detach().double().cpu()).to(
            x.device, x.dtype
        )

    def rotate(
        self, x: Float[torch.Tensor, "*b n"], rotation: Float[torch.Tensor, "*c 3 3"]
    ) -> Float[torch.Tensor, "*d n"]:
        """Coefficients D(R) x of the turned volume V'(p) = V(R^T p), exactly.

        Args:
            x: ``(..., size)`` coefficients.
            rotation: ``(3, 3)``, or ``(..., 3, 3)`` broadcasting with the leading axes of x.

        Raises:
            ValueError: for a wrong last axis of x or a rotation that is not ``(..., 3, 3)``.
        """
        self._check(x)
        angles, tangent = special.zyz_angles(rotation)
        if tangent is not None:
            x = x + self._turn_slightly(x, tangent)
        return self._turn(x, angles)

    def project(
        self, x: Float[torch.Tensor, "*b n"], rotations: Float[torch.Tensor, "k 3 3"]
    ) -> Float[torch.Tensor, "*b k d d"]:
        """Projections (P_R V)(x, y) = sum over all integers z of V(R^T (x, y, z)) (conventions, section 4).

        The sum equals the integral, because V is band-limited; it is not cut off at the faces of the box.
        Grid units; the gradient in rotations is first order only and finite at every tilt.

        Args:
            x: ``(..., size)`` coefficients.
            rotations: ``(k, 3, 3)`` active, object to view.

        Returns:
            ``(..., k, box, box)`` images, yx.

        Raises:
            ValueError: for a wrong last axis of x or rotations that are not ``(k, 3, 3)``.
        """
        self._check(x)
        self._check_rotations(rotations)
        turned = self.rotate(x[..., None, :], rotations)
        seen = turned.index_select(-1, basis.seen(self.box, self.lmax, self._reach, x.device))
        flat = seen @ basis.plane(self.box, self.lmax, self._reach, x.dtype, x.device)
        return flat.reshape(*flat.shape[:-1], self.box, self.box)

    def backproject(
        self, images: Float[torch.Tensor, "*b k d d"], rotations: Float[torch.Tensor, "k 3 3"]
    ) -> Float[torch.Tensor, "*b n"]:
        """Adjoint of :meth:`project`, exact: the sum over k of D(R_k)^T B^T y_k.

        Args:
            images: ``(..., k, box, box)``.
            rotations: ``(k, 3, 3)``.

        Returns:
            ``(..., size)`` coefficients.

        Raises:
            ValueError: for images or rotations of another shape, or another number of them.
        """
        self._check_rotations(rotations)
        expected = (rotations.shape[0], self.box, self.box)
        if images.shape[-3:] != expected:
            raise ValueError(
                f"images must have shape (..., {', '.join(map(str, expected))}); got {tuple(images.shape)}"
            )
        seen = images.flatten(-2) @ basis.plane(self.box, self.lmax, self._reach, images.dtype, images.device).mT
        full = seen.new_zeros((*seen.shape[:-1], self.size))
        full = full.index_copy(-1, basis.seen(self.box, self.lmax, self._reach, images.device), seen)
        angles, tangent = special.zyz_angles(rotations)
        back = self._turn(full, -angles.flip(-1))
        if tangent is not None:
            back = back - self._turn_slightly(back, tangent)
        return back.sum(-2)

    def projector(self, rotations: Float[torch.Tensor, "k 3 3"]) -> Projector:
        """:meth:`project` and :meth:`backproject` for one set of rotations, faster: their Wigner matrices are kept."""
        if rotations.requires_grad and torch.is_grad_enabled():
            return Projector(
                lambda x: self.project(x, rotations),
                lambda images: self.backproject(images, rotations),
            )
        self._check_rotations(rotations)
        count, counts = len(rotations), self.counts
        # per degree (2 l + 1, k (l + 1)): of the turned coefficients only those with even l + m are seen
        turns = [
            matrix[:, ::2].to(rotations).permute(2, 0, 1).flatten(1) for matrix in special.wigner(self.lmax, rotations)
        ]
        plane = basis.plane(self.box, self.lmax, self._reach, rotations.dtype, rotations.device)

        def project(x: torch.Tensor) -> torch.Tensor:
            seen = []
            for degree, (part, turn) in enumerate(zip(self.degrees(x), turns, strict=True)):
                turned = (part @ turn.to(x)).unflatten(-1, (count, degree + 1))
                seen.append(turned.transpose(-3, -2).flatten(-2))
            return (torch.cat(seen, -1) @ plane.to(x)).unflatten(-1, (self.box, self.box))

        def backproject(images: torch.Tensor) -> torch.Tensor:
            if images.shape[-3:] != (count, self.box, self.box):
                raise ValueError(
                    f"images must have shape (..., {count}, {self.box}, {self.box}); got {tuple(images.shape)}"
                )
            seen = images.flatten(-2) @ plane.to(images).mT
            out, start = [], 0
            for degree, (radial, turn) in enumerate(zip(counts, turns, strict=True)):
                part = seen[..., start : start + radial * (degree + 1)].unflatten(-1, (radial, degree + 1))
                out.append((part.transpose(-3, -2).flatten(-2) @ turn.to(images).mT).flatten(-2))
                start += radial * (degree + 1)
            return torch.cat(out, -1)

        return Projector(project, backproject)

    def _turn(self, x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        """D(Rz(a)) J D(Rz(b)) J^T D(Rz(g)) x, J = D(Rx(-90)), without a Wigner matrix per rotation."""
        order, mirrored = basis.orders(self.box, self.lmax, self._reach, x.device)
        cos, sin = special.turn_tables(self.lmax, angles.to(x.device), x.dtype)
        cos, sin = cos.index_select(-1, order), sin.index_select(-1, order)
        forth, back = basis.quarters(self.lmax, x.dtype, x.device)
        for i, quarter in ((2, back), (1, forth), (0, None)):
            x = cos[..., i, :] * x + sin[..., i, :] * x.index_select(-1, mirrored)
            if quarter is not None:
                x = self._blocks(x, quarter)
        return x

    def _turn_slightly(self, x: torch.Tensor, tangent: torch.Tensor) -> torch.Tensor:
        small = [self._blocks(x, part) for part in basis.slight(self.lmax, x.dtype, x.device)]
        return torch.stack(small, -1).mul(tangent.to(x.device, x.dtype)[..., None, :]).sum(-1)

    def degrees(self, x: Float[torch.Tensor, "*b n"]) -> list[Float[torch.Tensor, "*b s m"]]:
        """Coefficients of every degree, ``(..., radial functions, 2 l + 1)``."""
        self._check(x)
        sizes = [count * (2 * degree + 1) for degree, count in enumerate(self.counts)]
        return [part.unflatten(-1, (count, -1)) for part, count in zip(x.split(sizes, -1), self.counts, strict=True)]

    def radial_functions(self, radii: Float[torch.Tensor, " r"]) -> tuple[Float[torch.Tensor, "s r"], ...]:
        """Radial functions of the Fourier transforms of the basis, N_ls j_l(u_ls r / c), per degree.

        The transform of a basis function is (-i)^l times it times S_lm. Radii r are in cycles per voxel; beyond the
        cutoff all are zero. ``(s, r)`` each, float64.
        """
        scaled = radii.double().cpu() / basis.CUTOFF
        return tuple(
            norm[:, None] * special.spherical_bessel(degree, zeros[:, None] * scaled) * (scaled <= 1)
            for degree, (zeros, _, norm) in enumerate(basis.radial(self.box, self.lmax, self._reach))
        )

    def _blocks(self, x: torch.Tensor, transposed: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """One matrix per degree, given transposed, applied to every radial function of that degree."""
        parts = zip(self.degrees(x), transposed, strict=True)
        return torch.cat([(part @ matrix).flatten(-2) for part, matrix in parts], -1)

    def _check(self, x: torch.Tensor) -> None:
        if x.shape[-1:] != (self.size,):
            raise ValueError(f"x must have {self.size} coefficients on its last axis; got shape {tuple(x.shape)}")

    def _check_rotations(self, rotations: torch.Tensor) -> None:
        if rotations.dim() != 3 or rotations.shape[-2:] != (3, 3):
            raise ValueError(f"rotations must have shape (k, 3, 3); got {tuple(rotations.shape)}")
