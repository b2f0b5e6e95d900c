"""XLA compiles quickly under test, and compiled programs are dropped before there are too many of them.

Most of a test's time is the compilation of what runs once, so XLA's optimisations are left out. XLA_FLAGS that are set,
even to nothing, stay as they are: `XLA_FLAGS= pytest` tests what users run.
"""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

QUICKLY = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
MAPS = Path("/proc/self/maps")
ENOUGH = 25_000  # of the 65,530 that Linux allows by default; every compiled program takes some, too many end a process

if "XLA_FLAGS" not in os.environ:  # which jax reads when it first computes; processes of a test have them too
    os.environ["XLA_FLAGS"] = QUICKLY
    if subprocess.run([sys.executable, "-c", "import jax; jax.devices()"], capture_output=True, check=False).returncode:
        os.environ["XLA_FLAGS"] = ""  # an XLA that does not know them all ends the process


@pytest.fixture(autouse=True, scope="module")
def few_memory_maps():
    """Drop compiled programs between modules, once there are many."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > ENOUGH:
        jax.clear_caches()
