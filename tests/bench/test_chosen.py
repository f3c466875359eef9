"""Kernels that a library chooses: the driver's graphs, and the table."""

import ctypes

import pytest

from validate.bench import chosen


class Cuda:
    """A driver that holds one graph: a memset and a kernel."""

    def __init__(self, wrong=0):
        self.wrong, self.destroyed = wrong, 0
        self.text = ctypes.c_char_p(b"sgemm_64x32")

    def cuGraphGetNodes(self, graph, nodes, count):
        count._obj.value = 2
        if nodes is not None:
            nodes[0], nodes[1] = 11, 12
        return 0

    def cuGraphNodeGetType(self, node, kind):
        kind._obj.value = 2 if node.value == 11 else 0
        return 0

    def cuGraphKernelNodeGetParams_v2(self, node, params):
        one = params._obj
        one.grid[:], one.block[:], one.shared, one.function = (3, 4, 5), (32, 4, 1), 100, 7
        return self.wrong

    def cuFuncGetName(self, name, function):
        name._obj.value = self.text.value
        return 0

    def cuFuncGetAttribute(self, value, which, function):
        value._obj.value = 96 if which.value == 4 else 28
        return 0

    def cuGraphDestroy(self, graph):
        self.destroyed += 1


def test_a_graph_tells_names_and_grids_and_is_destroyed():
    cuda = Cuda()
    found = chosen.Driver(cuda).launches(ctypes.c_void_p(1))
    assert found == [("memset", (1, 1, 1), 0, 0, 0), ("sgemm_64x32", (3, 4, 5), 128, 128, 96)]
    assert cuda.destroyed == 1


def test_a_driver_that_refuses_is_an_error_and_the_graph_goes():
    cuda = Cuda(wrong=1)
    with pytest.raises(OSError, match="kernel node: error 1"):
        chosen.Driver(cuda).launches(ctypes.c_void_p(1))
    assert cuda.destroyed == 1


def test_a_table_is_read_as_it_was_written(tmp_path):
    lines = ["bf16,nt,,64,32,16,0:1.1.1 1:3.4.5", "fp32,,8,1,2,3,! RuntimeError: no"]
    chosen.write(tmp_path / "chosen", lines, ["memset 0 0 0", "sgemm 128 100 96"])
    assert list(chosen.read(tmp_path / "chosen.csv.gz")) == [
        (
            {"op": "gemm", "dtype": "bf16", "m": 64, "n": 32, "k": 16, "trans": "nt"},
            [("memset 0 0 0", (1, 1, 1)), ("sgemm 128 100 96", (3, 4, 5))],
        )
    ]
