"""Concordance and its loss, against numpy in float64, and what is not known."""

import numpy as np
import pytest
import torch
from scipy import stats

from titans_mal.modeling.emotion_dimensions import concordance, concordance_loss


def by_definition(x: np.ndarray, y: np.ndarray) -> float:
    """From Pearson's r of scipy: rho_c = 2 r s_x s_y / (s_x^2 + s_y^2 + (m_x - m_y)^2)."""
    r = stats.pearsonr(x, y).statistic
    return 2 * r * x.std() * y.std() / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)


def test_concordance_is_that_of_its_definition():
    rng = np.random.default_rng(0)
    targets = rng.uniform(size=(50, 3))
    values = targets * [0.5, -1, 2] + rng.normal(0.3, 0.2, size=(50, 3))
    expected = [by_definition(values[:, i], targets[:, i]) for i in range(3)]
    found = concordance(torch.tensor(values), torch.tensor(targets))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert concordance_loss(torch.tensor(values), torch.tensor(targets)).item() == pytest.approx(
        1 - np.mean(expected), abs=1e-6
    )


def test_unknown_targets_are_ignored():
    rng = np.random.default_rng(1)
    values, targets = rng.normal(size=(2, 20, 2))
    targets[:5, 0] = np.nan
    targets[1:, 1] = np.nan
    values = torch.tensor(values, requires_grad=True)
    loss = concordance_loss(values, targets)
    # One turn of the second dimension alone tells nothing.
    assert loss.item() == pytest.approx(1 - by_definition(values[5:, 0].detach().numpy(), targets[5:, 0]), abs=1e-6)
    loss.backward()
    assert not values.grad[:5, 0].any()
    assert not values.grad[:, 1].any()
    assert values.grad[5:, 0].all()


def test_nothing_known_and_constants_are_finite():
    values = torch.ones(4, 1, requires_grad=True)
    for targets in (torch.full((4, 1), torch.nan), torch.ones(4, 1), torch.arange(4.0)[:, None]):
        values.grad = None
        loss = concordance_loss(values, targets)
        loss.backward()
        assert torch.isfinite(loss)
        assert values.grad.isfinite().all()


@pytest.mark.parametrize("targets", [[[1.0, 2.0]], [[1.0]] * 3, [[float("inf")], [0.0]]])
def test_targets_that_do_not_fit(targets):
    with pytest.raises(ValueError, match="emotion_value_labels must be"):
        concordance_loss(torch.zeros(2, 1), targets)
