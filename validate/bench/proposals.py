"""Plans that cuDNN's heuristics propose for a convolution, in their order, without running any.

PyTorch's search (``torch.backends.cudnn.benchmark``) times the first ten of these and keeps the
least. The library answers without a device too, for one described by its properties ("deviceless
ahead-of-time compilation", docs.nvidia.com/deeplearning/cudnn/frontend, since cuDNN 9.8), but
leaves out engines of other libraries (cuBLAS) and some made for one purpose; with a device it names
all: of 22,061 searches that were logged, 22,023 tried just these plans in this order.

The calls are those of the C interface (cudnn_graph.h); the filters are those of PyTorch
(aten/src/ATen/native/cudnn/Conv_v8.cpp, ``filterEngineConfigs``).

Asked are the convolutions of a plan, or so many that are drawn as plans of measurements are; any
number of processes may ask at once, each of a seed of its own, and ``validate/drawn_lists.py`` adds
their answers to those that the decision trees are grown from::

    python3 -m validate.bench.proposals --plan conv.jsonl --out proposed.jsonl.gz
    python3 -m validate.bench.proposals --drawn 100000 --seed 1 --out drawn-1.jsonl.gz
"""

from __future__ import annotations

import argparse
import csv
import ctypes as c
import gzip
import importlib.util
import io
import json
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from validate.bench import conv_draws, ops, store

TRIED: Final = 10
_TENSOR_CORE, _DOWN_CONVERT = 0, 1  # numerical notes
_INSTANT, _FALLBACK = 0, 2
_TYPES: Final[dict[str, tuple[int, Any]]] = {
    "handle": (0, c.c_void_p), "dtype": (1, c.c_int), "bool": (2, c.c_bool), "int": (3, c.c_int64),
    "float": (4, c.c_float), "mode": (7, c.c_int), "heuristic": (8, c.c_int), "knob": (9, c.c_int),
    "pointer": (6, c.c_void_p), "note": (11, c.c_int), "descriptor": (15, c.c_void_p),
    "char": (24, c.c_char),
}  # fmt: skip
_DTYPES: Final = {"fp32": 0, "tf32": 0, "fp16": 2, "bf16": 9}
# Descriptor of the pass; its alpha, beta, convolution, filter, input and output.
_PASSES: Final = {
    "fwd": (10, 700, 701, 702, 703, 704, 705),
    "dgrad": (12, 706, 707, 708, 709, 710, 711),
    "wgrad": (11, 712, 713, 714, 715, 716, 717),
}
HOPPER: Final = {
    "deviceVer": 900, "multiProcessorCount": 132, "warpSize": 32, "maxSharedMemoryPerBlock": 49152,
    "maxSharedMemoryPerBlockOptin": 232448, "reservedSharedMemoryPerBlock": 1024,
    "maxRegistersPerSM": 65536, "maxCtasPerSM": 32, "maxThreadsPerBlock": 1024,
    "maxThreadsPerSM": 2048, "regsPerBlock": 65536, "totalGlobalMem": 85017493504,
    "smClockRateKHz": 1980000, "l2CacheSize": 52428800, "maxBlockSize": [1024, 1024, 64],
    "memClockRateKHz": 2619000, "maxGridSize": [2147483647, 65535, 65535], "supportCoopLaunch": 1,
    "pciDeviceId": 0, "isTccDriver": 0, "cudaDeviceId": 0, "driverVer": 13000,
    "deviceName": "NVIDIA H100 80GB HBM3",
}  # fmt: skip


def _library() -> c.CDLL:
    """The cuDNN that stands beside PyTorch, or alone."""
    spec = importlib.util.find_spec("nvidia.cudnn")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("proposals: no nvidia-cudnn package; pip install nvidia-cudnn-cu13")
    cudnn = Path(next(iter(spec.submodule_search_locations)))
    for name in ("libcudart.so.13", "libnvrtc.so.13", "libcublasLt.so.13", "libcublas.so.13"):
        path = cudnn.parent / "cu13" / "lib" / name
        if path.exists():
            c.CDLL(str(path), mode=c.RTLD_GLOBAL)
    found = c.CDLL(str(cudnn / "lib" / "libcudnn.so.9"), mode=c.RTLD_GLOBAL)
    found.cudnnGetErrorString.restype = c.c_char_p
    found.cudnnGetVersion.restype = c.c_size_t
    pointer, count = c.c_void_p, c.c_int64
    found.cudnnBackendSetAttribute.argtypes = [pointer, c.c_int, c.c_int, count, pointer]
    found.cudnnBackendGetAttribute.argtypes = [
        pointer, c.c_int, c.c_int, count, c.POINTER(count), pointer,
    ]  # fmt: skip
    found.cudnnBackendCreateDescriptor.argtypes = [c.c_int, c.POINTER(pointer)]
    found.cudnnBackendFinalize.argtypes = [pointer]
    found.cudnnBackendDestroyDescriptor.argtypes = [pointer]
    return found


class Descriptor:
    """One backend descriptor of cuDNN; what it is made of lives as long as it does."""

    def __init__(self, library: c.CDLL, kind: int) -> None:
        self.library = library
        self.kept: list[Descriptor] = []
        self.pointer = c.c_void_p()
        self.check(library.cudnnBackendCreateDescriptor(kind, c.byref(self.pointer)))

    def check(self, status: int) -> None:
        """Raise what the library says went wrong."""
        if status:
            raise OSError(self.library.cudnnGetErrorString(status).decode())

    def set(self, name: int, kind: str, *values: Any) -> Descriptor:
        """Set an attribute; the descriptor itself, for the next one."""
        number, of = _TYPES[kind]
        plain = [v.pointer if isinstance(v, Descriptor) else v for v in values]
        self.kept += [v for v in values if isinstance(v, Descriptor)]
        array = (of * len(plain))(*plain)
        self.check(
            self.library.cudnnBackendSetAttribute(self.pointer, name, number, len(plain), array)
        )
        return self

    def finish(self) -> Descriptor:
        """Let the library check and close it."""
        self.check(self.library.cudnnBackendFinalize(self.pointer))
        return self

    def get(self, name: int, kind: str, most: int = 1) -> list[Any]:
        """Values of an attribute, at most so many."""
        number, of = _TYPES[kind]
        array, found = (of * most)(), c.c_int64()
        self.check(
            self.library.cudnnBackendGetAttribute(
                self.pointer, name, number, most, c.byref(found), array
            )
        )
        return list(array)[: found.value]

    def parts(self, name: int, kind: int, most: int) -> list[Descriptor]:
        """Descriptors that an attribute holds, at most so many."""
        made = [Descriptor(self.library, kind) for _ in range(most)]
        array, found = (c.c_void_p * most)(*[m.pointer for m in made]), c.c_int64()
        self.check(
            self.library.cudnnBackendGetAttribute(
                self.pointer, name, 15, most, c.byref(found), array
            )
        )
        return made[: found.value]

    def count(self, name: int) -> int:
        """How many descriptors an attribute holds."""
        found = c.c_int64()
        self.check(
            self.library.cudnnBackendGetAttribute(self.pointer, name, 15, 0, c.byref(found), None)
        )
        return found.value

    def __del__(self) -> None:
        self.library.cudnnBackendDestroyDescriptor(self.pointer)


class Heuristics:
    """Asks the library, for the device that the process sees or for a described one."""

    def __init__(self, described: dict[str, Any] | None = None) -> None:
        self.library = _library()
        self.version = int(self.library.cudnnGetVersion())
        self.handle = c.c_void_p()
        self.device: Descriptor | None = None
        if described is None:
            status = self.library.cudnnCreate(c.byref(self.handle))
            if status:
                why = self.library.cudnnGetErrorString(status).decode()
                raise SystemExit(f"proposals: no device ({why}); --described asks of an absent one")
        else:
            self.device = Descriptor(self.library, 38)
            text = json.dumps(described, separators=(",", ":")).encode() + b"\0"
            buffer = c.create_string_buffer(text, len(text))
            self.device.check(
                self.library.cudnnBackendSetAttribute(
                    self.device.pointer, 2702, 24, len(text), buffer
                )
            )
            self.device.finish()

    def _tensor(self, number: int, shape: Sequence[int], dtype: str, last: bool) -> Descriptor:
        one = Descriptor(self.library, 17)
        one.set(901, "dtype", _DTYPES[dtype]).set(902, "int", *shape)
        one.set(903, "int", *strides(shape, last)).set(906, "int", number)
        return one.set(900, "int", 16).set(907, "bool", False).finish()

    def graph(self, op: ops.Op) -> Descriptor:
        """The operation graph that PyTorch builds of a convolution."""
        sides = [op[a] for a in (("h", "w") if op["op"] == "conv2d" else ("depth", "h", "w"))]
        taps, stride, padding = op["kernel"], op["stride"], op["padding"]
        outs = [ops.conv_out(side, taps, stride, padding) for side in sides]
        axes, last, dtype = len(sides), op.get("layout", "nhwc") == "nhwc", op["dtype"]
        x = self._tensor(120, (op["n"], op["c_in"], *sides), dtype, last)
        y = self._tensor(121, (op["n"], op["c_out"], *outs), dtype, last)
        inner = op["c_in"] // op.get("groups", 1)
        w = self._tensor(119, (op["c_out"], inner, *[taps] * axes), dtype, last)
        conv = Descriptor(self.library, 1).set(100, "dtype", 0).set(101, "mode", 1)
        conv.set(106, "int", axes).set(105, "int", *[padding] * axes)
        conv.set(104, "int", *[padding] * axes).set(102, "int", *[1] * axes)
        conv.set(103, "int", *[stride] * axes).finish()
        kind, alpha, beta, of, of_w, of_x, of_y = _PASSES[op.get("pass") or "fwd"]
        made = Descriptor(self.library, kind).set(of_x, "descriptor", x)
        made.set(of_y, "descriptor", y).set(of_w, "descriptor", w).set(of, "descriptor", conv)
        made.set(alpha, "float", 1.0).set(beta, "float", 0.0).finish()
        graph = Descriptor(self.library, 15).set(801, "descriptor", made)
        if self.device is None:
            graph.set(800, "handle", self.handle)
        return graph.finish()

    def configurations(self, op: ops.Op, most: int) -> Iterator[tuple[str, Descriptor]]:
        """The first plans of an operator, as yet unbuilt: name, engine configuration."""
        graph, found = self.graph(op), 0
        for mode in (_INSTANT, _FALLBACK):
            if found >= most:
                break
            asked = Descriptor(self.library, 4).set(201, "descriptor", graph)
            asked.set(200, "heuristic", mode)
            if self.device is not None:
                asked.set(204, "descriptor", self.device)
            asked.finish()
            count = asked.count(202)
            whole = op["dtype"] in ("fp32", "tf32")  # many are filtered
            for plan in asked.parts(202, 3, count if whole else min(count, most)) if count else ():
                engine = plan.parts(300, 2, 1)[0]
                notes = engine.get(1303, "note", 16)
                if whole and (
                    _DOWN_CONVERT in notes or (op["dtype"] == "fp32" and _TENSOR_CORE in notes)
                ):
                    continue
                plan.kept += [asked, graph]
                yield _name(plan, engine), plan
                found += 1
                if found >= most:
                    break

    def proposed(self, op: ops.Op, most: int = TRIED) -> list[tuple[str, int]]:
        """Names of the first plans, as the front end writes them, with their workspace [bytes]."""
        return [(name, plan.get(303, "int")[0]) for name, plan in self.configurations(op, most)]


def _name(plan: Descriptor, engine: Descriptor) -> str:
    knobs = "".join(
        f"_k{knob.get(600, 'knob')[0]}={knob.get(601, 'int')[0]}" for knob in plan.parts(302, 7, 12)
    )
    return f"eng{engine.get(1301, 'int')[0]}{knobs}"


def strides(shape: Sequence[int], last: bool) -> list[int]:
    """Strides in elements of a dense tensor; ``last``: with its channels innermost."""
    order = [1, *range(len(shape) - 1, 1, -1), 0] if last else list(range(len(shape) - 1, -1, -1))
    found, step = [0] * len(shape), 1
    for axis in order:
        found[axis] = step
        step *= shape[axis]
    return found


def read(folder: Path) -> dict[str, list[str]]:
    """``proposed.csv.gz`` of a folder: identity of a convolution -> names of its plans."""
    with gzip.open(folder / "proposed-names.txt.gz", "rt", encoding="utf-8") as lines:
        names = lines.read().split()
    with gzip.open(folder / "proposed.csv.gz", "rt", encoding="utf-8") as lines:
        return {
            ops.key(store.op_of(row)): [names[int(at, 16)] for at in row["plans"].split()]
            for row in csv.DictReader(lines)
        }


def _answers(heuristics: Heuristics, plan: Sequence[ops.Op]) -> Iterator[dict[str, Any]]:
    for op in plan:
        try:
            found = heuristics.proposed(op)
        except OSError as error:
            yield {"op": op, "error": str(error)}
            continue
        yield {"op": op, "proposed": found}


def main(argv: Sequence[str] | None = None) -> int:
    """Write what is proposed for the convolutions of a plan, or for drawn ones, as JSON lines.

    A sidecar beside them names the library's version.
    """
    name = "python3 -m validate.bench.proposals"
    parser = argparse.ArgumentParser(prog=name, description=(__doc__ or "").split("\n")[0])
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--plan", type=Path, help="operators as JSON lines")
    asked.add_argument("--drawn", type=int, metavar="N", help="about so many drawn convolutions")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--out", type=Path, required=True, help="a .jsonl.gz")
    parser.add_argument("--described", action="store_true", help="of an H100 that is not there")
    args = parser.parse_args(argv)
    if args.plan is None:
        plan = conv_draws.build(args.drawn, args.seed, conv_draws.EVERY)
    else:
        opened = gzip.open if args.plan.suffix == ".gz" else open
        with opened(args.plan, "rt", encoding="utf-8") as lines:
            plan = [json.loads(line) for line in lines]
    heuristics = Heuristics(HOPPER if args.described else None)
    started = time.perf_counter()
    held = io.BytesIO()
    with gzip.open(held, "wt", encoding="utf-8") as out:
        for answer in _answers(heuristics, plan):
            out.write(json.dumps(answer) + "\n")
    store.write_atomic(args.out, held.getvalue())
    about = {
        "protocol": "plans that cuDNN's heuristics propose, in order, none run",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"{name} {' '.join(sys.argv[1:] if argv is None else argv)}",
        "library": {"cudnn": str(heuristics.version)},
    }
    store.sidecar(args.out, about, len(plan))
    took = time.perf_counter() - started
    sys.stdout.write(f"{len(plan)} convolutions in {took:.1f} s\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
