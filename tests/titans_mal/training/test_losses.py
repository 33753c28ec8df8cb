import pytest
import torch
from torch.nn import functional as F

from titans_mal.training.losses import balanced_class_weights, summed_loss


LOGITS = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 3.0], [2.0, -1.0, 0.0]], requires_grad=True)
LABELS = torch.tensor([1, -1, 0])


def test_it_is_the_sum_over_scored_turns():
    expected = F.cross_entropy(LOGITS[[0, 2]], torch.tensor([1, 0]), reduction="sum")
    torch.testing.assert_close(summed_loss(LOGITS, LABELS), expected)


def test_without_a_scored_turn_it_is_zero_with_a_graph():
    loss = summed_loss(LOGITS, torch.tensor([-1, -1, -1]))
    assert loss == 0
    (gradient,) = torch.autograd.grad(loss, LOGITS)
    assert torch.equal(gradient, torch.zeros_like(LOGITS))


def test_class_weights_scale_each_labels_share():
    weights = torch.tensor([2.0, 0.5, 1.0])
    expected = F.cross_entropy(LOGITS[[0, 2]], torch.tensor([1, 0]), weight=weights, reduction="sum")
    torch.testing.assert_close(summed_loss(LOGITS, LABELS, class_weights=weights), expected)


def test_soft_labels_are_shares_of_each_label():
    shares = torch.tensor([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0], [0.5, 0.0, 0.5]])
    logs = LOGITS.log_softmax(-1)
    expected = -(0.25 * logs[0, 0] + 0.75 * logs[0, 1] + 0.5 * logs[2, 0] + 0.5 * logs[2, 2])
    torch.testing.assert_close(summed_loss(LOGITS, LABELS, probabilities=shares), expected)
    one_hot = F.one_hot(LABELS.clamp(min=0), 3)
    torch.testing.assert_close(summed_loss(LOGITS, LABELS, probabilities=one_hot), summed_loss(LOGITS, LABELS))


def test_half_precision_is_summed_in_float32():
    assert summed_loss(LOGITS.bfloat16(), LABELS).dtype == torch.float32


def test_balanced_weights_give_all_labels_the_same_sum():
    labels = [0, 0, 0, 0, 0, 0, 1, 1, 2, -1, -1]
    weights = balanced_class_weights(labels, 4)
    sums = weights * torch.tensor([6, 2, 1, 0])
    torch.testing.assert_close(sums[:3], torch.full((3,), 3.0))
    assert weights[3] == 0
    assert sums.sum() == pytest.approx(9)


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 2.0, 0.1])])
def test_label_smoothing_is_that_of_torch(weights):
    logits, labels = torch.randn(5, 4), torch.tensor([0, 3, 2, 1, -1])
    actual = summed_loss(logits, labels, class_weights=weights, label_smoothing=0.3)
    expected = F.cross_entropy(logits, labels, weight=weights, label_smoothing=0.3, ignore_index=-1, reduction="sum")
    torch.testing.assert_close(actual, expected)
