"""What the tests of the engine share."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_numbers():
    """Let random inputs and layers be the same, whichever tests the process ran before."""
    torch.manual_seed(0)
