import pytest
import torch

from titans_mal.modeling.emotion_readout import answer_logits, emotion_loss, label_logits, last_unmasked_positions


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ([[0, 0, 1, 1], [1, 1, 1, 1]], [3, 3]),
        ([[1, 1, 0, 0], [1, 1, 1, 0]], [1, 2]),
        ([[0, 1, 1, 0], [1, 0, 1, 0]], [2, 2]),
    ],
)
def test_last_unmasked_position(mask, expected):
    ids = torch.zeros(2, 4)
    assert last_unmasked_positions(torch.tensor(mask), ids).tolist() == expected
    assert last_unmasked_positions(None, ids).tolist() == [3, 3]
    # A mask that covers three earlier positions as well.
    longer = torch.cat([torch.ones(2, 3, dtype=torch.long), torch.tensor(mask)], dim=1)
    assert last_unmasked_positions(longer, ids).tolist() == expected


def test_label_logits_are_picked_at_the_position_of_each_row():
    logits = torch.arange(2 * 3 * 5).view(2, 3, 5).to(torch.bfloat16)
    picked = label_logits(answer_logits(logits, torch.tensor([7, 9]), 10), [4, 0])  # the last 3 of 10 positions
    assert picked.dtype == torch.float32
    assert picked.tolist() == [[4.0, 0.0], [29.0, 25.0]]
    with pytest.raises(ValueError, match="logits_to_keep=3 drops the last position"):
        answer_logits(logits, torch.tensor([6, 9]), 10)


def test_unscored_rows_have_no_share_in_the_loss():
    logits = torch.randn(3, 4, requires_grad=True)
    emotion_loss(logits, torch.tensor([1, -1, -100]), {}.fromkeys(range(4))).backward()
    assert logits.grad[0].abs().sum() > 0
    assert not logits.grad[1:].any()
    assert emotion_loss(logits, [-1, -1, -1], {0: "sad"}) == 0  # lists are taken as well


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64])
def test_labels_of_any_integer_type(dtype):
    logits = torch.randn(3, 4)
    loss = emotion_loss(logits, torch.tensor([1, -1, 3], dtype=dtype), dict(enumerate("abcd")))
    assert loss == emotion_loss(logits, [1, -1, 3], dict(enumerate("abcd")))


def test_labels_must_be_integers():
    with pytest.raises(ValueError, match=r"emotion_labels must be \(2,\) integers"):
        emotion_loss(torch.randn(2, 4), torch.tensor([True, False]), dict(enumerate("abcd")))


def test_the_losses_of_parts_of_a_step_add_up_to_that_of_the_step():
    """Whatever of its rows is scored, and however many items of text each row has."""
    logits, labels = torch.randn(6, 4), torch.tensor([0, -1, 3, 2, -100, 1])
    text = torch.full((6, 9), -100)
    for row, count in enumerate([1, 4, 8, 0, 2, 5]):
        text[row, 1 : 1 + count] = 7
    text[:, 0] = 7  # predicted by nothing
    items = torch.tensor(20)
    names = dict(enumerate("abcd"))
    for given in (text, None):
        whole = emotion_loss(logits, labels, names, text_labels=given, num_items_in_batch=items)
        parts = [
            emotion_loss(
                logits[rows], labels[rows], names, text_labels=None if given is None else given[rows],
                num_items_in_batch=int(items),
            )
            for rows in (slice(0, 1), slice(1, 2), slice(2, 6))
        ]  # fmt: skip
        torch.testing.assert_close(sum(parts), whole)
    # All turns scored, with as much text each: the mean, as without the count.
    text[:, 1:] = 7
    labels = labels.clamp(min=0)
    whole = emotion_loss(logits, labels, names, text_labels=text, num_items_in_batch=48)
    torch.testing.assert_close(whole, emotion_loss(logits, labels, names))
