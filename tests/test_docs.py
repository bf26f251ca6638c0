"""The documentation keeps its word: its commands exist, its Python runs, its links lead somewhere.

In Markdown a command block is one fenced as ``sh``, ``bash``, ``console`` or ``shell``; every line in it that begins
with ``unpicked`` or ``torchrun`` is read by the command line's own parser, which runs nothing. Blocks of ``python``
run, those of a page in order and with one set of names, in a folder that holds the small files of :func:`folder`.
A block that cannot run there comes after the line ``<!-- fragment -->`` (which no reader sees): it has to compile, and
to call nothing that ``unpicked`` does not have.
"""

from __future__ import annotations

import io
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
READ = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
BLOCK = re.compile(r"^(?P<mark><!-- fragment -->\n+)?```(?P<kind>[^\n]*)\n(?P<text>.*?)^```$", re.M | re.S)
SHELL = {"sh", "bash", "console", "shell"}
PROGRAM = r"(?:\$ )?(?:[A-Z_]+=\S+ )*(?P<words>(?:unpicked|torchrun)\s.*)"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    kind: str
    text: str
    fragment: bool


def blocks(path: Path) -> Iterator[Block]:
    text = path.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("kind")) + 1
        yield Block(str(path.relative_to(ROOT)), line, found["kind"].strip(), found["text"], bool(found["mark"]))


def commands() -> Iterator[tuple[str, list[str]]]:
    """Where a command of ours stands, and its words behind ``unpicked``."""
    for path in READ:
        for block in blocks(path):
            if block.kind in SHELL:
                joined = re.sub(r"\\\n\s*", " ", block.text)
                for line in joined.splitlines():
                    if found := re.fullmatch(PROGRAM, line.strip()):
                        yield f"{block.page}:{block.line}: {line.strip()}", words(found["words"])


def words(line: str) -> list[str]:
    """Those of a command line up to a comment, a pipe or the next command, without the launcher."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&<>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    found: list[str] = []
    for word in lexer:
        if set(word) <= set("|;&<>"):
            break
        found.append(word)
    return found[found.index("unpicked") + 1 :]


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and myst-parser make it."""
    plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    found, seen = set(re.findall(r"^\(([\w-]+)\)=$", text, re.M)), dict[str, int]()
    for heading in re.findall(r"^#{1,6} (.+)$", text, re.M):
        name = slug(heading)
        found.add(f"{name}-{seen[name]}" if name in seen else name)
        seen[name] = seen.get(name, 0) + 1
    return found


def test_every_command_is_one_that_the_command_line_takes() -> None:
    from unpicked.cli import build

    app, wrong, count = build(), [], 0
    for where, tokens in commands():
        count += 1
        try:
            app.parse_args(tokens, exit_on_error=False, print_error=False)
        except Exception as error:
            wrong.append(f"{where}\n    {' '.join(str(error).split())}")
    assert not wrong, "\n".join(wrong)
    assert count > 50


def test_commands_within_sentences_exist() -> None:
    """They may leave words out, so only what is there is asked about: the command, its options, its experiments."""
    from cyclopts import MissingArgumentError

    from unpicked.cli import build
    from unpicked.experiments import NAMES

    app, wrong = build(), []
    for path in READ:
        text = BLOCK.sub("", path.read_text(encoding="utf-8"))
        for found in re.findall(r"`unpicked ([^`]+)`", text):
            tokens = words("unpicked " + " ".join(found.replace("…", " ").replace("...", " ").split()))
            try:
                app.parse_args(tokens, exit_on_error=False, print_error=False)
            except MissingArgumentError:
                pass
            except Exception as error:
                wrong.append(f"{path.name}: {found}\n    {' '.join(str(error).split())}")
            if tokens[0] == "reproduce" and not set(tokens[1:2]) <= {*NAMES, "NAME", "--list"}:
                wrong.append(f"{path.name}: no experiment {tokens[1]}")
    assert not wrong, "\n".join(wrong)


def test_a_wrong_option_would_be_found() -> None:
    from unpicked.cli import build

    line = "torchrun --nproc-per-node 2 -m unpicked plan --mass-kda 20 --micrograph 5  # many"
    with pytest.raises(Exception, match="micrograph"):
        build().parse_args(words(line), exit_on_error=False, print_error=False)
    assert words("unpicked moments 'a *.mrc' --box 11 | tee log") == ["moments", "a *.mrc", "--box", "11"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages' scripts read: small micrographs, lists of them, and a map."""
    from unpicked.cli import main

    place = tmp_path_factory.mktemp("pages")
    line = "simulate micrographs --phantom beads --box 7 --voxel 4 --size 64 --count 2 --energy 400 --quiet"
    with pytest.raises(SystemExit) as ended:
        main([*line.split(), "--out", str(place / "sim")])
    assert ended.value.code == 0
    for name in ("data", "mics", "micrographs"):
        shutil.copytree(place / "sim" / "micrographs", place / name)
    next((place / "data").glob("*.mrc")).unlink()  # one is enough there
    shutil.copy(place / "sim" / "truth.mrc", place / "predicted.mrc")
    (place / "mics" / "ctffind").mkdir()
    head = "# Pixel size: 4.0 Angstroms ; acceleration voltage: 300.0 keV ; "
    head += "spherical aberration: 2.70 mm ; amplitude contrast: 0.10"
    for number, path in enumerate(sorted((place / "mics").glob("*.mrc"))):
        text = f"{head}\n{number + 1}.0 15000.0 14500.0 30.0 0.0 0.2 8.0\n"
        (place / "mics" / "ctffind" / f"{path.stem}.txt").write_text(text)
    return place


def python_pages() -> list[Path]:
    return [path for path in READ if any(block.kind == "python" for block in blocks(path))]


@pytest.mark.parametrize("path", python_pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_python_of_a_page_runs(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import unpicked as up

    monkeypatch.chdir(folder)
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks(path):
        if block.kind == "python":
            code = compile("\n" * block.line + block.text, block.page, "exec")
            if block.fragment:
                assert set(re.findall(r"\bup\.(\w+)", block.text)) <= set(up.__all__)
            else:
                with redirect_stdout(io.StringIO()):
                    exec(code, names)


@pytest.mark.parametrize("path", READ, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    text, lost = BLOCK.sub("", path.read_text(encoding="utf-8")), []
    text = re.sub(r"`[^`\n]*`", "", text)
    for target in re.findall(r"\]\(<?([^()\s>]+)>?\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = unquote(target).partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            lost.append(target)
    assert not lost


def test_files_that_pages_include_exist() -> None:
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"^```\{(?:literalinclude|include|figure|image)\} (\S+)", text, re.M):
            assert (path.parent / name).exists(), f"{path.name}: {name}"


def test_every_page_is_reached_from_the_index() -> None:
    reached, left = set[Path](), [DOCS / "index.md"]
    while left:
        page = left.pop()
        if page not in reached:
            reached.add(page)
            left += [page.parent / f"{name}.md" for name in entries(page)]
    assert reached == set(PAGES)


def entries(page: Path) -> list[str]:
    """The pages that the trees of a page name."""
    found = []
    for block in blocks(page):
        if block.kind == "{toctree}":
            lines = [line.strip() for line in block.text.splitlines() if line.strip() and not line.startswith(":")]
            found += [re.sub(r".*<(.+)>", r"\1", line) for line in lines]
    return found


def test_the_api_page_has_every_public_name_once() -> None:
    import unpicked as up

    text = (DOCS / "api.md").read_text(encoding="utf-8")
    named = re.findall(r"^\.\. auto(?:class|function):: unpicked\.(\w+)$", text, re.M)
    assert sorted(named) == sorted(set(up.__all__) - {"__version__"})


@pytest.mark.parametrize("script", sorted((DOCS / "pictures").glob("[!_]*.py")), ids=lambda path: path.stem)
def test_pictures_are_small_and_there(script: Path) -> None:
    pictures = [path for path in script.parent.glob(f"{script.stem}*") if path.suffix in (".svg", ".png")]
    assert pictures and all(path.stat().st_size < 100_000 for path in pictures)
