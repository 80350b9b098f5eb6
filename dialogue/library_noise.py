"""Messages of libraries that nobody who uses Rapport can act on, switched off where they arise.

It stands in the lowest room, as all rooms use these libraries, and imports nothing but the standard library.
"""

from __future__ import annotations

import logging


def silence_bitsandbytes() -> None:
    """To be called before peft is imported, which imports bitsandbytes where it is installed.

    Its part for CPUs then misses a package of kernels from a model hub, and says so although it does without.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
