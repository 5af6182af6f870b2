"""The heads' losses, by hand, and what a mask keeps out of them."""

import math

import pytest
import torch

from worldmodel.heads import MemberOutputs
from worldmodel.heads_objective import (
    FrameLabels,
    HeadsObjective,
    bootstrap_weights,
    cross_entropy,
    heads_losses,
    huber,
    log_error,
    squared,
)

ONE = torch.ones(1, 1)


def test_huber_by_hand():
    predicted = torch.tensor([[[0.5, 3.0]]])
    true, mask = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    assert huber(predicted, true, mask, ONE).item() == pytest.approx((0.125 + 2.5) / 2)
    mask[0, 1] = False
    assert huber(predicted, true, mask, ONE).item() == pytest.approx(0.125)


def test_squared_error_by_hand():
    predicted = torch.tensor([[[[1.0, 3.0]]]])
    mask = torch.ones(1, 1, dtype=torch.bool)
    assert squared(predicted, torch.zeros(1, 1, 2), mask, ONE).item() == pytest.approx(5.0)
    assert squared(predicted[..., :0], torch.zeros(1, 1, 0), mask, ONE).item() == 0


def test_cross_entropy_by_hand():
    logit = torch.tensor([[[math.log(3), math.log(3)]]])  # probability 3/4
    true = torch.tensor([[True, False]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    value = cross_entropy(logit, true, mask, ONE, positive_weight=0.5)
    assert value.item() == pytest.approx((0.5 * math.log(4 / 3) + math.log(4)) / 2, abs=1e-6)


def test_the_weight_moves_the_border_as_documented():
    """Three of four frames are successes; at weight 1/3 that is a coin toss."""
    true = torch.tensor([[True, True, True, False]])
    logit = torch.zeros(1, 1, 4, requires_grad=True)
    mask = torch.ones(1, 4, dtype=torch.bool)
    loss = cross_entropy(logit, true, mask, ONE, positive_weight=1 / 3)
    (gradient,) = torch.autograd.grad(loss, logit)
    assert gradient.sum().item() == pytest.approx(0.0, abs=1e-7)


def test_members_count_rows_by_their_own_sample():
    predicted = torch.tensor([[[1.0], [0.0]], [[0.0], [1.0]]])  # each wrong on one row
    mask = torch.ones(2, 1, dtype=torch.bool)
    weights = torch.tensor([[3.0, 1.0], [1.0, 0.0]])
    value = huber(predicted, torch.zeros(2, 1), mask, weights)
    assert value.item() == pytest.approx(0.5 * 3 / 5)


def test_errors_are_never_taken_for_nothing():
    assert log_error(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([math.log(1e-3), 0.0])


def labels_and_predictions():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    predicted = MemberOutputs(
        *(normal(2, 3, 4).requires_grad_() for _ in range(2)),
        state=normal(2, 3, 4, 5).requires_grad_(),
        log_error=normal(2, 3, 4).requires_grad_(),
    )
    masks = [normal(3, 4) > 0 for _ in range(4)]
    labels = FrameLabels(
        normal(3, 4), masks[0], normal(3, 4) > 0, masks[1], normal(3, 4, 5), masks[2],
        normal(3, 4).exp(), masks[3],
    )  # fmt: skip
    return predicted, labels


@pytest.mark.parametrize("junk", [float("nan"), 1e30])
def test_what_is_masked_changes_neither_losses_nor_gradients(junk):
    predicted, labels = labels_and_predictions()
    spoilt = labels._replace(
        reward=labels.reward.masked_fill(~labels.reward_mask, junk),
        success=labels.success ^ ~labels.success_mask,
        state=labels.state.masked_fill(~labels.state_mask[..., None], junk),
        error=labels.error.masked_fill(~labels.error_mask, junk),
    )
    weights = torch.ones(2, 3)
    results = []
    for given in (labels, spoilt):
        losses = heads_losses(predicted, given, weights, HeadsObjective())
        total = losses.total(HeadsObjective())
        results.append((torch.stack(losses), *torch.autograd.grad(total, predicted)))
    for one, other in zip(*results, strict=True):
        assert one.equal(other)
    assert results[0][0].isfinite().all()


def test_without_any_label_there_is_no_loss():
    predicted, labels = labels_and_predictions()
    nothing = labels._replace(
        **{f"{name}_mask": torch.zeros(3, 4, dtype=torch.bool) for name in
           ("reward", "success", "state", "error")}
    )  # fmt: skip
    losses = heads_losses(predicted, nothing, torch.ones(2, 3), HeadsObjective())
    assert torch.stack(losses).tolist() == [0, 0, 0, 0]


def test_the_total_is_weighed():
    losses = heads_losses(*labels_and_predictions(), torch.ones(2, 3), HeadsObjective())
    chosen = HeadsObjective(reward=0.0, success=2.0, state=0.0, error=0.0)
    assert losses.total(chosen).item() == pytest.approx(2 * losses.success.item())


def test_a_member_sees_the_same_sample_in_every_batch():
    one = bootstrap_weights(torch.tensor([7, 3, 7]), 5, seed=1)
    other = bootstrap_weights(torch.tensor([3]), 5, seed=1)
    assert one[:, 0].equal(one[:, 2])
    assert one[:, 1].equal(other[:, 0])
    assert not one.equal(bootstrap_weights(torch.tensor([7, 3, 7]), 5, seed=2))


def test_samples_are_exponential_and_independent():
    weights = bootstrap_weights(torch.arange(2000), 5, seed=0)
    assert weights.mean().item() == pytest.approx(1.0, abs=0.05)
    assert weights.var().item() == pytest.approx(1.0, abs=0.1)
    assert (weights > 1).float().mean().item() == pytest.approx(math.exp(-1), abs=0.02)
    assert abs(torch.corrcoef(weights)[0, 1].item()) < 0.1
