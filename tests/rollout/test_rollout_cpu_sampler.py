"""One uniform number per token draws from the distribution that vLLM would draw from."""

from __future__ import annotations

import torch
from scipy.stats import chisquare

from rl.cpu_sampler import sample

ROWS = 20_000


def seeded(count: int, first: int = 0) -> dict[int, torch.Generator]:
    return {row: torch.Generator().manual_seed(first + row) for row in range(count)}


def test_tokens_come_as_often_as_their_probabilities_say() -> None:
    probabilities = torch.tensor([0.5, 0.05, 0.3, 0.15])
    drawn = sample(probabilities.log().expand(ROWS, 4), seeded(ROWS))
    counts = torch.bincount(drawn, minlength=4)
    assert chisquare(counts.numpy(), (probabilities * ROWS).numpy(), sum_check=False).pvalue > 0.01


def test_a_word_of_probability_zero_is_never_drawn_not_even_at_either_end() -> None:
    logprobs = torch.tensor([0.0, 0.5, 0.0, 0.5, 0.0]).log().expand(ROWS, 5)
    assert set(sample(logprobs, seeded(ROWS)).tolist()) == {1, 3}


def test_the_largest_uniform_number_still_names_a_word(monkeypatch) -> None:
    largest = torch.tensor([1.0]).nextafter(torch.zeros(1))
    monkeypatch.setattr(torch, "rand", lambda *_, **__: largest)
    logprobs = torch.randn(3, 49_152, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    assert (sample(logprobs, {}) < 49_152).all()


def test_a_row_depends_on_its_own_generator_and_on_no_other_row() -> None:
    logprobs = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    together = sample(logprobs, seeded(4))
    alone = [sample(logprobs[row : row + 1], seeded(1, first=row))[0] for row in range(4)]
    assert together.tolist() == [int(token) for token in alone]
    assert sample(logprobs, seeded(4, first=50)).tolist() != together.tolist()
