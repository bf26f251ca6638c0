"""Bad input on the command line: exit status 2, one line on standard error, and nothing written or lost."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from answers import answered, is_refused
from unpicked.cli import main
from unpicked.data.maps import Map
from unpicked.io.mrc import write_image, write_map

JOB = "--box 8 --lmax 2 --no-verify --views 4 --iterations 1 --starts 1 --moves 0 --threads 1".split()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Relative names go to the test's own folder."""
    monkeypatch.chdir(tmp_path)


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }  # fmt: skip


@pytest.fixture
def tried(tmp_path, capsys):
    """What a command answers that must leave the folder as it was, and show no traceback."""

    def answer(words):
        before = tree(tmp_path)
        said = answered(capsys, *words)
        assert "Traceback" not in said[2]
        assert tree(tmp_path) == before
        return said

    return answer


def image(path, shape=(32, 32), pixel=4.0, seed=0):
    path.parent.mkdir(exist_ok=True)
    write_image(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), path, pixel)
    return path


@pytest.fixture
def data(tmp_path):
    """A folder with one good micrograph and one that tests may damage."""
    image(tmp_path / "data" / "a.mrc", seed=1)
    return image(tmp_path / "data" / "b.mrc", seed=2)


def job(files, *more, out="run", words=JOB):
    return ["reconstruct", "micrographs", files, *words, "--out", out, *more]


def test_the_small_job_of_these_tests_is_accepted(data, capsys, tmp_path):
    assert answered(capsys, *job(data.parent, "--quiet")) == (0, "", "")
    assert (tmp_path / "run" / "volume.mrc").exists()


def test_truncated_micrograph(tried, data):
    data.write_bytes(data.read_bytes()[:-100])
    assert is_refused(tried(job(data.parent)), data, "truncated")


def test_junk_file(tried, data):
    data.write_bytes(b"junk " * 1000)
    assert is_refused(tried(job(data.parent)), data)


def test_micrograph_that_is_not_finite(tried, data):
    data.write_bytes(data.read_bytes()[:-4] + np.float32("nan").tobytes())
    assert is_refused(tried(job(data.parent)), data, "not finite")


def test_constant_micrograph(tried, data):
    write_image(torch.full((32, 32), 3.0), data, 4.0, overwrite=True)
    assert is_refused(tried(job(data.parent)), data, "constant")


@pytest.mark.parametrize("damage", ["nan", "constant"])
def test_bad_pixels_found_while_overwriting_lose_nothing(tried, data, capsys, damage):
    assert answered(capsys, *job(data.parent, "--quiet"))[0] == 0
    if damage == "nan":
        data.write_bytes(data.read_bytes()[:-4] + np.float32("nan").tobytes())
    else:
        write_image(torch.full((32, 32), 3.0), data, 4.0, overwrite=True)
    assert is_refused(tried(job(data.parent, "--overwrite")), data)


def test_zero_voxel_size(tried, data):
    content = bytearray(data.read_bytes())
    content[40:52] = bytes(12)  # cell lengths
    data.write_bytes(content)
    assert is_refused(tried(job(data)), data, "no pixel size", "--pixel-size")


def test_box_larger_than_the_micrograph(tried, data):
    assert is_refused(tried(job(data.parent, words=["--box", "33"])), "--box 33", "32 x 32")


def test_box_larger_than_the_micrograph_after_the_crop(tried, data):
    assert is_refused(tried(job(data.parent, "--voxel", "8", words=["--box", "17"])), "--box 17", "16 x 16")


def test_contradictory_sizes_in_one_set(tried, data):
    image(data.parent / "c.mrc", (32, 40))
    assert is_refused(tried(job(data.parent)), "c.mrc", "32 x 32", "32 x 40")


def test_contradictory_pixel_sizes_in_one_set(tried, data):
    image(data.parent / "c.mrc", pixel=5.0)
    assert is_refused(tried(job(data.parent)), "c.mrc", "4 A", "5 A")


@pytest.mark.parametrize("text", ["", "data_micrographs\n\nloop_\n_rlnMicrographName #1\n"])
def test_empty_star(tried, tmp_path, text):
    (tmp_path / "m.star").write_text(text)
    assert is_refused(tried(job("m.star")), "m.star")


def test_missing_file_in_a_star(tried, data, tmp_path):
    (tmp_path / "m.star").write_text("data_micrographs\n\nloop_\n_rlnMicrographName #1\ndata/a.mrc\ndata/no.mrc\n")
    assert is_refused(tried(job("m.star")), "m.star", "row 2", "no.mrc")


def test_missing_file(tried):
    assert is_refused(tried(job("no.mrc")), "no.mrc", "not found")


def test_existing_output_folder(tried, data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    assert is_refused(tried(job(data.parent)), "run", "not empty", "--overwrite")


def test_output_folder_of_a_simulation(tried, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    words = ["simulate", "micrographs", "--phantom", "shepp-logan", "--box", "8", "--size", "32", "--energy", "9"]
    assert is_refused(tried([*words, "--out", "run"]), "run", "not empty", "--overwrite")


def test_voxel_smaller_than_the_pixel(tried, data):
    assert is_refused(tried(job(data.parent, "--voxel", "3.9")), "voxel", "3.9", "4 A")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--box", "3"),
        ("--box", "-8"),
        ("--box", "8.25"),
        ("--lmax", "-1"),
        ("--density", "0.9"),
        ("--density", "0"),
        ("--sigma", "-1"),
        ("--sigma", "nan"),
        ("--voxel", "0"),
        ("--voxel", "inf"),
        ("--voxel", "1000"),
        ("--starts", "0"),
        ("--views", "0"),
        ("--iterations", "0"),
        ("--moves", "-1"),
        ("--held-out", "-1"),
        ("--held-out", "99"),
        ("--support", "-2"),
        ("--symmetry", "Q7"),
        ("--march", "-1"),
        ("--pixel-size", "0"),
        ("--threads", "0"),
        ("--seed", "-1"),
        ("--seed", "99999999999999999999999"),
        ("--seed", "one"),
    ],
)
def test_senseless_number(tried, data, option, value):
    words = list(JOB)
    if option in words:
        place = words.index(option)
        del words[place : place + 2]
    assert is_refused(tried(job(data.parent, option, value, words=words)), option.strip("-").partition("-")[0], value)


@pytest.mark.parametrize(
    ("likelihood", "spacing", "limit"),
    [("gas", "separated", "0.284"), ("gas", "arbitrary", "1.000"), ("patches-2l", "arbitrary", "0.121")],
)
def test_density_that_the_spacing_makes_impossible(tried, data, likelihood, spacing, limit):
    words = job(data.parent, "--density", "1.5", "--likelihood", likelihood, "--spacing", spacing)
    assert is_refused(tried(words), "density", "1.5", limit)


def test_stages_that_do_not_match(tried, data):
    words = ["--box", "8", "--views", "10", "--iterations", "1", "2"]
    assert is_refused(tried(job(data.parent, words=words)), "--views", "--iterations", "1 and 2")


def test_unknown_option(tried, data):
    assert is_refused(tried(job(data.parent, "--boks", "8")), "--boks")


def test_unknown_command(tried):
    assert is_refused(tried(["reconstuct"]), "reconstuct")
    assert is_refused(tried(["reconstruct", "tomograms"]), "tomograms")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--prior", "hope"),
        ("--method", "magic"),
        ("--object", "cube"),
        ("--contrast", "grey"),
        ("--device", "tpu"),
    ],
)
def test_wrong_choice(tried, data, option, value):
    assert is_refused(tried(job(data.parent, option, value)), option, value)


def test_repeated_option(tried, data):
    assert is_refused(tried(job(data.parent, "--box", "9")), "--box")


def test_missing_required_option(tried, data):
    assert is_refused(tried(["reconstruct", "micrographs", data, "--out", "run"]), "--box")
    assert is_refused(tried(["reconstruct", "micrographs", data, "--box", "8"]), "--out")
    assert is_refused(tried(["reconstruct", "micrographs", "--box", "8", "--out", "run"]), "FILES")


def test_option_without_its_value(tried, data):
    assert is_refused(tried(["reconstruct", "micrographs", data, "--out", "run", "--box"]), "--box")


def test_out_is_a_file(tried, data, tmp_path):
    (tmp_path / "run").write_text("mine")
    for more in ((), ("--overwrite",), ("--resume",)):
        assert is_refused(tried(job(data.parent, *more)), "run", "is a file")


def test_out_is_below_a_file(tried, data, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert is_refused(tried(job(data.parent, out="file/run")), "file")


def test_glob_that_matches_nothing(tried, data):
    assert is_refused(tried(job(data.parent / "*.tif")), "no file matches")


def test_folder_without_micrographs(tried, tmp_path):
    (tmp_path / "empty").mkdir()
    assert is_refused(tried(job("empty")), "empty", "no micrographs")


def test_map_that_is_not_a_cube(tried, data, tmp_path):
    write_map(Map(torch.randn(8, 8, 8), 4.0), tmp_path / "cube.mrc")
    content = bytearray((tmp_path / "cube.mrc").read_bytes())
    for word in (0, 7):  # nx and mx: 4 columns
        content[4 * word : 4 * word + 4] = (4).to_bytes(4, "little")
    content[40:44] = np.float32(16).tobytes()
    (tmp_path / "block.mrc").write_bytes(content[: 1024 + 4 * 8 * 8 * 4])
    for words in (
        job(data.parent, "--start", "block.mrc"),
        job(data.parent, "--truth", "block.mrc"),
        ["compare", "block.mrc", "cube.mrc"],
        ["compare", "cube.mrc", "block.mrc"],
    ):
        assert is_refused(tried(words), "block.mrc", "8 x 8 x 4", "cubic")


def test_missing_start_or_truth_map(tried, data):
    assert is_refused(tried(job(data.parent, "--start", "no.mrc")), "no.mrc", "not found")
    assert is_refused(tried(job(data.parent, "--truth", "no.mrc")), "no.mrc", "not found")


def test_a_machine_without_cuda(tried, data, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert is_refused(tried(job(data.parent, "--device", "cuda")), "--device cuda", "--device cpu")


def test_report_of_no_run(tried, data):
    assert is_refused(tried(["report", "no-run"]), "no-run")
    assert is_refused(tried(["report", data.parent]), "not a finished run")


def test_damaged_settings_of_the_run_to_resume(tried, data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "settings.json").write_text("{")
    assert is_refused(tried(job(data.parent, "--resume")), "settings.json")


def test_the_real_process_says_the_same(data, tmp_path):
    data.write_bytes(data.read_bytes()[:-100])
    before = tree(tmp_path)
    words = [sys.executable, "-m", "unpicked", *map(str, job(data.parent))]
    found = subprocess.run(words, capture_output=True, text=True)
    assert found.returncode == 2 and found.stdout == ""
    assert found.stderr.startswith("unpicked: ") and found.stderr.count("\n") == 1
    assert tree(tmp_path) == before


def test_debug_shows_where(data):
    data.write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"b\.mrc"):
        main([str(word) for word in job(data.parent, "--debug")])


def test_memory_that_does_not_suffice_is_told_as_that(data, capsys, monkeypatch):
    def hungry(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 9 GiB")

    monkeypatch.setattr("unpicked.recipes.from_micrographs", hungry)
    status, _, err = answered(capsys, *job(data.parent))
    assert status == 3 and err.startswith("unpicked: out of memory") and err.count("\n") == 1


def test_an_error_of_our_own_is_one_line_and_status_1(data, capsys, monkeypatch):
    def wrong(*args, **kwargs):
        raise KeyError("x")

    monkeypatch.setattr("unpicked.recipes.from_micrographs", wrong)
    status, _, err = answered(capsys, *job(data.parent))
    assert status == 1 and err.startswith("unpicked: KeyError") and err.count("\n") == 1 and "--debug" in err


# what could not be written stays in mrcfile's buffer until its file is collected
FULL = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def tiny_disk():
    """A file system with room for very little."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root to mount a tiny file system")
    folder = tempfile.mkdtemp()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", folder], capture_output=True).returncode:
        os.rmdir(folder)
        pytest.skip("tmpfs cannot be mounted here")
    try:
        yield Path(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
        os.rmdir(folder)


@FULL
def test_full_disk_in_a_simulation(capsys, tiny_disk):
    words = ["simulate", "micrographs", "--phantom", "shepp-logan", "--box", "8", "--size", "64", "--energy", "9"]
    status, _, err = answered(capsys, *words, "--out", tiny_disk / "sim")
    assert status == 3 and err.startswith("unpicked: no space left") and err.count("\n") == 1
    assert all(path.stat().st_size == 1024 + 4 * 64 * 64 for path in (tiny_disk / "sim").rglob("*.mrc"))
    assert not (tiny_disk / "sim" / "truth.json").exists()


@FULL
@pytest.mark.parametrize("room", [-4096, 0, 8192, 32768])
def test_full_disk_in_a_reconstruction(capsys, tiny_disk, data, room):
    (tiny_disk / "ballast").write_bytes(bytes(40960 - room))  # 4 kB of the 48 kB go to folders and settings
    words = job(data.parent, "--quiet", out=tiny_disk / "run")
    status, _, err = answered(capsys, *words)
    assert status == 3 and err.startswith("unpicked: no space left") and err.count("\n") == 1, err
    assert not (tiny_disk / "run" / "report.html").exists()
    (tiny_disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=16m", tiny_disk], check=True)
    assert answered(capsys, *words, "--resume") == (0, "", "")
    assert (tiny_disk / "run" / "report.html").exists()


PIECES = """simulate reconstruct compare report micrographs --box --voxel --size --count --energy --sigma --snr-box
    --density --phantom shepp-logan --structure --map --views --iterations --lmax --start --truth --prior --seed
    --threads --device cpu --json --quiet --resume --overwrite --contrast bright --symmetry C2 --help --version a.mrc
    no/*.mrc . - -- -1 0 1 8 0.1 nan inf 1e400 é --no-box --job --common.seed --box=8 --box= [1] {} %s""".split()
PIECES += ["", "\0", "\n", "x y"]
HEADS = [
    ["reconstruct", "micrographs", "a.mrc"],
    ["simulate", "micrographs", "--phantom", "shepp-logan", "--size", "16"],
    ["compare", "m.mrc", "m.mrc"],
    ["report"],
    [],
]


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(HEADS), st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=6)), max_size=7))
def test_any_words_give_an_answer_or_one_line(capsys, tmp_path, head, words):
    # without --out nothing can run for long: reconstruct and simulate need it
    status, _, err = answered(capsys, *head, *words)
    assert status in (0, 2), err
    assert err.count("\n") == (1 if status else 0) and (not status or err.startswith("unpicked: ")), err
    assert not tree(tmp_path)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["--box", "--voxel", "--count", "--density", "--sigma", "--energy", "--seed", "--b-factor",
                             "--map-voxel", "--snr-db", "--spacing", "--positions", "--contrast"]),
            st.one_of(st.sampled_from(["0", "1", "-1", "4", "1e-300", "1e300", "nan", "-inf", "x", "arbitrary"])),
        ),
        max_size=3,
    )
)  # fmt: skip
def test_any_values_of_the_options_give_an_answer_or_one_line(capsys, tmp_path, pairs):
    shutil.rmtree(tmp_path / "sim", ignore_errors=True)
    words = ["simulate", "micrographs", "--phantom", "shepp-logan", "--size", "16", "--out", "sim", "--quiet"]
    status, _, err = answered(capsys, *words, *(word for pair in pairs for word in pair))
    assert status in (0, 2), err
    assert err.count("\n") == (1 if status else 0), err
    assert (tmp_path / "sim").exists() == (status == 0)
