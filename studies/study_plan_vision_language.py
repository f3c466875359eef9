"""A vision tower before a language model: InternViT-6B and Qwen2.5-72B on 128 H100.

One sample is 13 image tiles of 1,025 patches and 4,096 tokens of text and image. The tower's 45
layers hold 8 % of the weights and a fifth of the work, and its 25 heads cannot be split over 2, 4
or 8 devices, so a uniform plan gives up tensor parallelism for the language model too. The planner
cuts by time, recomputes only what must be, and uses tensor parallelism where the heads divide.

``python -m studies.study_plan_vision_language --out out``

References
----------
Chen et al. 2024, InternVL 2.5 (arXiv 2412.05271), table 2: InternViT-6B-448px-V2.5 (45 layers,
hidden 3200, MLP 12800, 25 heads, 448 px, patch 14) with Qwen2.5-72B; 256 tokens a tile.
"""

from __future__ import annotations

from perfmodel.hardware import load_cluster
from perfmodel.optimize.baseline import best_uniform
from perfmodel.optimize.planner import milp_plan
from perfmodel.optimize.space import Piece, Space
from perfmodel.workload.transformer import ModelConfig, load_model
from studies.planning import Comparison, publish

TOWER = ModelConfig(
    name="internvit-6b",
    layers=45,
    hidden=3200,
    heads=25,
    ffn=12800,
    vocab=0,
    architecture="encoder",
    norm="rmsnorm",
    positions="learned",
    qk_norm=True,
    mlp_bias=True,
    output_bias=True,
    final_norm=False,
    patch=14,
    image=448,
)
TILES = 13
SPACE = Space(cp=(1,), virtual_stages=(1,), zero=(1,))


def study() -> Comparison:
    """Plan both ways; the uniform plan may place its cuts by time, the harder baseline."""
    cluster = load_cluster("dgx-h100", nodes=16)
    pieces = (
        Piece(TOWER, TOWER.image_tokens, (True, False), repeat=TILES),
        Piece(load_model("qwen2.5-72b"), 4096),
    )
    job = (pieces, cluster, 256, 4096)
    uniform = min(
        (best_uniform(*job, space=SPACE, cut=cut) for cut in ("count", "time")),
        key=lambda plan: plan.step_time,
    )
    planned = milp_plan(*job, space=SPACE, keep=1, time_limit_s=180)
    return Comparison("InternViT-6B + Qwen2.5-72B on 128 H100", uniform, planned)


def check(comparison: Comparison) -> None:
    """The claims of this study."""
    assert comparison.planned.gap <= 0.01
    assert comparison.gain > 1.1
    assert comparison.most <= comparison.gain * 1.02, "hardly more is there"
    assert abs(comparison.simulated_gain / comparison.gain - 1) < 0.05, "the simulator agrees"


if __name__ == "__main__":
    found = study()
    publish(found, "plan-vision-language", __doc__)
    check(found)
