"""Products of groups: which kernel runs, and which of its units work."""

import numpy as np
import pytest

from perfmodel.cost import load_coefficients
from perfmodel.cost.gemm_grouped import FEW
from perfmodel.cost.mechanism import mechanism, task_device
from perfmodel.cost.tasks import tasks_of
from perfmodel.hardware import load_accelerator
from perfmodel.workload.op import op_from_dict

H100, H200 = (load_accelerator(name) for name in ("h100-sxm5-80gb", "h200-sxm-141gb"))
COEFFICIENTS = load_coefficients("hopper").of("gemm_grouped-half")


def _parts(m, chip=H100, n=4096, groups=64, **other):
    op = {"op": "grouped_gemm", "groups": groups, "m": int(m), "n": n, "k": 4096, "dtype": "bf16"}
    _, (task, *_) = tasks_of(op_from_dict(op))
    return mechanism(task, task_device(task, chip), COEFFICIENTS | other)


def test_tiles_are_those_of_the_library():
    assert [int(_parts(m).choice[0]) for m in (1, FEW, FEW + 1, 4096)] == [0, 0, 1, 1]
    assert _parts(4096, n=128).choice[0] == 0.0


@pytest.mark.parametrize(("odd", "even"), [(64, 128), (300, 500)])
def test_a_pair_of_units_costs_the_same_whether_both_have_rows(odd, even):
    one, two = _parts(odd, through_bytes_per_clock=1e9), _parts(even, through_bytes_per_clock=1e9)
    assert one.compute[0] == pytest.approx(two.compute[0], rel=0.2)
    alone = {"cluster_rows": 1.0, "through_bytes_per_clock": 1e9}
    assert _parts(odd, **alone).compute[0] < 0.8 * one.compute[0]


def test_units_that_have_rows_draw_no_faster_by_a_faster_memory():
    slow, fast = (_parts(32, chip, through_bytes_per_clock=20.0) for chip in (H100, H200))
    assert fast.compute[0] == pytest.approx(slow.compute[0])
    assert fast.memory[0] < 0.75 * slow.memory[0] < fast.compute[0]
    full = _parts(128, H200, through_bytes_per_clock=20.0)
    assert full.seconds[0] < 0.9 * fast.seconds[0]


def test_nothing_is_split_along_k():
    free = {"split_overhead_seconds": 0.0, "split_bytes_per_second": np.inf}
    assert _parts(64, groups=1, **free).compute[0] == _parts(64, groups=1).compute[0]


def test_kernels_without_clusters_keep_their_mechanism():
    bare = {k: v for k, v in COEFFICIENTS.items() if k != "cluster_rows"}
    op = {"op": "grouped_gemm", "groups": 4, "m": 64, "n": 4096, "k": 4096, "dtype": "bf16"}
    _, (task, *_) = tasks_of(op_from_dict(op))
    device = task_device(task, H100)
    assert mechanism(task, device, bare).beside is None
    assert mechanism(task, device, bare).seconds[0] != mechanism(task, device, COEFFICIENTS).seconds
