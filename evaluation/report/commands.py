"""`rapport report`. matplotlib and the rest are imported when the command runs, so that `--help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evaluation.report.json_files import ReportError


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, such as runs/quickstart.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE.html", help="RUN/report.html if not given; needed for several runs."),
    ] = None,
    card: Annotated[
        Path | None, typer.Option("--card", metavar="CARD.md", help="Write a model card as well; for one run.")
    ] = None,
) -> None:
    """Write one HTML file about a run, or about several side by side; it opens from disk and needs no network.

    A run that still goes on, or was interrupted, is shown as far as it is.

    rapport report runs/quickstart

    rapport report runs/quickstart-seed0 runs/quickstart-seed1 --out compared.html
    """
    if len(runs) > 1 and out is None:
        raise ReportError("several runs have no common folder: say where the page goes with --out compared.html")
    if len(runs) > 1 and card is not None:
        raise ReportError("a model card is about one run: give one folder with --card")
    from evaluation.files import check_target, write_text
    from evaluation.report.run_files import read_run, told_apart

    read = told_apart([read_run(folder) for folder in runs])
    page = out if out is not None else runs[0] / "report.html"
    for target in (page, *([card] if card is not None else [])):
        check_target(target)
    from evaluation.report.page import render

    write_text(page, render(read))
    typer.echo(f"{page} ({page.stat().st_size / 1e6:.1f} MB): open it in a browser")
    if card is not None:
        from evaluation.report.card import model_card

        write_text(card, model_card(read[0]))
        typer.echo(f"{card}: a model card; read it and complete it before you publish")
