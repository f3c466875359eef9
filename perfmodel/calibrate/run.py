"""`perfmodel calibrate`: measurements in, efficiency files out, or an error and nothing changed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from perfmodel.calibrate.coefficients import fit_coefficients, log_mechanism
from perfmodel.calibrate.crossed import crossed
from perfmodel.calibrate.learn import Helper, Learned, assemble, folds_of, train
from perfmodel.calibrate.measurements import Measurements, Row, load_measurements
from perfmodel.calibrate.offsets import offsets_of
from perfmodel.calibrate.power import PowerFit, fit_power
from perfmodel.calibrate.profiled import load_planned, load_profiled
from perfmodel.calibrate.samples import FUSED, Samples, samples_of
from perfmodel.calibrate.score import Record, records_of, score_samples
from perfmodel.calibrate.spread import Spread, in_turn, told
from perfmodel.calibrate.store import Others, write_folder
from perfmodel.calibrate.taught import Taught, load_taught
from perfmodel.calibrate.together import (
    Teaches,
    Together,
    coefficients_of,
    is_shared,
    learn_together,
)
from perfmodel.cost.bound import lower_bound
from perfmodel.cost.efficiency import (
    Efficiency,
    efficiency_folder,
    load_coefficients,
    load_efficiency,
    measured_chips,
)
from perfmodel.cost.layers import Pooled
from perfmodel.cost.parts import Floats
from perfmodel.cost.power import load_shares
from perfmodel.cost.tasks import POINT
from perfmodel.errors import CalibrationError, nearest_name
from perfmodel.hardware import Accelerator, load_accelerator

FEWEST_ROWS = 8
_ENOUGH_ROWS, _ENOUGH_CHEAP = 350, 1500
_FEWEST_SHARED = 1000
PROGRAM_FILE = "program.toml"
"""What models measured on the chip gave; another fit writes it, and it stays."""
TAUGHT_BY = {POINT: ("gemm", "gemm_odd")}
"""Families whose rows teach another family's correction, and are not taught by it."""
_SLACK_UNDER_BOUND = 0.97
_IMPLAUSIBLE = 6.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a calibration did.

    Parameters
    ----------
    device : str
        The chip.
    folder : path or None
        Where the files were written.
    learned : dict
        Kernel -> fit with its held-out predictions.
    records : tuple of Record
        Every row with its held-out prediction.
    refused : tuple of (str, str)
        Rows that no operator describes, and why.
    skipped : dict
        Kernels with too few rows to fit -> their number.
    power : PowerFit or None
        Shares of the design power, where enough rows carry a reading.
    """

    device: str
    folder: Path | None
    learned: Mapping[str, Learned]
    records: tuple[Record, ...]
    refused: tuple[tuple[str, str], ...]
    skipped: Mapping[str, int]
    power: PowerFit | None


def calibrate(
    folder: str | Path,
    device: str,
    *,
    out: str | Path | None = None,
    support: tuple[str | Path, str] | None = None,
    kernels: Sequence[str] = (),
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    spread: Spread = in_turn,
    teaching: Teaches | None = None,
) -> Calibration:
    """Fit every kernel that a folder of measurements covers, and write the efficiency files.

    Parameters
    ----------
    folder : path
        CSV files with sidecars, of one device.
    device : str
        Name or path of the chip's description.
    out : path, optional
        Efficiency folder; by default the one that prices are read from. The device's own folder in
        it is replaced as a whole, after everything went well.
    support : (path, str), optional
        Measurements and name of a sibling chip that teach the corrections too.
    kernels : sequence of str
        Beginnings of the names of those that are fitted anew; the files of the others stay as they
        are. Some of those that share networks learn theirs without the others, and keep them in
        their own files. Empty: all.
    seed : int
        Of the learners' draws; the same seed and data give the same files.
    progress : callable, optional
        Told what is done, and how much of how much, in a line for each kernel.
    spread : Spread
        Makes the calls that know nothing of each other; by default one after another.
    teaching : Teaches, optional
        How networks learn from estimates, where a device that computes faster is there.

    Raises
    ------
    CalibrationError
        If the measurements cannot be trusted; files that were there stay untouched.
    """
    accelerator = load_accelerator(device)
    name = accelerator.name.lower()
    measured, by_kernel = _trusted(folder, accelerator)
    siblings, beside = _of_sibling(support)
    profiled = samples_of(load_profiled(folder, name), accelerator)
    target = efficiency_folder() if out is None else Path(out)
    judged = by_kernel.pop(FUSED, None)
    wanted, others = _wanted(by_kernel, kernels), None
    if kernels:
        rest = sorted(set(by_kernel) - wanted)
        sibling = None if support is None else support[1]
        others = Others.of(target / name, rest, measured, sibling)
    chosen = {kernel: samples for kernel, samples in by_kernel.items() if kernel in wanted}
    enough, skipped = _enough(folder, chosen)
    # Before the fits, which take long: a place that cannot be written ends them.
    target.mkdir(parents=True, exist_ok=True)
    start = load_coefficients(accelerator.family)
    start_of = {kernel: start.of(kernel) for kernel in by_kernel}
    together: dict[str, Together] = {}
    if any(map(is_shared, wanted)):
        apart = any(map(is_shared, by_kernel.keys() - wanted))
        planned, estimates = _estimated(folder, accelerator, support, siblings)
        together = learn_shared(
            chosen,
            siblings,
            start_of,
            seed,
            progress,
            spread,
            accelerator,
            planned,
            estimates,
            teaching,
        )
        together = {kernel: replace(one, apart=apart) for kernel, one in together.items()}
    # The last coefficients of a kernel that shares networks are those of all its rows.
    rough = {kernel: one.coefficients[-1] for kernel, one in together.items()}
    asked = teachers_of(by_kernel, wanted)
    alone = [kernel for kernel in by_kernel if kernel not in rough and kernel in asked]
    calls = [(by_kernel[kernel], start_of[kernel], seed) for kernel in alone]
    rough |= told("mechanism", alone, spread(rough_coefficients, calls), progress)
    offsets = [
        offsets_of(cheap, rows, start.of, spread)
        if any(samples.blocks[0][0].product for samples in enough.values())
        else {}
        for cheap, rows in ((profiled, by_kernel), (beside, siblings))
    ]
    helpers = {
        kernel: helpers_of(samples, by_kernel, siblings, rough, profiled, beside, *offsets)
        for kernel, samples in enough.items()
    }
    learned = _fits(enough, helpers, start_of, together, name, seed, progress, spread)
    records = [record for k, one in learned.items() for record in records_of(enough[k], one, name)]
    if judged is not None and judged.blocks[0][0].kernel in learned:
        own = {kernel: one.fitted for kernel, one in learned.items()}
        efficiency = Efficiency(name, start.tables, start.sources, own, own=True)
        records.extend(score_samples([judged], accelerator, efficiency=efficiency))
    power = fit_power(measured.rows, accelerator)
    pooled = next((one.pooled for one in together.values() if not one.apart), None)
    written = _publish(
        target, accelerator, measured, learned, records, power, support, pooled, others
    )
    load_efficiency.cache_clear()
    measured_chips.cache_clear()
    load_shares.cache_clear()
    return Calibration(name, written, learned, tuple(records), measured.refused, skipped, power)


def _trusted(
    folder: str | Path, accelerator: Accelerator
) -> tuple[Measurements, dict[str, Samples]]:
    """Measurements of a chip, and the same by kernel, once physics allows them."""
    measured = load_measurements(folder, accelerator.name.lower())
    by_kernel = samples_of(measured.rows, accelerator)
    start = load_coefficients(accelerator.family)
    for samples in by_kernel.values():
        _check_physics(samples, start.of(samples.blocks[0][0].kernel))
    return measured, by_kernel


def _enough(
    folder: str | Path, by_kernel: Mapping[str, Samples]
) -> tuple[dict[str, Samples], dict[str, int]]:
    """Kernels with rows enough for a fit, and how many rows the others have.

    Raises
    ------
    CalibrationError
        If none has.
    """
    enough = {k: samples for k, samples in by_kernel.items() if len(samples.rows) >= FEWEST_ROWS}
    skipped = {k: len(samples.rows) for k, samples in by_kernel.items() if k not in enough}
    if not enough:
        raise CalibrationError(
            str(folder),
            f"<at most {max(skipped.values(), default=0)} rows a kernel>",
            f"at least {FEWEST_ROWS} rows of one kernel",
            repair="measure more operators: `perfmodel calibrate --plan` says which",
        )
    return enough, skipped


def _fits(
    enough: Mapping[str, Samples],
    helpers: Mapping[str, Sequence[Helper]],
    start: Mapping[str, Mapping[str, float]],
    together: Mapping[str, Together],
    device: str,
    seed: int,
    progress: Callable[[str], None] | None,
    spread: Spread,
) -> dict[str, Learned]:
    """The fit of every kernel, each without every fold and of all rows, in calls of their own."""
    # The longest first, so that no process is left with one at the end.
    order = sorted(enough, key=lambda kernel: -_lessons(enough[kernel], helpers[kernel]))
    tasks = (
        (samples, start[kernel], helpers[kernel], fold, seed, _given(together.get(kernel)))
        for kernel, samples in ((kernel, enough[kernel]) for kernel in order)
        for fold in folds_of(samples)
    )
    parts = iter(spread(train, tasks))
    fits = (
        assemble(enough[k], device, [next(parts) for _ in folds_of(enough[k])], together.get(k))
        for k in order
    )
    fitted = told("fitted", order, fits, progress)
    return {kernel: fitted[kernel] for kernel in enough}


def _lessons(samples: Samples, helpers: Sequence[Helper]) -> int:
    """Rows that teach a kernel."""
    return len(samples.rows) + sum(len(helper.samples.rows) for helper in helpers)


def _given(together: Together | None) -> Sequence[Mapping[str, float]] | None:
    return None if together is None else together.coefficients


def rough_coefficients(samples: Samples, start: Mapping[str, float], seed: int) -> dict[str, float]:
    """What a helping kernel's rows are compared with: a fit that draws nothing from another's."""
    rng = np.random.default_rng(seed)
    return fit_coefficients(samples.blocks, samples.seconds, start, rng, starts=1)


def learn_shared(
    by_kernel: Mapping[str, Samples],
    siblings: Mapping[str, Samples],
    start: Mapping[str, Mapping[str, float]],
    seed: int,
    progress: Callable[[str], None] | None = None,
    spread: Spread = in_turn,
    accelerator: Accelerator | None = None,
    planned: Sequence[Mapping[str, Samples]] = (),
    estimates: Sequence[Mapping[str, Taught]] = (),
    teaching: Teaches | None = None,
) -> dict[str, Together]:
    """What networks say that many kernels share, for each of those with rows enough.

    Too few rows in all, the sibling's included, and there are none. Told the chip, networks learn
    from others on crossed operators. ``planned`` rows (:func:`load_planned`) of either chip teach
    too. With ``estimates`` (:func:`~perfmodel.calibrate.taught.load_taught`) they learn from those.
    """
    shared = {
        kernel: samples
        for kernel, samples in by_kernel.items()
        if is_shared(kernel) and len(samples.rows) >= FEWEST_ROWS
    }
    taught = [*shared.values(), *(siblings[kernel] for kernel in shared if kernel in siblings)]
    if sum(len(samples.rows) for samples in taught) < _FEWEST_SHARED:
        return {}
    calls = [(samples, start[kernel], seed) for kernel, samples in shared.items()]
    names = tuple(shared)
    known = told("mechanism without folds", names, spread(coefficients_of, calls), progress)
    unknown: Mapping[str, Samples] = {}
    told_of = [chip for chip in estimates if chip]
    if accelerator is not None and not told_of:
        unknown = crossed(taught, accelerator, np.random.default_rng(seed))
    beside = (siblings, *planned)
    found = learn_together(
        shared,
        known,
        beside,
        unknown,
        estimates=told_of,
        seed=seed,
        spread=spread,
        teaching=teaching,
    )
    if progress is not None:
        progress(f"networks of {len(shared)} kernels")
    return found


def _of_sibling(
    support: tuple[str | Path, str] | None,
) -> tuple[Mapping[str, Samples], Mapping[str, Samples]]:
    """A sibling's rows and its cheap ones, by kernel."""
    if support is None:
        return {}, {}
    sibling = load_accelerator(support[1])
    _, siblings = _trusted(support[0], sibling)
    return siblings, samples_of(load_profiled(support[0], sibling.name.lower()), sibling)


def _estimated(
    folder: str | Path,
    accelerator: Accelerator,
    support: tuple[str | Path, str] | None,
    siblings: Mapping[str, Samples],
) -> tuple[list[Mapping[str, Samples]], list[Mapping[str, Taught]]]:
    """Planned rows and others' estimates, which teach shared networks, of either chip."""
    planned: list[Mapping[str, Samples]] = [
        samples_of(load_planned(folder, accelerator.name.lower()), accelerator)
    ]
    estimates: list[Mapping[str, Taught]] = [load_taught(folder, accelerator)]
    if support is not None:
        sibling = load_accelerator(support[1])
        planned += [samples_of(load_planned(support[0], sibling.name.lower()), sibling)]
        if estimates[0]:
            # The sibling's others are the same operators again.
            known = (*siblings.values(), *planned[1].values())
            timed = [row for samples in known for row in samples.rows]
            estimates += [load_taught(support[0], sibling, among=timed)]
    return planned, estimates


def _wanted(by_kernel: Mapping[str, Samples], beginnings: Sequence[str]) -> set[str]:
    """Kernels whose names begin so, by default all."""
    for one in beginnings:
        if not one or not any(kernel.startswith(one) for kernel in by_kernel):
            raise CalibrationError(
                "calibrate: kernels",
                one or "<nothing>",
                "beginnings of " + ", ".join(sorted(by_kernel)),
                nearest=nearest_name(one, by_kernel),
                repair="name measured kernels, or leave it out to fit all",
            )
    return {k for k in by_kernel if not beginnings or k.startswith(tuple(beginnings))}


def teachers_of(by_kernel: Mapping[str, Samples], wanted: set[str]) -> set[str]:
    """Kernels whose rows may teach those (:func:`helpers_of`), and these themselves."""
    families = {by_kernel[kernel].blocks[0][0].family for kernel in wanted}
    families |= {teacher for family in families for teacher in TAUGHT_BY.get(family, ())}
    return {k for k, samples in by_kernel.items() if samples.blocks[0][0].family in families}


def helpers_of(
    samples: Samples,
    by_kernel: Mapping[str, Samples],
    siblings: Mapping[str, Samples],
    rough: Mapping[str, Mapping[str, float]],
    profiled: Mapping[str, Samples] = MappingProxyType({}),
    beside: Mapping[str, Samples] = MappingProxyType({}),
    offsets: Mapping[str, Floats] = MappingProxyType({}),
    offsets_beside: Mapping[str, Floats] = MappingProxyType({}),
) -> list[Helper]:
    """What teaches a kernel's correction besides its own rows.

    The same kernel on a sibling chip, or in cheap rows (``profiled``; the sibling's ``beside``),
    and, on this one, kernels of the same family: another class of arithmetic, another layout.
    How far cheap rows are from latencies is in ``offsets`` (``offsets_beside``) where a chip's
    kernels tell it together. ``rough`` holds every kernel's coefficients. One with many rows of
    its own, or very many cheap ones, learns from those alone: what works alike is still another
    kernel.
    """
    family = samples.blocks[0][0].family
    teachers = (*TAUGHT_BY.get(family, ()), family)
    found = []
    if samples.kernel in siblings:
        found.append(Helper(siblings[samples.kernel], None))
    if samples.kernel in profiled:
        offset = offsets.get(samples.kernel)
        found.append(Helper(profiled[samples.kernel], None, profiled=True, offset=offset))
    if samples.kernel in beside and samples.kernel in siblings:
        timed = siblings[samples.kernel]
        offset = offsets_beside.get(samples.kernel)
        cheap_rows = beside[samples.kernel]
        found.append(Helper(cheap_rows, None, profiled=True, timed=timed, offset=offset))
    cheap = sum(len(helper.samples.rows) for helper in found if helper.profiled)
    if len(samples.rows) >= _ENOUGH_ROWS or cheap >= _ENOUGH_CHEAP:
        return found
    for kernel, other in by_kernel.items():
        if kernel != samples.kernel and other.blocks[0][0].family in teachers:
            found.append(Helper(other, rough[kernel]))
    return found


def _publish(
    target: Path,
    accelerator: Accelerator,
    measured: Measurements,
    learned: Mapping[str, Learned],
    records: list[Record],
    power: PowerFit | None,
    support: tuple[str | Path, str] | None,
    pooled: Pooled | None = None,
    others: Others | None = None,
) -> Path:
    """Write beside, then swap the device's folder in one rename."""
    name = accelerator.name.lower()
    beside = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=target))
    old = beside.with_name(beside.name + "-old")
    try:
        write_folder(
            beside,
            accelerator,
            measured,
            learned,
            records,
            power=power,
            sibling=None if support is None else support[1],
            pooled=pooled,
            others=others,
        )
        final = target / name
        if (final / PROGRAM_FILE).is_file():
            shutil.copy2(final / PROGRAM_FILE, beside)
        if final.exists():
            final.rename(old)
        try:
            beside.rename(final)
        except OSError:
            if old.exists():
                old.rename(final)
            raise
        final.chmod(0o755)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return final


def _check_physics(samples: Samples, start: Mapping[str, float]) -> None:
    """Refuse rows faster than the chip can be, and files whose times are out of all proportion."""
    lower = np.concatenate(
        [np.maximum(*lower_bound(task, device)) for task, device in samples.blocks]
    )
    fast = np.flatnonzero(samples.seconds < _SLACK_UNDER_BOUND * lower)
    if fast.size:
        row = samples.rows[int(fast[0])]
        raise CalibrationError(
            row.file,
            f"<{row.seconds * 1e6:.4g} us, one of {fast.size} such rows of {samples.kernel}>",
            f"at least {lower[fast[0]] * 1e6:.4g} us, what the datasheet allows",
            repair="sizes, dtype, unit or chip are labelled wrongly: measure the row again",
        )
    ratio = float(np.median(_ratio(samples, start)))
    if len(samples.rows) >= FEWEST_ROWS and not 1 / _IMPLAUSIBLE < ratio < _IMPLAUSIBLE:
        raise CalibrationError(
            f"{_file(samples.rows[0])}: {samples.kernel}",
            f"<times {ratio:.3g} times what the mechanism expects, in the median>",
            f"between 1/{_IMPLAUSIBLE:g} and {_IMPLAUSIBLE:g} times",
            repair="check the unit of latency_us and the labels of the rows",
        )


def _ratio(samples: Samples, start: Mapping[str, float]) -> Floats:
    return np.asarray(samples.seconds / np.exp(log_mechanism(samples.blocks, start)))


def _file(row: Row) -> str:
    return row.file.rsplit(":", 1)[0]
