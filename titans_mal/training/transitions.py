"""Count which emotions follow each other in training conversations."""

from __future__ import annotations

from datasets import Dataset

from ..evaluation.baselines import emotion_transitions
from ..modeling.audio_emotion_mixin import AudioEmotionMixin


def fit_emotion_transitions(model: AudioEmotionMixin, table: Dataset) -> None:
    """Set `config.emotion_transitions` to the transitions of a training split.

    From then on, and outside training, the logits of a turn depend on the likely emotion of the previous turn of the
    conversation, whoever spoke. Whether this helps depends on the data: compare the conditions "memory on, with
    emotion transitions" and "memory on" on a validation split before.

    Args:
        model: a model with a readout; only its configuration is changed.
        table: a split of `load_conversations`; turns with a label below 0 are skipped.

    Raises:
        ValueError: for a model without a readout, or labels that it does not know.
    """
    known, names = model.config.labels, table.features["emotion"].names
    if model.config.emotion_readout is None or not {*names} <= {*known}:
        raise ValueError(
            f"The table has the labels {names}, which must be labels of the model's readout: it knows "
            f"{known if model.config.emotion_readout else []}."
        )
    labels = [known.index(names[emotion]) if emotion >= 0 else -1 for emotion in table["emotion"]]
    prior, transitions = emotion_transitions(labels, table["conversation_id"], len(known))
    model.config.emotion_transitions = (transitions / prior).tolist()
