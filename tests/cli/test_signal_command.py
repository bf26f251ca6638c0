"""``simulate signal``, ``reconstruct signal`` and ``compare-signal``: files, figures, resume, and what is refused."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from answers import answered, is_refused

SMALL = ["--length", "5", "--samples", "4000", "--density", "0.3", "--sigma", "0.7", "--seed", "3", "--threads", "1"]
PLAIN = ["--length", "5", "--iterations", "40", "--threads", "1", "--quiet", "--no-verify"]
JOB = [*PLAIN, "--starts", "2"]
ONCE = [*PLAIN, "--starts", "1", "--moves", "0"]


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """A command in a folder of its own; its exit status, standard output, and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        return answered(capsys, *words)

    return call


@pytest.fixture
def signal(run):
    """A simulated signal, y.npy."""
    status, out, err = run("simulate", "signal", "--out", "y.npy", *SMALL)
    assert (status, err) == (0, ""), err
    assert "240 copies" in out
    return Path("y.npy")


def tree(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_simulated_files_hold_what_they_say(run, signal):
    assert {path.name for path in Path().iterdir()} == {"y.npy", "y.truth.json", "y.target.npy"}
    values, target = np.load("y.npy"), np.load("y.target.npy")
    assert (values.dtype, values.shape, target.shape) == (np.float32, (4000,), (5,))
    facts = json.loads(Path("y.truth.json").read_text())
    keys = {"sigma", "density", "occurrences", "energy", "snr_box", "snr_db", "seed", "noise", "spacing"}
    assert keys <= set(facts)
    assert facts["occurrences"] == 240
    assert facts["density"] == pytest.approx(0.3)
    assert facts["energy"] == pytest.approx(5 / 0.49)
    assert values.var() == pytest.approx(0.49 + 0.3, rel=0.1)
    assert is_refused(run("simulate", "signal", "--out", "y.npy", *SMALL), "y.npy exists", "--overwrite")
    before = tree(".")
    assert run("simulate", "signal", "--out", "y.npy", *SMALL, "--overwrite")[0] == 0
    assert tree(".") == before


def test_simulation_from_a_file_and_of_several_kinds(run):
    np.save("two.npy", np.array([[1.0, 2.0, 0.5], [0.0, -1.0, 2.0]]))
    words = ["simulate", "signal", "--out", "z.npy", "--occurrences", "50", "--json", "--quiet"]
    status, out, _ = run(*words, "--target", "two.npy")
    facts = json.loads(out.splitlines()[-1])
    assert (status, facts["classes"], facts["length"], facts["occurrences"]) == (0, 2, 3, 50)
    assert np.load("z.target.npy").shape == (2, 3)
    assert run(*words, "--target", "gauss", "--classes", "2", "--overwrite")[0] == 0
    assert np.load("z.target.npy").shape == (2, 21)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--density", "0.9"], ["density must lie between 0 and 0.556", "0.9"]),
        (["--sigma", "-1"], ["sigma", "-1"]),
        (["--samples", "8"], ["samples", "2 x 5"]),
        (["--occurrences", "9"], ["--samples", "--occurrences"]),
        (["--out", "y.txt"], [".npy"]),
        (["--out", "nowhere/y.npy"], ["nowhere", "does not exist"]),
        (["--target", "square"], ["square", "step, gauss, bump"]),
        (["--target", "none.npy"], ["none.npy", "not found"]),
        (["--length", "1"], ["--length"]),
        (["--classes", "7"], ["--classes"]),
        (["--seed", "-4"], ["--seed"]),
    ],
)
def test_impossible_simulations_are_refused(run, change, told):
    words = ["simulate", "signal", "--out", "y.npy", *SMALL]
    for option in ("--out", *[word for word in change if word.startswith("--")]):
        if option in change and option in words:
            index = words.index(option)
            del words[index : index + 2]
    assert is_refused(run(*words, *change), *told)
    assert not list(Path().iterdir())


def test_a_run_writes_its_files_and_finds_the_target(run, signal):
    status, out, err = run("reconstruct", "signal", signal, *JOB, "--out", "run", "--truth", "y.target.npy", "--json")
    assert (status, err) == (0, "")
    summary = json.loads(out.splitlines()[-1])
    names = {"result.json", "settings.json", "history.csv", "report.html", "target.npy", "errors.npy"}
    assert names <= {path.name for path in Path("run").iterdir()}
    assert (Path("run") / "checkpoint" / "start-0.pt").exists()
    assert json.loads(Path("run/result.json").read_text()) == summary
    figures = summary["figures"]
    assert {"sigma", "density", "log_likelihood", "energy", "compare"} <= set(figures)
    assert figures["sigma"] == pytest.approx(0.7, rel=0.05)
    assert figures["density"] == pytest.approx(0.3, rel=0.1)
    assert figures["compare"]["relative_error"] < 0.15
    assert summary["verdict"] == "not verified"
    errors = np.load("run/errors.npy")
    found, truth = np.load("run/target.npy"), np.load("y.target.npy")
    assert ((found - truth) ** 2 / errors**2).mean() < 5
    with open("run/history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {"start-0", "start-1"} <= {row["run"] for row in rows}
    page = Path("run/report.html").read_text()
    assert "<svg" in page
    assert "one standard error" in page
    assert "relative error" in page
    status, out, _ = run("compare-signal", "run/target.npy", "y.target.npy", "--json")
    assert status == 0
    compared = json.loads(out)
    assert compared["relative_error"] == figures["compare"]["relative_error"]
    assert {"relative_error_shifted", "shift"} <= set(compared)
    assert "relative error" in run("compare-signal", "run/target.npy", "y.target.npy")[1]


def test_finished_and_stopped_runs_resume(run, signal):
    words = ["reconstruct", "signal", signal, *JOB, "--out", "run"]
    assert run(*words)[0] == 0
    before = np.load("run/target.npy")
    assert is_refused(run(*words), "not empty", "--resume")
    status, out, _ = run(*(word for word in words if word != "--quiet"), "--resume")
    assert (status, "finished run" in out) == (0, True)
    assert is_refused(run(*words, "--resume", "--density", "0.2"), "settings of the first run", "density")
    Path("run/result.json").unlink()  # as if it had been stopped before the end
    assert run(*words, "--resume")[0] == 0
    assert np.array_equal(np.load("run/target.npy"), before)
    (Path("run") / "mine.txt").write_text("kept")
    assert run(*words, "--overwrite", "--density", "0.3")[0] == 0
    assert (Path("run") / "mine.txt").exists()
    assert is_refused(run(*words, "--overwrite", "--resume"), "not both")


def test_a_report_is_written_again(run, signal):
    assert run("reconstruct", "signal", signal, *ONCE, "--out", "run")[0] == 0
    page = Path("run/report.html")
    before = page.read_bytes()
    page.unlink()
    assert run("report", "run")[0] == 0
    assert page.read_bytes() == before


@pytest.mark.parametrize(
    "method",
    [
        ["--method", "em"],
        ["--method", "autocorrelation"],
        ["--solver", "em"],
        ["--prior", "smooth"],
        ["--method", "autocorrelation", "--prior", "smooth"],
    ],
    ids=" ".join,
)
def test_every_method_runs(run, signal, method):
    words = ["--start", "y.target.npy", "--truth", "y.target.npy"]
    status, _, err = run("reconstruct", "signal", signal, *ONCE, *words, "--out", "run", *method)
    assert (status, err) == (0, "")
    assert json.loads(Path("run/result.json").read_text())["figures"]["compare"]["relative_error"] < 0.5


@pytest.mark.parametrize("method", ["exact", "em"])
def test_the_answer_of_the_moments_is_a_start(run, signal, method):
    words = ["reconstruct", "signal", signal, *ONCE, "--method", method, "--start", "autocorrelation", "--out", "run"]
    assert run(*words)[0] == 0
    found = json.loads(Path("run/result.json").read_text())
    assert found["settings"]["start"] == "autocorrelation"
    assert any("started from the moments' answer" in note for note in found["data"]["notes"])
    before = np.load("run/target.npy")
    Path("run/result.json").unlink()  # stopped before the end
    assert run(*words, "--resume")[0] == 0
    assert np.array_equal(np.load("run/target.npy"), before)


def test_several_signals_and_kinds(run):
    np.save("two.npy", np.array([[2.0, 1.0, 0.0, 1.0], [-1.0, -2.0, 2.0, 0.5]]))
    assert (
        run("simulate", "signal", "--out", "y.npy", "--target", "two.npy", "--samples", "3000", "--sigma", "0.5")[0]
        == 0
    )
    values = np.load("y.npy")
    np.save("rows.npy", values.reshape(3, 1000))
    words = ["--length", "4", "--classes", "2", "--starts", "1", "--moves", "0", "--iterations", "20", "--quiet"]
    more = ["--start", "two.npy", "--truth", "two.npy", "--out", "run"]
    assert run("reconstruct", "signal", "rows.npy", *words, *more)[0] == 0
    result = json.loads(Path("run/result.json").read_text())
    assert result["data"]["signals"] == 3
    assert result["figures"]["compare"]["relative_error"] < 0.2
    assert "kind 2" in Path("run/report.html").read_text()


BAD = {
    "shorter than two targets": (np.ones(9) * np.arange(9.0), ["9 samples", "2 x 5"]),
    "NaN": (np.where(np.arange(100) == 40, np.nan, np.arange(100.0)), ["NaN", "sample 40"]),
    "constant": (np.full(100, 3.0), ["constant"]),
    "integers": (np.arange(100), ["int64", "float32"]),
    "a cube": (np.zeros((3, 4, 5)), ["shape (3, 4, 5)"]),
    "complex": (np.zeros(100, complex), ["complex"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_signals_are_refused(run, name):
    values, told = BAD[name]
    np.save("bad.npy", values)
    assert is_refused(run("reconstruct", "signal", "bad.npy", *JOB, "--out", "run"), "bad.npy", *told)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--density", "0.6"], ["--density", "0.556", "separated"]),
        (["--density", "1.2", "--spacing", "arbitrary"], ["--density", "1.000"]),
        (["--density", "-0.1"], ["--density"]),
        (["--sigma", "-1"], ["--sigma", "-1"]),
        (["--sigma", "0"], ["--sigma"]),
        (["--classes", "0"], ["--classes"]),
        (["--starts", "0"], ["--starts"]),
        (["--moves", "-1"], ["--moves"]),
        (["--window", "9"], ["--window", "--method em"]),
        (["--spacing", "dense", "--classes", "2"], ["dense"]),
        (["--start", "two.npy"], ["--start", "(5,)"]),
        (["--start", "autocorrelation", "--method", "autocorrelation"], ["--start", "--method autocorrelation"]),
        (["--start", "autocorrelation", "--spacing", "dense"], ["--start", "--spacing dense"]),
        (["--truth", "none.npy"], ["none.npy"]),
        (["--method", "guess"], ["guess"]),
    ],
)
def test_bad_settings_are_refused(run, signal, change, told):
    np.save("two.npy", np.zeros(2))
    assert is_refused(run("reconstruct", "signal", signal, *JOB, "--out", "run", *change), *told)
    assert not Path("run").exists()


def test_bad_comparisons_are_refused(run):
    np.save("a.npy", np.ones(4))
    np.save("b.npy", np.ones(5))
    np.save("text.npy", np.array(["a"]))
    assert is_refused(run("compare-signal", "a.npy", "b.npy"), "one shape")
    assert is_refused(run("compare-signal", "a.npy", "none.npy"), "none.npy")
    assert is_refused(run("compare-signal", "a.npy", "text.npy"), "real numbers")


def test_long_signals_are_read_in_blocks(run, monkeypatch):
    """Blocks far smaller than the signal give the answer of the whole."""
    from unpicked.recipes import signals

    assert (
        run("simulate", "signal", "--out", "y.npy", "--length", "5", "--samples", "30000", "--density", "0.3")[0] == 0
    )
    words = ["reconstruct", "signal", "y.npy", *JOB, "--start", "y.target.npy", "--moves", "0"]
    assert run(*words, "--out", "whole")[0] == 0
    monkeypatch.setattr(signals, "_BLOCK", 4096)
    assert run(*words, "--out", "blocks")[0] == 0
    first, second = (np.load(f"{name}/target.npy") for name in ("whole", "blocks"))
    assert np.linalg.norm(first - second) / np.linalg.norm(first) < 0.02
    assert math.isfinite(float(second.sum()))
