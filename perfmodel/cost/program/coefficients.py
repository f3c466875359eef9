"""Coefficients of whole programs: what the cache keeps, what a launch and a host call cost.

``hardware_specs/efficiency/programs.toml`` holds a value for each, with its source;
``<chip>/program.toml`` what measured models gave on a machine with that chip. A chip without its
own file takes its sibling's, and where it has none, the host's part of the best measured machine:
how long a processor takes to issue calls has nothing to do with the chip beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final

from perfmodel.cost.efficiency import efficiency_folder
from perfmodel.cost.program.host_kinds import HOST_KINDS
from perfmodel.errors import CalibrationError, nearest_name
from perfmodel.files import fitted_table
from perfmodel.hardware import Accelerator

MEANINGS: Final = {
    "cache_share": "share of the last-level cache that keeps what was touched last",
    "cache_rate": "rate of the last-level cache over that of device memory",
    "launch_latency": "from a launch on the host to the kernel's start on an idle device [s]",
    "stream_gap": "device time between two kernels of a stream beyond that in a graph [s]",
    "kernel_gap": "part of a calibrated kernel's time that lies between two kernels [s]",
    "extra_launch": "a kernel that an operator launches beside its main one [s]",
    "turn": "an element that a thread of a kernel takes after another, its place worked out [s]",
    "turn_cast": "the same where it asks for formats [s]",
    "turn_cold": "what either takes more where the cache does not hold the operands [s]",
    "graph_launch": "device time before the first kernel of a replayed graph [s]",
    "graph_host": "host time of a graph replay [s]",
    "python_call": "host time of one of PyTorch's Python functions that a model calls [s]",
    "outside_call": "host time of a Python function of the model's own or of its libraries [s]",
    "step_host": "host time of a step beside its calls [s]",
    "autograd": "host time that recording a call with kernels for the backward pass adds [s]",
    "autograd_view": "host time that recording a call without kernels, a view, adds [s]",
    "autograd_norm": "host time that recording a batch norm adds beside [s]",
    "autograd_conv": "host time that recording a convolution adds beside [s]",
    "recomputed": "host time that a recomputed call adds: what it saves goes through hooks [s]",
    "packed": "host time that such a call adds when it first runs: its hooks hold a place [s]",
    "backward_share": "host time of a call in the backward pass over that in the forward pass",
    "backward_pace": "the backward pass, in a thread of its own, goes with this power of the pace",
    "tensor": "host time for each tensor of a list (foreach, optimizer) [s]",
    "gradient": "host time that the backward pass takes to keep each trained tensor's gradient [s]",
    "behind": "host time of an eager backward pass beside its calls: its thread wakes [s]",
    "parameter": "host time of the optimizer's loops for each trained tensor [s]",
    "stepping": "host time of an optimizer's step, clearing included, beside its tensors [s]",
    "compiled_module": "host time that a module adds to its compiled call: its guards [s]",
    "compiled_input": "host time of a tensor that a compiled call is given [s]",
    "compiled_tensor": "host time of a tensor that a generated kernel is given [s]",
    "compiled_pace": "host time of a compiled step over that of its calls as timed one by one",
    "compiled_leaf": "host time that such a tensor adds where the step trains [s]",
    "compiled_saved": "host time that a kernel adds whose result is kept for the backward pass [s]",
    "compiled_behind": "host time of a compiled backward pass beside its calls [s]",
    "compiled_break": "host time of a further graph in a forward pass, where one ended [s]",
    "more_launch": "host time of a kernel that a call launches beyond its first [s]",
    "inside_call": "host time of an operator that an operator calls itself, beside its launch [s]",
    "library_copy": "host time of a kernel or a fill that cuDNN puts around a convolution's [s]",
    "first_step": "host time that a step on an idle device takes beyond one of a stream [s]",
    "probe_call": "the tiny call of the probe in the state that host times are given for [s]",
    "probe_block": "the block of the probe in that state [s]",
    "probe_woven": "such a block between two steps that train in that state [s]",
    "probe_between": "such a block between two steps that do not train in that state [s]",
    "probe_behind": "such a block at the ends of a backward pass, in its thread, in that state [s]",
    "probe_power": "host time goes with this power of the tiny call",
    "profiler_probe": "what a profiler that was attached to the process adds to the call [s]",
    "profiler_launch": "host time that such a profiler adds to each launch [s]",
    "usual_pace": "the pace to assume where nobody probed",
    "slow_pace": "pace that one measured host in twenty exceeded",
    "fast_pace": "pace that one measured host in twenty fell below",
    "usual_pace_training": "the pace to assume of a process that trains eagerly",
    "slow_pace_training": "pace that one in twenty of those exceeded",
    "fast_pace_training": "pace that one in twenty of those fell below",
    "usual_pace_compiled": "the pace to assume of a process that compiles its model",
    "slow_pace_compiled": "pace that one in twenty of those exceeded",
    "fast_pace_compiled": "pace that one in twenty of those fell below",
}
"""Scalars; tables beside them: ``host``, ``floor`` [s], ``pace``, ``interval`` (ratios)."""

OF_THE_HOST: Final = (
    "graph_host", "python_call", "outside_call", "step_host", "autograd", "autograd_view",
    "autograd_norm", "autograd_conv", "recomputed", "packed", "backward_share", "backward_pace",
    "tensor", "gradient", "behind", "parameter", "stepping", "compiled_module", "compiled_input",
    "compiled_tensor", "compiled_pace", "compiled_leaf", "compiled_saved", "compiled_behind",
    "compiled_break",
    "more_launch", "inside_call", "library_copy",
    "first_step", "probe_call", "probe_block", "probe_woven", "probe_between",
    "probe_behind", "probe_power",
    "profiler_probe", "profiler_launch", "usual_pace", "slow_pace", "fast_pace",
    "usual_pace_training", "slow_pace_training", "fast_pace_training",
    "usual_pace_compiled", "slow_pace_compiled", "fast_pace_compiled",
)  # fmt: skip
"""Scalars that are the processor's, whatever chip it feeds."""


@dataclass(frozen=True, slots=True)
class ProgramCoefficients:
    """Values of :data:`MEANINGS`, and tables by host class, kernel kind and mode.

    Parameters
    ----------
    scalars : dict
        Name -> value.
    host : dict
        Host class -> seconds of one call [s].
    pace : dict
        Kernel kind -> time inside a model over the time alone; 1 where absent.
    floor : dict
        Kernel kind -> what each of its kernels takes beyond the pace [s]; 0 where absent.
    interval : dict
        Mode -> half-width of the 90 % interval of a step, in the logarithm of time.
    device : str
        Whose measurements these are; empty where nobody measured a model.
    """

    scalars: Mapping[str, float]
    host: Mapping[str, float]
    pace: Mapping[str, float] = field(default_factory=dict)
    floor: Mapping[str, float] = field(default_factory=dict)
    interval: Mapping[str, float] = field(default_factory=dict)
    device: str = ""

    def __getitem__(self, name: str) -> float:
        return self.scalars[name]


def program_coefficients(accelerator: Accelerator) -> ProgramCoefficients:
    """What stands behind the step time of a program on a chip."""
    return load_program_coefficients(accelerator.name.lower(), accelerator.family)


@lru_cache(maxsize=32)
def load_program_coefficients(
    device: str, architecture: str, *, folder: Path | None = None, measured: bool = True
) -> ProgramCoefficients:
    """Coefficients by the name of a chip: defaults, then what models on it, or its sibling, gave.

    Parameters
    ----------
    device, architecture : str
        ``"h100-sxm5-80gb"``, ``"hopper"``.
    folder : path, optional
        Where to look; by default what is shipped.
    measured : bool
        False leaves out everything that measured models gave.
    """
    folder = efficiency_folder() if folder is None else folder
    found = _read(folder / "programs.toml")
    source = _measured(folder, device, architecture) if measured else None
    machine = source or (_best(folder) if measured else None)
    if machine is None:
        return _coefficients(found, "")
    values = _read(machine / "program.toml")
    if source is None:
        scalars = values.get("scalars", {})
        values = {
            "scalars": {name: scalars[name] for name in OF_THE_HOST if name in scalars},
            "host": values.get("host", {}),
        }
    for table, entries in values.items():
        found[table] = found.get(table, {}) | entries
    return _coefficients(found, "" if source is None else source.name)


def _coefficients(found: dict[str, dict[str, float]], device: str) -> ProgramCoefficients:
    missing = sorted(set(MEANINGS) - set(found.get("scalars", {})))
    host = found.get("host", {})
    missing += [] if "unknown" in host else ["unknown"]
    if missing:
        raise CalibrationError(
            "programs.toml",
            f"<no {', '.join(missing)}>",
            "a value for every coefficient, and for host calls of unknown class",
            repair="restore the file",
        )
    host = {kind: host.get(kind, host["unknown"]) for kind in HOST_KINDS}
    pace, floor, interval = (found.get(name, {}) for name in ("pace", "floor", "interval"))
    return ProgramCoefficients(found["scalars"], host, pace, floor, interval, device)


def _measured(folder: Path, device: str, architecture: str) -> Path | None:
    """The chip's own folder, or its sibling's with most measured models."""
    if (folder / device / "program.toml").is_file():
        return folder / device
    return _best(folder, architecture)


def _best(folder: Path, architecture: str | None = None) -> Path | None:
    """The chip's folder with most measured models, of one architecture or of any."""
    found = []
    for path in sorted(folder.glob("*/program.toml")):
        about = fitted_table(path)
        if architecture in (None, about.get("architecture")):
            found.append((int(about.get("rows", 0)), path.parent.name, path.parent))
    return max(found)[2] if found else None


def _read(path: Path) -> dict[str, dict[str, float]]:
    data = fitted_table(path)
    tables: dict[str, dict[str, float]] = {}
    for name in ("scalars", "host", "pace", "floor", "interval"):
        known = {"scalars": MEANINGS, "host": HOST_KINDS}.get(name)
        for key, value in data.get(name, {}).items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (number and value >= 0) or (known is not None and key not in known):
                raise CalibrationError(
                    f"{path.name}: {name}.{key}",
                    value,
                    "a number that is not negative, under a known name",
                    nearest=None if known is None else nearest_name(key, known),
                    repair="correct the entry",
                )
            tables.setdefault(name, {})[key] = float(value)
    return tables
