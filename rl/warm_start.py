"""A short language-model fine-tuning before RL, so that the first rollouts are worth comparing.

Plain next-token loss on supporter tokens, AdamW with float32 master weights, linear decay to 0. Under `model.lora` an
adapter is trained and then merged; RL starts a new one on top. It leaves out what multi-task SFT will bring: heads,
mixtures, sharding. One process, deterministic for a seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.config import RunConfig
from rl.threads import share_of_cores

if TYPE_CHECKING:
    import torch

    from rl.engines.model import PolicyModel

MAX_GRAD_NORM = 1.0

Example = tuple[Sequence[int], Sequence[int]]
"""Token ids (T,), and as many 0 or 1: whether the token is to be learnt."""


def warm_start(
    config: RunConfig,
    model_path: Path,
    examples: Sequence[Example],
    folder: Path,
    on_progress: Callable[[int, int], None] = lambda done, count: None,
) -> list[float]:
    """Fine-tune for `warm_start.epochs` in one Ray process and write a Hugging Face folder.

    Returns:
        The loss of every update, nats per token, before that update.

    Raises:
        LearnerError: the process failed, or one update took longer than `learner.timeout_s`.
        ValueError: no example has a token to learn, or lengths differ.
    """
    import ray
    from ray.exceptions import RayError

    from rl.learner import LearnerError, describe_failure, training_resources

    check_examples(examples)
    # max_calls: the process, and the gigabytes that it holds, goes when the work is done
    place = training_resources(config.learner.gpu_share)
    options: dict[str, Any] = {**place, "max_retries": 0, "max_calls": 1, "num_returns": "streaming"}
    steps: Any = ray.remote(**options)(fine_tune).remote(
        config, Path(model_path), list(examples), Path(folder).resolve()
    )
    losses: list[float] = []
    try:
        while True:
            ready, _ = ray.wait([steps], timeout=config.learner.timeout_s)
            if not ready:
                raise TimeoutError(f"no update in learner.timeout_s={config.learner.timeout_s:g} s")
            try:
                loss, count = ray.get(next(steps))
            except StopIteration:
                return losses
            losses.append(loss)
            on_progress(len(losses), count)
    except (RayError, TimeoutError) as error:
        ray.cancel(steps, force=True)
        raise LearnerError(0, "any", "warm start", describe_failure(error)) from error


def check_examples(examples: Sequence[Example]) -> None:
    for number, (ids, mask) in enumerate(examples):
        if len(ids) != len(mask):
            raise ValueError(f"warm-start example {number}: {len(ids)} tokens but {len(mask)} mask values")
    if not any(any(mask[1:]) for _, mask in examples):
        raise ValueError("warm start: no example has a supporter token to learn from; set warm_start.epochs=0")


def fine_tune(
    config: RunConfig, model_path: Path, examples: Sequence[Example], folder: Path
) -> Iterator[tuple[float, int]]:
    """The work itself, in this process; yields after every update its loss and the number of all updates.

    Batches hold `warm_start.batch_conversations` examples of similar length. The folder is there when all are consumed.
    """
    import torch

    from rl.engines.base import weight_name
    from rl.engines.export import export
    from rl.engines.model import compute_dtype, load_policy
    from rl.engines.worker import be_quiet, seed_everything

    be_quiet()
    torch.set_num_threads(share_of_cores(1))
    seed_everything(config.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    compute = compute_dtype(config.model.dtype, device)
    policy = load_policy(model_path, config.model, store=torch.float32, compute=compute).to(device)
    policy.train()
    settings = config.warm_start
    trained = {name: value for name, value in policy.named_parameters() if value.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=settings.lr, weight_decay=0.0, fused=True)
    schedule = list(_batches(examples, settings.batch_conversations, settings.epochs, config.seed))
    schedule = schedule[: settings.max_updates or None]
    for done, batch in enumerate(schedule):
        optimizer.param_groups[0]["lr"] = settings.lr * (1 - done / len(schedule))
        yield _step(policy, optimizer, batch, compute), len(schedule)
    lora = config.model.lora.rank > 0
    weights = {weight_name(name, lora=lora): value.detach().to(compute).cpu() for name, value in trained.items()}
    export(folder, weights, model_path, config.model)


def _batches(examples: Sequence[Example], size: int, epochs: int, seed: int) -> Iterator[list[Example]]:
    """Examples of similar length together; the order of the batches is drawn anew for every epoch."""
    ordered = sorted((example for example in examples if any(example[1][1:])), key=lambda example: len(example[0]))
    batches = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    for epoch in range(epochs):
        yield from random.Random(f"{seed}/{epoch}").sample(batches, len(batches))


def _step(
    policy: PolicyModel, optimizer: torch.optim.Optimizer, batch: Sequence[Example], compute: torch.dtype
) -> float:
    """One update on the mean loss of the batch's learnt tokens; returns that loss in nats."""
    import torch

    from rl.engines.head import Scoring

    device = next(policy.parameters()).device
    width = max(len(ids) for ids, _ in batch)
    tokens, learnt = torch.zeros(2, len(batch), width, dtype=torch.int64)
    for row, (ids, mask) in enumerate(batch):
        tokens[row, : len(ids)] = torch.tensor(list(ids))
        learnt[row, : len(ids)] = torch.tensor(list(mask))
    tokens, learnt = tokens.to(device), learnt.to(device)
    with torch.autocast(device.type, dtype=compute, enabled=compute != torch.float32):
        # Padding is on the right, so the causal mask hides it from every token that counts.
        states = policy.bare.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state
        rows, columns = learnt[:, 1:].nonzero(as_tuple=True)
        head, chosen = policy.bare.get_output_embeddings(), states[rows, columns].to(compute)
        loss = -head(chosen, tokens[rows, columns + 1], Scoring())[0].mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(policy.parameters(), MAX_GRAD_NORM)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())
