"""Inference of one batch: prefill, decoding, latency and memory.

All requests of the batch start together, have prompts and answers of equal length, and leave
together: the kernel of serving, without arrivals and queues. Tensor parallelism splits a replica.

``end to end = prefill + sum of the steps``; the prefill yields the first token, and step ``i``
reads a cache of ``prompt + i`` tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perfmodel.cost import Efficiency, Price, price
from perfmodel.errors import PlanError
from perfmodel.estimate import Estimate, leaf, total
from perfmodel.hardware import Accelerator, Cluster, Hardware, loaded
from perfmodel.network import collective_seconds
from perfmodel.parallel.placement import domain_devices
from perfmodel.parallel.plan import counted
from perfmodel.parallel.replica_memory import kv_cache_bytes, replica_memory, weight_bytes
from perfmodel.units import format_bytes, format_seconds
from perfmodel.workload.dtype import bytes_per_element, canonical_dtype
from perfmodel.workload.model import model_of
from perfmodel.workload.op import Attention, Collective, Op
from perfmodel.workload.transformer import (
    Call,
    Message,
    ModelConfig,
    Precision,
    Shard,
    Stack,
    block_forward,
    embedding_forward,
    end_collectives,
    head_forward,
    layer_collectives,
    layer_kinds,
    load_precision,
    stack_of,
)

__all__ = ["InferResult", "infer", "kv_cache_bytes", "weight_bytes"]

Floats = NDArray[np.float64]

LONGEST: Final = 10**7
"""Beyond any context or batch; every decoding step is summed, so the number is bounded."""
STEPS: Final = 33
"""Cache lengths at which a decoding step is priced; the rest is interpolated."""


@dataclass(frozen=True, slots=True)
class InferResult:
    """One batch of requests.

    Parameters
    ----------
    prefill, decode : Estimate
        The prompt pass; one decoding step at the mean cache length.
    ttft_s, tpot_s, e2e_s : float
        Time to the first token, mean time of each further one, time to the last [s].
    output_tokens_per_s : float
        Over the batch and all devices of the replica.
    memory : dict of str to float
        Bytes by class on one device [B].
    capacity : float
        What a device has [B].
    verdict : str
        Whether it fits.
    """

    prefill: Estimate
    decode: Estimate
    ttft_s: float
    tpot_s: float
    e2e_s: float
    output_tokens_per_s: float
    memory: dict[str, float]
    capacity: float
    verdict: str

    @property
    def peak_memory(self) -> float:
        """All classes together [B]."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether it stays within the device's memory."""
        return self.peak_memory <= self.capacity

    def explain(self) -> str:
        """Both passes, the memory and the latencies, as text."""
        lines = [self.prefill.explain(), "", self.decode.explain(), ""]
        lines.append(f"memory: {format_bytes(self.peak_memory)} of {format_bytes(self.capacity)}")
        lines += [f"  {name}: {format_bytes(size)}" for name, size in self.memory.items()]
        lines += [
            self.verdict,
            f"TTFT {format_seconds(self.ttft_s)}, TPOT {format_seconds(self.tpot_s)}, "
            f"end to end {format_seconds(self.e2e_s)}, "
            f"{self.output_tokens_per_s:,.0f} output tokens/s",
        ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "prefill_s": self.prefill.seconds,
            "decode_step_s": self.decode.seconds,
            "ttft_s": self.ttft_s,
            "tpot_s": self.tpot_s,
            "e2e_s": self.e2e_s,
            "output_tokens_per_s": self.output_tokens_per_s,
            "memory": {f"{name}_bytes": size for name, size in self.memory.items()},
            "peak_memory_bytes": self.peak_memory,
            "memory_capacity_bytes": self.capacity,
            "fits": self.fits,
            "verdict": self.verdict,
            "prefill": self.prefill.to_dict(),
            "decode": self.decode.to_dict(),
        }


def infer(
    model: ModelConfig | str | Path,
    device: Hardware,
    batch_size: int,
    prompt_len: int,
    output_len: int,
    *,
    tp: int = 1,
    precision: str = "bf16",
    kv_dtype: str = "bf16",
    stack: Stack | str = "vllm-like",
    efficiency: Efficiency | None = None,
) -> InferResult:
    """Latency and memory of one batch on one replica.

    Parameters
    ----------
    model : ModelConfig, str or Path
        A decoder: a value, a bundled name or the path of a ``config.json``.
    device : Accelerator, Cluster, str or Path
        One device, or a cluster where ``tp`` is above 1: a value, a name or a file.
    batch_size, prompt_len, output_len : int
        Requests; tokens of a prompt; tokens of an answer.
    tp : int
        Devices that share a replica.
    precision, kv_dtype : str
        Of the linear layers; of the cache, in memory and as a decoding step's fused attention reads
        it. Unpacking a narrow one is taken to hide behind the reading.
    stack : Stack or str
        How the software runs the work.
    efficiency : Efficiency, optional
        Instead of the chip's own.

    Raises
    ------
    PlanError
        If the model is no decoder, a count is out of range, or ``tp`` fits neither the model nor
        the devices.
    WorkloadError
        If a format is not known.
    """
    model, device = model_of(model), loaded(device, "infer: device")
    batch_size, prompt_len, output_len, tp = (
        counted(f"infer: {name}", value, most=LONGEST)
        for name, value in (
            ("batch_size", batch_size), ("prompt_len", prompt_len), ("output_len", output_len),
            ("tp", tp),
        )
    )  # fmt: skip
    _check(model, device, tp)
    stack = stack_of(stack)
    formats = load_precision(precision)
    kv_dtype = canonical_dtype(kv_dtype, where="infer: kv_dtype")
    width = bytes_per_element(kv_dtype)
    passes = _Passes(model, device, tp, formats, stack, efficiency, width)
    prefill = passes.estimate("prefill", batch_size, prompt_len, 0)
    e2e = prefill.seconds
    steps = output_len - 1
    if steps:
        lengths = np.unique(
            np.linspace(prompt_len, prompt_len + steps - 1, min(STEPS, steps)).astype(np.int64)
        )
        times = passes.decode_seconds(batch_size, lengths)
        every = np.interp(np.arange(prompt_len, prompt_len + steps), lengths, times)
        e2e += float(every.sum())
    middle = prompt_len + max(steps - 1, 0) // 2
    decode = passes.estimate("decode step", batch_size, 1, middle)
    tpot = (e2e - prefill.seconds) / steps if steps else 0.0
    memory = replica_memory(model, batch_size, prompt_len, output_len, tp, formats, kv_dtype)
    accelerator = passes.accelerator
    needed, has = sum(memory.values()), accelerator.memory_capacity
    verdict = "fits" if needed <= has else "does not fit"
    return InferResult(
        prefill=prefill,
        decode=decode,
        ttft_s=prefill.seconds,
        tpot_s=tpot,
        e2e_s=e2e,
        output_tokens_per_s=batch_size * output_len / e2e,
        memory=memory,
        capacity=has,
        verdict=f"{verdict}: needs {format_bytes(needed)}, has {format_bytes(has)}",
    )


class _Passes:
    """Prices forward passes of one replica."""

    def __init__(
        self,
        model: ModelConfig,
        device: Accelerator | Cluster,
        tp: int,
        precision: Precision,
        stack: Stack,
        efficiency: Efficiency | None,
        kv_bytes: float,
    ) -> None:
        self.model = model
        self.cluster = device if isinstance(device, Cluster) else None
        self.accelerator = device.accelerator if isinstance(device, Cluster) else device
        self.tp, self.precision, self.stack = tp, precision, stack
        self.efficiency, self.kv_bytes = efficiency, kv_bytes

    def _price(self, op: Op, tokens: int) -> Price:
        """Price of a call; a decoding step's attention reads what the cache holds."""
        priced = price(op, self.accelerator, efficiency=self.efficiency)
        if tokens > 1 or not isinstance(op, Attention):
            return priced
        share = self.kv_bytes / bytes_per_element(op.dtype)
        if share == 1.0:
            return priced
        fewer = price(_reading(op, share), self.accelerator, efficiency=self.efficiency)
        # The arithmetic stays that of every position.
        least = np.asarray(op.flops / self.accelerator.peak(op.dtype), float)
        numbers = (fewer.seconds, fewer.lower, fewer.low, fewer.high)
        seconds, lower, low, high = (np.maximum(one, least) for one in numbers)
        known = fewer.calibrated & False  # no kernel that reads such a cache was measured
        return replace(fewer, seconds=seconds, lower=lower, low=low, high=high, calibrated=known)

    def _shard(self, batch: int, tokens: int, past: Any) -> Shard:
        return Shard(batch, tokens, tp=self.tp, expert_tp=self.tp, past=past)

    def _calls(self, batch: int, tokens: int, past: Any) -> list[tuple[str, Call, int]]:
        """Every call with the name of its part and how many layers repeat it."""
        model, stack, precision = self.model, self.stack, self.precision
        shard = self._shard(batch, tokens, past)
        calls = [
            ("embedding", call, 1)
            for call in embedding_forward(model, shard, stack, precision=precision)
        ]
        for kind in layer_kinds(model):
            for call in block_forward(model, kind, shard, stack, precision=precision):
                part = "attention core" if call.core else call.module
                calls.append((part, call, kind.count))
        last = self._shard(batch, 1, 0)  # only the last token's logits are needed
        head = head_forward(model, last, stack, precision=precision, loss=False)
        return calls + [("head", call, 1) for call in head]

    def _communication(self, batch: int, tokens: int) -> float:
        if self.cluster is None or self.tp == 1:
            return 0.0
        local = min(self.tp, domain_devices(self.cluster))
        shard = self._shard(batch, tokens, 0)
        seconds = 0.0
        pairs = [(message, 1) for message in end_collectives(self.model, shard)[0]]
        for kind in layer_kinds(self.model):
            messages = layer_collectives(self.model, kind, shard, precision=self.precision)
            # every rank holds a slice of every expert: tokens are summed, never dispatched
            pairs += [(message, kind.count) for message in messages if message.axis == "tp"]
            if kind.moe and not self.model.shared_ffn:
                pairs.append((_expert_sum(self.model, shard, self.precision), kind.count))
        for message, count in pairs:
            if message.phase != "forward" or not np.any(np.asarray(message.op.world) > 1):
                continue
            once = collective_seconds(
                message.op.op,
                np.asarray(message.op.bytes, float),
                message.op.world,
                self.cluster,
                ranks_per_node=min(local, int(np.max(message.op.world))),
            )
            seconds += float(once) * float(np.asarray(message.count)) * count
        return seconds

    def decode_seconds(self, batch: int, past: NDArray[np.int64]) -> Floats:
        """Decoding steps at some cache lengths [s]."""
        kernels = np.zeros(len(past))
        launches = 0.0
        for _, call, count in self._calls(batch, 1, past):
            priced = self._price(call.op, 1)
            kernels = kernels + priced.seconds * call.count * count
            launches += float(np.max(call.count)) * count
        host = 0.0 if self.stack.graph else launches * self.stack.host_launch
        return np.maximum(kernels + self._communication(batch, 1), host)

    def estimate(self, name: str, batch: int, tokens: int, past: int) -> Estimate:
        """One pass as a tree of its parts."""
        sums: dict[str, Floats] = {}
        launches = 0.0
        calibrated: dict[str, bool] = {}
        bounds: dict[str, dict[str, float]] = {}
        for part, call, count in self._calls(batch, tokens, past):
            priced = self._price(call.op, tokens)
            times = np.array(
                [float(row) for row in (priced.seconds, priced.lower, priced.low, priced.high)]
            )
            repeats = float(np.asarray(call.count)) * count
            sums[part] = sums.get(part, np.zeros(4)) + times * repeats
            calibrated[part] = calibrated.get(part, True) and bool(priced.calibrated)
            weights = bounds.setdefault(part, {})
            bound = str(priced.bound)
            weights[bound] = weights.get(bound, 0.0) + times[0] * repeats
            launches += repeats
        parts = [
            leaf(
                part,
                float(times[0]),
                bound=max(bounds[part], key=lambda bound: bounds[part][bound]),
                lower=min(float(times[1]), float(times[2])),
                low=min(float(times[2]), float(times[0])),
                high=max(float(times[3]), float(times[0])),
                calibrated=calibrated[part],
            )
            for part, times in sums.items()
        ]
        messages = self._communication(batch, tokens)
        if messages:
            parts.append(leaf("tensor parallel", messages, bound="network", lower=0.0))
        busy = sum(part.seconds for part in parts)
        host = 0.0 if self.stack.graph else launches * self.stack.host_launch
        if host > busy:
            parts.append(leaf("host", host - busy, bound="launch", lower=0.0))
        return total(name, parts)


def _reading(op: Attention, share: float) -> Attention:
    """Attention of one token over as many positions as hold ``share`` of the cache's bytes."""
    keys = np.maximum(np.ceil(np.asarray(op.kv_len) * share), 1).astype(np.int64)
    window = np.ceil(np.asarray(op.window) * share).astype(np.int64)
    return replace(op, kv_len=keys, window=window)


def _expert_sum(model: ModelConfig, shard: Shard, precision: Precision) -> Message:
    size = shard.tokens * model.hidden * precision.element
    return Message("expert_sum", Collective("all_reduce", size, shard.tp), 1, "tp", "forward")


def _check(model: ModelConfig, device: Accelerator | Cluster, tp: int) -> None:
    if model.architecture != "decoder":
        raise PlanError(
            "infer: model",
            f"{model.name}, an {model.architecture}",
            "a decoder: a model that yields one token after the other",
            repair="name a decoder; what is no decoder is predicted by `perfmodel graph`",
        )
    has = device.devices if isinstance(device, Cluster) else 1
    if tp > has:
        raise PlanError(
            "infer: tp",
            f"tp={tp}",
            f"at most the {has} devices of {device.name}",
            repair="lower tp, or name a node or cluster with more devices",
        )
    if model.heads % tp:
        raise PlanError(
            "infer: tp",
            f"tp={tp}",
            f"a divisor of the {model.heads} heads of {model.name}",
            repair="choose a degree that divides",
        )
