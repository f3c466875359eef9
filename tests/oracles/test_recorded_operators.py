"""Oracle: recorded operators against Kineto traces of the same steps on an H100.

The profile lists every operator with those it calls inside; a program lists those below autograd.
So each recorded name must occur in the profile as often, except those that others call inside.
"""

import gzip
import json
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from perfmodel.workload.program import load_program

ROOT = Path(__file__).parents[2] / "validate"
TRACES = ROOT / "measurements" / "h100-sxm5-80gb" / "models" / "eager" / "kineto.tar"
# called by others too: views by composites, products once more by their autocast wrappers,
# fresh tensors by kernels
INSIDE = {"view", "transpose", "expand", "arange", "empty", "addmm", "mul", "pow"}


def cases():
    with tarfile.open(TRACES) as archive:
        for member in archive.getmembers():
            name = member.name.removesuffix(".json.gz").replace("-eager-", "-")
            if (ROOT / "programs" / f"{name}.json.gz").exists():
                yield member.name, name


@pytest.mark.parametrize(("member", "name"), list(cases()))
def test_operators(member, name):
    with tarfile.open(TRACES) as archive:
        packed = archive.extractfile(member).read()
    events = json.loads(gzip.decompress(packed))["traceEvents"]
    real = Counter(e["name"] for e in events if e.get("cat") == "cpu_op")
    program = load_program(ROOT / "programs" / f"{name}.json.gz")
    recorded = Counter(node.target.removeprefix("aten.") for node in program.nodes)
    assert len(recorded) > 5
    for target, count in recorded.items():
        measured = real[f"aten::{target}"]
        if target in INSIDE:
            assert count <= measured, target
        else:
            assert count == measured, target


def test_there_are_cases():
    assert len(list(cases())) >= 5
