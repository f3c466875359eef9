"""Small tables of whole numbers that a model makes from shapes, and looks at."""

from __future__ import annotations

import cProfile
import sys

import pytest

torch = pytest.importorskip("torch")
nn = torch.nn


import perfmodel as pm  # noqa: E402
from perfmodel.errors import WorkloadError  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]


class Levels(nn.Module):
    """Checks the sizes of its levels, as detectors with deformable attention do."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x):
        sizes = [(x.shape[-2], x.shape[-1]), (x.shape[-2] // 2, x.shape[-1] // 2)]
        if self.how == "filled":
            table = torch.empty((2, 2), dtype=torch.long, device=x.device)
            for place, (height, width) in enumerate(sizes):
                table[place, 0] = height
                table[place, 1] = width
        elif self.how == "listed":
            table = torch.as_tensor(sizes, dtype=torch.long, device=x.device)
        else:
            table = torch.empty((2, 2), device=x.device)
        if table.prod(1).sum() != sum(h * w for h, w in sizes):
            raise ValueError("sizes")
        return x * table[0, 0]


@pytest.mark.parametrize("how", ["filled", "listed"])
def test_sizes_of_levels_are_known(how):
    found = pm.trace(Levels(how), (torch.empty(1, 3, 8, 12, device="meta"),))
    assert found.nodes[-1].target == "aten.mul"


def test_what_was_never_written_is_not_known():
    with pytest.raises(WorkloadError, match="depends on the values"):
        pm.trace(Levels("nothing"), (torch.empty(1, 3, 8, 12, device="meta"),))


def test_a_profiler_of_the_caller_goes_on():
    profile = cProfile.Profile()
    profile.enable()
    try:
        found = pm.trace(nn.Linear(8, 8), (torch.empty(4, 8, device="meta"),))
        assert sys.getprofile() is not None
    finally:
        profile.disable()
    assert found.python_calls > 0
