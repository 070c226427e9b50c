"""What the tests of the engine share."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_numbers():
    """Let random inputs and layers be the same, whichever tests the process ran before."""
    torch.manual_seed(0)


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)
