"""What all memory layers check and return."""

import pytest
import torch

from titans_mal.modeling.memory_layer import check_rows, surprise_of_turns
from titans_mal.modeling.memory_state import NeuralMemoryState


HIDDEN = torch.zeros(3, 4, 5)
STATE = NeuralMemoryState((torch.zeros(2, 1, 3, 3),), (torch.zeros(2, 1, 3, 3),))


def test_rows_that_fit():
    check_rows(HIDDEN, STATE, torch.tensor([1, 0, 4]), [2, 1])
    check_rows(HIDDEN, STATE, None, [2, 1])


@pytest.mark.parametrize("sizes", [[1, 2], [2], [3], [2, 2], [2, 2, -1], []])
def test_batch_sizes_that_do_not_fit_the_rows(sizes):
    with pytest.raises(ValueError, match="batch_sizes must be"):
        check_rows(HIDDEN, STATE, None, sizes)


@pytest.mark.parametrize("lengths", [torch.ones(2, dtype=torch.long), torch.ones(3), torch.ones(3, 1, dtype=int)])
def test_lengths_are_an_integer_a_row(lengths):
    with pytest.raises(ValueError, match="lengths must be"):
        check_rows(HIDDEN, STATE, lengths, [2, 1])


def test_surprise_is_the_mean_relative_error_of_the_written_tokens():
    errors = torch.tensor([[[4.0, 8.0], [0.0, 2.0]]])  # one row, two heads, two tokens
    values = torch.tensor([[[[2.0, 0.0], [0.0, 2.0]], [[2.0, 0.0], [0.0, 0.5]]]])
    # The second token's value of the second head is shorter than one, and counts as one.
    assert surprise_of_turns(errors, values, None).tolist() == pytest.approx([((1 + 0) / 2 + (2 + 2) / 2) / 2])
    assert surprise_of_turns(errors, values, torch.tensor([[True, False]])).tolist() == pytest.approx([0.5])
    assert surprise_of_turns(errors, values, torch.tensor([[False, False]])).isnan().all()
