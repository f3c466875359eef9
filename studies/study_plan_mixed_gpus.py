"""Llama-3-70B on 32 H100 and 32 A100: two kinds of GPU in one pipeline.

Treated alike, the A100 stages set the rhythm and the H100 wait, so that leaving the A100 idle is
faster. The planner gives each kind as many layers as it can chew, its own degrees and its own stage
size. Its baseline is the best uniform plan on all devices or on one kind alone, whichever is
fastest.

``python -m studies.study_plan_mixed_gpus --out out``
"""

from __future__ import annotations

from perfmodel.hardware import load_cluster
from perfmodel.optimize.baseline import best_uniform
from perfmodel.optimize.planner import milp_plan
from perfmodel.optimize.space import Space
from studies.planning import Comparison, publish

SPACE = Space(cp=(1,), virtual_stages=(1,), zero=(1,), tp=(2, 4, 8), stages=(2, 3, 4, 5, 6, 8))


def study() -> Comparison:
    """Plan both ways; the uniform plan may leave one kind of device idle."""
    clusters = (load_cluster("dgx-h100", nodes=4), load_cluster("dgx-a100", nodes=4))
    job = ("llama-3-70b", clusters, 256, 4096)
    uniform = min(
        (
            best_uniform("llama-3-70b", some, 256, 4096, space=SPACE)
            for some in (clusters, clusters[:1], clusters[1:])
        ),
        key=lambda plan: plan.step_time,
    )
    planned = milp_plan(*job, space=SPACE, keep=1, time_limit_s=120)
    return Comparison("Llama-3-70B on 32 H100 + 32 A100", uniform, planned)


def check(comparison: Comparison) -> None:
    """The claims of this study."""
    assert len({stage.device_type for stage in comparison.planned.stages}) == 2
    assert comparison.planned.gap <= 0.05
    assert comparison.gain > 1.2
    assert abs(comparison.simulated_gain / comparison.gain - 1) < 0.05, "the simulator agrees"


if __name__ == "__main__":
    found = study()
    publish(found, "plan-mixed-gpus", __doc__)
    check(found)
