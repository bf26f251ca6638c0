"""The loop: every estimator runs through it, with batches, processes, checkpoints, starts and moves written once."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from unpicked import checkpoint as files
from unpicked import processes
from unpicked._lazy import torch
from unpicked.checkpoint import Checkpoint, History, Result, Stop, Sums
from unpicked.data.base import Data
from unpicked.data.maps import Map
from unpicked.estimators.base import Batch, Estimator, Picking, Sampling, State, add, believed, judge
from unpicked.model.model import Model
from unpicked.model.placements import Stats
from unpicked.objects.classes import Classes
from unpicked.ops import seeding
from unpicked.priors import Flat, Prior

__all__ = ["History", "Reconstruction", "Report", "Result", "reconstruct"]

Report = Callable[[str, dict[str, float]], None]


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What a run found.

    Attributes:
        x: coefficients of the object, ``(size,)``.
        map: the object on its grid, for volumes.
        history: one row of figures per pass, of the sub-run that was kept.
        histories: the histories of all sub-runs by name.
        judged: log-likelihood ratio of patches less the prior's energy, where the run's own likelihood is not exact.
        result: how the run ended.
        state: everything a continuation needs.
        model: the model with the final estimates put in.
        notes: what was tried beside the passes (starts, moves) and what came of it.
        seconds: wall-clock time.
        prior: what was believed of the object.
        rivals: the runs of the other starts, the best first.
    """

    x: torch.Tensor
    map: Map | None
    history: History
    result: Result
    state: State
    model: Model
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    histories: dict[str, History] = field(default_factory=dict)
    judged: float = float("nan")
    prior: Prior = field(default_factory=Flat)
    rivals: tuple[Reconstruction, ...] = ()

    @property
    def information(self) -> torch.Tensor | None:
        """Observed information of the data about the coefficients, ``(size, size)``, where the method took it."""
        return self.state.get("memory.information") if int(self.state.get("memory.held", 0)) else None

    @property
    def objective(self) -> float:
        """Penalised log-likelihood at the last pass."""
        return self.history[-1].get("objective", self.judged) if self.history else float("-inf")


@dataclass(frozen=True)
class _Job:
    """One run of the loop, with what all its relatives share."""

    data: Data
    model: Model
    estimator: Estimator
    prior: Prior
    seed: int
    batch_size: int
    folder: Path | None
    fingerprint: str
    report: Report | None
    held: Data | None = None
    check: int = 0
    name: str = "run"
    iterations: int = field(default=0)
    rest: float = 0.0  # seconds between two checkpoints at least

    def judged(self, model: Model, x: torch.Tensor) -> float:
        """Likelihood ratio of held-out micrographs, or of the data less the prior's energy; by one process."""
        source = self.held or self.data
        size = math.prod(source.shape)
        room = _JUDGED // max(1, len(model.view) // _JUDGED_VIEWS)
        count = max(1, min(len(source), room // size))
        picks = [index * len(source) // count for index in range(count)]
        value = float(judge(Batch(source, picks), model, x)) * len(source) / count
        return value if self.held else value - believed(model, self.prior, x)


_JUDGED = 1 << 20  # pixels that are judged at most
_JUDGED_VIEWS = 1600  # fewer where the views are more than twice as many
_REST = 600.0  # seconds between two checkpoints within a pass, whose statistics may be large
_TRIAL_REST = 10.0  # the same between passes of a trial, which are many, and quick where the data are few


def reconstruct(
    data: Data,
    model: Model,
    estimator: Estimator,
    *,
    prior: Prior | None = None,
    seed: int = 0,
    start: torch.Tensor | None = None,
    starts: int = 1,
    moves: int = 1,
    checkpoint: Path | str | None = None,
    resume: bool = False,
    batch_size: int = 16,
    report: Report | None = None,
    held: Data | None = None,
    check: int = 0,
) -> Reconstruction:
    """Reconstruct an object from data.

    Args:
        data: micrographs or signals, prepared to what the model assumes.
        model: what is believed of the measurement, with starting values.
        estimator: the method.
        prior: belief about the object; None means none.
        seed: of everything random.
        start: coefficients ``(size,)`` to start from; several ``(s, size)``, before which random ones come where
            ``starts`` is more than s; or None: random starts alone.
        starts: number of random starts, or of all where several are given; the one of the highest objective is kept.
        moves: rounds of recentre moves tried on the answer (the placement supplies the candidates).
        checkpoint: folder for the state of every sub-run; None keeps nothing.
        resume: go on from that folder; without a checkpoint in it, start anew.
        batch_size: micrographs per batch; an estimator that picks its images takes them all in one.
        report: called after every pass with the sub-run's name and its row of the history.
        held: micrographs kept apart, by whose likelihood starts are chosen and early stopping is decided; without
            them the data themselves judge.
        check: passes between two looks at the held-out likelihood; 0 means at the end only.

    Returns:
        The best answer. Where ``torch.distributed`` is initialised, the data are shared out over its processes, and
        every process returns the same.

    Raises:
        ValueError: for settings that do not fit, or a checkpoint of another run.
    """
    began = time.perf_counter()
    _check(data, model.side, starts, moves, batch_size)
    if start is not None and start.dim() == 2 and not len(start):
        raise ValueError("start must hold at least one row of coefficients; got none; leave it out for random starts")
    model = model.measured(data)
    prior = prior or Flat()
    folder = Path(checkpoint) if checkpoint is not None else None
    mark = files.fingerprint(data, model, estimator, prior, seed, start, starts, held, check)
    job = _Job(data, model, estimator, prior, seed, batch_size, folder, mark, report, held, check)
    if folder is not None and not resume and processes.agreed(lambda: any(folder.glob("*.pt*"))):
        raise ValueError(f"{folder} already holds checkpoints; try resume=True, or another folder")
    runs = [
        _loop(replace(job, name=f"start-{index}"), partial(_start, job, one, index))
        for index, one in enumerate(_begun(start, starts))
    ]
    best, *rivals = sorted(runs, key=lambda run: run.objective, reverse=True)
    histories = {name: run.history for run in runs for name in run.histories}
    notes = [*_kept_note(runs, best), *(note for run in runs for note in run.notes)]
    for round_ in range(moves):
        moved, note = _move(replace(job, name=f"move-{round_}"), best)
        notes.append(note)
        if moved is None:
            break
        best = moved
        notes += best.notes
        histories |= best.histories
    seconds = time.perf_counter() - began
    return replace(best, notes=tuple(notes), seconds=seconds, histories=histories, rivals=tuple(rivals))


def _kept_note(runs: Sequence[Reconstruction], best: Reconstruction) -> list[str]:
    """A sentence on which of several starts was kept."""
    if len(runs) < 2:
        return []
    values = ", ".join(f"{run.objective:.1f}" for run in runs)
    return [f"{len(runs)} starts ended at objectives {values}; start {runs.index(best)} was kept"]


def _check(data: Data, side: int, starts: int, moves: int, batch_size: int) -> None:
    if starts < 1:
        raise ValueError(f"starts must be at least 1; got {starts}")
    if moves < 0:
        raise ValueError(f"moves must not be negative; got {moves}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    if min(data.shape) < side and len(data.shape) == 1:
        raise ValueError(
            f"a target of {side} samples does not fit blocks of {data.shape[0]} samples; try a shorter target"
        )
    if min(data.shape) < side:
        raise ValueError(
            f"a box of {side} pixels does not fit micrographs of {data.shape[0]} x {data.shape[1]} pixels; "
            "try a smaller box or a finer working voxel"
        )


def _begun(start: torch.Tensor | None, starts: int) -> list[torch.Tensor | None]:
    """What every run starts from; None where that is random."""
    if start is None:
        return [None] * starts
    return [start] if start.dim() == 1 else [*[None] * (starts - len(start)), *start]


def _start(job: _Job, start: torch.Tensor | None, index: int) -> State:
    seed = seeding.derive(job.seed, "start", index) if index and start is None else job.seed
    with torch.no_grad():
        state = job.estimator.init(job.data, job.model, start, seed)
    # all starts share one stream of view grids, so that their objectives can be compared
    if "seed" in state:
        state["seed"] = torch.tensor(job.seed)
    return state


def _loop(job: _Job, begin: Callable[[], State]) -> Reconstruction:
    """Passes over the data until the estimator is done; goes on from the sub-run's checkpoint where there is one."""
    with files.patient(hold=job.folder is not None) as stop:
        return _passes(job, begin, stop)


def _passes(job: _Job, begin: Callable[[], State], stop: Stop) -> Reconstruction:
    """The passes; a signal to stop acts after a batch, and what is summed by then is saved."""
    began = time.perf_counter()
    held = processes.agreed(lambda: _load(job) or Checkpoint(begin(), []))
    state, history, result = held.state, held.history, held.result
    best, sums = held.best, held.sums
    estimator, last = job.estimator, job.iterations or job.estimator.iterations
    before = saved = time.perf_counter()

    def keep(rest: float, sums: Sums | None = None) -> None:
        nonlocal saved
        if stop.came is not None or time.perf_counter() - saved >= rest:
            _save(job, replace(held, state=state, history=history, result=result, best=best, sums=sums))
            saved = time.perf_counter()

    def pause(sums: Sums | None = None) -> None:
        keep(_REST, sums)
        stop.act()

    def told(row: dict[str, float]) -> None:
        keep(job.rest)
        if job.report is not None:
            job.report(job.name, row)

    while result is None and int(state["step"]) < last:
        try:
            state, row = _updated(job, state, last, sums, pause)
            sums = None
        except FloatingPointError:
            result = Result.NOT_FINITE
            break
        if row is None:
            pause()
            continue
        history.append(row)
        result = _verdict(estimator, history, state, last)
        if _looks(job, estimator, state, result):
            now = estimator.current(job.model, state)
            row["judge"] = processes.agreed(partial(job.judged, now, state["x"]))
            best, result = _better(job, best, state, history, result)
        row["seconds"] = time.perf_counter() - before  # the last column
        processes.first(partial(told, row))
        stop.act()
        before = time.perf_counter()
    result = result or Result.ITERATIONS
    if result is Result.OVERFITTED and best is not None:
        state = best
    judged = [row["judge"] for row in history if "judge" in row]
    return Reconstruction(
        x=state["x"],
        map=_map(job, state["x"]),
        history=history,
        result=result,
        state=state,
        model=estimator.current(job.model, state),
        seconds=time.perf_counter() - began,
        histories={job.name: history},
        notes=(f"{job.name}: {held.damage}",) if held.damage else (),
        judged=(max(judged) if result is Result.OVERFITTED else judged[-1]) if judged else math.nan,
        prior=job.prior,
    )


def _updated(
    job: _Job, state: State, last: int, sums: Sums | None, pause: Callable[[Sums | None], None]
) -> tuple[State, dict[str, float] | None]:
    """The next state, and a row of the history where it has one; that state is the first process's on all of them."""
    estimator, model = job.estimator, job.estimator.current(job.model, state)
    with torch.no_grad():
        stats = _sum(job, model, state, sums, pause)

        def updated() -> tuple[State, dict[str, float] | None]:
            new = estimator.update(model, state, stats, job.prior)
            if not told:
                return new, None
            row = estimator.record(model, state, stats, job.prior) | _progress(state, new)
            return new, {"step": float(state["step"]), **row}

        told = _told(estimator, int(state["step"]) + 1, last)
        return processes.agreed(updated) if told else processes.together(updated)


def _told(estimator: Estimator, step: int, last: int) -> bool:
    """Whether the history has a row after so many updates: after each one, but for small and many ones."""
    return not isinstance(estimator, Sampling) or step % estimator.every == 0 or step >= last


def _progress(old: State, new: State) -> dict[str, float]:
    """Relative change of the coefficients, and what the step is predicted to gain in log units."""
    change = {"change": float((new["x"] - old["x"]).norm() / old["x"].norm().clamp(min=1e-300))}
    return change | {"gain": float(new["gain"])} if "gain" in new else change


def _looks(job: _Job, estimator: Estimator, state: State, result: Result | None) -> bool:
    """Whether this pass is judged: the last one where the method has no likelihood, or data are held out."""
    inexact = not job.model.placement.exact
    ends = result is not None or int(state["step"]) == (job.iterations or estimator.iterations)
    if ends:
        return inexact or job.held is not None
    return bool(job.check) and job.held is not None and int(state["step"]) % job.check == 0


def _better(
    job: _Job, best: State | None, state: State, history: History, result: Result | None
) -> tuple[State | None, Result | None]:
    """The state of the highest held-out likelihood so far; early stopping once it has fallen twice in a row."""
    if job.held is None or not job.check:
        return best, result
    values = [row["judge"] for row in history if "judge" in row]
    if values[-1] == max(values):
        return dict(state), result
    fell = len(values) >= 3 and values[-1] < values[-2] < values[-3] and values[-1] < max(values) - _NOISE
    return best, Result.OVERFITTED if fell else result


_NOISE = 3.0  # log units by which held-out likelihoods differ by chance


def _sum(job: _Job, model: Model, state: State, begun: Sums | None, pause: Callable[[Sums | None], None]) -> Stats:
    """The statistics of the data that this update reads, all of them as a rule, over batches and processes.

    ``begun`` are those of the first batches, where an earlier run has summed them; between batches comes a ``pause``.
    Both are for one process: several take up a pass at its beginning.
    """
    count, estimator, (rank, world) = len(job.data), job.estimator, processes.place()
    if not count:
        raise ValueError("the data are empty; give at least one micrograph or signal")
    chosen = estimator.picks(count, state) if isinstance(estimator, Picking) else range(count)
    mine = Batch(job.data, chosen).shard(rank, world)
    size = max(1, len(mine)) if isinstance(estimator, Sampling) else job.batch_size

    def own() -> Stats:
        done, total = (begun.count, begun.stats) if begun and world == 1 else (0, None)
        for first in range(done, max(1, len(mine)), size):  # an empty share has sums as well
            if total is not None and first > done and world == 1:
                pause(Sums(first, total))
            total = add(total, estimator.accumulate(model, Batch(job.data, mine.indices[first : first + size]), state))
        assert total is not None
        return total

    return processes.added(processes.together(own))


def _move(job: _Job, best: Reconstruction) -> tuple[Reconstruction | None, str]:
    """Try the moves; run on from the one that beats the present answer. The choice is kept like any other state."""
    digest = hashlib.sha256(best.x.detach().cpu().numpy().tobytes()).hexdigest()
    passes = job.estimator.iterations + job.estimator.polish
    polish = replace(job, iterations=passes, fingerprint=f"{job.fingerprint} {digest}")
    held = processes.agreed(lambda: _load(polish))
    if held is None:
        state, note = _choose(replace(job, fingerprint=polish.fingerprint), best)
        processes.first(lambda: _save(polish, Checkpoint(state, [], note=note)))
    else:
        state, note = held.state, held.note
    _forget_trials(job)
    if note == _STAY:
        return None, note
    return _loop(polish, lambda: state), note


_STAY = "recentre moves: none raised the objective"


def _choose(job: _Job, best: Reconstruction) -> tuple[State, str]:
    """A few passes on frozen views for every candidate and for the present answer."""
    last = job.estimator.iterations
    # all begin without memory, so that the trials are alike
    held = job.estimator.moved(job.model, replace_state(best.state, step=last), best.x)
    trial = replace(job, iterations=last + job.estimator.trial, rest=_TRIAL_REST)
    bar = _loop(replace(trial, name=f"{job.name} (as it is)"), lambda: held).objective
    found: tuple[float, str, State] | None = None
    for name, x in job.model.placement.moves(job.model.object, best.x):
        run = _loop(replace(trial, name=f"{job.name} ({name})"), partial(job.estimator.moved, job.model, held, x))
        if run.objective > max(bar, found[0] if found else bar):
            found = (run.objective, name, run.state)
    if found is None:
        return held, _STAY
    note = f"recentre move taken ({found[1]}): objective {bar:.1f} -> {found[0]:.1f}"
    return replace_state(found[2], step=last), note


def _forget_trials(job: _Job) -> None:
    """Remove the checkpoints of trials that are decided."""
    if job.folder is not None and processes.leads():
        for path in job.folder.glob(f"{job.name} (*"):
            path.unlink(missing_ok=True)


def replace_state(state: State, *, step: int) -> State:
    """A copy of a state with another step."""
    return {**state, "step": torch.tensor(step)}


def _verdict(estimator: Estimator, history: History, state: State, last: int) -> Result | None:
    row = history[-1]
    finished = estimator.done(history, state)
    if not finished and int(state["step"]) < last:
        return None
    if row.get("particles", 1.0) < 1:
        return Result.EMPTY
    if row.get("agrees", 1.0) < 1:
        return Result.MISFIT
    return Result.CONVERGED if finished else Result.ITERATIONS


def _map(job: _Job, x: torch.Tensor) -> Map | None:
    if isinstance(job.model.object, Classes) or len(job.model.object.shape) != 3:
        return None
    return Map(job.model.object.values(x), job.data.pixel_size)


def _save(job: _Job, held: Checkpoint) -> None:
    if job.folder is not None and processes.leads():
        files.save(job.folder / f"{job.name}.pt", job.fingerprint, held)


def _load(job: _Job) -> Checkpoint | None:
    return None if job.folder is None else files.load(job.folder / f"{job.name}.pt", job.fingerprint)
