"""The grouped-convolution scheduler in parts; :mod:`perfmodel.optimize.grouped_conv` is the door."""
