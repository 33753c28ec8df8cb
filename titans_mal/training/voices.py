"""Fit a voice memory to the speakers and emotions of training turns, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from datasets import Dataset
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from ..data.audio import load_turn
from ..data.problems import Problem, report_problems
from ..data.virtual_speakers import VirtualSpeaker, other_voices
from ..modeling.audio_emotion_mixin import AudioEmotionMixin
from ..modeling.turn_scoring import TurnScorer
from ..modeling.voice_memory_layer import VoiceMemoryLayer


# Number of principal components used; the others are noise from few speakers.
DIRECTIONS = 200
# Share of the covariance within speakers that is replaced by a multiple of the identity.
SHRINKAGE = 0.1
# Inverse weight of the classifier's L2 penalty.
CLASSIFIER_C = 0.03


@torch.no_grad()
def fit_voice_memory(
    model: AudioEmotionMixin, processor, table: Dataset, *, batch_size: int = 16, virtual_voices: int = 0
) -> None:
    """Fit all voice memory layers of a model to the turns of a training split.

    Fit them after training the host's LoRA on single turns, and again whenever the host changes, since they depend on
    its hidden states.

    Args:
        model: a model with `voice_layers`; it is temporarily put into evaluation mode.
        processor: the processor of its host.
        table: a split of `load_conversations`, with two speakers or more, whose names are the same in all
            conversations. A turn that occurs in several conversations counts once. With fewer than two emotions, their
            effect is not removed.
        batch_size: turns processed at once.
        virtual_voices: number of additional copies of the turns in other voices. A copy of a speaker counts as another
            speaker; the voices are the same in every run.

    Raises:
        ValueError: for a model without voice memory layers, and as `fit_voice_layer`; the model is then unchanged.
    """
    layers = _voice_layers(model)
    if not layers:
        raise ValueError("The model has no memory of voices: set voice_layers in its TitansMemoryConfig.")
    if batch_size < 1 or virtual_voices < 0:
        raise ValueError(f"batch_size must be at least 1, and virtual_voices 0, got {batch_size}, {virtual_voices}.")
    names = table.features["emotion"].names
    if unknown := [label for label in names if label not in model.config.labels]:
        raise ValueError(f"The data has labels {unknown} that the model does not know: {model.config.labels}.")
    scorer = TurnScorer(model, processor)
    rows = _usable(table, _different_turns(table), scorer.sampling_rate)
    speakers = [table[row]["speaker"] for row in rows]
    _check_speakers(speakers)  # before all turns are processed
    changes = [dict.fromkeys(speakers, VirtualSpeaker())]
    changes += [other_voices(speakers, copy + 1) for copy in range(virtual_voices)]
    pooled = _means_of_turns(model, scorer, table, rows, changes, batch_size)
    labels = [model.config.labels.index(label) for label in names]
    numbers = [labels[table[row]["emotion"]] if table[row]["emotion"] >= 0 else -1 for row in rows] * len(changes)
    emotions = numbers if len({*numbers} - {-1}) > 1 else None  # data may have ratings alone
    # A speaker in another voice counts as another speaker.
    speakers = [f"{name} {copy}" for copy in range(len(changes)) for name in speakers]
    for layer in layers:
        _check_fit(layer, pooled[layer], speakers, emotions)
    for layer in layers:
        fit_voice_layer(layer, pooled[layer], speakers, emotions)


def has_voices_to_fit(model: AudioEmotionMixin) -> bool:
    """Whether the model has a voice memory that is not fitted yet."""
    return any(not layer.voice_gain.any() for layer in _voice_layers(model))


def _voice_layers(model: AudioEmotionMixin) -> list[VoiceMemoryLayer]:
    return [layer for layer in model.titans_memory.layers if isinstance(layer, VoiceMemoryLayer)]


def _means_of_turns(
    model: AudioEmotionMixin,
    scorer: TurnScorer,
    table: Dataset,
    rows: Sequence[int],
    changes: Sequence[dict[str, VirtualSpeaker]],
    batch_size: int,
) -> dict[VoiceMemoryLayer, Tensor]:
    """(turns, hidden_size) for each voice memory layer: mean hidden states of all rows, for each change in turn."""
    means: dict[VoiceMemoryLayer, list[Tensor]] = {layer: [] for layer in _voice_layers(model)}
    was_training, rate = model.training, scorer.sampling_rate
    hooks = [layer.register_forward_pre_hook(_keep_means(means[layer]), with_kwargs=True) for layer in means]
    model.eval()
    try:
        for change, start in product(changes, range(0, len(rows), batch_size)):
            turns = [table[row] for row in rows[start : start + batch_size]]
            inputs, _ = scorer.inputs([change[t["speaker"]](load_turn(t["audio"], rate), rate) for t in turns])
            # Each turn is its own conversation, so that every memory is empty and adds nothing.
            ids = list(range(len(turns)))
            model(**inputs, conversation_ids=ids, speaker_ids=ids, update_memory=False, logits_to_keep=1)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return {layer: torch.cat(parts) for layer, parts in means.items()}


def _usable(table: Dataset, rows: Sequence[int], sampling_rate: int) -> list[int]:
    """The rows with usable audio, with a warning about the others.

    Raises:
        UnusableTurns: if there is none.
    """
    usable, problems = [], []
    for row in rows:
        turn = table[row]
        try:
            load_turn(turn["audio"], sampling_rate)
            usable.append(row)
        except (ValueError, OSError) as error:
            file = f"row {row}, {turn['audio']['path'] or 'bytes'}"
            place = {"conversation_id": turn["conversation_id"], "turn_index": turn["turn_index"]}
            problems.append(Problem.of_error(error, file, **place))
    report_problems(problems, name="The voice memory", strict=not usable)
    return usable


def _different_turns(table: Dataset) -> list[int]:
    """The first row of each turn, identified by file and times; turns without a file are all different."""
    columns = table.select_columns(["audio", "start", "end"])
    first: dict[tuple, int] = {}
    for row, turn in enumerate(columns):
        path = turn["audio"].get("path")
        first.setdefault((path or row, turn["start"], turn["end"]), row)
    return list(first.values())


def _keep_means(means: list[Tensor]):
    """A hook that stores the mean hidden state of each turn that a layer receives."""

    def keep(layer: VoiceMemoryLayer, args, kwargs) -> None:
        pooled = layer.pool(args[0], kwargs.get("lengths"))
        means.append((pooled * layer.voice_scale + layer.voice_mean).cpu())

    return keep


@torch.no_grad()
def fit_voice_layer(
    layer: VoiceMemoryLayer, pooled: Tensor, speakers: Sequence[str], emotions: Sequence[int] | None = None
) -> None:
    """Fit a layer to turns: mean and scale, speaker keys, and the effect of each emotion.

    Keys are computed by linear discriminant analysis (Fisher 1936) on the first principal components, with shrunk
    covariance; emotions by logistic regression on the same components. The gain becomes one.

    Args:
        layer: modified in place.
        pooled: (turns, hidden_size), mean hidden state of each turn's audio tokens.
        speakers: the speaker of each turn; two different ones or more. They are distinguished by one direction less
            than there are; further components of the keys, up to `voice_key_dim`, are zero.
        emotions: the emotion of each turn, from 0, below 0 = unknown; None: the effect of emotions is not removed from
            written values.

    Raises:
        ValueError: for values that are not finite or do not fit the layer, a single speaker or a single emotion.
    """
    _check_fit(layer, pooled, speakers, emotions)
    width, number = layer.config.voice_key_dim, len(set(speakers))
    turns = pooled.double().cpu().numpy()
    mean, scale = turns.mean(0), turns.std(0).clip(min=1e-5)
    turns = (turns - mean) / scale
    components = PCA(min(DIRECTIONS, *turns.shape), svd_solver="full").fit(turns)
    projected = components.transform(turns)
    discriminant = LinearDiscriminantAnalysis(
        solver="eigen", shrinkage=SHRINKAGE, priors=np.full(number, 1 / number)
    ).fit(projected, speakers)
    found = discriminant.scalings_[:, : min(width, number - 1)].T
    directions = np.concatenate([found, np.zeros((width - len(found), found.shape[1]))])
    _set(layer.voice_mean, mean)
    _set(layer.voice_scale, scale)
    _set(layer.speaker_proj.weight, directions @ components.components_)
    centre = components.components_ @ components.mean_ + discriminant.means_.mean(0)
    _set(layer.speaker_proj.bias, -directions @ centre)
    for parameter in (layer.emotion_proj.weight, layer.emotion_proj.bias, layer.emotion_means):
        parameter.zero_()  # those of an earlier fit
    if emotions is not None:
        _fit_emotions(layer, turns, projected, components, np.asarray(emotions))
    layer.voice_gain.fill_(1.0)


def _check_fit(
    layer: VoiceMemoryLayer, pooled: Tensor, speakers: Sequence[str], emotions: Sequence[int] | None
) -> None:
    if pooled.shape != (len(speakers), layer.hidden_size) or not bool(pooled.isfinite().all()):
        raise ValueError(
            f"pooled must be finite and ({len(speakers)}, {layer.hidden_size}), got {tuple(pooled.shape)} or values "
            "that are not finite."
        )
    if emotions is not None:
        if len(emotions) != len(speakers) or any(int(emotion) != emotion for emotion in emotions):
            raise ValueError(f"emotions must be {len(speakers)} integers, one for each turn.")
        known, most = {emotion for emotion in emotions if emotion >= 0}, layer.config.voice_emotions
        if len(known) < 2 or max(known) >= most:
            raise ValueError(
                f"emotions must be two or more of the numbers 0 to {most - 1} (voice_emotions={most}), or None; got "
                f"{sorted(known)}."
            )
    _check_speakers(speakers)


def _check_speakers(speakers: Sequence[str]) -> None:
    names = sorted(set(speakers))
    if len(names) < 2:
        raise ValueError(f"A memory of voices needs two training speakers or more, got {names}.")
    if len(speakers) <= len(names):
        raise ValueError(
            f"A memory of voices needs speakers with several turns, but {len(speakers)} turns are of {len(names)} "
            "speakers."
        )


def _fit_emotions(layer: VoiceMemoryLayer, turns: np.ndarray, projected, components: PCA, emotions) -> None:
    """The emotion classifier, and the mean of each emotion minus the overall mean."""
    known = emotions >= 0
    present = np.unique(emotions[known])
    classifier = LogisticRegression(C=CLASSIFIER_C, class_weight="balanced", max_iter=1000)
    classifier.fit(projected[known], emotions[known])
    weight, bias = weights_by_label(classifier, layer.config.voice_emotions)
    weight = weight @ components.components_
    means = np.stack([turns[emotions == emotion].mean(0) for emotion in present])
    all_means = np.zeros_like(weight)
    all_means[present] = means - means.mean(0)
    _set(layer.emotion_proj.weight, weight)
    _set(layer.emotion_proj.bias, bias - weight @ components.mean_)
    _set(layer.emotion_means, all_means)


def weights_by_label(classifier: LogisticRegression, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(count, features) weight and (count,) bias of a classifier of the labels 0 to `count` - 1.

    A label that it was not fitted to has probability zero.
    """
    weight, bias = classifier.coef_, classifier.intercept_
    if len(classifier.classes_) == 2:  # scikit-learn has one row for two classes
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    all_weights, all_bias = np.zeros((count, weight.shape[1])), np.full(count, -1e4)
    all_weights[classifier.classes_], all_bias[classifier.classes_] = weight, bias
    return all_weights, all_bias


def _set(parameter: Tensor, value: np.ndarray) -> None:
    parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))
