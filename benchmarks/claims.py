"""Do micrographs contain this fold? The right map, and ten wrong ones of the same spectrum, on one set of micrographs.

A chain of 4AKE at E = 20 in 200 micrographs of 512 x 512 pixels; the wrong maps are self-avoiding chains of the
same length in its shape, brought to its spectrum. Wanted is p < 1e-3 for the right map and for none of the wrong ones.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from common import save
from unpicked.data import snr
from unpicked.experiments.recovery import require
from unpicked.io.structure import read_structure
from unpicked.recipes.claims import claimed
from unpicked.simulate.decoys import chain
from unpicked.simulate.micrographs import simulate_micrographs
from unpicked.simulate.specimens import specimen_from_structure
from unpicked.verify.claims import judge_claim

CHAIN = "structures/adk_open_4ake_chain_heavy.pdb"
RESIDUES = 214


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--energy", type=float, default=20.0)
    parser.add_argument("--decoys", type=int, default=1000)
    parser.add_argument("--wrong", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="the first of the wrong maps; earlier rows are kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    specimen = specimen_from_structure(read_structure(require(CHAIN, "the benchmark of claims")), 11)
    data, _ = simulate_micrographs(
        specimen,
        count=options.count,
        size=(options.size, options.size),
        density=0.12,
        noise=snr.energy(options.energy),
        seed=options.seed,
    )
    truth = specimen.truth()
    rows = kept(options)
    for number in range(options.first, options.wrong + 1):
        name = f"wrong {number}" if number else "right"
        map = chain(truth, 10_000 + number, RESIDUES) if number else truth
        began = time.perf_counter()
        found = judge_claim(claimed(data, map, seed=options.seed), options.decoys, seed=options.seed)
        row = {"map": name, **found.to_json(), "p": found.p, "seconds": time.perf_counter() - began}
        row.pop("evidence")
        rows.append(row | {"decoys": found.decoys, "above": found.above})
        print(rows[-1], flush=True)
        save(f"claims_{options.count}", {**vars(options), "first": 0, "rows": rows})


def kept(options: argparse.Namespace) -> list[dict[str, object]]:
    """The first rows of an earlier run."""
    path = Path(__file__).parent / "results" / f"claims_{options.count}.json"
    return list(json.loads(path.read_text())["rows"][: options.first]) if options.first else []


if __name__ == "__main__":
    main()
