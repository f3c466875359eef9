"""How long the planner takes: run with ``--benchmark-only``."""

import pytest

from perfmodel.hardware import load_cluster
from perfmodel.optimize.outer import solve_point
from perfmodel.optimize.planner import milp_plan
from perfmodel.optimize.space import Space


@pytest.mark.parametrize(("layers", "stages"), [(48, 8), (96, 16)])
@pytest.mark.parametrize("solver", ["highs", "cbc"])
def test_speed_of_one_point(benchmark, pipeline, layers, stages, solver):
    problem = pipeline(layers, stages, 8, seed=1)
    found = benchmark.pedantic(solve_point, (problem,), {"solver": solver}, rounds=3)
    assert found.status == "optimal"


def test_speed_of_every_mesh_of_1024_devices(benchmark):
    cluster = load_cluster("dgx-h100", nodes=128)
    space = Space(zero=(1, 3), virtual_stages=(1,))
    job = ("gpt3-175b", cluster, 1536, 2048)
    found = benchmark.pedantic(milp_plan, job, {"space": space, "gap": 0.0}, rounds=1)
    assert found.gap <= 1e-9
