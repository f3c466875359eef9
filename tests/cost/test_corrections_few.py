"""All trees at once give what one tree after another gives."""

import numpy as np

from perfmodel.cost import correction


def test_both_walks_agree():
    rng = np.random.default_rng(3)
    trees = correction.Trees(
        asked=rng.integers(0, 7, (40, 5)).astype(np.int32),
        limits=rng.normal(size=(40, 5)).astype(np.float32),
        leaves=rng.normal(size=(40, 32)).astype(np.float32),
        base=np.array([0.5], dtype=np.float32),
    )
    features = rng.normal(size=(correction._FEW + 200, 7))
    many = trees(features)
    few = np.concatenate([trees(part) for part in np.array_split(features, 4)])
    # Some trees at a time are added up in single precision.
    np.testing.assert_allclose(few, many, rtol=0, atol=1e-5)
