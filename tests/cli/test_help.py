"""``--help``: in sections where a command has many options, none of them lost."""

import re

import pytest

from unpicked.cli import COMMANDS, build, main
from unpicked.cli.sections import SECTIONS


def told(capsys, *words):
    """The help of a command."""
    with pytest.raises(SystemExit) as caught:
        main([*words, "--help"])
    assert caught.value.code in (0, None)
    return capsys.readouterr().out


def options(text):
    """Those that a help tells."""
    return set(re.findall(r"^│ [* ]*--([a-z0-9-]+)", text, re.M))


def test_what_every_user_needs_comes_first_and_every_option_once(capsys):
    text = told(capsys, "reconstruct", "micrographs")
    panels = re.split(r"^╭─ ", text, flags=re.M)[1:]
    titles = [panel.split(" ─")[0] for panel in panels]
    assert titles == ["Arguments", "Parameters", *SECTIONS["reconstruct"], "How micrographs are read"]
    first = {"box", "voxel", "halves", "out", "start", "truth", "no-verify"}
    assert options(panels[1]) == first and {"resume", "seed", "json"} <= options(panels[-2])
    assert sum(len(options(panel)) for panel in panels) == len(options(text)) > 45


@pytest.mark.parametrize("home", list(SECTIONS))
def test_every_name_in_a_section_is_an_option(home, capsys):
    there = set()
    for group, name, _, _ in COMMANDS:
        if group == home:
            there |= options(told(capsys, group, name))
    assert {name for names in SECTIONS[home].values() for name in names.split()} <= there


def test_few_options_stay_together(capsys):
    assert told(capsys, "compare").count("╭─ Parameters") == 1


@pytest.mark.parametrize(("flag", "told"), [("--ctf", True), ("--no-ctf", False)])
def test_contrast_transfer_can_be_asked_for_and_left_out(flag, told):
    words = ["reconstruct", "particles", "x.star", "--out", "o", flag]
    bound = build().parse_args(words, exit_on_error=False, print_error=False)[1]
    assert next(value.ctf for value in bound.arguments.values() if hasattr(value, "ctf")) is told
