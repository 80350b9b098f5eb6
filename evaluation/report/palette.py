"""The look of the ten tactics and of the runs: a colour for light and for dark pages, and a short word.

The colours are chosen so that any two can be told apart by readers who do not see red or green well (a test simulates
that); the word stands beside the colour everywhere, so that nothing on the page depends on colour alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from dialogue.tactics import TACTICS, Tactic


@dataclass(frozen=True, slots=True)
class Look:
    """How one tactic is shown: `#rrggbb` on a light and on a dark page, and the word on its label."""

    light: str
    dark: str
    short: str


LOOKS: dict[Tactic, Look] = {
    Tactic.INFORMATION: Look("#3cb2fa", "#6ccbff", "info"),
    Tactic.ASSISTANCE: Look("#152708", "#408734", "assist"),
    Tactic.ADVICE: Look("#d3ac0e", "#ffe921", "advice"),
    Tactic.VALIDATION: Look("#356de8", "#beffff", "validate"),
    Tactic.EMOTIONAL_EXPRESSION: Look("#fb6da2", "#e4769e", "feeling"),
    Tactic.PARAPHRASING: Look("#290eae", "#9288f7", "paraphrase"),
    Tactic.SELF_DISCLOSURE: Look("#6d085b", "#b73198", "self"),
    Tactic.QUESTIONING: Look("#734410", "#b4a908", "question"),
    Tactic.REAPPRAISAL: Look("#a24d8f", "#8b2cf2", "reframe"),
    Tactic.EMPOWERMENT: Look("#c86218", "#f6bd9c", "empower"),
}

# Lines of compared runs; beyond these the colours come round again.
RUNS: tuple[tuple[str, str], ...] = (
    ("#0072b2", "#5cb8ec"),
    ("#d55e00", "#ff9d5c"),
    ("#009e73", "#3fd6ac"),
    ("#9b4f8a", "#e0a0cf"),
    ("#7a6a00", "#e3d257"),
    ("#555f66", "#b6c0c7"),
)


def spoken(name: str) -> str:
    """A name of ours as people write it: `self_disclosure` -> `self disclosure`."""
    return name.replace("_", " ")


def colour_rules() -> str:
    """CSS custom properties `--tactic-0` ... `--tactic-9` and `--run-0` ..., for both kinds of page."""
    looks = [(f"--tactic-{i}", LOOKS[tactic].light, LOOKS[tactic].dark) for i, tactic in enumerate(TACTICS)]
    runs = [(f"--run-{i}", light, dark) for i, (light, dark) in enumerate(RUNS)]
    lines = "".join(f"  {name}: light-dark({light}, {dark});\n" for name, light, dark in (*looks, *runs))
    return f":root {{\n{lines}}}\n"
