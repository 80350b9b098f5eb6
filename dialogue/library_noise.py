"""Messages of libraries that nobody who uses Rapport can act on, switched off where they arise.

It stands in the lowest room, as all rooms use these libraries, and imports none of them before it is asked to.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


def silence_bitsandbytes() -> None:
    """To be called before peft is imported, which imports bitsandbytes where it is installed.

    Its part for CPUs then misses a package of kernels from a model hub, and says so although it does without.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No bars and no warnings: reading or writing a small model takes a moment, and a log has its own lines."""
    from transformers.utils import logging as told

    verbosity, bars = told.get_verbosity(), told.is_progress_bar_enabled()
    told.set_verbosity_error()
    told.disable_progress_bar()
    try:
        yield
    finally:
        told.set_verbosity(verbosity)
        if bars:
            told.enable_progress_bar()
