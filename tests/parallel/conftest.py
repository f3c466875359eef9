from __future__ import annotations

import pytest

from perfmodel.hardware import load_cluster
from perfmodel.workload.transformer import load_model


@pytest.fixture(scope="session")
def selene():
    """Eight nodes of DGX A100."""
    return load_cluster("dgx-a100", nodes=8)


@pytest.fixture(scope="session")
def gpt():
    return load_model("gpt3-175b")


@pytest.fixture(scope="session")
def small():
    return load_model("megatron-1.7b")
