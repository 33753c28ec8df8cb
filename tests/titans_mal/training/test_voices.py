"""Fitting a voice memory: to turns whose speakers and emotions are known."""

from __future__ import annotations

import pytest
import torch
from tiny_models import save_base

from titans_mal import AutoModelForAudioEmotion, ConversationMemoryCache
from titans_mal.modeling.configuration_titans_memory import TitansMemoryConfig
from titans_mal.modeling.titans_memory_layer import TitansMemory
from titans_mal.modeling.voice_memory_layer import VoiceMemoryLayer
from titans_mal.training.trained_parts import choose_trained_parts
from titans_mal.training.voices import fit_voice_layer, fit_voice_memory, has_voices_to_fit


HIDDEN, SPEAKERS, TURNS, EMOTIONS = 24, 12, 20, 3


def made_up_turns(seed: int) -> tuple[torch.Tensor, list[str], list[int]]:
    """Turns of speakers with an offset each, of emotions with an offset each, with noise."""
    generator = torch.Generator().manual_seed(seed)
    voices = 2 * torch.randn(SPEAKERS, HIDDEN, generator=generator)
    of_emotions = 1.5 * torch.randn(EMOTIONS, HIDDEN, generator=torch.Generator().manual_seed(99))
    speakers = [speaker for speaker in range(SPEAKERS) for _ in range(TURNS)]
    emotions = [turn % EMOTIONS for turn in range(SPEAKERS * TURNS)]
    noise = 0.5 * torch.randn(len(speakers), HIDDEN, generator=generator)
    return voices[speakers] + of_emotions[emotions] + noise + 5.0, [f"s{s}" for s in speakers], emotions


def make_layer(**fields) -> VoiceMemoryLayer:
    given = {"layers": [0], "voice_layers": [0], "voice_key_dim": 6, "voice_emotions": EMOTIONS, **fields}
    return TitansMemory(TitansMemoryConfig(**given), HIDDEN).layers[0]


@torch.no_grad()
def test_keys_distinguish_unseen_speakers():
    layer = make_layer()
    fit_voice_layer(layer, *made_up_turns(0))
    turns, speakers, _ = made_up_turns(1)
    keys = layer._keys(layer.pool(turns[:, None]))
    similarity = keys @ keys.mT
    same = torch.tensor([[a == b for b in speakers] for a in speakers])
    assert similarity[same].mean() > 0.8
    assert similarity[~same].mean() < 0.35


@torch.no_grad()
def test_the_subtracted_voice_is_the_speakers():
    layer = make_layer(voice_shrinkage=0.2)
    fit_voice_layer(layer, *made_up_turns(0))
    turns, _, _ = made_up_turns(1)
    voices = turns.view(SPEAKERS, TURNS, HIDDEN)
    state = layer.initial_state(SPEAKERS)
    for turn in range(12):
        output = layer(voices[:, turn, None], state)
        state = output.state
    offsets = voices.mean(1) - voices.mean((0, 1))
    left = (offsets + output.residual[:, 0]).norm() / offsets.norm()
    assert left < 0.5


@torch.no_grad()
def test_the_classifier_knows_emotions_and_their_part_is_left_out():
    layer = make_layer()
    turns, speakers, emotions = made_up_turns(0)
    fit_voice_layer(layer, turns, speakers, emotions)
    pooled = layer.pool(turns[:, None])
    predicted = layer.emotion_proj(pooled).argmax(-1)
    assert (predicted == torch.tensor(emotions)).float().mean() > 0.95
    values = layer._tokens(pooled, None).values[:, 0, 0, :-1]
    spread = torch.stack([values[torch.tensor(emotions) == e].mean(0) for e in range(EMOTIONS)]).std(0).norm()
    before = torch.stack([pooled[torch.tensor(emotions) == e].mean(0) for e in range(EMOTIONS)]).std(0).norm()
    assert spread < 0.7 * before


@torch.no_grad()
def test_two_emotions_of_more_labels_and_unknown_ones():
    layer = make_layer(voice_emotions=4)
    turns, speakers, emotions = made_up_turns(0)
    some = [{0: 1, 1: 3, 2: -1}[emotion] for emotion in emotions]
    fit_voice_layer(layer, turns, speakers, some)
    probabilities = layer.emotion_proj(layer.pool(turns[:, None])).softmax(-1)
    assert not probabilities[:, [0, 2]].any()
    known = torch.tensor(some) >= 0
    assert (probabilities.argmax(-1)[known] == torch.tensor(some)[known]).float().mean() > 0.95


@torch.no_grad()
def test_a_fit_without_emotions_replaces_an_earlier_one():
    layer, alone = make_layer(), make_layer()
    fit_voice_layer(layer, *made_up_turns(0))
    turns, speakers, _ = made_up_turns(1)
    for each in (layer, alone):
        fit_voice_layer(each, turns, speakers)
    assert all(tensor.equal(alone.state_dict()[name]) for name, tensor in layer.state_dict().items())
    assert not layer.emotion_means.any()


def test_a_failed_fit_changes_nothing():
    layer = make_layer()
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    turns, speakers, _ = made_up_turns(0)
    alone = ["s0"] * len(speakers)
    broken = turns.clone()
    broken[3, 3] = torch.inf
    for given, message in (
        ((turns, alone), r"needs two training speakers or more, got \['s0'\]"),
        ((broken, speakers), "not finite"),
        ((turns, speakers, [0, 1]), r"emotions must be \d+ integers"),
        ((turns, speakers, [0.5] * len(speakers)), r"emotions must be \d+ integers"),
        ((turns, speakers, [1] * len(speakers)), r"two or more of the numbers 0 to \d.*got \[1\]"),
        ((turns, speakers, [-1] * len(speakers)), r"or None; got \[\]"),
        ((turns, speakers, [row % 2 * EMOTIONS for row in range(len(speakers))]), f"got .0, {EMOTIONS}"),
        ((turns[:, 1:], speakers), "pooled must be finite and"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_voice_layer(layer, *given)
    assert all(tensor.equal(before[name]) for name, tensor in layer.state_dict().items())


@pytest.mark.parametrize("number", [2, 5])
@torch.no_grad()
def test_few_speakers_are_distinguished_by_one_direction_less(number):
    few = [f"s{row}" for row in range(number)]
    turns, speakers, emotions = made_up_turns(0)
    kept = [row for row, speaker in enumerate(speakers) if speaker in few]
    given = turns[kept], [speakers[row] for row in kept], [emotions[row] for row in kept]
    wide, narrow = make_layer(), make_layer(voice_key_dim=number - 1)
    for layer in (wide, narrow):
        fit_voice_layer(layer, *given)
    assert not wide.speaker_proj.weight[number - 1 :].any()
    assert not wide.speaker_proj.bias[number - 1 :].any()
    keys = [layer._keys(layer.pool(turns[:, None])) for layer in (wide, narrow)]
    torch.testing.assert_close(keys[0] @ keys[0].mT, keys[1] @ keys[1].mT)


def test_a_model_is_fitted_trained_and_saved_with_its_voice_memory(processor, talks, trainer_of, tmp_path):
    save_base(tmp_path / "base")
    memory = TitansMemoryConfig(layers=[0, 2], voice_layers=[0], voice_key_dim=1, num_heads=2, head_dim=8)
    labels = dict(enumerate(talks["train"].features["emotion"].names))
    model = AutoModelForAudioEmotion.from_base(tmp_path / "base", id2label=labels, memory_config=memory)
    assert model.config.memory_config.voice_emotions == len(labels)
    choose_trained_parts(model)
    fit_voice_memory(model, processor, talks["train"])
    voices = {name: tensor.clone() for name, tensor in model.titans_memory.layers[0].state_dict().items()}
    assert voices["voice_gain"] == 1
    trainer_of(model).train()
    assert all(tensor.equal(voices[name]) for name, tensor in model.titans_memory.layers[0].state_dict().items())
    model.save_pretrained(tmp_path / "adapter")
    again = AutoModelForAudioEmotion.from_pretrained(tmp_path / "adapter").eval()
    inputs = again.prepare_turn(processor, [turn["audio"] for turn in talks["test"]][:4])
    logits = []
    for each in (model.eval(), again):
        cache = ConversationMemoryCache(each.config)
        with torch.no_grad():
            logits.append(each(**inputs, memory_cache=cache, conversation_ids=[0] * 4).emotion_logits)
    assert logits[0].equal(logits[1])


def test_tables_that_cannot_be_fitted_are_rejected_before_they_are_processed(processor, talks, tmp_path, monkeypatch):
    save_base(tmp_path / "base")
    memory = TitansMemoryConfig(layers=[0], voice_layers=[0])
    train = talks["train"]
    labels = dict(enumerate(train.features["emotion"].names))
    model = AutoModelForAudioEmotion.from_base(tmp_path / "base", id2label=labels, memory_config=memory)
    assert has_voices_to_fit(model)
    monkeypatch.setattr("titans_mal.training.voices._means_of_turns", lambda *given: pytest.fail("was processed"))
    one, each = ["X"] * len(train), [f"speaker {row}" for row in range(len(train))]
    for speakers, message in (
        (one, r"two training speakers or more, got \['X'\]"),
        (each, "speakers with several turns"),
    ):
        table = train.remove_columns("speaker").add_column("speaker", speakers)
        with pytest.raises(ValueError, match=message):
            fit_voice_memory(model, processor, table, virtual_voices=2)
    for options in ({"batch_size": 0}, {"virtual_voices": -1}):
        with pytest.raises(ValueError, match="batch_size must be at least 1, and virtual_voices 0"):
            fit_voice_memory(model, processor, train, **options)
    model.config.id2label = {**labels, 0: "other"}
    with pytest.raises(ValueError, match=r"labels \['.*'\] that the model does not know"):
        fit_voice_memory(model, processor, train)


def test_a_model_without_a_voice_memory_is_rejected(model, processor, talks):
    with pytest.raises(ValueError, match="no memory of voices"):
        fit_voice_memory(model, processor, talks["train"])


def test_copies_in_other_voices_are_other_speakers(processor, talks, tmp_path, monkeypatch):
    save_base(tmp_path / "base")
    memory = TitansMemoryConfig(layers=[0], voice_layers=[0], voice_key_dim=1)
    labels = dict(enumerate(talks["train"].features["emotion"].names))
    model = AutoModelForAudioEmotion.from_base(tmp_path / "base", id2label=labels, memory_config=memory)
    given = []
    monkeypatch.setattr("titans_mal.training.voices.fit_voice_layer", lambda layer, *turns: given.append(turns))
    for copies in (0, 2):
        fit_voice_memory(model, processor, talks["train"], virtual_voices=copies)
    (alone, speakers, emotions), (pooled, all_speakers, all_emotions) = given
    assert pooled[: len(alone)].equal(alone)
    assert len(pooled) == len(all_speakers) == 3 * len(alone)
    assert len({*all_speakers}) == 3 * len({*speakers})
    assert all_emotions == 3 * emotions
    assert not torch.allclose(pooled[len(alone) : 2 * len(alone)], alone, atol=1e-3)
