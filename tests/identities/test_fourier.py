"""Transforms, crop, pad, mirror and shift against plain definitions (conventions, sections 2, 3 and 6)."""

from __future__ import annotations

import math

import pytest
import torch

from unpicked.data.maps import Map
from unpicked.ops import fourier, shift, window

Tensor = torch.Tensor
SHAPES = [(8, 8), (9, 9), (8, 9), (7, 6)]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(shape: tuple[int, ...], centre: tuple[float, ...], sigma: float) -> Tensor:
    """exp(-|p - centre|^2 / (2 sigma^2)); shape is (z,) y, x and centre x, y (, z) from index N // 2."""
    out = torch.ones((), dtype=torch.float64)
    for n, c in zip(shape, reversed(centre), strict=True):
        axis = torch.arange(n, dtype=torch.float64) - n // 2 - c
        out = out[..., None] * (-axis.square() / (2 * sigma**2)).exp()
    return out


def by_definition(values: Tensor, scale: float) -> Tensor:
    """scale x sum_x y(x) exp(-2 pi i q.x / N), x and q from the centre N // 2, zero frequency at index N // 2."""
    out = values.to(torch.complex128)
    for dim, n in enumerate(values.shape):
        axis = torch.arange(n, dtype=torch.float64) - n // 2
        angle = -2 * math.pi * axis[:, None] * axis / n
        kernel = torch.polar(torch.ones_like(angle), angle)
        out = torch.tensordot(kernel, out.movedim(dim, 0), dims=1).movedim(0, dim)
    return out * scale


@pytest.mark.parametrize("shape", SHAPES)
def test_image_transform_is_the_definition(shape: tuple[int, int]) -> None:
    image = noise(*shape)
    expected = by_definition(image, (shape[0] * shape[1]) ** -0.5)
    assert torch.allclose(fourier.centred_fft2(image), expected, rtol=0, atol=1e-12)
    assert torch.allclose(torch.fft.fftshift(fourier.fft2(image)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [6, 7])
def test_volume_transform_is_the_definition(n: int) -> None:
    volume = noise(n, n, n)
    found = torch.fft.fftshift(fourier.fft3(volume))
    assert torch.allclose(found, by_definition(volume, 1 / n), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_image_transform_keeps_the_sum_of_squares_and_inverts(shape: tuple[int, int]) -> None:
    image = noise(3, *shape)
    spectrum = fourier.fft2(image)
    assert torch.allclose(spectrum.abs().square().sum((1, 2)), image.square().sum((1, 2)), rtol=1e-12)
    assert torch.allclose(fourier.ifft2(spectrum), image, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [6, 7])
def test_volume_transform_inverts(n: int) -> None:
    volume = noise(2, n, n, n)
    assert torch.allclose(fourier.ifft3(fourier.fft3(volume)), volume, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [8, 9])
def test_friedel_symmetry_holds_about_the_centre(n: int) -> None:
    """F(-q) is the conjugate of F(q): the mirror about index N // 2."""
    spectrum = fourier.centred_fft2(noise(n, n))
    assert torch.allclose(fourier.mirror(spectrum, (-2, -1)), spectrum.conj(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [8, 9])
def test_a_centred_even_function_has_a_real_transform(n: int) -> None:
    spectrum = fourier.fft2(gaussian((n, n), (0, 0), 1.0))
    assert float(spectrum[: n // 2, : n // 2].imag.abs().max()) < 1e-12
    assert float(spectrum[: n // 2, : n // 2].real.min()) > 0


def test_white_noise_has_its_variance_at_every_frequency() -> None:
    images = 1.7 * noise(1000, 12, 13)
    power = fourier.fft2(images).abs().square().mean(0) / 1.7**2
    assert float(power.mean()) == pytest.approx(1, abs=0.01)
    assert float((power - 1).abs().max()) < 0.25  # real coefficients: standard error 0.045


@pytest.mark.parametrize("n", [12, 13])
def test_transform_of_an_image_is_the_central_slice_of_the_volume(n: int) -> None:
    volume = noise(n, n, n)
    assert torch.allclose(fourier.fft2(volume.sum(0)), fourier.fft3(volume)[0], rtol=0, atol=1e-11)


@pytest.mark.parametrize(("n", "expected"), [(4, [0, 1, -2, -1]), (5, [0, 1, 2, -2, -1]), (1, [0])])
def test_frequencies_run_from_zero(n: int, expected: list[int]) -> None:
    assert fourier.frequencies(n).tolist() == expected


def test_radius_shells_and_distances_agree_with_loops() -> None:
    shape = (5, 4, 6)
    q = [fourier.frequencies(n).tolist() for n in shape]
    for index in ((0, 0, 0), (1, 2, 3), (4, 3, 5), (2, 1, 4)):
        length = math.sqrt(sum(q[d][i] ** 2 for d, i in enumerate(index)))
        away = math.sqrt(sum((i - n // 2) ** 2 for i, n in zip(index, shape, strict=True)))
        assert float(fourier.radius(shape)[index]) == pytest.approx(length, abs=1e-14)
        assert int(fourier.shells(shape)[index]) == round(length)
        assert float(fourier.distances(shape)[index]) == pytest.approx(away, abs=1e-14)
    assert int(fourier.distances(shape).flatten().argmin()) == (2 * 4 + 2) * 6 + 3


@pytest.mark.parametrize("shape", [(8, 8), (9, 9), (6, 6, 6), (8, 7)])
def test_shell_sum_counts_the_frequencies_of_a_shell(shape: tuple[int, ...]) -> None:
    values = noise(*shape).float()
    index = fourier.shells(shape)
    count = (min(shape) - 1) // 2 + 1
    expected = [float(values.double()[index == k].sum()) for k in range(count)]
    found = fourier.shell_sum(values)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("shape", "dims", "centre", "mirrored"),
    [
        ((16, 17), (-1,), (2.5, -1.0), (-2.5, -1.0)),
        ((16, 17), (-2,), (2.5, -1.0), (2.5, 1.0)),
        ((16, 16), (-2, -1), (2.5, -1.0), (-2.5, 1.0)),
        ((17, 17), (-2, -1), (2.5, -1.0), (-2.5, 1.0)),
        ((16, 16, 16), (-3,), (2.5, -1.0, 1.5), (2.5, -1.0, -1.5)),
        ((17, 16, 16), (-3, -2, -1), (2.5, -1.0, 1.5), (-2.5, 1.0, -1.5)),
    ],
)
def test_a_gaussian_mirrored_sits_at_the_mirrored_place(
    shape: tuple[int, ...], dims: tuple[int, ...], centre: tuple[float, ...], mirrored: tuple[float, ...]
) -> None:
    found = fourier.mirror(gaussian(shape, centre, 0.8), dims)
    assert torch.allclose(found, gaussian(shape, mirrored, 0.8), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_mirrored_twice_is_unchanged(shape: tuple[int, int]) -> None:
    image = noise(*shape)
    assert torch.equal(fourier.mirror(fourier.mirror(image, (-2, -1)), (-2, -1)), image)


@pytest.mark.parametrize(("old", "new"), [((12, 12), (8, 8)), ((13, 12), (8, 9)), ((8, 9), (12, 12)), ((9, 8), (9, 8))])
def test_resized_images_keep_the_coefficients_below_both_nyquists(old: tuple[int, int], new: tuple[int, int]) -> None:
    image = noise(*old)
    before, after = fourier.fft2(image), fourier.fft2(fourier.resize_image(image, new))
    for qy in fourier.frequencies(new[0]).tolist():
        for qx in fourier.frequencies(new[1]).tolist():
            kept = 2 * abs(qy) < min(old[0], new[0]) and 2 * abs(qx) < min(old[1], new[1])
            expected = before[qy, qx] if kept else torch.zeros((), dtype=torch.complex128)
            assert abs(complex(after[qy, qx] - expected)) < 1e-12


@pytest.mark.parametrize(("old", "new"), [(12, 8), (12, 9), (13, 8), (8, 11), (9, 12)])
def test_resized_volumes_keep_the_coefficients_below_both_nyquists(old: int, new: int) -> None:
    volume = noise(old, old, old)
    before, after = fourier.fft3(volume), fourier.fft3(fourier.resize_volume(volume, new))
    limit = (min(old, new) - 1) // 2
    q = torch.arange(-limit, limit + 1)
    pick = (q[:, None, None], q[None, :, None], q[None, None, :])
    assert torch.allclose(after[pick], before[pick], rtol=0, atol=1e-11)
    rest = after.clone()
    rest[pick] = 0
    assert float(rest.abs().max()) < 1e-11


@pytest.mark.parametrize(("old", "new"), [(16, 9), (16, 8), (17, 9)])
def test_noise_keeps_its_variance_when_cropped(old: int, new: int) -> None:
    """Per coefficient exactly; per pixel, an even size loses its unpaired Nyquist row and column."""
    small = fourier.resize_image(noise(2000, old, old), (new, new))
    kept = new - 1 + new % 2
    assert float(small.var()) == pytest.approx((kept / new) ** 2, rel=0.02)


@pytest.mark.parametrize(("old", "new"), [(32, 20), (33, 20), (32, 21), (28, 33)])
def test_resized_gaussians_stay_in_place_and_scale_as_stated(old: int, new: int) -> None:
    """The field of view stays; grey values of images scale by N / M and of volumes by (N / M)^2."""
    centre, sigma, ratio = (3.0, -2.0, 1.5), 2.5, new / old
    moved = tuple(c * ratio for c in centre)
    image = fourier.resize_image(gaussian((old, old), centre[:2], sigma), (new, new))
    expected = gaussian((new, new), moved[:2], sigma * ratio) / ratio
    assert torch.allclose(image, expected, rtol=0, atol=2e-3)
    volume = fourier.resize_volume(gaussian((old, old, old), centre, sigma), new)
    expected = gaussian((new, new, new), moved, sigma * ratio) / ratio**2
    assert torch.allclose(volume, expected, rtol=0, atol=4e-3)
    scaled = Map(gaussian((old, old, old), centre, sigma), 1.5).rescale(new)
    assert torch.allclose(scaled.values, gaussian((new, new, new), moved, sigma * ratio), rtol=0, atol=2e-3)
    assert scaled.voxel_size == pytest.approx(1.5 / ratio)


@pytest.mark.parametrize(("old", "new"), [(12, 8), (12, 9), (13, 8), (8, 13)])
def test_sum_of_a_resized_volume_is_the_resized_sum(old: int, new: int) -> None:
    """March then sum along z = sum along z then crop."""
    volume = noise(old, old, old)
    first = fourier.resize_volume(volume, new).sum(0)
    assert torch.allclose(first, fourier.resize_image(volume.sum(0), (new, new)), rtol=0, atol=1e-11)


@pytest.mark.parametrize("n", [16, 17])
def test_a_shifted_delta_peaks_where_the_shift_says(n: int) -> None:
    image = torch.zeros(n, n, dtype=torch.float64)
    image[n // 2, n // 2] = 1
    moved = shift.shift_image(image, torch.tensor([3.0, -2.0], dtype=torch.float64))
    assert divmod(int(moved.argmax()), n) == (n // 2 - 2, n // 2 + 3)
    volume = torch.zeros(n, n, n, dtype=torch.float64)
    volume[n // 2, n // 2, n // 2] = 1
    moved = shift.shift_volume(volume, torch.tensor([3.0, -2.0, 1.0], dtype=torch.float64))
    assert int(moved.argmax()) == ((n // 2 + 1) * n + n // 2 - 2) * n + n // 2 + 3


@pytest.mark.parametrize("n", [24, 25])
def test_a_shifted_gaussian_is_the_gaussian_at_the_shifted_place(n: int) -> None:
    found = shift.shift_image(gaussian((n, n + 3), (1.0, -0.5), 1.5), torch.tensor([2.3, -1.7], dtype=torch.float64))
    assert torch.allclose(found, gaussian((n, n + 3), (3.3, -2.2), 1.5), rtol=0, atol=1e-4)
    found = shift.shift_volume(
        gaussian((n, n, n), (1.0, -0.5, 0.2), 1.5), torch.tensor([2.3, -1.7, 0.9], dtype=torch.float64)
    )
    assert torch.allclose(found, gaussian((n, n, n), (3.3, -2.2, 1.1), 1.5), rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_two_half_shifts_are_one_shift(shape: tuple[int, int]) -> None:
    image, t = noise(*shape), torch.tensor([1.3, -0.6], dtype=torch.float64)
    once = shift.shift_image(image, t)
    assert torch.allclose(shift.shift_image(shift.shift_image(image, t / 2), t / 2), once, rtol=0, atol=1e-11)


def test_whole_shifts_are_rolls_of_images_without_nyquist() -> None:
    for shape in SHAPES:
        image = fourier.ifft2(fourier.drop_nyquist(fourier.fft2(noise(*shape)), (-2, -1)))
        moved = shift.shift_image(image, torch.tensor([2.0, -1.0], dtype=torch.float64))
        assert torch.allclose(moved, image.roll((-1, 2), (0, 1)), rtol=0, atol=1e-11)


def test_every_image_gets_its_own_shift() -> None:
    images, shifts = noise(4, 8, 9), noise(4, 2, seed=1)
    together = shift.shift_image(images, shifts)
    alone = torch.stack([shift.shift_image(a, t) for a, t in zip(images, shifts, strict=True)])
    assert torch.allclose(together, alone, rtol=0, atol=1e-12)
    assert shift.shift_image(images[0], shifts).shape == (4, 8, 9)


def test_shifts_in_double_precision_leave_images_in_single() -> None:
    image, t = noise(6, 7), torch.tensor([0.3, -0.4], dtype=torch.float64)
    found = shift.shift_image(image.float(), t)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), shift.shift_image(image, t), rtol=0, atol=1e-5)


def test_shifts_have_a_gradient() -> None:
    image, t = noise(5, 6), torch.tensor([0.3, -0.4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: shift.shift_image(image, s), (t,))


@pytest.mark.parametrize("old", [(8, 8), (7, 9)])
@pytest.mark.parametrize("new", [(5, 5), (6, 6), (11, 12), (12, 5)])
def test_cropped_or_padded_images_keep_their_centre(old: tuple[int, int], new: tuple[int, int]) -> None:
    image = torch.zeros(old, dtype=torch.float64)
    image[old[0] // 2, old[1] // 2] = 1
    image[old[0] // 2 + 1, old[1] // 2 - 2] = 2
    found = window.crop_or_pad(image, new)
    assert found.shape == new
    assert float(found[new[0] // 2, new[1] // 2]) == 1
    assert float(found[new[0] // 2 + 1, new[1] // 2 - 2]) == 2
    assert float(found.sum()) == 3


def test_map_crops_and_refuses() -> None:
    cropped = Map(noise(8, 8, 8), 2.0, (1.0, 2.0, 3.0)).crop(5)
    assert (cropped.box, cropped.voxel_size, cropped.origin) == (5, 2.0, (1.0, 2.0, 3.0))
    with pytest.raises(ValueError, match=r"must be a cube .*got shape \(4, 4, 5\)"):
        Map(noise(4, 4, 5), 1.0)
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"voxel_size must be positive.*got"):
            Map(noise(4, 4, 4), wrong)
