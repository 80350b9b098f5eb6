"""Bars and warnings of libraries are off while a small model is read, and then as they were."""

from __future__ import annotations

import pytest
from transformers.utils import logging

from dialogue.library_noise import quiet_transformers


@pytest.mark.parametrize("bars", [True, False])
def test_transformers_is_quiet_inside_and_as_before_afterwards_whatever_happens(bars: bool) -> None:
    (logging.enable_progress_bar if bars else logging.disable_progress_bar)()
    verbosity = logging.get_verbosity()
    try:
        with pytest.raises(OSError, match="torn"), quiet_transformers():
            assert not logging.is_progress_bar_enabled()
            assert logging.get_verbosity() == logging.ERROR
            raise OSError("a torn file")
        assert logging.is_progress_bar_enabled() is bars
        assert logging.get_verbosity() == verbosity
    finally:
        logging.enable_progress_bar()
