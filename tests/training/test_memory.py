"""Freed memory that is kept, counted in page faults of a process of its own."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import numpy as np
from keras_transformer.training.memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(2):
    block = np.ones(2**24, "float32")  # 64 MB
    del block
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2**24, "float32")
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that gives memory back")
def test_a_block_that_was_freed_is_there_for_the_next():
    faults = {
        mode: int(subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True).stdout)
        for mode in ("keep", "give")
    }
    # 16,384 pages of 4 KiB; with huge pages 32. What the interpreter itself touches is a few.
    assert faults["keep"] < 16 < faults["give"]
