"""The red-team sheet of a run in Markdown: counts, then every reply by category, the worst first, with room for a
reader's own verdict on what rules could not decide. Where a judge was asked, its verdicts stand beside the rules'."""

from __future__ import annotations

from collections.abc import Mapping

from evaluation.safety.agreement import SecondOpinion
from evaluation.safety.printing import agreement_line
from evaluation.safety.prompts import Behaviour
from evaluation.safety.report import Counts, JudgedPrompt, SafetyReport
from evaluation.safety.rules import Verdict

_LIMITS = (
    "Verdicts are those of rules over words, in English. *Met* does not mean that a reply is good, *violated* is a "
    "lower bound, and *unclear* is for a reader to decide. Not a clinical assessment."
)
_NONE = Counts(0, 0, 0)


def red_team_sheet(report: SafetyReport, model: str, opinion: SecondOpinion | None = None) -> str:
    """The sheet as one Markdown text."""
    behaviours, categories = _spoken(report), report.by_category()
    lines = [f"# Red-team sheet: {_cell(model)}", ""]
    lines += [f"{len(report.judged)} prompts, {report.unanswered} without a reply. {_LIMITS}", ""]
    if opinion is None:
        lines += _table("behaviour", behaviours) + _table("category", categories)
    else:
        lines += [f"Judge: {_cell(opinion.judgement.judge)}. {_cell(agreement_line(opinion))}", ""]
        lines += _table("behaviour", behaviours, _spoken(opinion.report))
        lines += _table("category", categories, opinion.report.by_category())
    for category in categories:
        lines += [f"## {_cell(category)}", ""]
        for one in sorted(report.of(category), key=lambda one: _badness(one, _view(opinion, one))):
            lines += _entry(one, opinion)
    return "\n".join(lines).rstrip() + "\n"


def _spoken(report: SafetyReport) -> dict[str, Counts]:
    return {name.value.replace("_", " "): counts for name, counts in report.by_behaviour().items()}


def _view(opinion: SecondOpinion | None, one: JudgedPrompt) -> Mapping[Behaviour, Verdict]:
    """What the judge said of a reply, if anything."""
    return {} if opinion is None else opinion.judgement.verdicts.get(one.prompt.id, {})


def _badness(one: JudgedPrompt, judge: Mapping[Behaviour, Verdict]) -> int:
    """0 the worst: broken in the eyes of rules or judge."""
    said = {*(finding.verdict for finding in one.findings.values()), *judge.values()}
    return 0 if Verdict.VIOLATED in said else 1 if Verdict.UNCLEAR in said else 2


def _table(heading: str, rows: Mapping[str, Counts], judge: Mapping[str, Counts] | None = None) -> list[str]:
    """Counts of the rules and, if there is one, of the judge."""
    who = ("",) if judge is None else ("rules: ", "judge: ")
    columns = [f"{each}{verdict}" for each in who for verdict in ("met", "violated", "unclear")]
    lines = [f"| {heading} | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for name, counts in rows.items():
        sides = [counts] if judge is None else [counts, judge.get(name, _NONE)]
        cells = [str(value) for c in sides for value in (c.met, c.violated, c.unclear)]
        lines.append(f"| {_cell(name)} | {' | '.join(cells)} |")
    return [*lines, ""]


def _entry(one: JudgedPrompt, opinion: SecondOpinion | None) -> list[str]:
    lines = [f"### {_cell(one.prompt.id)}", ""]
    for message in one.prompt.messages:
        lines += [*_quoted(f"{message['role']}: {message['content']}"), ">"]
    lines += ["", "No reply: the call failed or the file has none."] if one.reply is None else _reply(one.reply)
    lines.append("")
    judge = _view(opinion, one)
    for behaviour, finding in one.findings.items():
        evidence = f" ({_cell(finding.evidence)})" if finding.evidence else ""
        said = f"; judge: **{judge[behaviour]}**" if behaviour in judge else ""
        differ = behaviour in judge and judge[behaviour] is not finding.verdict
        box = "; reader: [ ] met [ ] violated" if finding.verdict is Verdict.UNCLEAR or differ else ""
        lines.append(f"- {behaviour.value.replace('_', ' ')}: **{finding.verdict}**{evidence}{said}{box}")
    if opinion is not None and one.reply is not None and not judge:
        lines.append(f"- no verdict of the judge: {opinion.judgement.why_none(one.prompt.id)}")
    return [*lines, ""]


def _reply(text: str) -> list[str]:
    return _quoted(f"reply: {text.strip() or '(empty)'}")


def _quoted(text: str) -> list[str]:
    """As a quotation, so that a reply's own headings do not become the sheet's."""
    return [f"> {line}".rstrip() for line in text.splitlines()]


def _cell(text: str) -> str:
    """On one line, without what would break a table or a heading."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
