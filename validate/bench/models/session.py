"""Build models and measure cases; a built model serves the cases that share it."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from validate.bench.models import inside, measure, place, profile, state, zoo
from validate.bench.models.cases import Case

DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "tf32": torch.float32,
}
COMPUTE = {"bf16": torch.bfloat16, "fp16": torch.float16}
OOM_TRIES = 6


def classes_of(output: Any) -> tuple[int, int, int]:
    """Class axis of an output, its length, and the number of targets."""
    axis = 1 if output.dim() in (2, 4, 5) else output.dim() - 1
    classes = int(output.shape[axis])
    return axis, classes, output.numel() // classes


def loss_over(value: Any, target: Any, axis: int, classes: int) -> Any:
    """Cross-entropy over a class axis; `target` is flat."""
    flat = value if value.dim() == 2 else value.movedim(axis, -1).reshape(-1, classes)
    return F.cross_entropy(flat, target)


def loss_of(output: Any) -> Callable[[Any], Any]:
    """Cross-entropy over the class axis of `output`, with random targets of its shape."""
    axis, classes, rows = classes_of(output)
    target = torch.randint(0, classes, (rows,), device=output.device)
    return lambda value: loss_over(value, target, axis, classes)


def optimizer_for(case: Case, parameters: Any) -> Any:
    """AdamW or SGD with momentum, as the case says."""
    how = {"fused": {"fused": True}, "foreach": {"foreach": True}, "for-loop": {"foreach": False}}
    options: dict[str, Any] = how[case.implementation]
    if case.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=1e-4, **options)
    return torch.optim.SGD(parameters, lr=1e-4, momentum=0.9, **options)


class Session:
    """Builds, warms and measures cases on one device."""

    def __init__(self, device: str, tiny: bool) -> None:
        self.name, self.tiny = device, tiny
        self.device = measure.device_for(device)
        self._build: tuple[object, ...] = ()
        self._model: Any = None
        self._optimizer: Any = None
        self._facts: dict[str, Any] = {}
        self._profiled = False
        self._shape: tuple[Any, ...] = ()
        self._step: Any = None
        self._called: tuple[Any, Any] = ((), {})
        torch.manual_seed(0)

    def flags(self, case: Case) -> None:
        """Library switches of a case."""
        torch.backends.cudnn.benchmark = case.benchmark
        torch.backends.cudnn.allow_tf32 = case.dtype != "fp32"
        torch.set_float32_matmul_precision("highest" if case.dtype == "fp32" else "high")

    def dtype(self, case: Case) -> Any:
        """Type of inputs and, without autocast, of parameters; a dry run stays with fp32."""
        return torch.float32 if self.tiny else DTYPES[case.dtype]

    def drop(self) -> None:
        """Let the model and everything of it go."""
        self._model = self._optimizer = self._step = None
        self._called = (), {}
        self._build, self._shape = (), ()
        self.device.clean()

    def build(self, case: Case) -> None:
        """Model (and optimizer) of `case`, unless the last case had the same."""
        if self._build == case.build:
            return
        self.drop()
        begin = time.perf_counter()
        dtype = torch.float32 if case.autocast else self.dtype(case)
        default = torch.get_default_dtype()
        direct = case.model.startswith("llama")
        try:
            torch.set_default_dtype(dtype if direct else torch.float32)
            with torch.device(self.name):
                model = zoo.entry(case.model).build(self.tiny)
        finally:
            torch.set_default_dtype(default)
        model = model.to(device=self.name, dtype=dtype)
        if case.layout == "channels_last":
            volume = "3d" in case.model
            model = model.to(
                memory_format=torch.channels_last_3d if volume else torch.channels_last
            )
        training = case.kind == "train"
        model.train(training)
        model.requires_grad_(training)
        if case.checkpoint:
            model.gradient_checkpointing_enable()
        if training:
            self._optimizer = optimizer_for(case, model.parameters())
        self._model, self._build = model, case.build
        self.device.clean()
        tensors = [*model.parameters(), *model.buffers()]
        self._facts = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "weight_bytes": sum(t.numel() * t.element_size() for t in tensors),
            "build_s": time.perf_counter() - begin,
        }

    def example(self, case: Case) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Inputs of a case that does not decode."""
        held = torch.float32 if case.autocast else self.dtype(case)
        batch = min(case.batch, 2) if self.tiny else case.batch
        seq = min(case.seq, 16) if self.tiny else case.seq
        with torch.device(self.name):
            args, kwargs = zoo.entry(case.model).inputs(batch, seq, held, self.tiny)
        if case.kind == "prefill":
            kwargs = kwargs | {"last": True}
        if case.layout == "channels_last":
            volume = torch.channels_last_3d
            args = tuple(
                a.contiguous(memory_format=volume if a.dim() == 5 else torch.channels_last)
                if a.dim() > 3 else a for a in args
            )  # fmt: skip
        return args, kwargs

    def step(self, case: Case, model: Any) -> Callable[[], Any]:
        """A closure that runs one step of `case`."""
        if case.kind == "decode":
            dtype, seq = self.dtype(case), min(case.seq, 16) if self.tiny else case.seq
            with torch.device(self.name):
                return self._decode(
                    model, min(case.batch, 2) if self.tiny else case.batch, seq, dtype
                )
        args, kwargs = self.example(case)
        self._called = args, kwargs
        if case.kind == "train":
            return self._train(case, model, args, kwargs)

        def infer() -> Any:
            with torch.no_grad():
                return model(*args, **kwargs)

        return infer

    def decode_example(self, batch: int, seq: int, dtype: Any) -> tuple[Any, Any, Any]:
        """Token, filled cache and its last position; call under the device's context."""
        cache = self._model.new_cache(batch, seq, dtype)
        ids = torch.randint(0, 1000, (batch, 1))
        at = torch.tensor([seq - 1])
        return ids, cache, at

    def _decode(self, model: Any, batch: int, seq: int, dtype: Any) -> Any:
        ids, cache, at = self.decode_example(batch, seq, dtype)
        self._called = (ids, cache, at), {}

        def decode() -> Any:
            with torch.no_grad():
                return model(ids, cache, at)

        return decode

    def _train(self, case: Case, model: Any, args: Any, kwargs: Any) -> Any:
        optimizer, compute = self._optimizer, COMPUTE.get(case.dtype, torch.bfloat16)

        # A forward pass decides the shape of the targets.
        with torch.no_grad(), torch.autocast(self.name, dtype=compute, enabled=case.autocast):
            loss = loss_of(zoo.logits(self._model(*args, **kwargs)))
        self.device.clean()

        def forward() -> Any:
            with torch.autocast(self.name, dtype=compute, enabled=case.autocast):
                return loss(zoo.logits(model(*args, **kwargs)))

        def update() -> None:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return inside.Training(forward, update)

    def prepare(self, case: Case) -> Callable[[], Any]:
        """Build and warm a case: what may take long and needs no quiet machine."""
        self.flags(case)
        self.build(case)
        mode = "compiled" if case.mode.startswith("compiled") else "eager"
        shape = (case.kind, case.batch, case.seq, mode)
        if self._shape == shape and self._step is not None:
            return self._step
        self._step, self._shape, self._called = None, (), ((), {})
        self.device.clean()
        self.device.reset()
        model = self._model
        if mode == "compiled":
            model = torch.compile(model, dynamic=False)
        step = self.step(case, model)
        begin = time.perf_counter()
        for _ in range(1 if self.tiny else 3):
            step()
        self.device.sync()
        self._facts["warm_s"] = time.perf_counter() - begin
        self._step, self._shape = step, shape
        return step

    def prepare_patiently(self, case: Case) -> None:
        """`prepare`, again after a while where others hold the memory; then let go of the cache."""
        for attempt in range(OOM_TRIES):
            try:
                self.prepare(case)
                break
            except torch.OutOfMemoryError:
                if attempt + 1 == OOM_TRIES:
                    raise
            if self._optimizer is not None:
                self._optimizer.zero_grad(set_to_none=True)
            gc.collect()
            with contextlib.suppress(Exception):
                torch.cuda.empty_cache()
            time.sleep(3.0 + 2.0 * attempt)
        self.device.clean()

    def capture(self, step: Callable[[], Any]) -> Any:
        """CUDA graph of one step."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step()
            step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return graph

    def run(self, case: Case) -> dict[str, Any]:
        """Measure a case: columns of its row, ``kernels`` (rows) and ``kineto`` (bytes)."""
        step = self.prepare(case)
        answer: dict[str, Any] = {**self._facts, "after_profiler": self._profiled}
        if case.mode.endswith("graph"):
            self.device.clean()
            self.device.reset()
            before = self.device.memory()
            graph = self.capture(step)
            after = self.device.memory()
            answer |= {"before_allocated": before["allocated"],
                       "before_reserved": before["reserved"],
                       "peak_allocated": after["peak_allocated"],
                       "peak_reserved": after["peak_reserved"],
                       "after_allocated": after["allocated"],
                       "after_reserved": after["reserved"]}  # fmt: skip
            answer |= measure.timing(self.device, graph.replay, self.tiny, hosted=False)
            del graph
            self.device.clean()
            return answer
        answer |= measure.peaks(self.device, step)
        answer |= measure.timing(self.device, step, self.tiny)
        if case.mode == "eager" and case.kind != "train":
            answer |= measure.calls(step)
        if case.mode == "compiled":
            with torch.set_grad_enabled(case.kind == "train"):
                answer |= state.guards(self._model, *self._called)
            answer |= place.generated_frames()
        if case.profile and case.mode == "compiled":
            answer |= self.profile(case)  # a process of its own, and compiled already
        return answer

    def profile(self, case: Case) -> dict[str, Any]:
        """Kernels of one step; the profiler stays attached, and later launches take longer."""
        step = self.prepare(case)
        self._profiled = True
        text = profile.trace(step, self.device.cuda)
        rows = profile.kernels(text)
        answer: dict[str, Any] = {"kernels": rows}
        answer["kernel_count"], answer["kernel_us"] = profile.busy_us(rows)
        if case.kineto:
            answer["kineto"] = text
        return answer


def alive() -> bool:
    """Whether the device still answers after an error."""
    try:
        torch.cuda.synchronize()
        torch.zeros(8, device="cuda").add_(1).sum().item()
    except Exception:
        return False
    return True
