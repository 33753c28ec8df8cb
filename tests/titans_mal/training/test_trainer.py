"""The trainer on tiny models: lanes, losses, resuming to the bit, steps that are not finite."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from tiny_models import LABELS, save_base, stir, tiny_model
from transformers import TrainerCallback, TrainingArguments

from titans_mal import AutoModelForAudioEmotion, ConversationMemoryCache, TitansMemoryConfig
from titans_mal.data.table import SOFT_LABELS
from titans_mal.training import (
    ConversationTrainer,
    ConversationTrainingArguments,
    choose_trained_parts,
    last_good_checkpoint,
)
from titans_mal.training.lanes import check_plan
from titans_mal.training.losses import summed_loss


@pytest.fixture
def build(processor, talks, tmp_path):
    """Makes a trainer; every call begins from the same weights."""

    def build(model=None, *, train=None, callbacks=None, evaluated=False, **options):
        model = fresh_model() if model is None else model
        arguments = ConversationTrainingArguments(
            **{
                "output_dir": str(tmp_path / "out"),
                "window": 3,
                "per_device_train_batch_size": 2,
                "max_steps": 6,
                "logging_steps": 1,
                "save_strategy": "no",
                "learning_rate": 1e-2,
                "use_cpu": True,
                "report_to": "none",
                "disable_tqdm": True,
                **options,
            }
        )
        return ConversationTrainer(
            model,
            arguments,
            processor=processor,
            train_dataset=talks["train"] if train is None else train,
            eval_dataset=talks["test"] if evaluated else None,
            callbacks=callbacks,
        )

    return build


def fresh_model(**kwargs):
    model = tiny_model(**kwargs)
    choose_trained_parts(model)
    return model


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """Makes a model of a base, with a LoRA."""
    base = tmp_path_factory.mktemp("base")
    save_base(base)

    def adapter():
        torch.manual_seed(0)
        memory = TitansMemoryConfig(layers=[0, 2], num_heads=2, head_dim=8, chunk_size=4)
        model = AutoModelForAudioEmotion.from_base(base, id2label=dict(enumerate(LABELS)), memory_config=memory)
        choose_trained_parts(model, lora_rank=2, lora_dropout=0.2)
        return model

    return adapter


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


class StopAfter(TrainerCallback):
    """What a kill leaves: the training is gone, and its checkpoints are there."""

    def __init__(self, step: int, action):
        self.step, self.action = step, action

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.action()


class Killed(BaseException):
    pass


def kill():
    raise Killed


def test_it_trains_the_memory_and_leaves_the_host(build):
    trainer = build(fresh_model(emotion_readout="linear", label_token_ids=None), max_steps=40)
    before = weights(trainer.model)
    trainer.train()
    after = trainer.model.state_dict()
    assert sum(losses(trainer)[-8:]) < 0.9 * sum(losses(trainer)[:8])
    for name in before:
        changed = not torch.equal(before[name], after[name])
        assert changed == name.startswith(("titans_memory", "emotion_head")), name


def test_the_loss_of_a_step_is_that_of_streaming_the_same_turns(build):
    """Turn by turn, each lane with a cache of its own that goes on from step to step."""
    trainer = build(learning_rate=0.0, max_steps=4)
    trainer.train()
    model, caches, expected = fresh_model().train(), {}, []
    turns = list(trainer.lane_sampler) + _second_epoch(trainer)
    with torch.no_grad():
        for batch in turns[:4]:
            total, scored = 0.0, 0
            for turn in batch:
                inputs = trainer.data_collator([trainer.train_dataset[turn]])
                labels = inputs.pop("emotion_labels")
                if inputs.pop("begins").numel():
                    caches[turn.lane] = ConversationMemoryCache(model.config)
                output = model(**inputs, memory_cache=caches[turn.lane])
                total += float(summed_loss(output.emotion_logits, labels))
                scored += 1
            expected.append(total / scored)
    assert losses(trainer) == pytest.approx(expected, abs=1e-4)


def _second_epoch(trainer) -> list:
    trainer.lane_sampler.epoch = 1
    return list(trainer.lane_sampler)


def test_a_carried_state_matters_and_is_cut_from_the_graph(build):
    """The second window of a conversation is scored otherwise than as a conversation of its own."""
    carried = build(learning_rate=0.0, max_steps=8)
    carried.train()
    reset = build(learning_rate=0.0, max_steps=8)
    reset._lane_states.of_batch = lambda lanes, begins: ConversationMemoryCache(reset.model.config, batch_size=2)
    reset.train()
    differ = [abs(a - b) > 1e-6 for a, b in zip(losses(carried), losses(reset))]
    assert any(differ)
    assert not differ[0]
    for cache in carried._lane_states._caches.values():
        assert all(not tensor.requires_grad for layer in cache.layers for tensor in layer.weights)


@pytest.mark.parametrize("options", [{}, {"class_weights": "balanced"}])
def test_accumulation_is_one_larger_batch(build, options):
    large = build(per_device_train_batch_size=4, **options)
    large.train()
    small = build(per_device_train_batch_size=1, gradient_accumulation_steps=4, **options)
    small.train()
    assert losses(small) == pytest.approx(losses(large), abs=2e-4)
    for name, tensor in large.model.titans_memory.state_dict().items():
        torch.testing.assert_close(small.model.titans_memory.state_dict()[name], tensor, rtol=0, atol=2e-3)


def test_balanced_classes_change_the_loss(build):
    plain, balanced = build(max_steps=1), build(max_steps=1, class_weights="balanced")
    plain.train()
    balanced.train()
    assert losses(plain) != losses(balanced)


def test_soft_labels(build, talks):
    table = talks["train"]
    hard = [[float(label == index) for index in range(4)] for label in table["emotion"]]
    one_hot = build(train=table.add_column(SOFT_LABELS, hard), soft_labels=True)
    one_hot.train()
    plain = build()
    plain.train()
    assert losses(one_hot) == pytest.approx(losses(plain), abs=1e-5)
    shared = build(train=table.add_column(SOFT_LABELS, [[0.25] * 4] * len(table)), soft_labels=True, max_steps=1)
    shared.train()
    assert losses(shared) != losses(plain)[:1]
    with pytest.raises(ValueError, match="soft_labels need the column emotion_probabilities"):
        build(soft_labels=True)
    with pytest.raises(ValueError, match="row 0 must be 4 shares that sum to 1"):
        build(train=table.add_column(SOFT_LABELS, [[0.5] * 4] * len(table)), soft_labels=True)


def test_soft_labels_are_found_by_name(build, talks):
    turned = fresh_model(id2label=dict(enumerate(reversed(LABELS))))
    table = talks["train"].add_column(SOFT_LABELS, [[0.7, 0.2, 0.1, 0.0]] * len(talks["train"]))
    trainer = build(turned, train=table, soft_labels=True)
    batch = trainer.data_collator([trainer.train_dataset[next(iter(trainer.lane_sampler))[0]]])
    assert batch[SOFT_LABELS][0].tolist() == pytest.approx([0.0, 0.1, 0.2, 0.7])


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_killed_training_resumes_bit_identically(build, adapter, tmp_path, lora, accumulation):
    make = adapter if lora else fresh_model
    how = {"max_steps": 7, "gradient_accumulation_steps": accumulation, "per_device_train_batch_size": 1}
    whole = build(make(), **how)
    whole.train()
    killed = build(make(), **how, save_strategy="steps", save_steps=2, callbacks=[StopAfter(5, kill)])
    with pytest.raises(Killed):
        killed.train()
    torch.manual_seed(99)  # whatever another process begins with
    checkpoint = last_good_checkpoint(tmp_path / "out")
    assert checkpoint.endswith("checkpoint-4")
    resumed = build(make(), **how)
    for parameter in resumed.model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)  # what is not loaded will show
    resumed.train(resume_from_checkpoint=checkpoint)
    assert_equal(weights(resumed.model), weights(whole.model))
    assert losses(resumed) == losses(whole)


def test_a_signal_saves_and_stops(build, tmp_path):
    whole = build()
    whole.train()
    handler = signal.getsignal(signal.SIGTERM)
    stopped = build(callbacks=[StopAfter(3, lambda: os.kill(os.getpid(), signal.SIGTERM))])
    stopped.train()
    assert stopped.stopped.received == signal.SIGTERM
    assert stopped.state.global_step == 3
    assert signal.getsignal(signal.SIGTERM) is handler
    resumed = build()
    resumed.train(resume_from_checkpoint=last_good_checkpoint(tmp_path / "out"))
    assert_equal(weights(resumed.model), weights(whole.model))


def test_a_corrupted_checkpoint_is_replaced_by_the_previous_one(build, tmp_path):
    whole = build(save_strategy="steps", save_steps=2)
    whole.train()
    path = tmp_path / "out" / "checkpoint-6" / "optimizer.pt"
    path.write_bytes(path.read_bytes()[:-10])
    assert last_good_checkpoint(tmp_path / "out").endswith("checkpoint-4")
    with pytest.raises(ValueError, match=r"checkpoint-6 cannot be resumed: optimizer.pt does not match its digest"):
        build().train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-6"))
    resumed = build()
    resumed.train(resume_from_checkpoint=True)
    assert_equal(weights(resumed.model), weights(whole.model))
    with pytest.raises(ValueError, match="has no complete checkpoint"):
        build(output_dir=str(tmp_path / "empty")).train(resume_from_checkpoint=True)


def test_a_signal_does_not_wait_for_an_evaluation(build, tmp_path):
    stopped = build(
        evaluated=True, eval_strategy="epoch", callbacks=[StopAfter(1, lambda: os.kill(os.getpid(), signal.SIGTERM))]
    )
    assert stopped.lane_sampler.steps_per_epoch > 1
    stopped.train()
    assert stopped.state.global_step == 1
    assert not (tmp_path / "out" / "evaluation").exists()


def test_signal_handlers_are_restored_when_training_fails(build):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Killed):
        build(callbacks=[StopAfter(1, kill)]).train()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_finished_training_takes_no_further_step(build, tmp_path):
    whole = build(max_steps=4, save_strategy="steps", save_steps=2, lr_scheduler_type="constant")
    whole.train()
    again = build(max_steps=4, save_strategy="steps", save_steps=2, lr_scheduler_type="constant")
    result = again.train(resume_from_checkpoint=True)
    assert result.global_step == again.state.global_step == 4
    assert_equal(weights(again.model), weights(whole.model))
    assert not (tmp_path / "out" / "checkpoint-5").exists()


def test_the_kept_checkpoints_are_complete(build, tmp_path):
    """One that is broken does not count, and an older one is removed only when the new one can be relied on."""
    how = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 2}
    build(**how).train()
    assert sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]
    (tmp_path / "out" / "checkpoint-6" / "model.safetensors").write_bytes(b"")
    resumed = build(**how, max_steps=9)
    resumed._save_checkpoint = lambda *args: (_ for _ in ()).throw(Killed)
    with pytest.raises(Killed):
        resumed.train(resume_from_checkpoint=True)
    assert last_good_checkpoint(tmp_path / "out").endswith("checkpoint-4")
    assert (tmp_path / "out" / "checkpoint-6-broken").is_dir()


def test_the_arguments_are_not_pickled(build, tmp_path):
    build(save_strategy="steps", save_steps=3).train()
    assert not list(tmp_path.rglob("training_args.bin"))


def test_arguments_of_another_class_and_a_missing_processor_are_rejected(processor, talks, tmp_path):
    model, table = fresh_model(), talks["train"]
    with pytest.raises(TypeError, match="args must be ConversationTrainingArguments, got TrainingArguments"):
        ConversationTrainer(model, TrainingArguments(str(tmp_path)), processor=processor, train_dataset=table)
    arguments = ConversationTrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(TypeError, match="needs the processor of the model's host, got None"):
        ConversationTrainer(model, arguments, processor=None, train_dataset=table)
    with pytest.raises(ValueError, match=r"several splits was given: choose one of \['train', 'test'"):
        ConversationTrainer(model, arguments, processor=processor, train_dataset=talks)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"virtual_speakers": "0.5"}, "virtual_speakers must be between 0 and 1, got '0.5'"),
        ({"virtual_speakers": True}, "virtual_speakers must be between 0 and 1, got True"),
        ({"soft_labels": "no"}, "soft_labels must be True or False, got 'no'"),
    ],
)
def test_values_of_another_type_are_rejected(tmp_path, option, message):
    with pytest.raises(ValueError, match=message):
        ConversationTrainingArguments(str(tmp_path), use_cpu=True, report_to="none", **option)


def test_checkpoints_of_earlier_versions_do_not_name_the_data(build, tmp_path):
    build(save_strategy="steps", save_steps=3).train()
    checkpoint = last_good_checkpoint(tmp_path / "out")
    plan = {name: value for name, value in build()._plan.items() if name != "data"}
    check_plan(plan, build()._plan)
    with pytest.raises(ValueError, match="window: 9 then, 3 now"):
        check_plan({**plan, "window": 9}, build()._plan)
    assert json.loads((Path(checkpoint) / "lanes" / "plan.json").read_text()) == build()._plan


def test_training_does_not_resume_with_other_lanes_or_data(build, talks, tmp_path):
    build(save_strategy="steps", save_steps=3).train()
    checkpoint = last_good_checkpoint(tmp_path / "out")
    for other, reported in (
        ({"window": 2}, "window: 3 then, 2 now"),
        (
            {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2},
            "lanes: 2 then, 1 now; batches: 1 then, 2",
        ),
        ({"data_seed": 7}, "seed: 42 then, 7 now"),
        ({"train": talks["train"].select(range(10))}, "conversations: "),
        ({"train": talks["train"].map(lambda row: {"emotion": max(0, 1 - row["emotion"])})}, "data: "),
    ):
        with pytest.raises(ValueError, match=reported):
            build(**other).train(resume_from_checkpoint=checkpoint)


class Poison(TrainerCallback):
    """Makes the loss of a step infinite, or its gradients."""

    def __init__(self, trainer, step: int, part: str):
        trainer.add_callback(self)
        self.trainer, self.step, self.part = trainer, step, part
        self.compute = trainer.compute_loss

    def on_step_begin(self, args, state, control, **kwargs):
        def broken(*args, **kwargs):
            loss = self.compute(*args, **kwargs)
            if self.part == "loss":
                return loss * float("inf")
            # Finite, and with an infinite slope.
            return loss + (0 * next(p for p in self.trainer.model.parameters() if p.requires_grad)).abs().sqrt().sum()

        self.trainer.compute_loss = broken if state.global_step + 1 == self.step else self.compute


@pytest.mark.parametrize("part", ["loss", "gradients"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_that_is_not_finite_is_skipped_and_counted(build, tmp_path, part, accumulation):
    how = {"gradient_accumulation_steps": accumulation, "save_strategy": "steps", "save_steps": 1}
    trainer = build(max_steps=3, **how)
    Poison(trainer, 2, part)
    trainer.train()
    assert trainer.skipped.count == 1
    before, after = (
        AutoModelForAudioEmotion.from_pretrained(tmp_path / "out" / f"checkpoint-{step}").state_dict()
        for step in (1, 2)
    )
    assert_equal(before, after)
    assert all(bool(tensor.isfinite().all()) for tensor in trainer.model.state_dict().values())
    assert trainer.state.log_history[-1]["skipped_steps"] == 1
    resumed = build(max_steps=4, **how)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    assert resumed.skipped.count == 1


def test_a_loss_that_is_not_finite_leaves_the_lanes_as_they_were(build):
    trainer = build(max_steps=1)
    Poison(trainer, 1, "loss")
    trainer.train()
    assert not any(cache.is_initialized for cache in trainer._lane_states._caches.values())


def test_evaluations_on_the_way_and_the_best_model(build, tmp_path):
    trainer = build(
        evaluated=True,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="ua",
        learning_rate=0.05,
    )
    trainer.train()
    reported = [entry for entry in trainer.state.log_history if "eval_ua" in entry]
    assert [entry["step"] for entry in reported] == [2, 4, 6]
    assert trainer.state.best_metric == max(entry["eval_ua"] for entry in reported)
    assert (tmp_path / "out" / "evaluation" / "step-4" / "report.json").is_file()
    best = AutoModelForAudioEmotion.from_pretrained(trainer.state.best_model_checkpoint)
    assert_equal(weights(best), weights(trainer.model))
    # As in a training that is resumed after its folder was moved.
    expected = weights(trainer.model)
    trainer.state.best_model_checkpoint = f"/elsewhere/{Path(trainer.state.best_model_checkpoint).name}"
    stir(trainer.model.titans_memory)
    trainer._load_best_model()
    assert_equal(weights(trainer.model), expected)
    # As in one that began in another folder, which is still there.
    trainer.state.best_model_checkpoint = str(tmp_path / "out" / Path(trainer.state.best_model_checkpoint).name)
    trainer.args.output_dir = str(tmp_path / "other")
    stir(trainer.model.titans_memory)
    trainer._load_best_model()
    assert_equal(weights(trainer.model), expected)


@pytest.mark.parametrize("options", [{"bf16": True}, {"checkpoint_blocks": True}])
def test_precision_and_checkpointing(build, options):
    trainer, plain = build(max_steps=3, **options), build(max_steps=3)
    trainer.train()
    plain.train()
    assert losses(trainer) == pytest.approx(losses(plain), abs=0.05 if "bf16" in options else 1e-4)
    assert {parameter.dtype for parameter in trainer.model.titans_memory.parameters()} == {torch.float32}


def test_memories_of_speakers(build):
    trainer = build(fresh_model(memory={"scope": "speaker", "max_speakers": 2}))
    trainer.train()
    assert len(losses(trainer)) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 1}, "window must be an integer of at least 2, got 1"),
        ({"class_weights": "some"}, "class_weights must be one of"),
        ({"save_total_limit": 1}, "use 2 or more"),
        ({"auto_find_batch_size": True}, "choose a batch size"),
        ({"save_only_model": True}, "that cannot be resumed"),
        ({"ignore_data_skip": True}, "other turns"),
        ({"fp16": True}, "use bf16"),
        ({"evaluation_resamples": 10}, "at least 100, got 10"),
    ],
)
def test_rejected_arguments(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_rejected_data(build, talks):
    with pytest.raises(ValueError, match="Every conversation has a single turn"):
        build(train=talks["train"].filter(lambda row: row["turn_index"] == 0))
    frozen = tiny_model().requires_grad_(False)
    with pytest.raises(ValueError, match="The model has no trained parameters"):
        build(frozen)
    with pytest.raises(ValueError, match="must come in order"):
        build(train=talks["train"].select([1, 0]))
    model = fresh_model(id2label={0: "neutral", 1: "happy"}, label_token_ids=[11, 12])
    with pytest.raises(ValueError, match=r"labels .* that the model does not know"):
        build(model)


def test_labels_are_found_by_name(build):
    """The model may number its labels in another order than the data."""
    turned = fresh_model(id2label=dict(enumerate(reversed(LABELS))))
    trainer = build(turned, max_steps=1)
    turn = next(iter(trainer.lane_sampler))[0]
    row = trainer.train_dataset.table[turn.row]
    (label,) = trainer.data_collator([trainer.train_dataset[turn]])["emotion_labels"].tolist()
    assert turned.config.labels[label] == LABELS[row["emotion"]]
