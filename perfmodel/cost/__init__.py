"""What one operator costs on one device: bound, mechanism, correction."""

from perfmodel.cost.efficiency import Coefficients, load_coefficients
from perfmodel.cost.explain import estimate
from perfmodel.cost.price import Price, price

__all__ = ["Coefficients", "Price", "estimate", "load_coefficients", "price"]
