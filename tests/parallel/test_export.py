from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.errors import PlanError
from perfmodel.parallel.export import DIALECTS, Job, export, lacks, parse
from perfmodel.parallel.plan import CP_METHODS, OVERLAPS, PRECISIONS, RECOMPUTE, SCHEDULES, Plan

JOB = Job(global_batch_size=4096, seq_len=2048)


@st.composite
def plans(draw):
    tp, pp, dp, cp = (draw(st.sampled_from([1, 2, 4, 8])) for _ in range(4))
    schedule = draw(st.sampled_from(SCHEDULES))
    chunks = draw(st.sampled_from([1, 2, 3])) if pp > 1 and schedule == "1f1b" else 1
    layout = tuple(draw(st.integers(0, 4)) for _ in range(pp * chunks))
    ep = draw(st.sampled_from([e for e in (1, 2, 4) if dp % e == 0]))
    return Plan(
        tp=tp,
        pp=pp,
        dp=dp,
        cp=cp,
        ep=ep,
        expert_tp=draw(st.sampled_from([1, tp])),
        virtual_stages=chunks,
        schedule=schedule,
        micro_batch_size=draw(st.sampled_from([1, 2, 4])),
        zero=draw(st.integers(0, 3)),
        zero_group=draw(st.sampled_from([None, dp])),
        sequence_parallel=draw(st.booleans()),
        recompute=draw(st.sampled_from(RECOMPUTE)),
        recompute_modules=draw(st.sampled_from([("core",), ("core", "norm"), ("mlp",)])),
        offload=draw(st.sampled_from([(), ("optimizer",), ("weights", "optimizer")])),
        precision=draw(st.sampled_from(PRECISIONS)),
        cp_method=draw(st.sampled_from(CP_METHODS)),
        overlap=tuple(draw(st.sets(st.sampled_from(OVERLAPS)))),
        bucket_parameters=draw(st.sampled_from([40_000_000, 25_000_000])),
        layers_per_stage=draw(st.sampled_from([None, layout])),
    )


def meaning(plan: Plan) -> Plan:
    """The plan with settings that have no effect at their defaults."""
    from dataclasses import replace

    return replace(
        plan,
        recompute_modules=plan.recompute_modules if plan.recompute == "selective" else ("core",),
        cp_method=plan.cp_method if plan.cp > 1 else "ring",
        zero_group=None if plan.zero_group == plan.dp * plan.cp else plan.zero_group,
    )


@pytest.mark.parametrize("dialect", DIALECTS)
@given(plan=plans())
@settings(max_examples=120, deadline=None)
def test_what_a_dialect_can_say_comes_back(dialect, plan):
    plan = meaning(plan)
    if lacks(plan, dialect):
        with pytest.raises(PlanError) as error:
            export(plan, dialect, JOB)
        missing = lacks(plan, dialect)
        assert all(lack.field in error.value.accepted for lack in missing)
        partial = export(plan, dialect, JOB, partial=True)
        assert all(lack.reason in partial for lack in missing)
        return
    assert meaning(parse(export(plan, dialect, JOB), dialect)) == plan


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_can_say_a_common_plan(dialect):
    plan = Plan(tp=2, pp=1, dp=8, zero=3, sequence_parallel=dialect != "deepspeed")
    assert lacks(plan, dialect) == ()
    assert parse(export(plan, dialect, JOB), dialect) == plan


def test_megatron_words():
    plan = Plan(
        tp=8, pp=4, dp=2, virtual_stages=3, zero=1, sequence_parallel=True, recompute="selective"
    )
    text = export(plan, "megatron", JOB)
    for flag in (
        "--nnodes 8 --nproc-per-node 8",
        "--tensor-model-parallel-size 8",
        "--num-virtual-stages-per-pipeline-rank 3",
        "--use-distributed-optimizer",
        "--recompute-granularity selective --recompute-modules core_attn",
        "--global-batch-size 4096",
    ):
        assert flag in text


def test_uneven_layout_in_megatron():
    plan = Plan(pp=4, layers_per_stage=(7, 8, 8, 7))
    text = export(plan, "megatron")
    assert "'Et*7|t*8|t*8|t*7L'" in text
    assert parse(text, "megatron") == plan


def test_deepspeed_numbers_agree():
    plan = Plan(dp=16, micro_batch_size=4, zero=2)
    record = json.loads(export(plan, "deepspeed", Job(global_batch_size=256)))
    assert record["gradient_accumulation_steps"] == 4
    assert record["zero_optimization"]["stage"] == 2
    with pytest.raises(PlanError, match="global_batch_size"):
        export(plan, "deepspeed")


@pytest.mark.parametrize(
    ("dialect", "text", "words"),
    [
        ("megatron", "torchrun --nproc-per-node 8 x.py", "--nnodes"),
        (
            "megatron",
            "torchrun --nnodes 1 --nproc-per-node 8 x.py --tensor-model-parallel-size 3",
            "multiple",
        ),
        (
            "megatron",
            "torchrun --nnodes 1 --nproc-per-node 8 x.py --decoder-parallel-magic 3",
            "decoder-parallel-magic",
        ),
        ("torchtitan", "[parallelism]\ntensor_parallel_degree = -1", "at least 1"),
        ("torchtitan", "[parallelism]\ntensor_degree = 2", "tensor_degree"),
        ("torchtitan", "[parallelism", "TOML"),
        ("deepspeed", "{", "JSON"),
        ("deepspeed", '{"train_micro_batch_size_per_gpu": "auto"}', "auto"),
        ("slurm", "#!/bin/bash\necho hello", "torchrun"),
    ],
)
def test_text_that_is_no_plan(dialect, text, words):
    with pytest.raises(PlanError) as error:
        parse(text, dialect)
    assert words in str(error.value)


def test_slurm_header_must_agree():
    text = export(Plan(tp=8, dp=2), "slurm", JOB)
    assert parse(text, "slurm") == Plan(tp=8, dp=2)
    with pytest.raises(PlanError, match="agree"):
        parse(text.replace("#SBATCH --nodes=2", "#SBATCH --nodes=3"), "slurm")


def test_unknown_dialect():
    with pytest.raises(PlanError) as error:
        export(Plan(), "megatron-lm")
    assert error.value.nearest == "megatron"
