"""Do the tests notice? One small mistake at a time in a core operator, and the tests that should see it.

Of a file of ``unpicked.ops`` one operator, comparison or number is changed (+ for -, * for /, < for <=, 1 for 2, ...),
chosen at random, and the identities of that operator are run on a copy of the package. A mistake that no test notices
is printed: a gap in the tests, or a change that means the same.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from common import save

ROOT = Path(__file__).parents[1]
TESTS = {
    "project": "test_project.py",
    "fourier": "test_fourier.py",
    "rotation": "test_rotation.py",
    "ctf": "test_ctf.py",
    "steerable": "test_steerable.py",
    "moments": "test_moments.py",
    "solve": "test_solve.py",
    "lags": "test_lags.py",
}
OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
}  # fmt: skip


class Mistake(ast.NodeTransformer):
    """Makes one change, that of a number; without a number counts what could be changed."""

    def __init__(self, number: int = -1) -> None:
        self.number, self.seen, self.said = number, 0, ""

    def _here(self, node: ast.AST) -> bool:
        self.seen += 1
        if self.seen - 1 != self.number:
            return False
        self.said = f"line {getattr(node, 'lineno', 0)}: {ast.unparse(node)}"
        return True

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """Another operator."""
        self.generic_visit(node)
        if type(node.op) in OPERATORS and not isinstance(node.left, ast.Constant | ast.JoinedStr) and self._here(node):
            node.op = OPERATORS[type(node.op)]()
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        """Another comparison."""
        self.generic_visit(node)
        if type(node.ops[0]) in OPERATORS and self._here(node):
            node.ops[0] = OPERATORS[type(node.ops[0])]()
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        """One more."""
        if type(node.value) in (int, float) and self._here(node):
            return ast.copy_location(ast.Constant(node.value + 1), node)
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """Words of errors stay."""
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """Annotations stay."""
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """Annotations stay."""
        return node


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=list(TESTS))
    parser.add_argument("--mutants", type=int, default=8, help="per file")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    figures: dict[str, object] = {}
    noticed = tried = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "src"
        shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__"))
        for name in options.only:
            path = copy / "unpicked" / "ops" / f"{name}.py"
            text = path.read_text()
            count = Mistake()
            count.visit(ast.parse(text))
            picks = random.Random(options.seed).sample(range(count.seen), min(options.mutants, count.seen))
            if not passes(copy, TESTS[name]):
                raise RuntimeError(f"{TESTS[name]} fails without any mistake")
            missed = []
            for number in picks:
                mistake = Mistake(number)
                path.write_text(ast.unparse(mistake.visit(ast.parse(text))))
                if passes(copy, TESTS[name]):
                    missed.append(mistake.said)
            path.write_text(text)
            tried, noticed = tried + len(picks), noticed + len(picks) - len(missed)
            figures[f"{name}: noticed of {len(picks)}"] = len(picks) - len(missed)
            figures[f"{name}: not noticed"] = missed
        figures["noticed"] = f"{noticed} of {tried}"
    save("mutants", figures)


def passes(source: Path, test: str) -> bool:
    """Whether the tests of a file pass on a copy of the package."""
    environment = os.environ | {"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/identities/{test}"]
    try:
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


if __name__ == "__main__":
    main()
