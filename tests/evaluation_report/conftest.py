"""The made-up run of `report_cases`, written anew for each test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from report_cases import write_run

Run = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> Run:
    """Writes the run under a name; `without` leaves files out."""

    def make(name: str = "small", without: tuple[str, ...] = ()) -> Path:
        folder = tmp_path / name
        write_run(folder)
        for file in without:
            (folder / file).unlink()
        return folder

    return make


@pytest.fixture
def run_folder(make_run: Run) -> Path:
    return make_run()
