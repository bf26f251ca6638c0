"""What a command answers, and how a refusal must look; shared by the tests of all commands."""

from collections.abc import Callable

import pytest

from unpicked.cli import main
from unpicked.data.maps import Map
from unpicked.io.mrc import write_map

Answer = tuple[int, str, str]


def fails(call: Callable[[], object], *words: object, error: type[Exception] = ValueError) -> bool:
    """Whether the call ends in an error of this kind whose message is one line that holds all the words."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message
    return True


def only_plain_errors(call: Callable[[], object]) -> bool:
    """Whether the call ends well, or in an error of one line; any other error passes through."""
    try:
        call()
    except (ValueError, OSError) as error:
        return "\n" not in str(error)
    return True


def answered(capsys: pytest.CaptureFixture[str], *words: object) -> Answer:
    """Run a command; the exit status, standard output, and standard error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    said = capsys.readouterr()
    return caught.value.code, said.out, said.err


def maps_answered(capsys, folder, command, maps: dict[str, object], *more: object) -> Answer:
    """Run a command on maps by name; those that are no paths yet are written first."""
    names = []
    for name, item in maps.items():
        if isinstance(item, Map):
            write_map(item, folder / f"{name}.mrc", overwrite=True)
            item = folder / f"{name}.mrc"
        names.append(item)
    return answered(capsys, command, *names, *more)


def is_refused(answer: Answer, *words: object) -> bool:
    """Whether the answer is one line on standard error that holds all the words, nothing else, and exit status 2."""
    status, out, err = answer
    one_line = err.startswith("unpicked: ") and err.count("\n") == 1 and err.endswith("\n")
    return (status, out) == (2, "") and one_line and all(str(word) in err for word in words)


def quick(*, box: int, lmax: int, views: int) -> list[str]:
    """Options of a reconstruction from micrographs that takes a moment: one start, one stage of four passes."""
    words = f"--box {box} --lmax {lmax} --views {views} --iterations 4 --starts 1 --moves 0 --seed 1"
    return words.split()
