"""From the sound of a turn to the inputs of its host: decoding, the host's chat template, its processor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from torch import Tensor
from transformers import BatchFeature

from .audio_loading import check_waveform, load_audio, name_of_sound
from .emotion_readout import find_label_tokens


# The part of a message that is the turn's sound: templates look for its type, or for the key `audio`.
SOUND = {"type": "audio", "audio": "turn"}


class TurnInputsMixin:
    """`prepare_turn` of a host with memory; a host whose processor differs overrides what differs.

    Attributes:
        prompt_is_text: whether the host's chat template takes a message as text only, in which the audio placeholder
            stands, and not as a list of parts.
        has_window: whether the host hears no more than the window that its feature extractor is made for.
    """

    prompt_is_text: ClassVar[bool] = False
    has_window: ClassVar[bool] = True

    def prepare_turn(self, processor, audio, *, sampling_rate: int | None = None) -> BatchFeature:
        """Inputs of a turn: the host's chat template with `config.prompt_text()` after the audio.

        Args:
            processor: of the host.
            audio: what `load_audio` takes (path, bytes, array with its rate), or a list of them: one row each.
            sampling_rate: of bare arrays, in Hz.

        Returns:
            The processor's tensors, on the model's device and in its dtype. A turn longer than the host's window is
            cut to it with a warning.

        Raises:
            ValueError: for sound that cannot be decoded, or is empty, silent, not finite or too short.
        """
        rate, window = self.sound_extractor(processor).sampling_rate, self.max_turn_seconds(processor)
        sources = audio if isinstance(audio, list) else [audio]
        if not sources:
            raise ValueError("prepare_turn needs at least one turn, got an empty list.")
        waveforms = []
        for source in sources:
            if sampling_rate is not None and not isinstance(source, str | Path | bytes | dict | tuple):
                source = (source, sampling_rate)
            waveform = load_audio(source, sampling_rate=rate)
            waveforms.append(check_waveform(waveform, rate, max_seconds=window, name=name_of_sound(source)))
        inputs = self.process_turns(processor, waveforms, rate)
        tokens = self.audio_mask(inputs["input_ids"], inputs).sum(-1)
        if bool((tokens < 2).any()):
            shortest = int(tokens.argmin())
            name, seconds = name_of_sound(sources[shortest]), len(waveforms[shortest]) / rate
            raise ValueError(f"{name} of {seconds:.3f} s is too short: the host makes no two audio tokens of it.")
        return inputs.to(self.device, self.dtype)

    def process_turns(self, processor, waveforms: Sequence[np.ndarray], sampling_rate: int) -> BatchFeature:
        """The processor's tensors for turns of sound, each (samples,) at the host's `sampling_rate`."""
        text = self.turn_prompt_of(self.config, processor)
        bos = processor.tokenizer.bos_token
        # A template that writes the token for the beginning itself must not get a second one.
        special = {"add_special_tokens": False} if bos is not None and text.startswith(bos) else {}
        # Padding is asked for the text alone: some hosts need features of whole windows, their extractor's default.
        return processor(
            text=[text] * len(waveforms),
            audio=list(waveforms),
            text_kwargs={"padding": True, "padding_side": "left", **special},
            audio_kwargs={"sampling_rate": sampling_rate},
            return_tensors="pt",
        )

    @classmethod
    def turn_prompt_of(cls, config, processor) -> str:
        """The text of a turn's prompt under the host's chat template, up to where the answer begins.

        Raises:
            ValueError: if the template leaves out what is asked.
        """
        messages = cls.turn_messages(config, processor)
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        if config.prompt_text().strip() not in text:
            raise ValueError(f"The chat template leaves out the prompt {config.prompt_text()!r}: it gives {text!r}.")
        return text

    @classmethod
    def turn_messages(cls, config, processor) -> list[dict]:
        """What the host's chat template is given."""
        if cls.prompt_is_text:
            return [{"role": "user", "content": processor.audio_token + config.prompt_text()}]
        return [{"role": "user", "content": [SOUND, {"type": "text", "text": config.prompt_text()}]}]

    @classmethod
    def label_tokens_of(cls, config, processor) -> list[int]:
        """The token that stands for each label of `config` where the answer begins.

        Raises:
            ValueError: as `find_label_tokens`.
        """
        return find_label_tokens(processor.tokenizer, cls.turn_prompt_of(config, processor), config.labels)

    @staticmethod
    def sound_extractor(processor):
        """The part of the processor that makes features of sound."""
        return getattr(processor, "feature_extractor", None) or processor.audio_processor

    @classmethod
    def max_turn_seconds(cls, processor) -> float | None:
        """The longest turn that the host hears whole; None: there is no such bound."""
        extractor = cls.sound_extractor(processor)
        if hasattr(processor, "max_audio_len"):
            # Heard are whole windows within it.
            return processor.max_audio_len // extractor.chunk_length * extractor.chunk_length
        return extractor.n_samples / extractor.sampling_rate if cls.has_window else None


def filled_placeholders(placeholders: Tensor, run: int, filled: Tensor) -> Tensor:
    """The placeholders that hold sound, for hosts that make a run of the same length of any sound.

    Args:
        placeholders: (rows, positions) bool.
        run: placeholders of one sound.
        filled: (sounds,) how many of each run, the first ones, hold sound; sounds in the order of the rows.

    Returns:
        (rows, positions) bool.
    """
    order = (placeholders.flatten().cumsum(0) - 1).view_as(placeholders).clamp(min=0)
    sound = (order // run).clamp(max=len(filled) - 1)
    return placeholders & (order % run < filled.to(order.device)[sound])
