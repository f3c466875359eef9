"""Scenario files: every example runs, every mistake is named, nothing is left half-written."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest

from perfmodel.errors import PerfmodelError, ScenarioError
from perfmodel.sim import Stopped, run_scenario, simulate
from perfmodel.sim.scenario_schema import PATH, schema_text

EXAMPLES = sorted((Path(__file__).parents[2] / "studies" / "scenarios").glob("*.toml"))


@pytest.fixture(scope="module")
def schema():
    return json.loads(PATH.read_text())


def test_the_schema_is_generated():
    # If this fails: python -m perfmodel.sim.scenario_schema
    assert PATH.read_text() == schema_text()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run_and_fit_the_schema(path, schema, tmp_path):
    import tomllib

    content = tomllib.loads(path.read_text())
    jsonschema.validate(content, schema)
    content.pop("seeds", None)
    if content["kind"] == "jobs":
        content["generator"]["count"] = 300
    folder = path.parent
    if "table" in content.get("schedule", {}):
        content["schedule"]["table"] = str(folder / content["schedule"]["table"])
    result = run_scenario(content)
    document = result.to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["kind"] == content["kind"]
    assert content["name"] in result.explain()
    trace = json.loads(result.write_trace(tmp_path / "trace.json").read_text())
    assert len(trace["traceEvents"]) > 3
    assert all(event["ph"] in "XMCsfbe" for event in trace["traceEvents"])
    again = run_scenario(content)
    assert again.to_dict() == document
    assert (
        again.write_trace(tmp_path / "again.json").read_bytes()
        == (tmp_path / "trace.json").read_bytes()
    )


def pipeline(**changes):
    content = {
        "kind": "pipeline",
        "schedule": {"name": "1f1b", "stages": 4, "micro_batches": 8},
        "costs": {"forward": "1 ms", "backward_input": "1 ms", "backward_weight": "1 ms"},
    }
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(content.get(key), dict) else value
    return content


def test_a_path_and_a_dictionary_are_the_same(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text(
        'kind = "pipeline"\n[schedule]\nname = "1f1b"\nstages = 4\nmicro_batches = 8\n'
        '[costs]\nforward = "1 ms"\nbackward_input = 0.001\nbackward_weight = "1000 us"\n'
    )
    assert simulate(path).to_dict() == simulate(pipeline()).to_dict()
    assert simulate(str(path)).result["step_time_s"] == pytest.approx(0.033)


TRAINING = {
    "kind": "training-run",
    "duration": "1 day",
    "nodes": 4,
    "checkpoints": {"size": "1 GB", "write_bandwidth": "1 GB/s"},
}
JOBS = {"kind": "jobs", "pool": {"nodes": 2}}
GENERATOR = {"count": 5, "mean_between_arrivals": "1 s", "mean_seconds": "1 s"}
TASKS = {"kind": "tasks", "tasks": [{"name": "a", "stream": "s", "seconds": 1.0}]}

MISTAKES = [
    ({}, "kind", "pipeline"),
    ({"kind": "pipelin"}, "kind", "Nearest: pipeline"),
    ({"kind": 3}, "kind", "pipeline"),
    (pipeline(schedule={"name": "1f1B"}), "schedule", "Nearest: 1f1b"),
    (pipeline(schedule={"stages": 0}), "schedule.stages", "1"),
    (pipeline(schedule={"stages": 10**12}), "schedule", "rows"),
    (pipeline(schedule={"micro_batches": None}), "schedule", "micro_batches"),
    (pipeline(schedule={"tabel": "x.csv"}), "schedule.tabel", "Nearest: table"),
    (pipeline(schedule={"name": None, "table": "absent.csv"}), "absent.csv", "readable"),
    (pipeline(costs={"forward": "1 mz"}), "costs.forward", "seconds"),
    (pipeline(costs={"forward": "1 GB"}), "costs.forward", "seconds"),
    (pipeline(costs={"forward": -1.0}), "costs.forward", "0"),
    (pipeline(costs={"forward": float("nan")}), "costs.forward", "finite"),
    (pipeline(costs={"forward": [1.0, 2.0]}), "forward", "4"),
    (pipeline(replicas=10**15), "simulation size", "50,000,000"),
    (pipeline(replicas=1.5), "replicas", "integer"),
    (pipeline(perturbation={"jitter": 9}), "perturbation.jitter", "2"),
    (pipeline(perturbation={"slow": [{"device": 9, "factor": 2}]}), "slow.0.device", "0 to 3"),
    (pipeline(perturbation={"slow": [{"device": 1, "factor": 0}]}), "factor", "greater than 0"),
    (pipeline(perturbation={"slow": [{"rank": 1, "factor": 2}]}), "rank", "plan"),
    (pipeline(seed=-1), "seed", "0"),
    ({**TRAINING, "nodes": 0}, "nodes", "1"),
    ({**TRAINING, "duration": 0}, "duration", "above 0"),
    ({**TRAINING, "failures": [{"name": "x"}]}, "failures.0", "exactly one"),
    ({**TRAINING, "failures": [{"name": "x", "count": 3}]}, "failures.0", "exactly one"),
    (
        {**TRAINING, "failures": [{"name": "x", "mean_time_between": 0.0}]},
        "failures.0",
        "above 0",
    ),
    (
        {**TRAINING, "failures": [{"name": "x", "mean_time_between": 1, "count": 1, "period": 2}]},
        "failures.0",
        "exactly one",
    ),
    ({**TRAINING, "checkpoints": {"size": 1.0, "write_bandwidth": 0}}, "write_bandwidth", "0"),
    ({**TRAINING, "checkpoints": {"size": 1.0}}, "write_bandwidth", "required"),
    ({**TRAINING, "find_best_interval": True}, "best_interval", "failure rate"),
    (JOBS, "trace, generator", "either"),
    ({**JOBS, "generator": GENERATOR | {"count": 10**9}}, "generator.count", "5000000"),
    ({**JOBS, "generator": GENERATOR | {"mean_between_arrivals": 0}}, "arrivals", "above 0"),
    ({**JOBS, "generator": GENERATOR | {"sizes": {"1.5": 1.0}}}, "sizes", "whole number"),
    ({**JOBS, "generator": GENERATOR | {"sizes": {"64": 1.0}}}, "devices", "at most 16"),
    ({**JOBS, "pool": {"nodes": 10**9}, "generator": GENERATOR}, "pool: nodes", "2,000,000"),
    ({**TASKS, "tasks": []}, "tasks", "1"),
    (
        {**TASKS, "tasks": [{"name": "a", "stream": "s", "after": ["b"]}]},
        "tasks.0",
        "a",
    ),
    (
        {
            **TASKS,
            "tasks": [
                {"name": "a", "stream": "s", "after": ["b"]},
                {"name": "b", "stream": "t", "after": ["a"]},
            ],
        },
        "a on s",
        "circle",
    ),
    ({**TASKS, "tasks": [{"name": "a", "stream": "s", "size": 5.0}]}, "links", "crosses"),
    ({"kind": "loader", "steps": 3, "step_seconds": 1}, "loader", "required"),
    (
        {"kind": "layers", "layers": 10**9, "forward": 1.0, "backward": 1.0},
        "layers",
        "20,000",
    ),
    (
        {"kind": "plan", "model": "llama-3-70b", "cluster": "dgx-h100", "global_batch_size": 8,
         "seq_len": 8, "plan": {"tq": 8}},
        "plan: tq",
        "tp",
    ),
    (
        {"kind": "plan", "model": "lama-3-70b", "cluster": "dgx-h100", "global_batch_size": 8,
         "seq_len": 8},
        "lama-3-70b",
        "llama-3-70b",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("content", "place", "words"), MISTAKES)
def test_every_mistake_is_named(content, place, words):
    with pytest.raises(PerfmodelError) as caught:
        run_scenario(content)
    text = str(caught.value)
    assert place in text
    assert words in text
    assert caught.value.repair


@pytest.mark.parametrize(
    "text", ["kind = ", 'kind = "jobs"\nkind = "jobs"', "[[[", "\x00", "a = 1" * 3]
)
def test_files_that_are_not_toml(tmp_path, text):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ScenarioError, match=r"bad\.toml"):
        run_scenario(path)
    with pytest.raises(ScenarioError, match="readable"):
        run_scenario(tmp_path / "absent.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ScenarioError, match="not UTF-8"):
        run_scenario(tmp_path / "binary.toml")


def test_a_huge_file_is_not_read(tmp_path):
    path = tmp_path / "huge.toml"
    with path.open("wb") as file:
        file.truncate(10**9)
    with pytest.raises(ScenarioError, match="bytes"):
        run_scenario(path)


@pytest.mark.parametrize(
    "content",
    [
        pipeline(),
        {**TRAINING, "duration": "365 day", "checkpoints": {
            "size": 1.0, "write_bandwidth": 1.0, "interval": 60}},
        {**JOBS, "generator": GENERATOR | {"count": 3000}},
    ],
)  # fmt: skip
def test_any_simulation_can_be_stopped(content):
    with pytest.raises(Stopped):
        run_scenario(content, stop=lambda: True)


def test_an_interrupted_process_leaves_no_file(tmp_path):
    scenario = tmp_path / "long.toml"
    scenario.write_text(
        'kind = "training-run"\nduration = "20000 day"\nnodes = 2048\n'
        '[checkpoints]\nsize = "1 GB"\nwrite_bandwidth = "1 GB/s"\ninterval = "3 min"\n'
    )
    # A shell that runs this in the background makes its children deaf to the signal.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from perfmodel.sim import run_scenario; print('ready', flush=True);"
        f"run_scenario({str(scenario)!r}).write_trace({str(tmp_path / 'trace.json')!r})"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(0.3)
            os.kill(process.pid, signal.SIGINT)
            assert process.wait(timeout=30) != 0
        finally:
            process.kill()  # it fills the memory if it is left alone
    assert [path.name for path in tmp_path.iterdir()] == ["long.toml"]


def test_power_caps_and_replications_reach_the_result():
    content = {
        **TRAINING,
        "seeds": 3,
        "find_best_interval": True,
        "failures": [{"name": "node", "per_1000_node_days": 900.0}],
        "repair_seconds": "10 min",
        "power": {"busy": "700 W", "idle": "90 W", "caps": [{"start": "6 h", "watts": 12000}]},
    }
    content["checkpoints"] = {"size": "60 GB", "write_bandwidth": "1 GB/s"}
    found = run_scenario(content).to_dict()
    assert found["replications"]["low"] <= found["replications"]["mean"]
    assert found["best_interval"]["young_s"] > 0
    assert found["slowed_s"] > 0
    assert found["energy_kwh"] > 0
