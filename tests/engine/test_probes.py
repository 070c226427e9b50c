"""The compiler's questions: about the processor they are asked once, about Triton for a GPU."""

from __future__ import annotations

import pytest
import torch
from torch._inductor import codecache
from torch._inductor.cpu_vec_isa import VecISA
from torch.utils._functools import prefetchable_cache

from lotperm.engine import probes


def test_a_library_that_was_loaded_is_not_tried_again_and_a_failure_is(monkeypatch, tmp_path):
    tried, library = [], str(tmp_path / "probe.so")

    def load(isa, path):
        tried.append(path)
        return len(tried) > 1

    monkeypatch.setattr(VecISA, "_probe_load", load, raising=False)
    found = []
    for _ in range(4):
        with probes.remembered():
            found.append(VecISA()._probe_load(library))
    assert found == [False, True, True, True]
    assert tried == [library, library]
    assert VecISA._probe_load is load
    # Of another library nothing is known.
    with probes.remembered():
        VecISA()._probe_load(str(tmp_path / "other.so"))
    assert len(tried) == 3


def test_another_pytorch_may_ask_otherwise(monkeypatch):
    monkeypatch.delattr(VecISA, "_probe_load", raising=False)
    with probes.remembered():
        assert not hasattr(VecISA, "_probe_load")


@pytest.mark.parametrize(("gpu", "known", "key"), [(0, 0, None), (1, 0, "read"), (0, 1, "known")])
def test_triton_is_read_only_for_a_gpu(monkeypatch, gpu, known, key):
    question = prefetchable_cache(lambda: "read")
    if known:
        question.set("known")
    monkeypatch.setattr(codecache, "triton_key", question)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(gpu))
    with probes.remembered():
        assert codecache.triton_key() == key


def test_another_pytorch_may_read_triton_otherwise(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(codecache, "triton_key", lambda: "read")
    with probes.remembered():
        assert codecache.triton_key() == "read"
    monkeypatch.delattr(codecache, "triton_key")
    with probes.remembered():
        pass
    assert not hasattr(codecache, "triton_key")
