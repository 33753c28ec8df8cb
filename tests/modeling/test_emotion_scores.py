"""What a call predicts, beside the formulas of the readout; the losses are tested in test_training.py."""

import pytest
import torch
from tiny_models import tiny_model, tiny_turns

from titans_mal.modeling.emotion_scores import readings_of


def test_readings_are_all_predictions_of_a_turn():
    logits, values = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5]])
    assert readings_of({}) is None
    assert readings_of({"emotion_logits": None, "emotion_values": values}) is values
    assert readings_of({"emotion_logits": logits, "emotion_values": values}).tolist() == [[1.0, 2.0, 0.5]]


@torch.no_grad()
def test_a_readout_needs_the_decoder_of_the_host(monkeypatch):
    model = tiny_model(emotion_readout="linear")
    # As in a host that runs its blocks by other code.
    monkeypatch.setattr(model.get_decoder(), "_forward_hooks", {})
    with pytest.raises(RuntimeError, match="did not run the decoder whose last hidden state"):
        model(**tiny_turns(1))
