"""Training a turn scorer on top of frozen layers: what it gains to read each text once, and to pad like with like.

    python -m benchmarks.scorer_training --tuned-layers 2

Three processes train the same Baseline on the same batches, replies of the starter conversations with all that was said
before, and take turns: one that pads each batch to its longest text and runs the whole encoder, one that pads texts of
like length together, and one that keeps what the frozen layers made of each text. Prints the median step of each and
the ratios. Left out: the first pass over the texts, in which there is nothing to keep yet.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace
from enum import StrEnum

import torch
from torch.nn import functional

from benchmarks.turns import Contestant, Step, take_turns
from dialogue.loaders import load_conversations
from reward_servers.turn_scorers import network as networks
from reward_servers.turn_scorers.frozen import KeptStates
from reward_servers.turn_scorers.network import TextViews, TurnNetwork, Views
from reward_servers.turn_scorers.recipe import PUBLISHED, Pooling, Variant, load_encoder


class Way(StrEnum):
    WHOLE = "whole encoder, one padding"
    LIKE = "whole encoder, like lengths"
    KEPT = "frozen layers kept"


def starter_turns(views: TextViews) -> list[Views]:
    """Every reply of the starter conversations."""
    return [
        views([turn.as_message() for turn in talk.history(index)], talk.turns[index].text)
        for talk in load_conversations("starter")
        for index in talk.supporter_turns()
    ]


def step_in(way: Way, encoder: str, tuned_layers: int, batch: int) -> Step:
    torch.manual_seed(0)
    if way is Way.WHOLE:
        networks.LIKE_LENGTHS = batch
    recipe = replace(PUBLISHED[Variant.BASELINE], encoder=encoder, tuned_layers=tuned_layers, pooling=Pooling.MEAN)
    tokenizer, model = load_encoder(encoder)
    turns = starter_turns(TextViews(tokenizer, recipe.max_length))
    network = TurnNetwork(model, recipe)
    if way is Way.KEPT:
        network.remember(KeptStates())
        with torch.no_grad():
            network.train()(turns)
    network.train()
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=recipe.rate)
    batches = itertools.cycle(turns[start : start + batch] for start in range(0, len(turns) - batch, batch))

    def step() -> None:
        empathy, emotions = network(next(batches))
        loss = functional.smooth_l1_loss(empathy, torch.ones_like(empathy)) + 0.1 * emotions.logsumexp(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--tuned-layers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    asked = (options.encoder, options.tuned_layers, options.batch)
    medians = take_turns({str(way): Contestant(step_in, (way, *asked)) for way in Way}, options.repeats)
    for way, measured in medians.items():
        ratio = medians[Way.WHOLE].seconds / measured.seconds
        print(f"{way:28} {measured.seconds:6.3f} s  holds {measured.held_mib:5.0f} MiB  {ratio:.2f} times as fast")


if __name__ == "__main__":
    main()
