"""Each option of transformers' Trainer is heeded, or refused by name."""

import dataclasses

import pytest
import torch
from transformers import TrainingArguments

from titans_mal.training import ConversationTrainingArguments
from titans_mal.training.options import HONOURED, REJECTED


FIELDS = {field.name: field for field in dataclasses.fields(TrainingArguments)}
# A value other than the default, of options that are no switch, number or word.
OTHERS = {
    "deepspeed": {"zero_optimization": {"stage": 2}},
    "hub_strategy": "end",
    "include_for_metrics": ["inputs"],
    "liger_kernel_config": {"rope": True},
    "parallelism_config": object(),
    "train_sampling_strategy": "sequential",
}


def arguments(folder, **options) -> ConversationTrainingArguments:
    return ConversationTrainingArguments(output_dir=str(folder), report_to="none", use_cpu=True, **options)


def other_than_default(name: str):
    if name in OTHERS:
        return OTHERS[name]
    default = FIELDS[name].default
    return {bool: not default, int: 3, float: 0.5}.get(type(default), "other")


def test_every_option_is_supported_or_rejected():
    """One that a new version of transformers brings belongs into one of the tables."""
    assert not set(FIELDS) - HONOURED - set(REJECTED)
    assert not HONOURED & set(REJECTED)


@pytest.mark.parametrize("name", sorted(set(REJECTED) & set(FIELDS)))
def test_an_unsupported_option_is_rejected_by_name(name, tmp_path):
    with pytest.raises(ValueError, match=f"^{name}=.* is not supported: "):
        arguments(tmp_path / "out", **{name: other_than_default(name)})
    assert not (tmp_path / "out").exists()


def test_an_unknown_option_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr("titans_mal.training.options.HONOURED", HONOURED - {"weight_decay"})
    arguments(tmp_path)
    with pytest.raises(ValueError, match=r"weight_decay=0\.1 is not supported: .* is unknown here"):
        arguments(tmp_path, weight_decay=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_names": ["labels"]}, r"label_names=\['labels'\] is not supported"),
        ({"optim": "lomo"}, "optim='lomo' is not supported"),
        ({"label_smoothing_factor": 1.0}, "label_smoothing_factor must be at least 0 and below 1, got 1.0"),
        ({"label_smoothing_factor": -0.1}, "label_smoothing_factor must be at least 0"),
        ({"debug": "tpu_metrics_debug"}, "debug='tpu_metrics_debug' is not supported"),
        ({"metric_for_best_model": "loss"}, r"must end with one of \('ua', 'wa', .*got 'loss'"),
        ({"dataloader_persistent_workers": True}, "needs dataloader_num_workers of at least 1, got 0"),
        (
            {"accelerator_config": {"split_batches": True}},
            r"accelerator_config with \['split_batches'\] is not supported",
        ),
        ({"accelerator_config": {"even_batches": False}}, "even_batches"),
    ],
)
def test_rejected_values(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **options)


def test_arguments_can_be_copied(tmp_path):
    """A copy is given the values as they were before transformers changed them."""
    given = arguments(tmp_path, load_best_model_at_end=True, eval_strategy="steps", eval_steps=500, debug="")
    assert given.metric_for_best_model == "ua"
    assert given.greater_is_better
    again = dataclasses.replace(given, learning_rate=0.5)
    assert (again.learning_rate, again.metric_for_best_model) == (0.5, "ua")


def test_workers_and_pinning_are_as_the_options_say(tmp_path, talks, trainer_of):
    loader = trainer_of(
        dataloader_num_workers=2,
        dataloader_persistent_workers=True,
        dataloader_prefetch_factor=5,
        dataloader_multiprocessing_context="spawn",
    ).get_train_dataloader()
    assert (loader.num_workers, loader.persistent_workers, loader.prefetch_factor) == (2, True, 5)
    assert loader.multiprocessing_context.get_start_method() == "spawn"


def first_loss(trainer) -> float:
    trainer.train()
    return next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)


def test_what_changes_the_first_loss(trainer_of):
    plain = first_loss(trainer_of())
    assert first_loss(trainer_of()) == plain
    for options in ({"label_smoothing_factor": 0.2}, {"neftune_noise_alpha": 5.0}):
        assert first_loss(trainer_of(**options)) != plain


def test_caches_are_emptied_as_often_as_wanted(trainer_of, monkeypatch):
    emptied = []
    monkeypatch.setattr("transformers.trainer.clear_device_cache", lambda: emptied.append(True))
    trainer_of(torch_empty_cache_steps=2, max_steps=4).train()
    assert len(emptied) == 2


def test_a_custom_loss(trainer_of):
    seen = []

    def own(outputs, labels, num_items_in_batch):
        seen.append((outputs.emotion_logits.shape[0] == len(labels), int(num_items_in_batch)))
        return torch.nn.functional.cross_entropy(outputs.emotion_logits, labels, reduction="sum") / num_items_in_batch

    assert first_loss(trainer_of(own={"compute_loss_func": own})) == pytest.approx(first_loss(trainer_of()))
    assert all(is_whole for is_whole, _ in seen)
    with pytest.raises(ValueError, match=r"\['class_weights', 'label_smoothing_factor'\] would have no effect"):
        trainer_of(own={"compute_loss_func": own}, class_weights="balanced", label_smoothing_factor=0.1)


@pytest.mark.parametrize("name", ["compute_metrics", "preprocess_logits_for_metrics", "data_collator"])
def test_unsupported_arguments_of_trainer(trainer_of, name):
    with pytest.raises(ValueError, match=f"^{name} is not supported: "):
        trainer_of(own={name: print})


def test_restored_callbacks_still_skip_steps(trainer_of, tmp_path):
    trainer_of(save_strategy="steps", save_steps=1, max_steps=1).train()
    resumed = trainer_of(restore_callback_states_from_checkpoint=True, max_steps=3)
    compute, calls = resumed.compute_loss, []

    def broken(*args, **kwargs):
        calls.append(True)
        return compute(*args, **kwargs) * (float("nan") if len(calls) == 1 else 1.0)

    resumed.compute_loss = broken
    resumed.train(resume_from_checkpoint=True)
    assert resumed.skipped.count == 1
    assert all(bool(tensor.isfinite().all()) for tensor in resumed.model.state_dict().values())


@pytest.mark.slow
def test_several_evaluation_sets(trainer_of, talks, tmp_path):
    sets = {"short": talks["test"], "long-one": talks["train"]}
    trainer = trainer_of(
        own={"eval_dataset": sets}, eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1,
        max_steps=2, load_best_model_at_end=True, metric_for_best_model="long-one_ua",
    )  # fmt: skip
    trainer.train()
    logged = {name for entry in trainer.state.log_history for name in entry if name.startswith("eval_")}
    assert logged == {f"eval_{name}_{metric}" for name in sets for metric in ("ua", "wa", "ua_memory_off")}
    assert trainer.state.best_metric is not None
    for name in sets:
        assert (tmp_path / "out" / "evaluation" / f"eval_{name}" / "step-2" / "report.json").is_file()
    metrics = trainer.evaluate(talks["test"], metric_key_prefix="test")
    assert set(metrics) - {"epoch"} == {"test_ua", "test_wa", "test_ua_memory_off"}
    with pytest.raises(ValueError, match=r"may contain letters.*got \['a/b'\]"):
        trainer.evaluate({"a/b": talks["test"]})
    with pytest.raises(NotImplementedError, match="writes a report"):
        trainer.predict(talks["test"])
    with pytest.raises(NotImplementedError, match="titans-mal publish"):
        trainer.push_to_hub()
