"""Preparation keeps white noise white, removes what varies slowly, and states the exact voxel."""

import math

import pytest

from unpicked._lazy import torch
from unpicked.data.micrographs import InMemory, Micrographs
from unpicked.preprocess import prepare


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mics(images, pixel=1.0):
    return Micrographs(InMemory(images), pixel, tuple(f"m{k}" for k in range(len(images))))


@pytest.mark.parametrize("voxel", [None, 2.0, 2.7, 5.0])
@pytest.mark.parametrize("shape", [(512, 512), (400, 560)])
def test_white_noise_has_sd_one(voxel, shape):
    done = prepare(mics(40 * noise(2, *shape) + 900), voxel_size=voxel)
    for image in done.micrographs:
        assert float(image.std()) == pytest.approx(1, abs=0.02)
        assert abs(float(image.mean())) < 0.03
    assert done.scales == pytest.approx((40, 40), rel=0.05)  # the new Nyquist row and column are left out
    assert done.scale == pytest.approx(40, rel=0.05)
    assert done.corrections[0].offset == pytest.approx(900, abs=0.5)
    assert done.notes[-1] == "each micrograph is divided by its robust standard deviation"


def test_crop_keeps_the_variance_and_the_kept_frequencies():
    image = noise(1, 256, 256)
    done = prepare(mics(image), voxel_size=4.0, normalise=False)
    assert done.micrographs.shape == (64, 64) and done.scales == (1.0,)
    before = torch.fft.fft2(image[0], norm="ortho")
    after = torch.fft.fft2(done.micrographs[0], norm="ortho")
    assert torch.allclose(after.abs()[3:31, 3:31], before.abs()[3:31, 3:31], atol=0.1)


def gradient(shape):
    y, x = torch.meshgrid(torch.linspace(-1, 1, shape[0]), torch.linspace(-1, 1, shape[1]), indexing="ij")
    return 300 + 80 * x - 50 * y + 30 * x * x - 20 * x * y + 45 * y * y


@pytest.mark.parametrize("shape", [(256, 256), (190, 333), (20, 24)])
def test_a_pure_gradient_is_removed(shape):
    done = prepare(mics((gradient(shape) + noise(*shape))[None]), normalise=False)
    rest = done.micrographs[0] - noise(*shape)
    assert float(rest.square().mean().sqrt()) < 6 / math.sqrt(shape[0] * shape[1]) * 1.5
    assert done.corrections[0].offset == pytest.approx(300, abs=0.5)


@pytest.mark.parametrize("height", [3.0, 10.0, 100.0])
def test_background_under_bright_particles(height):
    """15 % of the area covered by discs of 20 pixels: the solvent's level is found where they stand out."""
    shape = (512, 512)
    y, x = torch.meshgrid(torch.arange(21) - 10, torch.arange(21) - 10, indexing="ij")
    disc = (y * y + x * x < 100).float()
    discs = torch.zeros(shape)
    generator = torch.Generator().manual_seed(3)
    for row, column in torch.randint(0, 492, (140, 2), generator=generator).tolist():
        discs[row : row + 21, column : column + 21].clamp_(min=disc)
    assert 0.13 < float(discs.mean()) < 0.17
    done = prepare(mics((gradient(shape) + noise(*shape) + height * discs)[None]), normalise=False)
    solvent = done.micrographs[0][discs == 0]
    assert abs(float(solvent.mean())) < 0.08
    assert float(done.micrographs[0][discs == 1].mean()) == pytest.approx(height, abs=0.12)
    assert done.corrections[0].replaced == 0


@pytest.mark.parametrize(
    ("shape", "pixel", "voxel"),
    [((4092, 5760), 0.83, 5.0), ((5760, 4092), 0.83, 5.0), ((3710, 3838), 1.06, 4.0),
     ((7420, 7676), 0.5, 2.0), ((100, 64), 1.0, 3.0), ((37, 101), 1.0, 2.0), ((64, 40), 1.0, 1.3)],
)  # fmt: skip
def test_one_exact_voxel_for_both_axes(shape, pixel, voxel):
    done = prepare(mics(torch.zeros(1, 1, 1).expand(1, *shape), pixel), voxel_size=voxel)
    grid = done.source.grid
    ratios = [a / b for a, b in zip(grid.trimmed, grid.size, strict=True)]
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-4)
    assert done.micrographs.pixel_size == pytest.approx(pixel * ratios[0])
    assert done.micrographs.pixel_size == pytest.approx(voxel, rel=0.03)
    assert all(n % 2 == 0 for n in grid.size)
    assert all(b <= a and b >= 0.9 * a for a, b in zip(shape, grid.trimmed, strict=True))
    assert any(f"{done.micrographs.pixel_size:.6g} A" in note for note in done.micrographs.notes)


def test_square_micrographs_take_the_nearest_even_size():
    done = prepare(mics(noise(1, 255, 255), 1.1), voxel_size=3.0)
    assert done.micrographs.shape == (94, 94)  # 255 x 1.1 / 3 = 93.5
    assert done.source.grid.trimmed == (255, 255)
    assert done.micrographs.pixel_size == pytest.approx(1.1 * 255 / 94)
    assert done.micrographs[0].shape == (94, 94)


def test_no_voxel_keeps_odd_sizes():
    for voxel in (None, 1.1):
        done = prepare(mics(noise(1, 65, 33), 1.1), voxel_size=voxel)
        assert done.micrographs.shape == (65, 33) and done.micrographs.pixel_size == 1.1
        assert done.micrographs[0].shape == (65, 33)


def test_hot_and_dead_pixels():
    images = noise(2, 128, 96) * 5 + 100
    clean = prepare(mics(images), normalise=False).micrographs[0]
    images = images.clone()
    spots = [(0, 0), (5, 7), (5, 8), (60, 60), (127, 95)]
    for k, (row, column) in enumerate(spots):
        images[0, row, column] = 5000.0 if k % 2 else -5000.0
    done = prepare(mics(images), normalise=False)
    image = done.micrographs[0]
    assert done.corrections[0].replaced == len(spots) and done.corrections[1].replaced == 0
    mask = torch.ones(128, 96, dtype=torch.bool)
    for row, column in spots:
        assert abs(float(image[row, column])) < 10
        mask[row, column] = False
    assert float((image - clean)[mask].abs().max()) < 0.2
    assert "m0: 5 bad pixels replaced by the median around them" in done.notes
    assert not any("m1" in note for note in done.notes)


def test_noiseless_particles_are_not_bad_pixels():
    image = torch.zeros(1, 128, 128)
    image[0, 40:60, 50:70] = 7.0
    done = prepare(mics(image), normalise=False)
    assert torch.allclose(done.micrographs[0], image[0], atol=1e-3)
    assert done.corrections[0].replaced == 0


def test_too_many_outliers_are_kept_and_told():
    image = noise(1, 128, 128)
    image[0, 64:84, 64:84] += 100
    done = prepare(mics(image))
    assert done.corrections[0].replaced == 0 and done.corrections[0].kept_outliers == 400
    assert any("400 pixels" in note for note in done.notes)


def test_positions_go_back_to_the_files_pixels():
    """A point in the prepared image is where it is in the file."""
    shape = (101, 164)
    y, x = torch.meshgrid(torch.arange(101.0), torch.arange(164.0), indexing="ij")
    image = 50 * torch.exp(-((y - 40.25) ** 2 + (x - 90.5) ** 2) / 2 / 6**2) + 1e-3 * noise(*shape)
    done = prepare(mics(image[None]), voxel_size=3.0, normalise=False)
    blob = done.micrographs[0].clamp(min=1.0) - 1.0
    rows, columns = torch.arange(blob.shape[0]), torch.arange(blob.shape[1])
    centre = torch.stack([(blob.sum(0) * columns).sum(), (blob.sum(1) * rows).sum()]) / blob.sum()
    assert done.to_file_pixels(centre).tolist() == pytest.approx([90.5, 40.25], abs=0.1)


class Counting:
    def __init__(self, images):
        self.images, self.reads = images, []

    def __len__(self):
        return len(self.images)

    @property
    def shape(self):
        return tuple(self.images.shape[1:])

    def read(self, index):
        self.reads.append(index)
        return self.images[index]


def test_lazy_and_read_once():
    source = Counting(noise(3, 64, 64))
    set_ = Micrographs(source, 1.0, ("a", "b", "c"))
    done = prepare(set_, voxel_size=2.0)
    assert source.reads == []
    first = list(done.micrographs)
    again = list(done.micrographs)
    assert source.reads == [0, 1, 2]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len(done.corrections) == 3 and source.reads == [0, 1, 2]
    before = set_[0].clone()
    done.micrographs[0].zero_()
    assert torch.equal(set_[0], before)
    once = prepare(set_, voxel_size=2.0, keep=False)
    assert len(list(once.micrographs)) == len(list(once.micrographs)) and source.reads[5:] == 2 * [0, 1, 2]


def test_what_is_refused():
    one = mics(noise(1, 64, 64), 2.0)
    with pytest.raises(ValueError, match=r"at least the pixel size of the data, 2 A; got 1.5 A"):
        prepare(one, voxel_size=1.5)
    with pytest.raises(ValueError, match="at least 8"):
        prepare(one, voxel_size=20.0)
    with pytest.raises(ValueError, match="voxel_size must be positive"):
        prepare(one, voxel_size=math.nan)
    with pytest.raises(ValueError, match="m0 is constant"):
        prepare(mics(torch.ones(1, 32, 32))).micrographs[0]
    with pytest.raises(ValueError, match="m0 holds pixels that are not finite"):
        prepare(mics(torch.full((1, 32, 32), torch.nan))).micrographs[0]


def test_the_shared_micrograph(shared_data):
    from unpicked.io.micrographs import read_micrographs

    done = prepare(read_micrographs(shared_data("micrographs/epu2.9_example_bin4.mrc")), voxel_size=8.0)
    image = done.micrographs[0]
    assert done.micrographs.shape == (342, 342) and done.micrographs.pixel_size == pytest.approx(8, rel=3e-3)
    corners = [float(image[r : r + 60, c : c + 60].mean()) for r in (0, 280) for c in (0, 280)]
    assert max(map(abs, corners)) < 0.6 and 0.8 < float(image.std()) < 1.4


def test_inverted_contrast_is_told() -> None:
    """Bright blobs read as dark matter give a warning, bright ones and pure noise do not."""
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(2, 200, 200, generator=generator)
    blobs = torch.zeros(200, 200)
    for row in range(10, 190, 25):
        for column in range(10, 190, 25):
            blobs[row : row + 6, column : column + 6] += 2.0

    def notes(images: torch.Tensor) -> str:
        return " ".join(prepare(Micrographs(InMemory(images), 4.0, ("a", "b"))).notes)

    assert "WARNING: the contrast seems inverted" in notes(noise - blobs)
    assert "inverted" not in notes(noise + blobs)
    assert "inverted" not in notes(noise)


def test_peaks_of_small_particles_are_not_mended() -> None:
    """Sharp bright particles of E = 424 in a box of 7 are no faults of the camera; a single hot pixel is."""
    generator = torch.Generator().manual_seed(4)
    image = torch.randn(300, 300, generator=generator)
    axis = torch.arange(7.0) - 3
    spot = torch.exp(-(axis[:, None] ** 2 + axis**2) / 2)
    spot *= (424 / spot.square().sum()).sqrt()
    for row in range(10, 280, 20):
        for column in range(10, 280, 20):
            image[row : row + 7, column : column + 7] += spot
    image[5, 5] = 40.0
    prepared = prepare(Micrographs(InMemory(image[None]), 4.0, ("a",)))
    assert [correction.replaced for correction in prepared.corrections] == [1]
    assert float(prepared.micrographs[0][5, 5]) < 5
