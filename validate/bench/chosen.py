"""Kernels that a library chooses for a product, without running any.

cuBLAS takes one kernel by a rule of its own, in the first call already. Calls are therefore made
while their stream is captured: nothing runs, and the captured graph's nodes name the kernels and
their grids, some ten thousand products a second. Operands are one small buffer that is said to be
as large as needed; no kernel ever looks at it.

The calls are those of the CUDA driver interface (docs.nvidia.com/cuda/cuda-driver-api,
"Graph Management"); a relaxed capture lets the library load kernels meanwhile.
"""

from __future__ import annotations

import argparse
import csv
import ctypes as c
import gzip
import io
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from validate.bench import ops, store

KEYS: Final = ("dtype", "trans", "batch", "m", "n", "k")
_RELAXED, _KERNEL, _MEMSET = 2, 0, 2
_REGISTERS, _STATIC = 4, 1
_BUFFER_BYTES: Final = 1 << 20


class _KernelNode(c.Structure):
    """``CUDA_KERNEL_NODE_PARAMS_v2`` of cuda.h."""

    _fields_ = (
        ("function", c.c_void_p),
        ("grid", c.c_uint * 3),
        ("block", c.c_uint * 3),
        ("shared", c.c_uint),
        ("arguments", c.c_void_p),
        ("extra", c.c_void_p),
        ("kernel", c.c_void_p),
        ("context", c.c_void_p),
    )


class Driver:
    """The driver's calls that capture a stream and tell what a graph holds."""

    def __init__(self, cuda: Any) -> None:
        self.cuda = cuda
        self._facts: dict[tuple[int | None, int | None], tuple[str, int, int]] = {}

    def begin(self, stream: int) -> None:
        """Capture what a stream is given from now on."""
        self._must(
            self.cuda.cuStreamBeginCapture_v2(c.c_void_p(stream), c.c_int(_RELAXED)), "begin"
        )

    def end(self, stream: int) -> c.c_void_p:
        """The graph of what it was given."""
        graph = c.c_void_p()
        self._must(self.cuda.cuStreamEndCapture(c.c_void_p(stream), c.byref(graph)), "end")
        return graph

    def launches(self, graph: c.c_void_p) -> list[tuple[Any, ...]]:
        """Name, grid, threads, shared bytes and registers of every kernel; a memset's name alone.

        The graph is destroyed.
        """
        found: list[tuple[Any, ...]] = []
        try:
            count = c.c_size_t(0)
            self._must(self.cuda.cuGraphGetNodes(graph, None, c.byref(count)), "count nodes")
            nodes = (c.c_void_p * count.value)()
            self._must(self.cuda.cuGraphGetNodes(graph, nodes, c.byref(count)), "nodes")
            kind = c.c_int()
            for node in nodes:
                place = c.c_void_p(node)
                self._must(self.cuda.cuGraphNodeGetType(place, c.byref(kind)), "type")
                if kind.value == _KERNEL:
                    found.append(self._kernel(place))
                elif kind.value == _MEMSET:
                    found.append(("memset", (1, 1, 1), 0, 0, 0))
        finally:
            self.cuda.cuGraphDestroy(graph)
        return found

    def _kernel(self, node: c.c_void_p) -> tuple[Any, ...]:
        params = _KernelNode()
        asked = self.cuda.cuGraphKernelNodeGetParams_v2(node, c.byref(params))
        self._must(asked, "kernel node")
        place = (params.function, params.kernel)
        if place not in self._facts:
            self._facts[place] = self._asked(params)
        name, registers, static = self._facts[place]
        threads = params.block[0] * params.block[1] * params.block[2]
        return name, tuple(params.grid), threads, params.shared + static, registers

    def _asked(self, params: _KernelNode) -> tuple[str, int, int]:
        name, function = c.c_char_p(), c.c_void_p(params.function)
        kernel = c.c_void_p(params.kernel or params.function)
        if function.value is None or self.cuda.cuFuncGetName(c.byref(name), function):
            # A library's kernel, not yet a function of this context.
            self._must(self.cuda.cuKernelGetName(c.byref(name), kernel), "kernel name")
            self.cuda.cuKernelGetFunction(c.byref(function), kernel)
        registers, static = c.c_int(0), c.c_int(0)
        if function.value:
            self.cuda.cuFuncGetAttribute(c.byref(registers), c.c_int(_REGISTERS), function)
            self.cuda.cuFuncGetAttribute(c.byref(static), c.c_int(_STATIC), function)
        return (name.value or b"").decode(), registers.value, static.value

    def _must(self, status: int, what: str) -> None:
        if status:
            raise OSError(f"cuda driver: {what}: error {status}")


class _Said:
    """A small buffer that says it is a tensor of any size."""

    def __init__(self, address: int, shape: tuple[int, ...], kind: str) -> None:
        self.__cuda_array_interface__ = {
            "shape": shape, "typestr": kind, "data": (address, False), "version": 2,
        }  # fmt: skip


_TYPES: Final = {1: "|i1", 2: "<i2", 4: "<f4"}


class Chooser:
    """Asks PyTorch's library for the kernels of products."""

    def __init__(self) -> None:
        import torch

        from validate.bench.pool import TORCH_DTYPE

        self.torch, self.types = torch, TORCH_DTYPE
        torch.cuda.init()  # which loads the driver
        self.driver = Driver(c.CDLL("libcuda.so.1"))
        self.stream = torch.cuda.Stream()
        torch.cuda.set_stream(self.stream)
        # Far apart, so that no operand looks like another.
        self.buffers = [
            torch.zeros(_BUFFER_BYTES, dtype=torch.int8, device="cuda") for _ in range(3)
        ]
        self.one = torch.ones((), device="cuda")
        a = torch.ones(64, 64, device="cuda", dtype=torch.bfloat16)
        torch.mm(a, a)  # makes handle and workspace
        torch.bmm(a[None], a[None])
        torch.cuda.synchronize()

    def _operand(self, which: int, dtype: str, *shape: int) -> Any:
        kind = self.types[dtype]
        said = _Said(self.buffers[which].data_ptr(), shape, _TYPES[kind.itemsize])
        return self.torch.as_tensor(said, device="cuda").view(kind)

    def kernels(self, op: ops.Op) -> list[tuple[Any, ...]]:
        """Launches of one product, as :meth:`Driver.launches` gives them.

        Raises
        ------
        OSError, RuntimeError
            Where a call fails.
        """
        torch = self.torch
        m, n, k, dtype = op["m"], op["n"], op["k"], op["dtype"]
        torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
        many = () if op.get("batch", 1) == 1 else (op["batch"],)
        trans = op.get("trans") or ops.usual_trans(op)
        a = self._operand(0, dtype, *many, *((m, k) if trans[1] == "n" else (k, m)))
        b = self._operand(1, dtype, *many, *((k, n) if trans[0] == "n" else (n, k)))
        a = a if trans[1] == "n" else a.transpose(-2, -1)
        b = b if trans[0] == "n" else b.transpose(-2, -1)
        made = {"fp8_e4m3": "bf16", "int8": "fp32"}.get(dtype, dtype)
        out = self._operand(2, made, *many, m, n)
        at = self.stream.cuda_stream
        self.driver.begin(at)
        try:
            if dtype == "fp8_e4m3":
                torch._scaled_mm(a, b, self.one, self.one, out_dtype=torch.bfloat16, out=out)
            elif dtype == "int8":
                torch._int_mm(a, b, out=out.view(torch.int32))
            elif many:
                torch.bmm(a, b, out=out)
            else:
                torch.mm(a, b, out=out)
        finally:
            graph = self.driver.end(at)
            found = self.driver.launches(graph)
        return found


def listed(plan: Sequence[ops.Op], seconds: float) -> tuple[list[str], list[str]]:
    """Lines of a table and the names they number: what is chosen for each product in turn."""
    chooser, names = Chooser(), dict[str, int]()
    lines: list[str] = []
    begun = time.monotonic()
    for at, op in enumerate(plan):
        if at % 64 == 0 and time.monotonic() - begun > seconds:
            break
        try:
            found = chooser.kernels(op)
            told = " ".join(
                f"{names.setdefault(f'{name} {threads} {shared} {registers}', len(names)):x}"
                f":{grid[0]:x}.{grid[1]:x}.{grid[2]:x}"
                for name, grid, threads, shared, registers in found
            )
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            told = f"! {type(error).__name__}: {error}"[:160].replace("\n", " ").replace(",", ";")
        lines.append(",".join([*(str(op.get(key, "")) for key in KEYS), told]))
    return lines, list(names)


def write(out: Path, lines: Sequence[str], names: Sequence[str]) -> None:
    """``OUT.csv.gz`` and ``OUT-names.txt.gz``."""
    head = ",".join((*KEYS, "kernels"))
    table = "\n".join([head, *lines]) + "\n"
    store.write_atomic(out.with_name(out.name + ".csv.gz"), gzip.compress(table.encode(), mtime=0))
    text = "".join(f"{name}\n" for name in names)
    path = out.with_name(out.name + "-names.txt.gz")
    store.write_atomic(path, gzip.compress(text.encode(), mtime=0))


def read(table: Path) -> Iterator[tuple[ops.Op, list[tuple[str, tuple[int, ...]]]]]:
    """Product, and name and grid of each of its kernels; those that failed are left out."""
    whole = table.name.removesuffix(".csv.gz")
    with gzip.open(table.with_name(f"{whole}-names.txt.gz"), "rt", encoding="utf-8") as lines:
        names = [line.rstrip("\n") for line in lines]
    text = gzip.decompress(table.read_bytes()).decode()
    for row in csv.DictReader(io.StringIO(text)):
        told = row.pop("kernels")
        if told.startswith("!"):
            continue
        kernels = []
        for one in told.split():
            number, grid = one.split(":")
            kernels.append((names[int(number, 16)], tuple(int(x, 16) for x in grid.split("."))))
        op: ops.Op = {"op": "gemm", "dtype": row["dtype"]}
        op |= {key: int(row[key]) for key in ("m", "n", "k")}
        op |= {"trans": row["trans"]} if row["trans"] else {}
        op |= {"batch": int(row["batch"])} if row["batch"] else {}
        yield op, kernels


def main(argv: Sequence[str] | None = None) -> int:
    """Write what is chosen for the products of a plan."""
    name = "python3 -m validate.bench.chosen"
    parser = argparse.ArgumentParser(prog=name, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--plan", type=Path, required=True, help="products as JSON lines")
    parser.add_argument("--out", type=Path, required=True, help="beginning of the files' names")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--part", default="0/1", help="each so-many-th product, as 2/8")
    args = parser.parse_args(argv)
    opened = gzip.open if args.plan.suffix == ".gz" else open
    with opened(args.plan, "rt", encoding="utf-8") as lines:
        part, parts = (int(x) for x in args.part.split("/"))
        plan = [json.loads(line) for at, line in enumerate(lines) if at % parts == part]
    begun = time.monotonic()
    found, names = listed(plan, args.seconds)
    write(args.out, found, names)
    failed = sum(",! " in line for line in found)
    took = time.monotonic() - begun
    sys.stdout.write(f"{len(found)} of {len(plan)} products in {took:.1f} s, {failed} failed\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
