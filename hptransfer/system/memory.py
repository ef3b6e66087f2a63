"""How this process takes memory from the system."""

from __future__ import annotations

import ctypes

# Names of glibc's <malloc.h>, and bytes.
M_TRIM_THRESHOLD, KEPT = -1, 2**30  # of free memory at the heap's end, above which it is given back
M_MMAP_THRESHOLD, LARGEST = -3, 2**25  # of a piece in the heap; glibc takes no larger number


def keep_freed_memory() -> None:
    """Have glibc keep memory that is freed for the next tensors; elsewhere nothing happens.

    Else a training step gives pieces of 128 KiB and more back to the system and takes others, which
    the system fills with zeros: 4 to 11 % of a step on a CPU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT)
        mallopt(M_MMAP_THRESHOLD, LARGEST)


def give_back_freed_memory() -> None:
    """Have glibc give all memory that is freed back to the system; elsewhere nothing happens."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
