"""How a job is spread over devices: plan, placement, footprint, step time, export."""

from perfmodel.parallel.plan import Plan, check, plan_from_dict

__all__ = ["Plan", "check", "plan_from_dict"]
