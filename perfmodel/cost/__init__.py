"""What one operator costs on one device: bound, mechanism, correction."""

from perfmodel.cost.efficiency import Efficiency, efficiency_of, load_coefficients, load_efficiency
from perfmodel.cost.explain import estimate
from perfmodel.cost.power import Draw, draw
from perfmodel.cost.price import Price, price

__all__ = [
    "Draw",
    "Efficiency",
    "Price",
    "draw",
    "efficiency_of",
    "estimate",
    "load_coefficients",
    "load_efficiency",
    "price",
]
