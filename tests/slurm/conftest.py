"""These tests need the Slurm that run.sh starts: `make slurm`."""

import os

collect_ignore = [] if os.environ.get("SLURM_CONF") else ["test_slurm.py"]
