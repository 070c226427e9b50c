"""A stand-in for a GPU: the host side of the CUDA path, on a machine without one.

`runtime.c` stands in for the CUDA runtime and `driver.c` for the driver: memory of the device is
memory of the host, kernels do nothing, and whatever is read from the device is zero.
`stand_in.kernels`, imported in the process, puts empties in place of cuDNN and cuBLAS. So PyTorch's
tracing, inductor's CUDA lowering, Triton down to ptxas, streams, captures, replays, checkpoints and
campaigns run for real; values, races and the time that kernels take can't be seen. A CUDA build of
PyTorch is needed, whose wheels bring the headers, and a C compiler.

    eval "$(python tests/stand_in FOLDER)"      # builds it there, and prints the environment
    PYTHONPATH=tests:. python -c 'import stand_in.kernels, torch; print(torch.cuda.get_device_name())'
"""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

HERE = Path(__file__).parent


def build(folder: Path) -> dict[str, str]:
    """Compile the stand-in.

    Parameters
    ----------
    folder : Path
        Where the libraries go.

    Returns
    -------
    dict[str, str]
        Environment variables under which a process takes it for a GPU.

    Raises
    ------
    RuntimeError
        If this PyTorch isn't a CUDA build, or there is no C compiler.
    """
    libraries = folder / "lib"
    libraries.mkdir(parents=True, exist_ok=True)
    runtime, driver = folder / "libruntime.so", libraries / "libcuda.so.1"
    include = [f"-I{path}" for path in _headers()]
    # No optimization of note: nothing here computes.
    for source, target, options in (
        ("runtime.c", runtime, [*include, "-lpthread"]),
        ("driver.c", driver, []),
    ):
        command = ["cc", "-shared", "-fPIC", "-O1", "-w", "-o", target, HERE / source, *options]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise RuntimeError("the stand-in for a GPU needs a C compiler, cc.") from error
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"{source} can't be compiled: {error.stderr}") from error
    link = libraries / "libcuda.so"
    link.unlink(missing_ok=True)
    link.symlink_to(driver.name)
    return {
        "LD_PRELOAD": str(runtime),
        "LD_LIBRARY_PATH": str(libraries),
        "TRITON_LIBCUDA_PATH": str(libraries),
        "STAND_IN": str(folder),
        # Processes that compile side by side would each begin by importing PyTorch.
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }


def _headers() -> list[Path]:
    """Find the headers of the CUDA runtime, in the wheels that PyTorch and Triton came with."""
    found = []
    nvidia = importlib.util.find_spec("nvidia")
    for place in nvidia.submodule_search_locations if nvidia else ():
        found += sorted(Path(place).glob("*/include/cuda_runtime_api.h"))[:1]
    triton = importlib.util.find_spec("triton")
    if not found or triton is None or triton.origin is None:
        raise RuntimeError("the stand-in for a GPU needs a CUDA build of PyTorch, with Triton.")
    # The runtime's headers include some that only Triton brings.
    return [found[0].parent, Path(triton.origin).parent / "backends" / "nvidia" / "include"]
