"""What one particle tells of a structure that is seen without picking, by its energy E: the table behind ``plan``.

The Fisher information of the whole micrograph's likelihood at the truth, from simulated micrographs, for bead chains,
BPTI and a chain of 4AKE in a box of 11; with the Wilson prior that such data suggest, the relative error and the FSC
with the truth that are possible at best from N particles. Beside them the same with places and views known.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch

import unpicked
from common import save
from unpicked.data import snr
from unpicked.estimators.maximisation import complete_information
from unpicked.evaluate.featureless import ball_error
from unpicked.experiments.recovery import Fields, bpti, observed_information, shared
from unpicked.io.structure import read_structure
from unpicked.model.gas import Gas
from unpicked.model.model import Model
from unpicked.model.placements import Anywhere
from unpicked.model.views import Projection
from unpicked.objects.ball import Ball
from unpicked.ops import rotation
from unpicked.ops.rotation import super_fibonacci
from unpicked.priors import expected_error, expected_fsc, learned, precision, wilson
from unpicked.recipes.parts import ball_reach
from unpicked.simulate.micrographs import Specimen
from unpicked.simulate.phantom import bead_chain
from unpicked.simulate.specimens import specimen_from_structure

BOX, LMAX = 11, 10
COUNTS = tuple(float(f"{10 ** (number / 2):.6g}") for number in range(4, 19))  # 100 to 1e9
TABLE = Path(unpicked.__file__).parent / "plan" / "information.json"
CHAIN = "structures/adk_open_4ake_chain_heavy.pdb"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--energy", type=float, nargs="+", default=[100.0, 42.0, 24.0, 12.0, 6.0])
    parser.add_argument("--each", type=int, default=6, help="particles per coefficient")
    parser.add_argument("--views", type=int, default=800)
    parser.add_argument("--density", type=float, default=0.12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", type=Path, default=TABLE, help="the table; its rows are kept, and not made again")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = json.loads(options.table.read_text())["rows"] if options.table.exists() else []
    figures: dict[str, object] = {**vars(options), "table": str(options.table)}
    for name, specimen in specimens():
        for level in options.energy:
            if any((row["volume"], row["energy"]) == (name, level) for row in rows):
                continue
            began = time.perf_counter()
            rows.append({"volume": name, "energy": level, **best(specimen, level, options)})
            lines = ",\n  ".join(json.dumps(row) for row in rows)
            options.table.write_text(f'{{"box": {BOX}, "particles": {json.dumps(COUNTS)}, "rows": [\n  {lines}\n]}}\n')
            figures[f"{name}, E = {level:g}, seconds"] = time.perf_counter() - began
    for row in rows:
        told = zip(COUNTS[2:7:2], row["error"][2:7:2], strict=True)
        label = f"{row['volume']}, E = {row['energy']:g}, error (ball {row['ball_error']:.2f})"
        figures[label] = ", ".join(f"{count:g}: {error:.3f}" for count, error in told)
    save("plan_information", figures)


def specimens() -> Iterator[tuple[str, Specimen]]:
    """What is hidden."""
    yield "BPTI", bpti(BOX, 5.0).specimen
    chain = shared(CHAIN)
    if chain is not None:
        yield "4AKE chain", specimen_from_structure(read_structure(chain), BOX)
    for seed in (10, 11):
        yield f"beads {seed}", bead_chain(BOX, seed)


def best(specimen: Specimen, level: float, options: argparse.Namespace) -> dict[str, object]:
    """Errors and FSC by the number of particles."""
    object = Ball(BOX, LMAX, ball_reach(BOX))
    fields = Fields.of(1000, BOX, options.density)
    _, simulation = fields.simulate(specimen, snr.energy(level), 0)
    model = Model(
        object,
        Projection(rotation.super_fibonacci(options.views)),
        Anywhere(options.density, Gas(), "separated", 1),
    )
    x, information = observed_information(specimen, fields, snr.energy(level), model, 0, each=options.each)
    each = information.double() / (simulation.per_micrograph * simulation.count)
    power = float(model.templates(x).square().sum((-2, -1)).mean())
    prior = wilson(object, power)
    many = len(x) * options.each * each
    told = precision(learned(prior, object, many, many @ x.double()), object, x)
    known = complete_information(object, Projection(super_fibonacci(8)), x.double())
    within = BOX / 2
    return {
        "ball_error": digits(ball_error(specimen.truth())),
        "error": [digits(expected_error(object, x, n * each, told, within=within)) for n in COUNTS],
        "fsc": [[digits(value) for value in expected_fsc(object, x, n * each, told)] for n in COUNTS],
        "known_error": [digits(expected_error(object, x, n * known, told, within=within)) for n in COUNTS],
    }


def digits(value: float) -> float:
    """Five of them."""
    return float(f"{value:.5g}")


if __name__ == "__main__":
    main()
