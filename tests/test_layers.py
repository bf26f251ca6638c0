"""The layers of docs/architecture.md: each imports only from those to its left, and nothing slow at module level."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "unpicked"
LAYERS = [
    {"_lazy"},
    {"processes"},
    {"ops"},
    {"data"},
    {"objects"},
    {"model"},
    {"simulate", "preprocess", "whitening", "ctffit", "priors", "evaluate", "io"},
    {"estimators"},
    {"checkpoint"},
    {"reconstruct"},
    {"verify", "plan", "picking"},
    {"recipes"},
    {"experiments"},
    {"report"},
    {"cli"},
    {"__main__"},
]
FILES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> list[tuple[str, bool]]:
    """Rooms of the package that a file imports from, anywhere in it."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            modules = [node.module or ""]
            if node.module == "unpicked":
                modules = [f"unpicked.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        found += [module.split(".")[1] for module in modules if module.startswith("unpicked.")]
    return found


def level(name: str) -> int:
    return next(index for index, layer in enumerate(LAYERS) if name in layer)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_only_from_layers_before(path: Path) -> None:
    here = room(path)
    for other in imports(ast.parse(path.read_text())):
        if other == here or other.startswith("__"):
            continue
        assert level(other) < level(here), f"{here} must not import {other}"


def test_the_layer_test_sees_a_wrong_import() -> None:
    assert imports(ast.parse("from unpicked.cli import main")) == ["cli"]
    assert imports(ast.parse("def f():\n    from unpicked import recipes")) == ["recipes"]
    assert level("cli") > level("recipes") > level("ops")
