"""Projections made by RELION: Euler angles, origins, scale and the odd boxes (conventions, sections 5, 6 and 15)."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import mrcfile
import pytest
import torch

from unpicked.io.star import read_star, write_star
from unpicked.objects.gaussians import Gaussians
from unpicked.objects.voxels import Voxels
from unpicked.ops import fourier, rotation, shift

Tensor = torch.Tensor


def read(path: Path) -> Tensor:
    """Values of a file whose header holds no voxel size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with mrcfile.open(path, permissive=True) as file:
            return torch.tensor(file.data.copy(), dtype=torch.float64)


def correlations(first: Tensor, second: Tensor) -> Tensor:
    a, b = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (first, second))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def residual_shifts(images: Tensor, model: Tensor) -> Tensor:
    """Where the images lie relative to the model, (t_x, t_y) in pixels: least squares on the model's gradient."""
    step = 0.01
    axes = torch.eye(2, dtype=torch.float64) * step
    slopes = [(shift.shift_image(model, t) - shift.shift_image(model, -t)) / (2 * step) for t in axes]
    basis = torch.stack([model, *slopes], -1).flatten(1, 2)
    found = torch.linalg.lstsq(basis, images.flatten(1)[..., None]).solution[..., 0]
    return found[:, 1:] / found[:, :1]


@pytest.fixture
def ribosome(shared_data: Callable[[str], Path]) -> tuple[Tensor, Tensor, Tensor]:
    """The 70S map (65^3), five projections that RELION made of it at box 64, and their rotations."""
    volume = read(shared_data("maps/clean70SRibosome_vol_65p.mrc"))
    images = read(shared_data("particles/rln_proj_64.mrcs"))
    table = read_star(shared_data("particles/rln_proj_64.star"))["particles"]
    angles = [torch.tensor(table.floats(f"rlnAngle{name}")) for name in ("Rot", "Tilt", "Psi")]
    return volume, images, rotation.euler_to_matrix(torch.stack(angles, -1))


def stored(volume: Tensor, rotations: Tensor, offset: float) -> Tensor:
    """Projections at box 64 of the 65-voxel map moved by `offset` voxels along x, y and z.

    Coefficient j of the 64-pixel image is the map at frequency j / 65 per voxel: a Fourier crop, coefficients kept.
    """
    moved = shift.shift_volume(volume, torch.full((3,), offset, dtype=torch.float64))
    return fourier.resize_image(Voxels(65).projector(rotations).project(moved.flatten()), (64, 64))


def test_stored_projections_of_the_ribosome_agree(ribosome: tuple[Tensor, Tensor, Tensor]) -> None:
    """The map was resampled to 64 half a voxel off: -1/2 of 65 is -0.492 px of the 64-grid, the same in every view."""
    volume, images, rotations = ribosome
    model = stored(volume, rotations, -0.5)
    assert float(correlations(images, model).min()) > 0.9995
    assert float(residual_shifts(images, model).square().mean().sqrt()) < 0.01
    scale = (images * model).sum((1, 2)) / model.square().sum((1, 2))
    assert bool(((scale > 0.94) & (scale < 0.99)).all())


def test_stored_projections_tell_the_offset_of_the_map(ribosome: tuple[Tensor, Tensor, Tensor]) -> None:
    volume, images, rotations = ribosome
    assert 0.94 < float(correlations(images, stored(volume, rotations, 0)).min()) < 0.96


def test_stored_projections_tell_the_rotation_from_its_transpose(ribosome: tuple[Tensor, Tensor, Tensor]) -> None:
    volume, images, rotations = ribosome
    assert float(correlations(images, stored(volume, rotations.mT, -0.5)).max()) < 0.85


def test_stored_projections_tell_the_hand(ribosome: tuple[Tensor, Tensor, Tensor]) -> None:
    volume, images, rotations = ribosome
    mirrored = fourier.mirror(volume, (-3,))
    assert float(correlations(images, stored(mirrored, rotations, -0.5)).max()) < 0.97


PIXEL = 1.7


@pytest.fixture(scope="module", params=[48, 49], ids=["even box", "odd box"])
def relion(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tensor, ...]:
    """A chiral map, 20 poses with origins in pixels, and RELION's projections of it."""
    program = shutil.which("relion_project")
    if program is None:
        pytest.skip("relion_project is not on PATH (Debian package relion)")
    box, folder = request.param, tmp_path_factory.mktemp("relion")
    generator = torch.Generator().manual_seed(7)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    object = Gaussians(box, (uniform(12, 3) - 0.5) * 0.45 * box, 1.5 + uniform(12))
    volume = object.values(1 + 5 * uniform(12))
    angles = uniform(20, 3) * torch.tensor([360.0, 180.0, 360.0])
    origins = (uniform(20, 2) - 0.5) * 8
    with mrcfile.new(folder / "map.mrc") as file:
        file.set_data(volume.float().numpy())
        file.set_volume()
        file.voxel_size = PIXEL
    write_star(
        folder / "poses.star",
        {
            "optics": {
                "rlnOpticsGroup": [1],
                "rlnOpticsGroupName": ["group"],
                "rlnVoltage": [300.0],
                "rlnSphericalAberration": [2.7],
                "rlnAmplitudeContrast": [0.1],
                "rlnImagePixelSize": [PIXEL],
                "rlnImageSize": [box],
                "rlnImageDimensionality": [2],
            },
            "particles": {
                **{f"rlnAngle{n}": angles[:, i].tolist() for i, n in enumerate(("Rot", "Tilt", "Psi"))},
                **{f"rlnOrigin{n}Angst": (origins[:, i] * PIXEL).tolist() for i, n in enumerate("XY")},
                "rlnOpticsGroup": [1] * 20,
                "rlnImageName": [f"{i + 1:06d}@none.mrcs" for i in range(20)],
            },
        },
    )
    call = [program, "--i", "map.mrc", "--ang", "poses.star", "--o", "out", "--angpix", str(PIXEL)]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return volume, rotation.euler_to_matrix(angles), origins, read(folder / "out.mrcs")


def ours(volume: Tensor, rotations: Tensor, origins: Tensor) -> Tensor:
    """Our projections, moved by minus RELION's origin; odd boxes of RELION sit one pixel off in x and y."""
    box = volume.shape[-1]
    images = Voxels(box).projector(rotations).project(volume.flatten())
    return shift.shift_image(images, -origins + box % 2)


def test_relion_project_agrees(relion: tuple[Tensor, ...]) -> None:
    volume, rotations, origins, images = relion
    model = ours(volume, rotations, origins)
    assert float(correlations(images, model).min()) > 0.999
    scale = (images * model).sum((1, 2)) / model.square().sum((1, 2))
    assert bool(((scale > 0.98) & (scale < 1.03)).all())


def test_relion_project_agrees_in_position_to_a_fiftieth_of_a_pixel(relion: tuple[Tensor, ...]) -> None:
    """Even boxes need no offset; odd boxes exactly one pixel, which `ours` applies and which is pinned here."""
    volume, rotations, origins, images = relion
    assert float(residual_shifts(images, ours(volume, rotations, origins)).abs().max()) < 0.02
    if volume.shape[-1] % 2:
        unmoved = ours(volume, rotations, origins + 1)
        assert float(correlations(images, unmoved).max()) < 0.97


def test_relion_project_tells_transpose_and_sign_of_the_origin(relion: tuple[Tensor, ...]) -> None:
    volume, rotations, origins, images = relion
    assert float(correlations(images, ours(volume, rotations.mT, origins)).median()) < 0.7
    assert float(correlations(images, ours(volume, rotations, -origins)).median()) < 0.7
