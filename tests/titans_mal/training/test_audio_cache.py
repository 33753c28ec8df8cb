"""What the frozen audio tower computes, kept on disk: found again whatever is beside it, and by its weights alone."""

import pytest
import torch
from tiny_hosts import HOSTS
from tiny_models import rows_of, tiny_model, tiny_turns

from titans_mal.training import AudioTowerCache, choose_trained_parts


ROW_WISE = {"Qwen2Audio", "AudioFlamingo3", "MusicFlamingo", "Voxtral", "GlmAsr"}


def frozen(model):
    choose_trained_parts(model)
    return model


def forbid_tower(model, monkeypatch):
    """From here on, computing anything by the tower is an error."""
    tower = next(module for name, module in model.named_modules() if name.endswith("audio_tower"))
    monkeypatch.setattr(type(tower), "forward", lambda *args, **kwargs: pytest.fail("the tower computes"))


@pytest.mark.parametrize("name", HOSTS)
@torch.no_grad()
def test_the_hosts_that_may_be_cached(name, tmp_path, monkeypatch):
    model = frozen(HOSTS[name].model())
    if name not in ROW_WISE:
        with pytest.raises(ValueError, match=f"^The audio tower of {name}MALForAudioEmotion cannot be cached"):
            AudioTowerCache(model, tmp_path)
        return
    turns = HOSTS[name].turns(3)
    expected = model(**turns).emotion_logits
    with AudioTowerCache(model, tmp_path) as filling:
        computed = model(**turns).emotion_logits
    rows = filling.computed
    assert rows >= 3
    torch.testing.assert_close(computed, expected, rtol=0, atol=2e-2)
    forbid_tower(model, monkeypatch)
    with AudioTowerCache(model, tmp_path) as reading:
        assert torch.equal(model(**turns).emotion_logits, computed)
    assert (reading.found, reading.computed) == (rows, 0)


@torch.no_grad()
def test_a_turn_is_found_in_any_batch(tmp_path, monkeypatch):
    model, turns = frozen(tiny_model()), tiny_turns(4)
    with AudioTowerCache(model, tmp_path):
        expected = model(**turns).emotion_logits
        forbid_tower(model, monkeypatch)
        turned = model(**rows_of(turns, [3, 1])).emotion_logits
    torch.testing.assert_close(turned, expected[[3, 1]], rtol=0, atol=1e-6)


@torch.no_grad()
def test_only_what_is_new_is_computed(tmp_path):
    model, turns = frozen(tiny_model()), tiny_turns(4)
    with AudioTowerCache(model, tmp_path) as cache:
        model(**rows_of(turns, [0, 1]))
        mixed = model(**rows_of(turns, [1, 2, 0, 3])).emotion_logits
    assert (cache.found, cache.computed) == (2, 4)
    with AudioTowerCache(model, tmp_path / "other"):
        torch.testing.assert_close(mixed, model(**rows_of(turns, [1, 2, 0, 3])).emotion_logits, rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_key_is_all_that_the_tower_is_given_and_its_weights(tmp_path):
    model, turns = frozen(tiny_model()), tiny_turns(1, frames=[60])
    with AudioTowerCache(model, tmp_path) as cache:
        model(**turns)
        louder = {**turns, "input_features": turns["input_features"] + 1e-3}
        model(**louder)
        assert cache.computed == 2
        # The same features with another end of the audio, where there is silence.
        mask = turns["feature_attention_mask"].clone()
        mask[:, 40:] = 0
        ids = turns["input_ids"].clone()
        audio = (ids == model.audio_token_id).nonzero()
        keep = torch.ones(ids.shape[1], dtype=torch.bool)
        keep[audio[10:, 1]] = False
        shorter = {"input_ids": ids[:, keep], "attention_mask": turns["attention_mask"][:, keep]}
        model(**{**turns, **shorter, "feature_attention_mask": mask})
        assert cache.computed == 3
    tower = next(module for name, module in model.named_modules() if name.endswith("audio_tower"))
    next(tower.parameters()).add_(0.01)
    with AudioTowerCache(model, tmp_path) as other:
        model(**turns)
    assert (other.found, other.computed) == (0, 1)
    assert other.folder != cache.folder


@torch.no_grad()
def test_a_broken_file_is_computed_again(tmp_path):
    model, turns = frozen(tiny_model()), tiny_turns(1)
    with AudioTowerCache(model, tmp_path) as cache:
        expected = model(**turns).emotion_logits
        (file,) = cache.folder.glob("*.safetensors")
        file.write_bytes(file.read_bytes()[:-7])
        assert torch.equal(model(**turns).emotion_logits, expected)
        assert torch.equal(model(**turns).emotion_logits, expected)
    assert (cache.found, cache.computed) == (1, 2)
    assert [path.suffix for path in cache.folder.iterdir()] == [".safetensors"]


@torch.no_grad()
def test_only_positions_that_the_host_reads_are_stored(tmp_path):
    model = frozen(tiny_model())
    sizes = {}
    for frames in (30, 290):
        with AudioTowerCache(model, tmp_path / str(frames)) as cache:
            model(**tiny_turns(1, frames=[frames]))
        (file,) = cache.folder.iterdir()
        sizes[frames] = file.stat().st_size
    assert sizes[30] < 0.3 * sizes[290]


def test_outside_of_it_the_model_is_as_it_was(tmp_path):
    model = frozen(tiny_model())
    tower = next(module for name, module in model.named_modules() if name.endswith("audio_tower"))
    cache = AudioTowerCache(model, tmp_path)
    with cache, cache:
        assert "forward" in vars(tower)
    assert "forward" not in vars(tower)
    with pytest.raises(KeyError), cache:
        raise KeyError
    assert "forward" not in vars(tower)


def test_a_trained_tower_is_rejected(tmp_path):
    model = tiny_model()
    with pytest.raises(ValueError, match="The audio tower is trained, so its output changes"):
        AudioTowerCache(model, tmp_path)
    model.config.adapter_only = True
    choose_trained_parts(model, lora_rank=2, lora_on_audio_tower=True)
    with pytest.raises(ValueError, match="The audio tower is trained"):
        AudioTowerCache(model, tmp_path)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="The audio tower has a PEFT adapter"):
        AudioTowerCache(model, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_training_reuses_the_cache_of_an_earlier_one(trainer_of, talks, tmp_path, monkeypatch):
    def train(**options):
        trainer = trainer_of(max_steps=3, own={"eval_dataset": talks["test"]}, **options)
        trainer.train()
        trainer.evaluate()
        return trainer, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    _, plain = train()
    first, filling = train(cache_audio=str(tmp_path / "kept"))
    assert filling == pytest.approx(plain, abs=1e-2)
    forbid_tower(first.model, monkeypatch)
    _, reading = train(cache_audio=str(tmp_path / "kept"))
    assert reading == filling


def test_training_with_a_trained_tower_is_rejected_at_the_start(trainer_of, tmp_path):
    model = tiny_model()
    model.requires_grad_(True)
    with pytest.raises(ValueError, match="The audio tower is trained"):
        trainer_of(model, cache_audio=str(tmp_path / "kept"))
