"""Hosts in which the padding of a batch changes shorter turns process turns of one length at a time."""

import copy

import pytest
import torch
from common_host_tester import deterministic
from tiny_hosts import HOSTS
from tiny_models import tone
from tiny_processors import PROCESSORS, model_for

from titans_mal.modeling import turns_by_length


NAMES = ("Qwen3OmniMoe", "GraniteSpeech", "Phi4Multimodal", "Gemma3n", "Qwen3ASR")
SECONDS = (0.9, 1.33, 0.9, 0.717)


def test_which_hosts_they_are():
    assert [name for name in HOSTS if HOSTS[name].model_class.tower_mixes_padding] == [*NAMES]


def difference(model, processor) -> float:
    """Of the emotion logits of turns alone and in one batch."""
    turns = [tone(seconds, frequency=200.0 + 9 * row) for row, seconds in enumerate(SECONDS)]

    def logits(some):
        inputs, _ = model.turn_inputs(processor, some, transcripts=[None] * len(some))
        return model(**inputs, conversation_ids=[*range(len(some))], logits_to_keep=1).emotion_logits

    with torch.no_grad():
        return float((torch.cat([logits([turn]) for turn in turns]) - logits(turns)).abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_a_turn_depends_on_no_neighbour_in_training_either(name, tmp_path, monkeypatch):
    processor = PROCESSORS[name](tmp_path)
    model = model_for(name, processor)
    assert difference(model, processor) <= 1e-5
    model.requires_grad_(False)
    buffers = {key: buffer.clone() for key, buffer in model.named_buffers()}
    deterministic(model.train())
    assert difference(model, processor) <= 1e-5
    assert all(torch.equal(buffer, buffers[key]) for key, buffer in model.named_buffers()), "batch norm has changed"
    # A copy runs its own tower.
    twin = copy.deepcopy(model.eval())
    if model.mixing_tower is not None:
        tower = twin._find_mixing_tower()
        assert tower.forward.tower is tower is not model._find_mixing_tower()
    # By itself the host lets neighbours matter.
    monkeypatch.setattr(turns_by_length, "rows_by_length", lambda lengths: {max(lengths): [*range(len(lengths))]})
    assert difference(model, processor) > 1e-5


def test_a_trained_tower_is_in_training_mode():
    model = HOSTS["GraniteSpeech"].model().train()
    assert model.model.encoder.training
    model.model.encoder.requires_grad_(False)
    assert not model.train().model.encoder.training
    assert model.model.language_model.training


def test_padding_that_is_no_audio_changes_nothing():
    """Of inputs that other code padded further."""
    host = HOSTS["GraniteSpeech"]
    model, turns = host.model(), host.turns(2, frames=[40, 61])
    longer = dict(turns)
    longer["input_features"] = torch.nn.functional.pad(turns["input_features"], (0, 0, 0, 15))
    longer["input_features_mask"] = torch.nn.functional.pad(turns["input_features_mask"], (0, 3))
    with torch.no_grad():
        assert torch.equal(model(**turns).logits, model(**longer).logits)
