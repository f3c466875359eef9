"""perfmodel: how fast, how big and how costly a machine-learning workload will be.

A description of hardware and one of work go in; an answer that explains itself comes out::

    import perfmodel as pm

    cluster = pm.load("dgx-h100", nodes=8)
    model = pm.load_model("llama-3-70b")
    best = pm.plan(model, cluster, global_batch_size=1024, seq_len=8192)
    print(best.explain())

Names are imported when they are first used, so importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from perfmodel.calibrate import calibrate as calibrate_device  # noqa: F401
    from perfmodel.cost import estimate as cost_of  # noqa: F401
    from perfmodel.cost import price as price
    from perfmodel.errors import PerfmodelError as PerfmodelError
    from perfmodel.estimate import Estimate as Estimate
    from perfmodel.estimate import overlap as overlap
    from perfmodel.estimate import total as total
    from perfmodel.hardware import Accelerator as Accelerator
    from perfmodel.hardware import Cluster as Cluster
    from perfmodel.hardware import load as load
    from perfmodel.network import collective_seconds as collective_seconds
    from perfmodel.parallel import Plan as Plan
    from perfmodel.parallel.budget import budget as budget
    from perfmodel.parallel.inference import infer as infer
    from perfmodel.parallel.training import evaluate as evaluate
    from perfmodel.parallel.training import train as train
    from perfmodel.sim import run_scenario as simulate  # noqa: F401
    from perfmodel.study.own_model import estimate_program as estimate_program
    from perfmodel.study.own_model import host_pace_of as host_pace_of
    from perfmodel.study.planning import plan as plan
    from perfmodel.workload.importers.load import load_graph as load_graph
    from perfmodel.workload.importers.record import trace as trace
    from perfmodel.workload.importers.training import Training as Training
    from perfmodel.workload.model import ModelConfig as ModelConfig
    from perfmodel.workload.model import load_model as load_model
    from perfmodel.workload.op import op_from_dict as op_from_dict
    from perfmodel.workload.program import Program as Program
    from perfmodel.workload.program import save_program as save_program

__version__ = "0.1.0"

_HOMES: Final = {
    "Accelerator": "hardware:Accelerator",
    "Cluster": "hardware:Cluster",
    "Estimate": "estimate:Estimate",
    "ModelConfig": "workload.model:ModelConfig",
    "PerfmodelError": "errors:PerfmodelError",
    "Plan": "parallel:Plan",
    "Program": "workload.program:Program",
    "Training": "workload.importers.training:Training",
    "budget": "parallel.budget:budget",
    "calibrate_device": "calibrate:calibrate",
    "collective_seconds": "network:collective_seconds",
    "cost_of": "cost:estimate",
    "estimate_program": "study.own_model:estimate_program",
    "evaluate": "parallel.training:evaluate",
    "host_pace_of": "study.own_model:host_pace_of",
    "infer": "parallel.inference:infer",
    "load": "hardware:load",
    "load_graph": "workload.importers.load:load_graph",
    "load_model": "workload.model:load_model",
    "op_from_dict": "workload.op:op_from_dict",
    "overlap": "estimate:overlap",
    "plan": "study.planning:plan",
    "price": "cost:price",
    "save_program": "workload.program:save_program",
    "simulate": "sim:run_scenario",
    "total": "estimate:total",
    "trace": "workload.importers.record:trace",
    "train": "parallel.training:train",
}
__all__ = sorted(_HOMES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        message = f"module 'perfmodel' has no attribute {name!r}"
        raise AttributeError(message)
    module, attribute = _HOMES[name].split(":")
    return getattr(import_module(f"perfmodel.{module}"), attribute)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
