"""What is true: fit the kernel mechanisms and their corrections to measurements."""

from perfmodel.calibrate.measurements import load_measurements
from perfmodel.calibrate.plan import measurement_plan
from perfmodel.calibrate.run import Calibration, calibrate
from perfmodel.calibrate.score import Record, markdown, score_operators, summaries, summary

__all__ = [
    "Calibration",
    "Record",
    "calibrate",
    "load_measurements",
    "markdown",
    "measurement_plan",
    "score_operators",
    "summaries",
    "summary",
]
