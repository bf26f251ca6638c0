"""What a command answers, and how a refusal must look; shared by the tests of all commands."""

import pytest

from unpicked.cli import main
from unpicked.data.maps import Map
from unpicked.io.mrc import write_map

Answer = tuple[int, str, str]


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
