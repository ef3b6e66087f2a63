"""The dry run's device, as the process that runs on it sees it."""

from __future__ import annotations

import ctypes
from typing import NamedTuple


class Counters(NamedTuple):
    """What happened on the device since the last `reset`, in the order of runtime.cpp."""

    kernels: int  # launched outside of a capture
    nodes: int  # kernels, copies and fills that went into a graph
    stray: int  # kernels outside of a capture while one was under way
    graphs: int  # captures that ended well
    replays: int  # launches of a graph
    waits: int  # times the host waited for the device
    allocations: int  # of device memory
    refused: int  # allocations that did not fit
    invalid: int  # calls that invalidated a capture
    pageable: int  # copies between device and pageable host memory

    def since(self, before: Counters) -> Counters:
        """Return what happened after `before` was read."""
        return Counters(*(now - then for now, then in zip(self, before, strict=True)))


_runtime = ctypes.CDLL(None)  # what the process has preloaded
CAPACITY = 80 << 30  # bytes of the device


def counters() -> Counters:
    """Return the counters now."""
    found = (ctypes.c_ulonglong * len(Counters._fields))()
    _runtime.dry_cuda_counters(found)
    return Counters(*found)


def reset() -> None:
    """Set all counters to zero, and the peak to what is in use."""
    _runtime.dry_cuda_reset()


def peak_bytes() -> int:
    """Return the most memory that was in use since the last `reset`."""
    found = (ctypes.c_ulonglong * 2)()
    _runtime.dry_cuda_memory(found)
    return int(found[1])


def first_invalid() -> str:
    """Return the call that invalidated a capture first since the last `reset`; empty if none."""
    _runtime.dry_cuda_first_invalid.restype = ctypes.c_char_p
    return _runtime.dry_cuda_first_invalid().decode()


def set_capacity(size: int) -> None:
    """Set how many bytes the device has."""
    _runtime.dry_cuda_set_capacity(ctypes.c_ulonglong(size))


def fail_instantiations(count: int) -> None:
    """Let the next instantiations of graphs run out of memory."""
    _runtime.dry_cuda_fail_instantiations(count)


def fail_modules(count: int) -> None:
    """Let the driver run out of memory when it loads the next modules, as of Triton's kernels."""
    ctypes.CDLL("libcuda.so.1").dry_cuda_fail_modules(count)
