"""DeepSeek-V3 on 384 H100: dense layers before the MoE layers, 61 layers that no pipeline divides.

The first three layers have a dense MLP and cost about half of an MoE layer; embedding and output
head weigh as much again at the two ends. A uniform plan cuts the layers evenly by count and
repeats one recipe everywhere. The planner places the cuts, picks the degrees and the recomputation
of every layer, and proves that nothing in its space is better: the gain stops where whole layers
stop fitting evenly into stages, and the bound shows it.

``python -m studies.study_plan_moe_dense_first --out out``
"""

from __future__ import annotations

from perfmodel.hardware import load_cluster
from perfmodel.optimize.baseline import best_uniform
from perfmodel.optimize.planner import milp_plan
from perfmodel.optimize.space import Space
from studies.planning import Comparison, publish

SPACE = Space(cp=(1,), virtual_stages=(1,), zero=(1,), tp=(2, 4, 8), ep=(8, 16))


def study() -> Comparison:
    """Plan both ways."""
    cluster = load_cluster("dgx-h100", nodes=48)
    job = ("deepseek-v3", cluster, 1536, 4096)
    uniform = best_uniform(*job, space=SPACE)
    planned = milp_plan(*job, space=SPACE, keep=1, time_limit_s=120)
    return Comparison("DeepSeek-V3 on 384 H100", uniform, planned)


def check(comparison: Comparison) -> None:
    """The claims of this study."""
    assert comparison.planned.gap <= 2e-6, "the plan is proven optimal"
    assert comparison.gain > 1.05
    assert abs(comparison.simulated_gain / comparison.gain - 1) < 0.05, "the simulator agrees"
    assert comparison.most <= comparison.gain * 1.00001, "no more is there"


if __name__ == "__main__":
    found = study()
    publish(found, "plan-moe-dense-first", __doc__)
    check(found)
