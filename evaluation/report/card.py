"""The model card of a run: Markdown with the YAML header of the Hugging Face hub, from the same numbers as the page.

What the run does not record, such as the licence of your own conversations, the card names as open and does not guess:
then the header's licence is `other`. A card is made to be published, so folders of this machine are left out of it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import reduce
from pathlib import Path
from typing import Any

from evaluation.report.facts import facts_of, is_dequantised
from evaluation.report.measures import in_order, measure_of, shown, verdict
from evaluation.report.palette import spoken
from evaluation.report.reader import conversations_of
from evaluation.report.run_files import HONEST, Run
from evaluation.report.templates import template

# The models that Rapport knows by a short name of its own: hub id and licence.
_KNOWN = {"smollm2-135m": ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")}
_OPEN_FAMILIES = {"Qwen/Qwen3-": "apache-2.0", "HuggingFaceTB/SmolLM2-": "apache-2.0"}
STARTER = "starter"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def model_card(run: Run) -> str:
    """The card of one run; without a closing table it says that there is no comparison yet."""
    base, licence = _base_model(run)
    changes = list(in_order(run.closing.changes)) if run.closing else []
    return template("card.md.j2", autoescape=False).render(
        header=_header(run, base, licence),
        run=run,
        base=base or _last_part(run.setting("model.path", "unknown")),
        licence=licence,
        dequantised=is_dequantised(run),
        settings=_settings(run),
        rows=[(measure_of(c.name), c, verdict(c)) for c in changes],
        probes=run.closing.probes if run.closing else (),
        honest=HONEST,
        data=_data(run),
        shown=shown,
        spoken=spoken,
    )


def _base_model(run: Run) -> tuple[str | None, str | None]:
    """Hub id and licence of the model that the run began with; None for what is not known."""
    path = str(run.setting("model.path", ""))
    if path in _KNOWN:
        return _KNOWN[path]
    if not _HUB_ID.fullmatch(path) or Path(path).is_dir():  # `runs/mine` has the form of a hub id
        return None, None
    return path, next((licence for start, licence in _OPEN_FAMILIES.items() if path.startswith(start)), None)


def _last_part(path: object) -> str:
    """`/home/me/talks.json` to `talks.json`; a hub id and a short name as they are."""
    return Path(str(path)).name if Path(str(path)).is_absolute() else str(path)


def _settings(run: Run) -> list[tuple[str, str]]:
    places = [str(run.setting(key, "")) for key in ("model.path", "data.path")]
    return [
        (name, reduce(lambda text, place: text.replace(place, _last_part(place)) if place else text, places, value))
        for name, value in facts_of(run).table
    ]


def _header(run: Run, base: str | None, licence: str | None) -> str:
    from omegaconf import OmegaConf

    licence = licence if run.setting("data.path") == STARTER else None  # else it depends on data that we do not know
    fields: dict[str, Any] = {
        "language": ["en"],
        "license": licence or "other",
        **({} if licence else {"license_name": "see-the-base-model-and-the-data"}),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        **({"base_model": base} if base else {}),
        "tags": ["rapport", "grpo", "empathic-dialogue", "conversational"],
    }
    if run.closing:
        fields["model-index"] = [{"name": run.name, "results": [_results(run)]}]
    return OmegaConf.to_yaml(OmegaConf.create(_without_interpolation(fields))).strip()


def _results(run: Run) -> dict[str, Any]:
    changes = run.closing.changes if run.closing else ()
    metrics = [
        {"type": change.name, "name": measure_of(change.name).title, "value": round(change.after, 4)}
        for change in changes
        if math.isfinite(change.after)
    ]
    data = {"name": f"held-out turns of {_last_part(run.setting('data.path', 'unknown'))}", "type": "conversations"}
    return {"task": {"type": "text-generation"}, "dataset": data, "metrics": metrics}


def _without_interpolation(value: Any) -> Any:
    """`${` means something to OmegaConf; in a name it is only odd."""
    match value:
        case dict():
            return {key: _without_interpolation(inner) for key, inner in value.items()}
        case list():
            return [_without_interpolation(inner) for inner in value]
        case str():
            return value.replace("${", "$ {")
    return value


def _data(run: Run) -> str:
    """What is known of the conversations."""
    path = _last_part(run.setting("data.path", "unknown"))
    if path == STARTER:
        return (
            "The starter conversations of Rapport: written by its authors, synthetic, English, Apache-2.0. Nobody's "
            "real conversation is in them."
        )
    conversations = conversations_of(run)
    if not conversations:
        return f"`{path}`, which was not at hand when this card was made. **Add what it is and its licence.**"
    sources = Counter(talk.source or "no source given" for talk in conversations.values())
    named = ", ".join(f"{count} from {source}" for source, count in sources.most_common())
    return f"`{path}`: {len(conversations)} conversations ({named}). **The run does not record their licence: add it.**"
