"""The grouped-convolution scheduler in parts; the door is perfmodel.optimize.grouped_conv."""
