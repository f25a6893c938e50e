"""What a training step frees and the next one takes again, on a CPU."""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of <malloc.h>


def keep_freed_memory():
    """Lets glibc keep memory that is freed, for the next step; call it before the first tensor is made.

    By itself glibc takes each block of more than 32 MB from the system and gives it back when it is freed, and the
    system clears every page of it anew. Logits, tables' gradients and what is kept for the backward pass are such
    blocks, in each step of training on a CPU: where page faults are dear, as in virtual machines, that takes as long as
    the arithmetic. The process then holds on to its peak memory. GPUs have allocators of their own, which do the same.

    It does what the environment variables `MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=2147483647` do; the man page of
    `mallopt` explains both.

    Returns:
        Whether it took effect: False without glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
