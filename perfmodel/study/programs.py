"""How far predicted steps of whole models are from measured ones, on models that no fit read.

The table of measured models, the recorded programs beside it, and one estimate for each: records
that the tables of ``docs/accuracy/programs.md`` and the coefficients are made from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from perfmodel.study.scores import Score, groups, score

_NAMES: Final = {
    "language": (
        "llama", "tinyllama", "gpt", "bert", "t5", "albert", "bart", "biogpt", "bloom", "camembert",
        "deberta", "distil", "electra", "esm2", "falcon", "gemma", "glm_", "granite", "hand_",
        "hyena", "minilm", "mistral", "mpnet", "neox", "olmo", "opt", "phi", "pythia", "qwen2",
        "qwen3_0", "qwen3_d", "qwen_", "rembert", "roberta", "roformer", "smollm",
        "stablelm", "xlm",
    ),
    "mixture of experts": ("mixtral", "qwen3_moe"),
    "state space": ("mamba",),
    "speech": ("whisper", "wav2vec"),
    "vision and language": ("clip", "siglip"),
    "vision transformer": (
        "vit", "deit", "swin", "mixer", "beit", "cait", "dinov2", "levit", "sam_", "twins", "xcit",
        "yolos", "resmlp", "hiera",
    ),
    "diffusion": ("dit_", "latent_unet"),
    "operators and graphs": ("fno", "gat"),
    "segmentation": ("segformer", "unet", "deeplab"),
    "detection": ("detr",),
    "super-resolution": ("espcn",),
}  # fmt: skip
FAMILIES: Final = {name: family for family, names in _NAMES.items() for name in names}
"""Family of a model by how its name begins; all others are convolutional classifiers."""

PLAIN: Final = ("eager", "compiled")
"""Modes whose allocator was watched during steps; a captured one allocates while it is captured."""

UNREAD: Final = "unread"
"""Begins the names of runs that no fit reads, whatever models are in them: a check of the whole."""


@dataclass(frozen=True, slots=True)
class Record:
    """One measured step and its prediction.

    Parameters
    ----------
    case, run, kind, model, mode, family, split : str
        What was run, and in which run; ``split`` is ``"tune"`` where coefficients may have seen the
        model, :data:`UNREAD` for the runs of that name.
    measured_s, predicted_s : float
        Time of one step in a steady stream; predicted for the pace of the host where a probe
        tells it [s].
    unprobed_s : float
        The same prediction for a host of unknown pace: of a host that the assumed pace was taken
        from, with the pace that the other hosts give [s].
    low_s, high_s : float
        The interval of the prediction [s].
    unprobed_low_s, unprobed_high_s : float
        That of the prediction for a host of unknown pace, over the paces of the other hosts [s].
    host_s, device_s : float
        Predicted work of either side [s].
    host_pace, issue_pace : float or None
        What the probes around the stream say, and those between the single steps.
    issued_s : float or None
        Predicted time in which a single step is issued, where its pace is known [s].
    after_profiler : bool
        Whether a profiler was attached to the measuring process; predictions are then of a step
        with one.
    superseded : bool
        Whether another row of the same case stands for it: it is in no score of times.
    streams : int
        Over how many streams of steps the measured time is a mean, each with probes of its own.
    measured_host_s, measured_kernel_s : float or None
        The same as measured, where it was [s].
    peak_measured, peak_predicted : int or None
        Peak of allocated memory [B]. The measuring process ran many cases, and every captured graph
        left a workspace behind: measured is what the step takes above what was there before it,
        plus what a process of its own holds there (weights, state, inputs, workspaces).
    reserved_measured, reserved_predicted : int or None
        Peak of reserved segments of the whole measuring process, and of a process of its own [B].
    unknown : int
        Operators that no table knows.
    refused : str
        Why there is no prediction; empty if there is one.
    """

    case: str
    run: str
    kind: str
    model: str
    mode: str
    family: str
    split: str
    measured_s: float
    predicted_s: float = 0.0
    unprobed_s: float = 0.0
    low_s: float = 0.0
    high_s: float = 0.0
    unprobed_low_s: float = 0.0
    unprobed_high_s: float = 0.0
    host_s: float = 0.0
    device_s: float = 0.0
    host_pace: float | None = None
    issue_pace: float | None = None
    issued_s: float | None = None
    after_profiler: bool = False
    superseded: bool = False
    streams: int = 1
    measured_host_s: float | None = None
    measured_kernel_s: float | None = None
    peak_measured: int | None = None
    peak_predicted: int | None = None
    reserved_measured: int | None = None
    reserved_predicted: int | None = None
    unknown: int = 0
    refused: str = ""

    @property
    def error(self) -> float:
        """Signed, as a fraction of the measurement."""
        return self.predicted_s / self.measured_s - 1.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def family_of(model: str) -> str:
    """The family of a measured model."""
    return next((f for name, f in FAMILIES.items() if model.startswith(name)), "convolutional")


def purpose(record: Record) -> str:
    """What a row is scored as: training and decoding apart from the ways of inference.

    Steps that were launched one by one in a process where a profiler had been are apart too: they
    are no measurement of a host by itself.
    """
    kind = {"train": "training", "decode": "decoding"}.get(record.kind, "inference")
    apart = " (profiler attached)" if record.after_profiler and record.mode in PLAIN else ""
    return f"{kind}, {record.mode}{apart}"


def bounded(record: Record) -> str:
    """The purpose, and which side held the measured step up: the device where it was busy for 85 %.

    The device's part is a property of the chip; the host's of the processor beside it, and of what
    else it did. Where no profile was taken, the predicted kernels stand for the measured ones.
    """
    busy = record.measured_kernel_s or record.device_s
    device = record.mode.endswith("graph") or busy > 0.85 * record.measured_s
    return f"{purpose(record)}: {'device' if device else 'host'}"


def blind(found: Sequence[Record]) -> list[Record]:
    """The same rows as predicted for a host of unknown pace."""
    return [replace(one, predicted_s=one.unprobed_s or one.predicted_s) for one in found]


def time_scores(found: Sequence[Record], key: Callable[[Record], str]) -> dict[str, Score]:
    """Errors of the step time by group; refused and superseded rows are not in them."""
    kept = [one for one in found if not one.refused and not one.superseded]
    table = {}
    for name, places in groups([key(one) for one in kept]).items():
        mine = [kept[k] for k in places]
        one = score([r.predicted_s for r in mine], [r.measured_s for r in mine])
        if one is not None:
            table[str(name)] = one
    return table


def memory_scores(found: Sequence[Record], key: Callable[[Record], str]) -> dict[str, Score]:
    """Errors of the peak of allocated memory by group; superseded rows are not in them."""
    kept = [one for one in found if one.peak_measured and one.peak_predicted and not one.superseded]
    table = {}
    for name, places in groups([key(one) for one in kept]).items():
        mine = [kept[k] for k in places]
        one = score(
            [float(r.peak_predicted or 0) for r in mine],
            [float(r.peak_measured or 0) for r in mine],
        )
        if one is not None:
            table[str(name)] = one
    return table
