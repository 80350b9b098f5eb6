"""One tiny encoder for all tests of this folder."""

from __future__ import annotations

import pytest
from turn_cases import build_encoder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a two-layer BERT with random weights."""
    return build_encoder(tmp_path_factory.mktemp("encoder"))
