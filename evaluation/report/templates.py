"""Templates of this folder or another, strict: a name that a template does not get is an error, not an empty place."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

HERE = Path(__file__).parent


def template(name: str, autoescape: bool, folder: Path = HERE) -> Template:
    """`autoescape` is for HTML; Markdown goes without."""
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)
