"""What a whole program costs on a device: kernels in order, host and device queues, memory."""

from perfmodel.cost.program.coefficients import ProgramCoefficients, program_coefficients
from perfmodel.cost.program.estimate import estimate_lowered
from perfmodel.cost.program.result import ProgramEstimate

__all__ = [
    "ProgramCoefficients",
    "ProgramEstimate",
    "estimate_lowered",
    "program_coefficients",
]
