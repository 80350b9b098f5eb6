"""Losses: equal to numbers worked out by hand and to torch, in any chunks, and free of cost when their lambda is 0."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.nn import functional

from sft.examples import Loss
from sft.losses import (
    LossWeights,
    Term,
    affect_loss,
    emotion_loss,
    joint_loss,
    lm_loss,
    safety_loss,
    strategy_loss,
)
from sft.vocabulary import token_kl, token_nll

LN2, LN3 = math.log(2), math.log(3)


def made_up(*shape: int, seed: int = 0, grad: bool = True, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(dtype).requires_grad_(grad)


# --- by hand. One hidden unit of 1, so the logits are the weight itself; logits (0, ln 3) are probabilities 1/4, 3/4.


def test_lm_loss_by_hand() -> None:
    hidden, weight = torch.ones(2, 1), torch.tensor([[0.0], [LN3]])
    assert lm_loss(hidden, weight, torch.tensor([0, 1])).item() == pytest.approx(math.log(4) + math.log(4 / 3))


def test_emotion_loss_by_hand() -> None:
    """27 equal logits: ln 27 for any target; with weights 2 and 4 on its two halves, three times that."""
    logits, target = torch.zeros(1, 27), torch.zeros(1, 27)
    target[0, 3] = target[0, 26] = 0.5
    weights = torch.ones(27)
    weights[3], weights[26] = 2, 4
    assert emotion_loss(logits, target).item() == pytest.approx(math.log(27))
    assert emotion_loss(logits, target, weights).item() == pytest.approx(3 * math.log(27), rel=1e-6)


def test_strategy_loss_by_hand() -> None:
    """The logit ln 7 against seven of 0: probability 1/2."""
    logits = torch.zeros(2, 8)
    logits[:, 5] = math.log(7)
    assert strategy_loss(logits, torch.tensor([5, 5])).item() == pytest.approx(2 * LN2)
    weights = torch.tensor([1.0, 1, 1, 1, 1, 3, 1, 1])
    assert strategy_loss(logits, torch.tensor([5, 0]), weights).item() == pytest.approx(3 * LN2 + math.log(14))


def test_affect_loss_by_hand() -> None:
    """Errors 0.5 and 2: half of 0.5^2 / 2 + (2 - 0.5)."""
    predicted, target = torch.tensor([[0.5, 1.0]]), torch.tensor([[0.0, -1.0]])
    assert affect_loss(predicted, target).item() == pytest.approx((0.125 + 1.5) / 2)


def test_safety_loss_by_hand_is_teacher_to_student() -> None:
    """Teacher 1/4, 3/4 and student 1/2, 1/2: KL(teacher || student) = ln 2 - H(1/4) and not the other direction."""
    one = torch.ones(1, 1)
    teacher, student = torch.tensor([[0.0], [LN3]]), torch.tensor([[0.0], [0.0]])
    forward = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    backward = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert safety_loss(one, student, one, teacher).item() == pytest.approx(forward, rel=1e-6)
    assert safety_loss(one, teacher, one, student).item() == pytest.approx(backward, rel=1e-6)
    assert forward != pytest.approx(backward, rel=1e-2)


def test_a_temperature_divides_the_logits_of_both() -> None:
    """tau 2 turns logits (0, 2 ln 3) into (0, ln 3)."""
    one = torch.ones(1, 1)
    hot = safety_loss(one, torch.tensor([[0.0], [2 * LN2]]), one, torch.tensor([[0.0], [2 * LN3]]), tau=2.0)
    cold = safety_loss(one, torch.tensor([[0.0], [LN2]]), one, torch.tensor([[0.0], [LN3]]))
    assert hot.item() == pytest.approx(cold.item(), rel=1e-6)


# --- against torch, in chunks that do and do not divide the vocabulary


def reference_kl(s: torch.Tensor, w_s: torch.Tensor, t: torch.Tensor, w_t: torch.Tensor, tau: float) -> torch.Tensor:
    log_s, log_t = ((h @ w.T / tau).log_softmax(-1) for h, w in ((s, w_s), (t, w_t)))
    return functional.kl_div(log_s, log_t.detach(), log_target=True, reduction="none").sum(-1)


@pytest.mark.parametrize("chunk", [1, 4, 7, 11, 100])
def test_chunked_losses_and_gradients_equal_those_of_full_logits(chunk: int) -> None:
    hidden, weight, targets = made_up(5, 3), made_up(11, 3, seed=1), torch.tensor([0, 10, 4, 7, 3])
    teacher, teacher_weight = made_up(5, 2, seed=2), made_up(11, 2, seed=3)
    scale = torch.arange(1.0, 6, dtype=torch.float64)
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = [
        (
            token_nll(hidden, weight, targets, chunk),
            functional.cross_entropy(hidden @ weight.T, targets, reduction="none"),
        ),
        (
            token_kl(hidden, weight, teacher, teacher_weight, 1.7, chunk),
            reference_kl(hidden, weight, teacher, teacher_weight, 1.7),
        ),
    ]
    for ours, expected in pairs:
        torch.testing.assert_close(ours, expected)
        got = torch.autograd.grad((ours * scale).sum(), (hidden, weight))
        torch.testing.assert_close(got, torch.autograd.grad((expected * scale).sum(), (hidden, weight)))


def test_gradients_equal_finite_differences() -> None:
    hidden, weight, targets = made_up(3, 2), made_up(7, 2, seed=1), torch.tensor([6, 0, 2])
    teacher, teacher_weight = made_up(3, 4, seed=2, grad=False), made_up(7, 4, seed=3, grad=False)
    assert torch.autograd.gradcheck(lambda h, w: token_nll(h, w, targets, 3), (hidden, weight))
    assert torch.autograd.gradcheck(lambda h, w: token_kl(h, w, teacher, teacher_weight, 0.7, 3), (hidden, weight))
    logits, soft = made_up(3, 27), made_up(3, 27, seed=5, grad=False).softmax(-1)
    assert torch.autograd.gradcheck(lambda z: emotion_loss(z, soft), (logits,))
    assert torch.autograd.gradcheck(lambda z: strategy_loss(z, targets), (made_up(3, 8),))
    assert torch.autograd.gradcheck(lambda z: affect_loss(z, soft[:, :2]), (made_up(3, 2),))


def test_the_teacher_gets_no_gradient_and_an_equal_student_none_worth_having() -> None:
    hidden, weight = made_up(4, 3), made_up(9, 3, seed=1)
    teacher = hidden.detach().clone().requires_grad_()
    loss = token_kl(hidden, weight, teacher, weight, 1.0, 4)
    assert loss.tolist() == [0, 0, 0, 0]
    loss.sum().backward()
    assert teacher.grad is None and hidden.grad is not None and hidden.grad.abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_states_give_float32_losses_and_their_own_gradients(dtype: torch.dtype) -> None:
    hidden, weight = made_up(4, 8, dtype=dtype), made_up(50, 8, seed=1, grad=False, dtype=dtype)
    targets = torch.tensor([1, 2, 3, 49])
    loss = token_nll(hidden, weight, targets, 16)
    reference = functional.cross_entropy(hidden.detach().float() @ weight.float().T, targets, reduction="none")
    torch.testing.assert_close(loss, reference, atol=0.05, rtol=0.05)
    loss.sum().backward()
    assert loss.dtype is torch.float32 and hidden.grad is not None and hidden.grad.dtype is dtype
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same = token_nll(hidden.float(), weight.float(), targets, 16)
    torch.testing.assert_close(same, reference)


def test_extreme_logits_stay_finite() -> None:
    hidden, weight = torch.tensor([[1e4], [-1e4]], requires_grad=True), torch.tensor([[1.0], [-1.0], [0.0]])
    loss = token_nll(hidden, weight, torch.tensor([1, 0]), 2).sum() + token_kl(hidden, weight, -hidden, weight).sum()
    loss.backward()
    assert loss.isfinite() and hidden.grad is not None and hidden.grad.isfinite().all()


def test_no_tokens_is_a_loss_of_zero_with_a_graph() -> None:
    hidden, weight = made_up(0, 3), made_up(5, 3)
    loss = lm_loss(hidden, weight, torch.empty(0, dtype=torch.int64)) + safety_loss(hidden, weight, hidden, weight)
    loss.backward()
    assert loss.item() == 0 and weight.grad is not None and weight.grad.abs().max() == 0


class Peak(torch.utils._python_dispatch.TorchDispatchMode):
    """The largest tensor that any operation made."""

    largest = 0

    def __torch_dispatch__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


def test_full_logits_never_exist() -> None:
    """64 tokens and 1,000 words: no tensor of 64,000 numbers, nor of more than one chunk, forward or backward."""
    hidden, weight = made_up(64, 4), made_up(1000, 4, seed=1, grad=False)
    with Peak() as peak:
        token_nll(hidden, weight, torch.arange(64), 100).sum().backward()
        token_kl(hidden, weight, hidden.detach() + 1, weight, 1.0, 100).sum().backward()
    assert peak.largest <= max(64 * 100, weight.numel())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: token_nll(torch.ones(2, 3), torch.ones(4, 2), torch.zeros(2).long()), "must be"),
        (lambda: token_nll(torch.ones(2, 3), torch.ones(4, 3), torch.zeros(3).long()), "targets for 2 hidden"),
        (lambda: token_nll(torch.ones(2, 3), torch.ones(4, 3), torch.zeros(2).long(), 0), "chunk is 0"),
        (lambda: token_kl(torch.ones(2, 3), torch.ones(4, 3), torch.ones(1, 3), torch.ones(4, 3)), "same tokens"),
        (lambda: token_kl(torch.ones(2, 3), torch.ones(4, 3), torch.ones(2, 3), torch.ones(5, 3)), "same vocabulary"),
        (lambda: token_kl(torch.ones(2, 3), torch.ones(4, 3), torch.ones(2, 3), torch.ones(4, 3), 0.0), "tau is 0"),
    ],
)
def test_shapes_that_do_not_fit(call: Callable[[], torch.Tensor], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()


# --- the joint loss


def value(number: float) -> Callable[[], torch.Tensor]:
    return lambda: torch.tensor(number, requires_grad=True)


def never() -> torch.Tensor:
    raise AssertionError("this term costs nothing when it is off")


SUMS: dict[Loss, Term] = {
    Loss.LM: value(30.0),
    Loss.EMOTION: value(4.0),
    Loss.STRATEGY: value(6.0),
    Loss.SAFETY: value(5.0),
}
COUNTS = {Loss.LM: 10, Loss.EMOTION: 2, Loss.STRATEGY: 2, Loss.SAFETY: 10, Loss.AFFECT: 0}


def test_joint_loss_by_hand() -> None:
    """1.0 * 30/10 + 0.2 * 4/2 + 0.2 * 6/2 + 0.1 * 5/10."""
    joint = joint_loss(SUMS, LossWeights(), COUNTS)
    assert joint.total is not None and joint.total.item() == pytest.approx(3 + 0.4 + 0.6 + 0.05)
    assert joint.parts == pytest.approx({Loss.LM: 3.0, Loss.EMOTION: 2.0, Loss.STRATEGY: 3.0, Loss.SAFETY: 0.5})


@pytest.mark.parametrize("off", list(Loss))
def test_a_lambda_of_zero_takes_away_the_cost_and_the_effect(off: Loss) -> None:
    weights = LossWeights(**{loss.value: 0.0 if loss is off else 1.0 for loss in Loss})
    terms: dict[Loss, Term] = {loss: never if loss is off else value(2.0) for loss in Loss}
    joint = joint_loss(terms, weights, dict.fromkeys(Loss, 2))
    assert joint.total is not None and joint.total.item() == 4.0 and off not in joint.parts


def test_a_loss_that_is_on_but_computed_by_nothing_is_an_error() -> None:
    """The report's safety term was 0 in every run: the teacher's logits never reached it."""
    terms: dict[Loss, Term] = {loss: term for loss, term in SUMS.items() if loss is not Loss.SAFETY}
    with pytest.raises(ValueError, match=r"lambda of safety is 0\.1, but nothing computes it"):
        joint_loss(terms, LossWeights(), COUNTS)


def test_a_term_without_items_is_not_called_and_a_batch_without_any_has_no_loss() -> None:
    joint = joint_loss({**SUMS, Loss.SAFETY: never}, LossWeights(), COUNTS | {Loss.SAFETY: 0})
    assert Loss.SAFETY not in joint.parts
    nothing = joint_loss(dict.fromkeys(Loss, never), LossWeights(), dict.fromkeys(Loss, 0))
    assert nothing.total is None and not nothing.parts


def test_micro_batches_add_up_to_the_step() -> None:
    """Sequences of 1 and 9 tokens: the mean over the tokens of the step, not the mean of two means."""
    hidden, weight, targets = made_up(10, 3), made_up(6, 3, seed=1), torch.arange(10) % 6
    whole = lm_loss(hidden, weight, targets) / 10
    parts = [
        joint_loss(
            {Loss.LM: partial(lm_loss, hidden[rows], weight, targets[rows])},
            LossWeights(emotion=0, strategy=0, safety=0),
            {Loss.LM: rows.stop - rows.start},
            {Loss.LM: 10},
        ).total
        for rows in (slice(0, 1), slice(1, 10))
    ]
    assert parts[0] is not None and parts[1] is not None
    torch.testing.assert_close(parts[0] + parts[1], whole)
    grads = [torch.autograd.grad(loss, hidden)[0] for loss in (parts[0] + parts[1], whole)]
    torch.testing.assert_close(*grads)
    with pytest.raises(ValueError, match="lm: 10 items here, but 9 in the step"):
        joint_loss(SUMS, LossWeights(), COUNTS, COUNTS | {Loss.LM: 9})


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf])
def test_lambdas_that_make_no_sense(bad: float) -> None:
    with pytest.raises(ValueError, match="the lambda of safety is"):
        LossWeights(safety=bad)
