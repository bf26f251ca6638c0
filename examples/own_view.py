"""A view of one's own: flat particles that lie on either face, so that half of them are seen mirrored."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

import unpicked as up
from unpicked.objects.base import Image, Projector
from unpicked.ops.fourier import mirror


@dataclass(frozen=True)
class EitherFace:
    """An image as it is, and mirrored left to right: two templates, equally likely."""

    def __len__(self) -> int:
        return 2

    @property
    def log_weights(self) -> torch.Tensor:
        """``(2,)`` logarithms of the views' probabilities."""
        return torch.full((2,), -math.log(2.0), dtype=torch.float64)

    @property
    def digest(self) -> str:
        """What tells this set of views from others: a checkpoint of other views is refused."""
        return "either face"

    def turned(self, rotation: torch.Tensor) -> EitherFace:
        """EM turns its views before every pass; these know no turn."""
        return self

    def image_shape(self, object: Image) -> tuple[int, ...]:
        """Shape of one template."""
        return object.shape

    def operator(self, object: Image, like: torch.Tensor) -> Projector:
        """Coefficients ``(..., size)`` to templates ``(..., 2, L, L)``, and its exact adjoint, <A x, y> = <x, A* y>."""

        def project(x: torch.Tensor) -> torch.Tensor:
            image = object.values(x)
            return torch.stack([image, mirror(image, (-1,))], -3)

        def backproject(images: torch.Tensor) -> torch.Tensor:
            front, back = images.unbind(-3)
            return object.fit(front + mirror(back, (-1,)))

        return Projector(project, backproject)


def main(size: int = 96, iterations: int = 10) -> dict[str, float]:
    front = torch.rand(7, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 2
    faces = torch.stack([front, mirror(front, (-1,))])
    data, _ = up.simulate_images(
        up.PixelTargets(faces), size=(size, size), density=0.12, sigma=0.3, seed=2, rotations="none"
    )
    found = {}
    for name, view in (("one face", up.Identity()), ("either face", EitherFace())):
        model = up.Model(up.Pixels(7), view, up.Anywhere(density=0.1))
        run = up.reconstruct(data, model, up.EM(iterations=iterations, frozen=8), starts=1, seed=3, moves=0)
        image = model.object.values(run.x)
        # whether the front or the back was called the front is chance
        found[name] = min(up.compare_images(image, face).relative_error_shifted for face in faces)
        print(f"{name}: relative error {found[name]:.2f}")
    return found


if __name__ == "__main__":
    main()
