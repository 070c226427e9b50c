"""The science stands alone: its folder works in another project."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import lotperm

PACKAGE = Path(lotperm.__file__).parent

PROGRAM = """
import importlib, pkgutil, sys

import lotperm

assert lotperm.__path__ == [{folder!r}], lotperm.__path__
names = [module.name for module in pkgutil.walk_packages(lotperm.__path__, "lotperm.")]
for name in names:
    importlib.import_module(name)
assert set(names) >= {{"lotperm.science.matching", "lotperm.science.rules.products"}}
loaded = {{name for name in sys.modules if name.startswith("lotperm.")}}
assert loaded == set(names), loaded ^ set(names)

import torch
from torch import nn

from lotperm.science.matching import match_activations, match_weights
from lotperm.science.symmetry import PermutationSpec, permute

torch.manual_seed(0)
image = (3, 8, 8)
networks = [
    nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(),
                  nn.Linear(12, 4)),
    nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(),
                  nn.Flatten(), nn.Linear(96, 4)),
]
for network in networks:
    spec = PermutationSpec.trace(network, torch.randn(2, *image))
    planted = spec.random(torch.Generator().manual_seed(1))
    moved = permute(network.state_dict(), spec, planted)
    for found in (match_activations(network, moved, [torch.randn(128, *image)], spec),
                  match_weights(network.state_dict(), moved, spec)):
        assert len(found) == 2
        for group, p in planted.items():
            assert torch.equal(found[group], p), group
print("matched")
"""


def test_the_science_can_be_lifted_into_another_project(tmp_path: Path) -> None:
    """Copied with the little that it imports, every module loads, and networks are matched."""
    folder = tmp_path / "lotperm"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for name in ("errors.py", "types.py"):
        shutil.copy(PACKAGE / name, folder)
    for name in ("science", "parallel"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PACKAGE / name, folder / name, ignore=ignore)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(folder=str(folder))],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "matched\n"
