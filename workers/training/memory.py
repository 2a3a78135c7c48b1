"""Makes the C library keep memory that torch has freed."""

import ctypes
from functools import cache

# From <malloc.h>: M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD
OPTIONS = {-1: 2**31 - 1, -2: 2**26, -3: 2**30}


@cache
def keep_freed_memory() -> bool:
    """Lets glibc keep freed memory for the next step. Returns False if the C library cannot.

    By default the memory goes back to the system after every step and returns page by page, zeroed.
    A step of `tiny` with 32 x 128 tokens has 4600 page faults without this call and 155 with it,
    which saves a tenth of its time. The peak size of the process stays the same.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    return set_option is not None and all(set_option(*option) for option in OPTIONS.items())
