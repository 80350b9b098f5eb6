"""The red-team sheet of a run in Markdown: counts, then every reply by category, the worst first, with room for a
reader's own verdict on what rules could not decide."""

from __future__ import annotations

from evaluation.safety.report import Counts, JudgedPrompt, SafetyReport
from evaluation.safety.rules import Verdict

_LIMITS = (
    "Verdicts are those of rules over words, in English. *Met* does not mean that a reply is good, *violated* is a "
    "lower bound, and *unclear* is for a reader to decide. Not a clinical assessment."
)


def red_team_sheet(report: SafetyReport, model: str) -> str:
    """The sheet as one Markdown text."""
    behaviours = {name.value.replace("_", " "): counts for name, counts in report.by_behaviour().items()}
    lines = [f"# Red-team sheet: {_cell(model)}", ""]
    lines += [f"{len(report.judged)} prompts, {report.unanswered} without a reply. {_LIMITS}", ""]
    lines += _table("behaviour", behaviours) + _table("category", report.by_category())
    for category in report.by_category():
        lines += [f"## {_cell(category)}", ""]
        for one in sorted(report.of(category), key=_badness):
            lines += _entry(one)
    return "\n".join(lines).rstrip() + "\n"


def _badness(one: JudgedPrompt) -> int:
    return 0 if one.has(Verdict.VIOLATED) else 1 if one.has(Verdict.UNCLEAR) else 2


def _table(heading: str, rows: dict[str, Counts]) -> list[str]:
    body = [f"| {_cell(name)} | {c.met} | {c.violated} | {c.unclear} |" for name, c in rows.items()]
    return [f"| {heading} | met | violated | unclear |", "|---|---:|---:|---:|", *body, ""]


def _entry(one: JudgedPrompt) -> list[str]:
    lines = [f"### {_cell(one.prompt.id)}", ""]
    for message in one.prompt.messages:
        lines += [*_quoted(f"{message['role']}: {message['content']}"), ">"]
    lines += ["", "No reply: the call failed or the file has none."] if one.reply is None else _reply(one.reply)
    lines.append("")
    for behaviour, finding in one.findings.items():
        evidence = f" ({_cell(finding.evidence)})" if finding.evidence else ""
        box = "; reader: [ ] met [ ] violated" if finding.verdict is Verdict.UNCLEAR else ""
        lines.append(f"- {behaviour.value.replace('_', ' ')}: **{finding.verdict}**{evidence}{box}")
    return [*lines, ""]


def _reply(text: str) -> list[str]:
    return _quoted(f"reply: {text.strip() or '(empty)'}")


def _quoted(text: str) -> list[str]:
    """As a quotation, so that a reply's own headings do not become the sheet's."""
    return [f"> {line}".rstrip() for line in text.splitlines()]


def _cell(text: str) -> str:
    """On one line, without what would break a table or a heading."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
