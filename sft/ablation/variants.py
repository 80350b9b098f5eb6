"""The runs of an ablation: what each leaves out, and one configuration for each variant and seed.

Every variant makes as many updates of as many sequences as the full run does. A lambda of 0 takes its examples, its
head and its cost out of the run, so a variant without the emotion head reads no GoEmotions, and more of the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

from sft.config import ConfigError, SftConfig
from sft.examples import Loss


class Variant(StrEnum):
    FULL = "full"
    NO_EMOTION = "no-emotion"
    NO_STRATEGY = "no-strategy"
    NO_SAFETY = "no-safety"
    LM_ONLY = "lm-only"


LEFT_OUT: Mapping[Variant, frozenset[Loss]] = {
    Variant.FULL: frozenset(),
    Variant.NO_EMOTION: frozenset({Loss.EMOTION}),
    Variant.NO_STRATEGY: frozenset({Loss.STRATEGY}),
    Variant.NO_SAFETY: frozenset({Loss.SAFETY}),
    Variant.LM_ONLY: frozenset(Loss) - {Loss.LM},
}


def variants_of(config: SftConfig) -> list[Variant]:
    """Those that differ from each other here: what is off already cannot be left out.

    Raises:
        ConfigError: the language-modelling loss is off, or nothing else is on.
    """
    on = {loss for loss in Loss if config.losses.of(loss)}
    if Loss.LM not in on:
        raise ConfigError("losses.lm=0: every variant keeps the language model's loss; set it above 0")
    found: dict[frozenset[Loss], Variant] = {}
    for variant, left_out in LEFT_OUT.items():
        found.setdefault(frozenset(on - left_out), variant)
    if len(found) < 2:
        raise ConfigError("only losses.lm is on, so nothing can be left out: set another lambda above 0")
    return list(found.values())


def parse_seeds(text: str) -> tuple[int, ...]:
    """`0,1,2` -> (0, 1, 2). Raises ConfigError where it is not a list of different whole numbers from 0 up."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and part.isascii() for part in parts):
        raise ConfigError(f"--seeds {text!r}: expected whole numbers from 0 up with commas, such as 0,1,2")
    seeds = tuple(map(int, parts))
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds {text!r}: a seed is named twice; equal runs are no evidence")
    return seeds


def ablation_folder(config: SftConfig) -> Path:
    """Where the runs and the table go: `<output_dir>/<name>-ablation`."""
    return Path(config.output_dir) / f"{config.name}-ablation"


def of_variant(config: SftConfig, variant: Variant) -> SftConfig:
    """The run without what the variant leaves out, in a folder of the ablation; see `of_seed` for its name."""
    off = dict.fromkeys((loss.value for loss in LEFT_OUT[variant]), 0.0)
    return replace(
        config,
        name=variant.value,
        output_dir=str(ablation_folder(config)),
        losses=replace(config.losses, **off),
        resume=True,
    )


def of_seed(config: SftConfig, seed: int, steps: int) -> SftConfig:
    """A variant's run with a seed, of exactly `steps` updates."""
    return replace(config, name=f"{config.name}-seed{seed}", seed=seed, steps=steps)


def planned(variants: Sequence[Variant], seeds: Sequence[int]) -> list[tuple[int, Variant]]:
    """All runs in the order in which they are made: seed by seed, so that an early table compares like with like."""
    return [(seed, variant) for seed in seeds for variant in variants]
