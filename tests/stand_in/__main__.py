"""Build the stand-in in a folder, and print the environment for a shell."""

import importlib.util
import shlex
import sys
from pathlib import Path

if __name__ == "__main__":
    # As a script in a folder, this file has no package around it.
    place = Path(__file__).with_name("__init__.py")
    spec = importlib.util.spec_from_file_location("stand_in", place)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in module.build(Path(sys.argv[1]).resolve()).items():
        print(f"export {name}={shlex.quote(value)}")
