"""Which metrics are drawn over the steps, under which title, and what each says."""

from __future__ import annotations

from dataclasses import dataclass

from evaluation.report.palette import spoken
from reward_servers.protocol import Dimension


@dataclass(frozen=True, slots=True)
class Curve:
    """One chart: a name in metrics.jsonl, its title and a line below it."""

    metric: str
    title: str
    note: str


@dataclass(frozen=True, slots=True)
class Chapter:
    """Charts that belong together; a metric with fewer than `least` points is left out.

    `folded` chapters are opened by a click: what one looks at when something is wrong.
    """

    title: str
    text: str
    curves: tuple[Curve, ...]
    least: int = 2
    folded: bool = False


TRAINING = Chapter(
    "Training curves",
    "One point is one step, over the replies sampled in it. Prompts differ from step to step, so single points jump.",
    (
        Curve("reward/mean", "Reward", "scaled within each group: its level says nothing about progress"),
        Curve("reward/std_in_group", "Spread of rewards", "within a group; where it is 0 nothing is learnt"),
        Curve("learner/kl", "KL to the start", "nats per token, how far the policy has moved"),
        Curve("learner/entropy", "Entropy of the policy", "nats per token; a fall to 0 is a collapse"),
        Curve("learner/grad_norm", "Gradient norm", "before clipping"),
        Curve("learner/logprob_diff_mean", "Sampler against learner", "mean gap of log-probabilities, best near 0"),
        Curve("rollout/tokens_mean", "Tokens in a reply", ""),
        Curve("rollout/truncated", "Cut off", "share of replies at the length limit"),
        Curve("rollout/distinct_2", "Different word pairs", "share of all pairs; low when all replies say the same"),
        Curve("rollout/common_opening", "Same opening", "share that begins with the most frequent four words"),
        Curve("rollout/habits", "Done with everybody", "mean overuse of a sentence's tactics"),
        Curve("rollout/stock_phrases", "Said to everybody", "share of the words, in phrases of four"),
        Curve("counts/leaked", "Label leaks", "replies in a step"),
        Curve("counts/failed_scores", "Scores that failed", "these replies left their groups"),
    ),
)
COMPONENTS = Chapter(
    "Reward components",
    "Means of the raw components, before they are scaled within a group. Those with a weight of 0 are watched only.",
    (
        Curve("reward/quality", "Quality Q", "empathy of the reply, 1 to 5"),
        Curve("reward/d_kl", "Change of tactics D_KL", "against the previous supporter turn, nats"),
        Curve("reward/entropy", "Variety within a reply H", "nats"),
        Curve("reward/bigram", "Surprise, pairs of tactics", "nats"),
        Curve("reward/trigram", "Surprise, triples of tactics", "nats"),
    ),
)
DIMENSIONS = Chapter(
    "Dimensions of empathy",
    "The six ratings behind quality, 1 to 5, not reversed.",
    tuple(
        Curve(
            f"reward/{dimension.value}",
            spoken(dimension).capitalize(),
            "lower is better" if dimension.lower_is_better else "higher is better",
        )
        for dimension in Dimension
    ),
    folded=True,
)
HELD_OUT = Chapter(
    "On held-out prompts, during training",
    "The same prompts at every evaluation.",
    (
        Curve("eval/empathy", "Empathy", "1 to 5"),
        Curve("eval/d_kl", "Change of tactics D_KL", "nats"),
        Curve("eval/stickiness", "Stickiness", "lower is more varied"),
        Curve("eval/distinct_tactics", "Different tactics in a reply", "number of ten"),
    ),
    least=3,  # before and after alone are in the headline
)
TIMES = Chapter(
    "Where the time goes",
    "Seconds of each phase of a step.",
    (
        Curve("time/generate", "Generate", "seconds"),
        Curve("time/score", "Score", "seconds"),
        Curve("time/learn", "Learn", "seconds"),
        Curve("time/sync", "Sync", "seconds"),
    ),
    folded=True,
)
CHAPTERS = (HELD_OUT, COMPONENTS, DIMENSIONS, TRAINING, TIMES)
