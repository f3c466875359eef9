"""What a convolution takes when the plans are known that cuDNN proposes for it.

A search runs each proposed plan once and keeps the least single trial. Networks that are told the
list learn what every plan takes and what launching it adds, from logged trials, steady times and
the times that searches ended with; ``perfmodel calibrate`` learns from their answers
(``plans/taught.npz``), which need a list, how to price a convolution without one.
"""
