"""What a bank's slots may take, and whether there was room for them."""

import math
import os
from typing import Any

from keras_lora.methods.stack import Stack

MOST_SLOTS = 100_000
LARGEST_RANK = 100_000
UNKNOWN_MEMORY = 1 << 40


def host_memory() -> int:
    """Bytes of the machine's memory; 1 TiB where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return UNKNOWN_MEMORY


def stack_bytes(stack: Stack, host: Any, slots: int) -> int:
    """Bytes of so many slots of a stack on a host."""
    sizes = map(math.prod, stack.shapes(host).values())
    return 4 * slots * sum(sizes)


def too_many_bytes(needed: int, slots: int) -> list[str]:
    """Says whether slots would take more than the machine's memory.

    Adapters are kept on the host too: those that fill the slots would not fit
    there either.
    """
    limit = host_memory()
    if needed <= limit:
        return []
    return [
        f"{slots:,} slots would take {needed:,} bytes, and this machine has "
        f"{limit:,}; a lower `capacity` or `rank` takes less"
    ]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of any backend says that memory was not to be had."""
    words = f"{type(error).__name__} {error}".lower()
    return isinstance(error, MemoryError) or any(
        sign in words
        for sign in (
            "resourceexhausted",
            "resource_exhausted",
            "outofmemory",
            "out of memory",
            "allocate memory",
        )
    )
