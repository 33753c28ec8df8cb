"""Batches of turns: on the CPU wherever the model is, pinned and made by workers as loaders do."""

import pickle
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import LABELS, tiny_model, tiny_processor

from titans_mal import load_conversations
from titans_mal.data.virtual_speakers import VirtualSpeaker
from titans_mal.evaluation.table_scoring import TableScorer, make_groups
from titans_mal.modeling.turn_rules import CutTurnWarning
from titans_mal.training import ConversationTrainer, ConversationTrainingArguments, choose_trained_parts
from titans_mal.training.lanes import LaneTurn
from titans_mal.training.windows import TurnDataset, WindowCollator


COLUMNS = [0, 1, 2, 3]
# What a batch holds beside the inputs of the host.
OWN = ("conversation_ids", "speaker_ids", "begins", "emotion_labels")


@pytest.fixture(scope="module")
def turns(talks):
    dataset = TurnDataset(talks["train"], sampling_rate=16_000, label_columns=COLUMNS)
    return [dataset[LaneTurn(row, lane=row % 2, begins=row < 2)] for row in range(4)]


@pytest.fixture
def accelerator(monkeypatch):
    """What a GPU is to a loader: it is there, and pins memory of the CPU alone."""
    pinned = []

    def pin_memory(tensor, *args):
        if tensor.device.type != "cpu":
            raise RuntimeError(f"cannot pin memory of {tensor.device}: only dense CPU tensors can be pinned")
        pinned.append(tensor)
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda *args, **kwargs: True)
    return pinned


def trainer_on(folder, talks, **options) -> ConversationTrainer:
    """A training on the CPU, whatever else is there."""
    model = tiny_model()
    choose_trained_parts(model)
    arguments = ConversationTrainingArguments(
        output_dir=str(folder),
        window=3,
        per_device_train_batch_size=2,
        max_steps=3,
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        **options,
    )
    # Which `use_cpu` turns off.
    arguments.dataloader_pin_memory = torch.accelerator.is_available()
    return ConversationTrainer(model, arguments, processor=tiny_processor(), train_dataset=talks["train"])


def losses(trainer) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_is_on_the_cpu_wherever_the_model_is(processor, turns, dtype):
    expected = WindowCollator(tiny_model().to(dtype), processor, COLUMNS)(turns)
    batch = WindowCollator(tiny_model().to(dtype).to("meta"), processor, COLUMNS)(turns)
    assert batch["input_features"].dtype == dtype
    for name in expected:
        assert batch[name].device.type == "cpu", name
        assert torch.equal(batch[name], expected[name]), name


def test_workers_get_no_weights(processor):
    model = tiny_model()
    collator = pickle.dumps(WindowCollator(model, processor, COLUMNS))
    assert len(collator) - len(pickle.dumps(processor)) < 0.1 * model.num_parameters()
    assert not any(parameter.numel() for parameter in pickle.loads(collator)._model.parameters())


def test_batches_of_a_model_on_another_device_are_pinned(accelerator, talks, tmp_path):
    trainer = trainer_on(tmp_path, talks)
    trainer.data_collator = WindowCollator(tiny_model().to("meta"), tiny_processor(), COLUMNS)
    batch = next(iter(trainer.get_train_dataloader()))
    assert {id(tensor) for tensor in batch.values()} == {id(tensor) for tensor in accelerator}


def test_a_training_with_pinned_batches(accelerator, talks, tmp_path):
    assert len(losses(trainer_on(tmp_path, talks))) == 3
    assert accelerator


def test_unusable_turns_are_skipped(talks_folder, tmp_path):
    """All but one; most batches have none, and are noise that is not scored and that no memory keeps."""
    shutil.copytree(talks_folder, tmp_path / "talks")
    talks = load_conversations(tmp_path / "talks", label_set=LABELS)
    for audio in talks["train"]["audio"][1:]:
        Path(audio["path"]).write_bytes(b"")
    trainer = trainer_on(tmp_path / "out", talks)
    message = r"without turns that are unusable; the first is broken: row \d+, .*\.wav \(\w+, turn \d\): .* is empty"
    with pytest.warns(UserWarning, match=message) as warned:
        assert np.isfinite(losses(trainer)).all()
    assert len([warning for warning in warned if "continues without" in str(warning.message)]) == 1
    assert len(trainer.problems) == len(set(trainer.problems)) > 2
    batch = trainer.data_collator([trainer.train_dataset[LaneTurn(row, row, row == 2)] for row in (1, 2)])
    assert (batch["is_noise"], batch["begins"].tolist(), batch["emotion_labels"].tolist()) == (True, [2], [-1])
    assert trainer._lane_states.of_batch([0], []).turns.sum() <= 1


def test_turns_beyond_the_hosts_window_are_reported_at_the_start(talks, tmp_path):
    seconds = [4.0 + row if row < 2 else 1.0 for row in range(talks["train"].num_rows)]
    table = talks["train"].remove_columns("seconds").add_column("seconds", seconds)
    with pytest.warns(CutTurnWarning, match=r"2 turns are longer than the host's window: \w+, turn 0 \(4\.0 s\), "):
        trainer_on(tmp_path, {"train": table})


def test_workers_change_no_number(talks, tmp_path):
    plain = losses(trainer_on(tmp_path / "plain", talks))
    assert losses(trainer_on(tmp_path / "two", talks, dataloader_num_workers=2)) == plain


def test_a_transcript_is_in_the_prompt_of_training_and_evaluation(talks, tmp_path):
    model, processor = tiny_model(emotion_prompt="emotion {transcript} ?"), tiny_processor()
    said = [f"word{row % 7} word9" for row in range(len(talks["train"]))]
    table = talks["train"].remove_columns("transcript").add_column("transcript", said)
    dataset = TurnDataset(table, sampling_rate=16_000, label_columns=COLUMNS)
    rows = dataset.conversations[0][:3]
    batch = WindowCollator(model, processor, COLUMNS)([dataset[LaneTurn(row, 0, False)] for row in rows])
    vocabulary = processor.tokenizer.get_vocab()
    for row, ids in zip(rows, batch["input_ids"].tolist()):
        first = ids.index(vocabulary["emotion"]) + 1
        assert ids[first : first + 2] == [vocabulary[word] for word in said[row].split()]
    scorer = TableScorer(model, processor, table, batch_size=4, readout="logits", max_new_tokens=1, seed=0)
    group = make_groups(table, 3)[0]
    scorer.load(group)
    with torch.no_grad():
        scores = scorer.score(group.turns[:3], None).logits
        expected = model(**{name: batch[name] for name in batch if name not in OWN}, conversation_ids=None)
    for row, logits in zip(rows, expected.emotion_logits.tolist()):
        assert scores[row] == pytest.approx(logits, abs=1e-4)


def test_a_speaker_of_a_conversation_has_one_virtual_voice_a_visit(talks, monkeypatch):
    made = []

    def draw(rng, **parts):
        made.append(int(rng.integers(1 << 30)))
        return lambda waveform, rate: waveform * 0.5

    monkeypatch.setattr(VirtualSpeaker, "draw", draw)
    plain = TurnDataset(talks["train"], sampling_rate=16_000, label_columns=COLUMNS)
    changed = TurnDataset(talks["train"], sampling_rate=16_000, label_columns=COLUMNS, virtual_speakers=1.0, seed=3)
    drawn = {}
    for rows in changed.conversations[:2]:
        for row, visit in product(rows, (0, 1)):
            turn = LaneTurn(row, 0, False, visit)
            assert changed[turn]["waveform"].tolist() == (plain[turn]["waveform"] * 0.5).tolist()
            drawn.setdefault((rows[0], changed[turn]["speaker"], visit), set()).add(made[-1])
    assert all(len(voices) == 1 for voices in drawn.values())
    assert len(set.union(*drawn.values())) == len(drawn) > 4


def test_as_many_speakers_are_virtual_as_is_asked_for(talks):
    turns = TurnDataset(talks["train"], sampling_rate=16_000, label_columns=COLUMNS, virtual_speakers=0.5)
    plain = TurnDataset(talks["train"], sampling_rate=16_000, label_columns=COLUMNS)
    changed = [
        len(turns[LaneTurn(0, 0, True, visit)]["waveform"]) != len(plain[LaneTurn(0, 0, True)]["waveform"])
        for visit in range(40)
    ]
    assert 8 <= sum(changed) <= 32
    with pytest.raises(ValueError, match="between 0 and 1"):
        ConversationTrainingArguments(output_dir="x", virtual_speakers=1.5)
    with pytest.raises(ValueError, match="disable one of them"):
        ConversationTrainingArguments(output_dir="x", virtual_speakers=0.5, cache_audio="y")


def test_a_training_uses_virtual_speakers(talks, tmp_path):
    first = LaneTurn(0, 0, True)
    plain, changed = (
        trainer_on(tmp_path, talks, virtual_speakers=share).train_dataset[first]["waveform"] for share in (0.0, 1.0)
    )
    assert len(changed) != len(plain)
