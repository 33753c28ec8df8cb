"""What a call predicts for its turns: emotion logits, which may depend on earlier turns, values, and losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .emotion_dimensions import concordance_loss
from .emotion_readout import answer_logits, check_kept, emotion_loss, label_logits
from .label_words import are_whole_words, word_scores
from .memory_injection import MemoryCall
from .word_readout import WordReadoutMixin


class EmotionScoresMixin(WordReadoutMixin):
    """The readout of a call's turns, with the heads and label tokens of `AudioEmotionMixin`."""

    def _add_predictions(self, fields: dict, output, call: MemoryCall, inputs: dict, *, steps_on: bool) -> None:
        """Add `emotion_logits` and `emotion_values` to the fields of a call's output.

        Args:
            fields: changed in place.
            output: the host's output.
            call: the call's data for the hooks.
            inputs: inputs of the host.
            steps_on: whether the labels' further tokens are scored by further passes of the host.
        """
        fields["emotion_logits"] = self._emotion_logits(output, call, inputs, steps_on=steps_on)
        if self.config.emotion_dimensions:
            fields["emotion_values"] = _read(self.emotion_values_head, call)

    def _add_losses(
        self,
        fields: dict,
        call: MemoryCall | None,
        inputs: dict,
        emotion_labels: Tensor | Sequence[int] | None,
        emotion_value_labels: Tensor | Sequence[Sequence[float]] | None,
    ) -> None:
        """Add the losses of the given labels to the `loss` in the fields of a call's output.

        Raises:
            ValueError: for labels of what the call does not predict, and as `emotion_loss` and `concordance_loss`.
        """
        losses = []
        if emotion_labels is not None:
            self._check_is_read("emotion_labels", fields.get("emotion_logits"))
            loss = emotion_loss(
                fields["emotion_logits"],
                emotion_labels,
                self.config.id2label,
                text_labels=inputs.get("labels"),
                num_items_in_batch=inputs.get("num_items_in_batch"),
                largest_label=None if call is None else call.seen.get("largest_label"),
            )
            losses.append(loss)
        if emotion_value_labels is not None:
            self._check_is_read("emotion_value_labels", fields.get("emotion_values"))
            losses.append(concordance_loss(fields["emotion_values"], emotion_value_labels))
        for loss in losses:
            fields["loss"] = loss if fields.get("loss") is None else fields["loss"] + loss

    def _follow_transitions(self, fields: dict, call: MemoryCall | None) -> None:
        """Let the emotion logits of an output depend on those of earlier turns; its losses are of the turns alone."""
        logits = fields.get("emotion_logits")
        if logits is None or call is None or call.transaction is None or call.inputs is None:
            return
        has_audio = (call.inputs.counts > 0).to(logits.device)
        fields["emotion_logits"] = call.transaction.follow(
            logits, has_audio, self.config.emotion_transitions, self.config.emotion_temperature
        )

    def _scores_words(self) -> bool:
        """Whether this call scores labels by several tokens; `generate` has no use for scores."""
        config = self.config
        return (
            config.emotion_readout == "verbalizer"
            and are_whole_words(config.label_token_ids)
            and not self._generating_in.is_any()
        )

    def _check_is_read(self, name: str, prediction: Tensor | None) -> None:
        if prediction is None:
            config = self.config
            raise ValueError(
                f"{name} were given, but input_ids hold no audio or the model does not predict them: it has "
                f"emotion_readout={config.emotion_readout!r} and emotion_dimensions={config.emotion_dimensions}."
            )

    def _emotion_logits(self, output, call: MemoryCall, inputs: dict, *, steps_on: bool) -> Tensor | None:
        if self.config.emotion_readout is None or call.last_positions is None:
            return None
        if self.config.has_emotion_head:
            return _read(self.emotion_head, call)
        tokens = self.config.label_token_ids
        if are_whole_words(tokens) and not steps_on:
            return None
        length, kept = call.sequence_length, output.logits.shape[1]
        earliest = call.seen.get("earliest")
        if call.reads_later and call.inputs is not None:
            call.inputs.checks.append(lambda values: check_kept(values["earliest"], length, kept))
            earliest = length
        answers = answer_logits(output.logits, call.last_positions, length, earliest=earliest)
        return (
            word_scores(answers, tokens, self.answer_steps(output, call, inputs))
            if steps_on
            else label_logits(answers, tokens)
        )


def readings_of(fields: dict) -> Tensor | None:
    """(rows, labels and dimensions), the predictions for the turns of a call; None without any."""
    found = [fields[name] for name in ("emotion_logits", "emotion_values") if fields.get(name) is not None]
    return torch.cat(found, dim=-1) if len(found) > 1 else next(iter(found), None)


def _read(head: nn.Linear, call: MemoryCall) -> Tensor:
    """(rows, features): a head's output for the hidden state of each row; float32, or float64 for such a head."""
    if call.read_hidden_state is None:
        raise RuntimeError("The host's forward did not run the decoder whose last hidden state the readout needs.")
    weight = head.weight
    with torch.autocast(weight.device.type, enabled=False):
        values = head(call.read_hidden_state.to(weight.device, weight.dtype))
    return values if values.dtype == torch.float64 else values.float()
