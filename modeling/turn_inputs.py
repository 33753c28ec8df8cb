"""Prepare a host's inputs from the audio of a turn: decoding, chat template and processor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor
from transformers import BatchFeature

from .audio_loading import MAX_TURN_SECONDS, MIN_SECONDS, check_waveform, load_audio, name_of_source
from .deprecation import warn_renamed
from .host_types import HostModel
from .label_words import find_label_tokens
from .turn_rules import fit_turn, warn_of_cut_turns
from .turns_by_length import process_by_length


# The audio part of a chat message: templates look for its type, or for the key `audio`.
AUDIO_PART = {"type": "audio", "audio": "turn"}

# Minimal number of audio tokens of a turn.
_MIN_TOKENS = 2
# Step and maximum, in seconds, of the search for the shortest turn of a host.
_STEP, _LONGEST_TRIAL = 0.02, 2.0
# Results of that search, by processor and model class.
_SHORTEST: WeakKeyDictionary = WeakKeyDictionary()


class TurnInputsMixin(HostModel):
    """`prepare_turn` of a host with memory; hosts with other processors override parts of it.

    Attributes:
        prompt_is_text: whether the host's chat template takes a message as a string that contains the audio
            placeholder, rather than as a list of parts.
        has_window: whether the host processes at most the window of its feature extractor.
    """

    prompt_is_text: ClassVar[bool] = False
    tower_mixes_padding: ClassVar[bool] = False
    has_window: ClassVar[bool] = True

    def prepare_turn(
        self,
        processor,
        audio,
        *,
        sampling_rate: int | None = None,
        transcripts: Sequence[str | None] | str | None = None,
    ) -> BatchFeature:
        """Model inputs for a turn: the host's chat template, with `config.prompt_text()` after the audio.

        Args:
            processor: the processor of the host.
            audio: a source for `load_audio` (path, bytes, array with its rate), or a list of them, one per row.
            sampling_rate: sampling rate of bare arrays, in Hz.
            transcripts: the transcript of the turn, or a list of them, for prompts with `{transcript}`; None: empty.

        Returns:
            The processor's tensors, on the model's device and in its dtype. A turn shorter than `min_turn_seconds` is
            padded with silence; one longer than the host's window is cut to it with a warning.

        Raises:
            ValueError: for audio that cannot be decoded, is empty, silent or not finite, or is longer than an hour.
        """
        rate = self.audio_extractor(processor).sampling_rate
        sources = audio if isinstance(audio, list) else [audio]
        if not sources:
            raise ValueError("prepare_turn needs at least one turn, got an empty list.")
        waveforms = []
        for source in sources:
            if sampling_rate is not None and not isinstance(source, str | Path | bytes | dict | tuple):
                source = (source, sampling_rate)
            waveform = load_audio(source, sampling_rate=rate, max_seconds=MAX_TURN_SECONDS)
            waveforms.append(check_waveform(waveform, rate, min_seconds=0, name=name_of_source(source)))
        transcripts = [transcripts] if isinstance(transcripts, str) else transcripts
        inputs, processed = self.turn_inputs(processor, waveforms, transcripts=transcripts)
        lengths = [len(waveform) / rate for waveform in waveforms]
        cut = [
            (name_of_source(source), length)
            for source, length, seconds in zip(sources, lengths, processed)
            if length > seconds
        ]
        warn_of_cut_turns(cut, self.max_turn_seconds(processor))
        return inputs

    def turn_inputs(
        self, processor, waveforms: Sequence[np.ndarray], *, transcripts: Sequence[str | None] | None = None
    ) -> tuple[BatchFeature, list[float]]:
        """Model inputs for several turns, one row each, padded or cut to lengths that the host supports.

        Args:
            processor: the processor of the host.
            waveforms: (samples,) each, at the host's rate.
            transcripts: transcript of each turn, for a prompt with `{transcript}`; None: empty.

        Returns:
            The processor's tensors, on the model's device and in its dtype; and the number of seconds of each turn
            that they include.

        Raises:
            ValueError: if a turn gives too few audio tokens, or the number of transcripts differs from that of turns.
        """
        if transcripts is not None and len(transcripts) != len(waveforms):
            raise ValueError(
                f"Give one transcript (or None) per turn: got {len(transcripts)} for {len(waveforms)} turns."
            )
        rate, window = self.audio_extractor(processor).sampling_rate, self.max_turn_seconds(processor)
        shortest = self.min_turn_seconds(processor)
        fitted, seconds = zip(
            *(fit_turn(waveform, rate, min_seconds=shortest, max_seconds=window) for waveform in waveforms)
        )

        def process(turns: Sequence[np.ndarray], texts: Sequence[str | None] | None) -> BatchFeature:
            # Custom hosts may not support transcripts.
            given = {} if texts is None else {"transcripts": texts}
            return self.process_turns(processor, turns, rate, **given)

        texts = transcripts if self.config.takes_transcript else None
        if self.tower_mixes_padding:
            inputs = process_by_length(process, fitted, texts, pad=processor.tokenizer.pad_token_id)
        else:
            inputs = process(fitted, texts)
        self._check_tokens(inputs, [len(waveform) / rate for waveform in fitted])
        return inputs.to(self.device, self.dtype), list(seconds)

    def min_turn_seconds(self, processor) -> float:
        """The shortest turn, at least 0.1 s, for which the host produces two audio tokens; found by trial."""
        known = _SHORTEST.setdefault(processor, {})
        if type(self) not in known:
            known[type(self)] = self._find_min_seconds(processor)
        return known[type(self)]

    def _find_min_seconds(self, processor) -> float:
        rate = self.audio_extractor(processor).sampling_rate
        noise = np.random.default_rng(0).uniform(-0.1, 0.1, round(_LONGEST_TRIAL * rate)).astype(np.float32)
        seconds = MIN_SECONDS
        while seconds < _LONGEST_TRIAL:
            inputs = self.process_turns(processor, [noise[: round(seconds * rate)]], rate)
            if self._audio_tokens(inputs).min() >= _MIN_TOKENS:
                return seconds
            seconds = round(seconds + _STEP, 2)
        return MIN_SECONDS

    def _audio_tokens(self, inputs: BatchFeature) -> Tensor:
        return self.audio_mask(inputs["input_ids"], inputs).sum(-1)

    def _check_tokens(self, inputs: BatchFeature, lengths: Sequence[float]) -> None:
        tokens = self._audio_tokens(inputs)
        if bool((tokens < _MIN_TOKENS).any()):
            seconds = lengths[int(tokens.argmin())]
            raise ValueError(
                f"The turn of {seconds:.3f} s is too short: the host produces fewer than two audio tokens."
            )

    def process_turns(
        self,
        processor,
        waveforms: Sequence[np.ndarray],
        sampling_rate: int,
        transcripts: Sequence[str | None] | None = None,
    ) -> BatchFeature:
        """The processor's tensors for turns, (samples,) each at the host's `sampling_rate`, and their transcripts."""
        configs = self.turn_configs(processor, waveforms, transcripts)
        texts = [self.turn_prompt_of(config, processor) for config in configs]
        bos = processor.tokenizer.bos_token
        # If the template writes the BOS token itself, the tokenizer must not add another.
        special = {"add_special_tokens": False} if bos is not None and texts[0].startswith(bos) else {}
        # Request padding for the text only: some hosts need features of full windows, their extractor's default.
        return processor(
            text=texts,
            audio=list(waveforms),
            text_kwargs={"padding": True, "padding_side": "left", **special},
            audio_kwargs={"sampling_rate": sampling_rate},
            return_tensors="pt",
        )

    def turn_configs(self, processor, turns: Sequence, transcripts: Sequence[str | None] | None) -> list:
        """For each turn, the configuration whose `prompt_text` includes its transcript."""
        if not self.config.takes_transcript:
            return [self.config] * len(turns)
        tokenizer = processor.tokenizer
        special = {*getattr(tokenizer, "all_special_tokens", ()), *getattr(tokenizer, "get_added_vocab", dict)()}
        configs = []
        for transcript in transcripts or [None] * len(turns):
            for token in sorted(special, key=len, reverse=True):
                # Placeholders and special tokens in a transcript must not act as such.
                transcript = (transcript or "").replace(token, " ")
            configs.append(self.config.of_transcript(transcript))
        return configs

    @classmethod
    def turn_prompt_of(cls, config, processor) -> str:
        """The prompt of a turn under the host's chat template, up to the beginning of the answer.

        Raises:
            ValueError: if the template drops the instruction or the audio.
        """
        messages = cls.turn_messages(config, processor)
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        if config.prompt_text().strip() not in text:
            raise ValueError(f"The chat template drops the prompt {config.prompt_text()!r}: it returns {text!r}.")
        placeholder = getattr(processor, "audio_token", None)
        if placeholder is not None and text.count(placeholder) != 1:
            raise ValueError(
                f"The chat template must contain the placeholder {placeholder!r} once, for the turn's audio, but "
                f"returns {text!r}: a tokenizer's own template may not support audio."
            )
        return text

    @classmethod
    def turn_messages(cls, config, processor) -> list[dict]:
        """The messages for the host's chat template."""
        if cls.prompt_is_text:
            return [{"role": "user", "content": processor.audio_token + config.prompt_text()}]
        return [{"role": "user", "content": [AUDIO_PART, {"type": "text", "text": config.prompt_text()}]}]

    @classmethod
    def label_tokens_of(cls, config, processor) -> list[int] | list[list[int]]:
        """The tokens of each label of `config`, as `find_label_tokens` returns them.

        Raises:
            ValueError: as `find_label_tokens`.
        """
        return find_label_tokens(processor.tokenizer, cls.turn_prompt_of(config, processor), config.words)

    @staticmethod
    def audio_extractor(processor):
        """The part of the processor that computes audio features."""
        return getattr(processor, "feature_extractor", None) or processor.audio_processor

    @classmethod
    def sound_extractor(cls, processor):
        """Deprecated name of `audio_extractor`."""
        warn_renamed("sound_extractor", "audio_extractor")
        return cls.audio_extractor(processor)

    @classmethod
    def max_turn_seconds(cls, processor) -> float | None:
        """The longest turn, in seconds, that the host processes in full; None: no limit."""
        extractor = cls.audio_extractor(processor)
        if hasattr(processor, "max_audio_len"):
            # Only full windows are processed.
            return processor.max_audio_len // extractor.chunk_length * extractor.chunk_length
        return extractor.n_samples / extractor.sampling_rate if cls.has_window else None


def filled_placeholders(placeholders: Tensor, run: int, filled: Tensor) -> Tensor:
    """The placeholders that hold audio, for hosts that use the same number of placeholders for any audio.

    Args:
        placeholders: (rows, positions) bool.
        run: number of placeholders per audio.
        filled: (audios,) how many placeholders of each run, from the first, hold audio; in the order of the rows.

    Returns:
        (rows, positions) bool.
    """
    order = (placeholders.flatten().cumsum(0) - 1).view_as(placeholders).clamp(min=0)
    index = (order // run).clamp(max=len(filled) - 1)
    return placeholders & (order % run < filled.to(order.device)[index])
