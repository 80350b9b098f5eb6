"""Measuring on the command line: `rapport evaluate table`, `diversity` and `agreement` on files that exist already,
`eq-bench` and `safety` also by asking a model.

Errors in the data are `evaluation.files.EvaluationDataError`, which the program turns into one line and exit code 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from evaluation.eq_bench.commands import eq_bench_command
from evaluation.eq_bench.commands3 import eq_bench3_command
from evaluation.lend_an_ear.commands import lend_an_ear_command
from evaluation.safety.commands import safety_command

if TYPE_CHECKING:
    from evaluation.diversity import Diversity

app = typer.Typer(no_args_is_help=True, help="Measure systems as the papers do.")
app.command("lend-an-ear")(lend_an_ear_command)
app.command("eq-bench")(eq_bench_command)
app.command("eq-bench3")(eq_bench3_command)
app.command("safety")(safety_command)

ResamplesOption = Annotated[int, typer.Option(min=100, max=50_000, help="Bootstrap resamples.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")]
SystemsArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="One folder per system: conversations_tagged.json and ratings.")
]


@app.command("table")
def table_command(
    systems_folder: SystemsArgument,
    gold: Annotated[Path, typer.Option("--gold", help="Folder of the human replies, in the same layout.")],
    out: Annotated[Path, typer.Option("--json", metavar="OUT.json", help="Values, intervals and tests.")],
    resamples: ResamplesOption = 10_000,
    baseline: Annotated[str | None, typer.Option(help="System to test the others against; gold if absent.")] = None,
    resample: Annotated[
        Literal["turn", "conversation"], typer.Option(help="What the bootstrap draws; the paper: turns.")
    ] = "turn",
    shared_turns: Annotated[bool, typer.Option("--shared-turns", help="Only turns that all systems have.")] = False,
    ratings: Annotated[
        str | None,
        typer.Option(
            help="Name of the ratings in each folder; gpt-oss-120b_ratings.csv, or gold's only one, if absent."
        ),
    ] = None,
    seed: SeedOption = 0,
) -> None:
    """Words, six dimensions, empathy, tactics per turn and stickiness of every system, with intervals."""
    from evaluation.files import check_target, write_json
    from evaluation.lend_an_ear.layout import label_of
    from evaluation.printing import print_systems, result_console
    from evaluation.systems import RATINGS_FILE, load_systems, ratings_file_of
    from evaluation.table import Unit, make_table

    check_target(out)
    ratings_file = ratings or ratings_file_of(gold)
    rated_by = None if ratings_file == RATINGS_FILE else label_of(ratings_file)
    with _progress("reading") as on_system:
        systems = load_systems(systems_folder, gold, ratings_file, on_system)
    with _progress("resampling") as on_system:
        result = make_table(
            systems, systems[0], baseline, resamples, Unit(resample), seed, shared_turns, on_system=on_system
        )
    write_json(out, result.as_dict())
    print_systems(result, result_console(), rated_by)


@app.command("diversity")
def diversity_command(
    systems_folder: SystemsArgument,
    out: Annotated[Path, typer.Option("--out", metavar="OUT.json", help="All measures, matrices included.")],
    gold: Annotated[
        Path | None, typer.Option("--gold", help="Folder of the human replies; DIR/gold if absent.")
    ] = None,
    previous: Annotated[
        Literal["gold", "own"], typer.Option(help="Whose turn a reply is compared with: people's, or the system's own.")
    ] = "gold",
    plots: Annotated[Path | None, typer.Option("--plots", metavar="DIR", help="Draw the measures there.")] = None,
    picture_format: Annotated[Literal["png", "svg"], typer.Option("--format", help="Of the pictures.")] = "png",
) -> None:
    """Tactics by turn, their reuse, transitions and co-occurrence, and likeness of consecutive turns.

    With --plots also as pictures; that of empathy against stickiness needs ratings of all systems.
    """
    from evaluation.diversity import diversity_of
    from evaluation.files import EvaluationDataError, check_target, write_json
    from evaluation.printing import print_diversity, result_console
    from evaluation.systems import load_systems

    check_target(out)
    if plots is not None:
        if plots.is_file():
            raise EvaluationDataError(f"cannot draw into {plots}: it is a file; give a folder")
        check_target(plots / "prevalence.png" if plots.is_dir() else plots)
    own = previous == "own"
    gold = gold if gold is not None or own else systems_folder / "gold"
    with _progress("reading") as on_system:
        systems = load_systems(systems_folder, gold, None, on_system)
    results = [diversity_of(system, system if own else systems[0]) for system in systems]
    write_json(out, {result.system: result.as_dict() for result in results})
    print_diversity(results, result_console())
    if plots is not None:
        _draw(results, systems_folder, None if own else gold, plots, picture_format)


def _draw(results: Sequence[Diversity], systems_folder: Path, gold: Path | None, plots: Path, form: str) -> None:
    """The pictures, and a word on the one that cannot be drawn without ratings."""
    from evaluation.diversity_plots import PictureFormat, draw_all
    from evaluation.lend_an_ear.layout import label_of
    from evaluation.systems import RATINGS_FILE, load_systems, ratings_file_of
    from evaluation.table import make_table

    table = rated_by = None
    unrated = [result.system for result in results]
    if gold is not None:
        ratings = ratings_file_of(gold)
        folders = {gold.name: gold} | {r.system: systems_folder / r.system for r in results if r.system != gold.name}
        unrated = [name for name, folder in folders.items() if not (folder / ratings).exists()]
        rated_by = None if ratings == RATINGS_FILE else label_of(ratings)
        if not unrated:
            systems = load_systems(systems_folder, gold, ratings)
            table = make_table(systems, systems[0], shared_only=True)
    with _progress("drawing") as on_picture:
        paths = draw_all(results, plots, PictureFormat(form), gold.name if gold else None, table, rated_by, on_picture)
    typer.echo(f"{len(paths)} pictures in {plots}")
    if table is None:
        why = f"no ratings of {', '.join(unrated)}" if gold is not None else "it compares with people's turns"
        typer.echo(f"not drawn: empathy against stickiness ({why})")


@app.command("agreement")
def agreement_command(
    ratings: Annotated[
        list[Path], typer.Argument(metavar="RATINGS...", help="Ratings files; names of the experts' begin with expert.")
    ],
    out: Annotated[Path | None, typer.Option("--json", metavar="OUT.json", help="The figures as JSON.")] = None,
    resamples: ResamplesOption = 10_000,
    seed: SeedOption = 0,
) -> None:
    """Weighted kappa and Spearman's rho of judges and crowd with the experts, per dimension.

    Models that score empathy, the shipped one included: rapport scorer trust.
    """
    from evaluation.agreement import agreement_report, load_raters
    from evaluation.files import check_target, write_json
    from evaluation.printing import print_agreement, result_console

    if out is not None:
        check_target(out)
    with _progress("resampling") as on_rater:
        report = agreement_report(load_raters(ratings), resamples, seed, on_rater)
    if out is not None:
        write_json(out, report.as_dict())
    print_agreement(report, result_console())


@contextmanager
def _progress(what: str) -> Iterator[Callable[[str], None]]:
    """Shows on a terminal which system is being worked on; yields the function to tell it."""
    from rich.console import Console

    with Console(stderr=True).status(what) as status:
        yield lambda name: status.update(f"{what} {name}")
