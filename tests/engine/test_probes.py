"""The compiler's questions about the processor are asked once."""

from __future__ import annotations

from torch._inductor.cpu_vec_isa import VecISA

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
