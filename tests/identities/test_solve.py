"""Linear algebra that several steps share."""

from __future__ import annotations

import torch

from unpicked.ops import solve


def positive(seed: int, rank: int) -> torch.Tensor:
    rows = torch.randn(rank, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rows.mT @ rows


def test_a_matrix_is_held_between_a_part_of_another_and_all_of_it() -> None:
    whole, small = positive(0, 12), 3 * positive(1, 2)
    held = solve.between(small, whole, 0.1)
    shares = torch.linalg.eigvals(torch.linalg.solve(whole, held)).real
    assert float(shares.min()) > 0.1 - 1e-9 and float(shares.max()) < 1 + 1e-9
    assert int((shares < 0.1 + 1e-9).sum()) == 4, "of the directions that two scores do not tell"
    torch.testing.assert_close(held, held.mT)


def test_a_matrix_that_lies_between_is_kept() -> None:
    whole = positive(0, 12)
    torch.testing.assert_close(solve.between(0.4 * whole, whole, 0.1), 0.4 * whole)
    none = torch.zeros(6, 6).double()
    assert solve.between(whole, none, 0.1) is whole, "nothing to compare with"
