"""``unpicked doctor``: well where all is well, and a line that says what to try where it is not."""

from __future__ import annotations

import json

from answers import answered
from unpicked.cli import doctor


def test_all_is_well_here(capsys) -> None:
    status, out, err = answered(capsys, "doctor", "--json", "--device", "cpu")
    told = json.loads(out)
    assert (status, err, told["ok"]) == (0, "", True), told["checks"]
    assert {check["name"] for check in told["checks"]} >= {"packages", "threads", "memory", "likelihood", "recovery"}
    assert told["packages"]["torch"] and told["python"]


def test_what_fails_is_told_and_the_rest_is_still_tested(capsys, monkeypatch) -> None:
    def broken(device: str) -> tuple[bool, str]:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(doctor, "TESTS", {"broken": broken, "files": doctor.files})
    status, out, _ = answered(capsys, "doctor", "--device", "cpu")
    lines = out.splitlines()
    assert status == 1 and lines[-1].startswith("something is wrong")
    assert any(line.startswith("NOT OK  broken: RuntimeError: two lines") and "; try: " in line for line in lines)
    assert any(line.startswith("ok      files") for line in lines)
