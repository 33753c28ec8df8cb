"""`forward` of a host with memory: everything that all hosts share."""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from .audio_emotion_checkpoint import AudioEmotionCheckpointMixin
from .audio_emotion_output import HOST_CACHE, AudioEmotionOutput, annotated_output, extend_output, with_signature
from .conversation_memory_cache import ConversationMemoryCache
from .emotion_readout import last_unmasked_positions
from .emotion_scores import EmotionScoresMixin, readings_of
from .input_scalars import InputScalars, audio_features, is_slow_to_read
from .memory_generation import MemoryGenerationMixin
from .memory_injection import CALL_KEYWORD, MemoryCall, attach_memory
from .memory_transaction import MemoryTransaction
from .turn_inputs import TurnInputsMixin
from .turn_rules import check_flag
from .turns_by_length import TowerByLengthMixin
from .word_readout import padding_mask


class AudioEmotionMixin(
    MemoryGenerationMixin, EmotionScoresMixin, TowerByLengthMixin, TurnInputsMixin, AudioEmotionCheckpointMixin
):
    """Conversational memory and an emotion readout for a host: mix it in before the host's class.

    A host's class sets `config_class`. If the host differs, it overrides `audio_token_id`, `audio_mask`,
    `hidden_states_index`, and attributes and methods of `TurnInputsMixin` (its processor) and `TowerByLengthMixin`
    (its audio tower).

    Attributes:
        output_class: an `AudioEmotionOutput` and the host's own output; created for each host.
        host_output_class: the output class of the host's `forward`, if its annotation differs.
        memory_cache_class: the class of `memory_cache`, for code that cannot import it from the model's module.
        row_wise_tower: the name of an audio tower whose output for each row does not depend on the rest of the batch,
            so that it can be cached; None if it does.
    """

    output_class: type[AudioEmotionOutput]
    host_output_class: type[ModelOutput] | None = None
    row_wise_tower: ClassVar[str | None] = None
    memory_cache_class: type[ConversationMemoryCache] = ConversationMemoryCache

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        host = cls.host_class()
        if host is None:
            return
        parameters = inspect.signature(host.forward).parameters.values()
        cls._host_parameters = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD][1:]
        if "forward" not in vars(cls):
            cls.forward = with_signature(AudioEmotionMixin.forward, host.forward)
        cls.output_class = extend_output(cls, cls.host_output_class or annotated_output(host))

    def __init__(self, config, *args, **kwargs):
        config.check()
        # Not checked in the config: transformers builds one without arguments, to compare with.
        if getattr(config, "audio_config", ...) is None:
            raise ValueError("This checkpoint of the host cannot process audio: its audio_config is None.")
        if config.emotion_readout == "verbalizer" and config.label_token_ids is None:
            raise ValueError(
                'emotion_readout="verbalizer" needs label_token_ids in the config; `from_base` computes them.'
            )
        super().__init__(config, *args, **kwargs)
        if self.audio_token_id is None:
            raise ValueError(f"{type(config).__name__} defines no audio placeholder: audio_token_id is None.")
        vocab_size = config.get_text_config(decoder=True).vocab_size
        if not isinstance(self.audio_token_id, int) or not 0 <= self.audio_token_id < vocab_size:
            raise ValueError(
                f"audio_token_id must be one of the host's {vocab_size} tokens, got {self.audio_token_id!r}: no turn "
                "would have audio."
            )
        self._run_tower_by_length()
        attach_memory(
            self,
            config.memory_config,
            hidden_states_index=self.hidden_states_index,
            reads_audio=config.emotion_readout == "audio",
        )
        hidden_size = config.get_text_config(decoder=True).hidden_size
        if config.has_emotion_head:
            self.emotion_head = nn.Linear(hidden_size, len(config.labels))
        if config.emotion_dimensions:
            self.emotion_values_head = nn.Linear(hidden_size, len(config.emotion_dimensions))
        # The host's rules for placement, precision and tying also apply to the new modules. Quantisation skips the
        # modules named in the first.
        self._keep_in_fp32_modules = {*(self._keep_in_fp32_modules or ()), *self.extension_names}
        self._keep_in_fp32_modules_strict = {*(self._keep_in_fp32_modules_strict or ()), *self.extension_names}
        self._skip_keys_device_placement = {*(self._skip_keys_device_placement or ()), "memory_cache", CALL_KEYWORD}
        if config.adapter_only:
            # The base never has them; `from_pretrained` requires them in the adapter.
            names = {rf"^{name}\." for name in self.extension_names}
            self._keys_to_ignore_on_load_missing = {*(self._keys_to_ignore_on_load_missing or ()), *names}
        self._memory_disabled_in, self._generating_in = _PerThread(), _PerThread()
        self.post_init()

    @property
    def audio_token_id(self) -> int:
        """The id of the host's audio placeholder."""
        return self.config.audio_token_id

    @property
    def hidden_states_index(self) -> int | None:
        """The version of the hidden states that the memory reads and adds to, if a host's blocks carry several.

        The hidden states are then (versions, rows, positions, hidden_size); None: without the first dimension.
        """
        return None

    def audio_mask(self, input_ids: Tensor, inputs: dict) -> Tensor:
        """(rows, positions) bool: the positions that hold a turn's audio, which read the memory and are written.

        Args:
            input_ids: (rows, positions).
            inputs: the other keywords of the host's `forward`.
        """
        is_audio = input_ids == self.audio_token_id
        attention_mask = padding_mask(inputs)
        if attention_mask is not None and attention_mask.shape == input_ids.shape:
            is_audio &= attention_mask != 0
        return is_audio

    @contextlib.contextmanager
    def disable_memory(self) -> Iterator[None]:
        """Within this context, and in this thread only, the model behaves exactly as its host: no reads or writes."""
        with self._memory_disabled_in.one_more():
            yield

    @property
    def is_memory_disabled(self) -> bool:
        return self._memory_disabled_in.is_any()

    def forward(
        self,
        *args,
        memory_cache: ConversationMemoryCache | None = None,
        conversation_ids: Tensor | Sequence[int] | None = None,
        speaker_ids: Tensor | Sequence[int] | None = None,
        update_memory: bool = True,
        emotion_labels: Tensor | Sequence[int] | None = None,
        emotion_value_labels: Tensor | Sequence[Sequence[float]] | None = None,
        **kwargs,
    ) -> AudioEmotionOutput | tuple:
        """The host's forward with memory; the host's own arguments are unchanged.

        Args:
            memory_cache: state of the conversations; None: each starts from the learned memory and is discarded after.
            conversation_ids: (rows,) integers; rows with one id are successive turns of one conversation, in row
                order. None: row i is a turn of the cache's row i.
            speaker_ids: (rows,) integers, for `memory_config.scope="speaker"`; ignored for "conversation".
            update_memory: False reads the history of each row's conversation and writes nothing.
            emotion_labels: (rows,) integers, below 0 = not scored. Their loss is added to the loss of `labels`: the
                mean over the scored rows, or with `num_items_in_batch` (from Trainer) their share of the step's mean.
            emotion_value_labels: (rows, dimensions), NaN = unknown, in the order of `config.emotion_dimensions`. Their
                loss, 1 - CCC over the rows of the call, is added likewise.
            logits_to_keep (int): apply the output head to that many last positions only (0 = all).

        Returns:
            The host's output with `emotion_logits`, `emotion_values`, `memory_surprise` and `memory_cache`.

        Raises:
            ValueError: for ids, labels or a cache that do not fit, an `update_memory` that is not a bool, or
                audio features that are not finite; and, if the call writes outside training, for a state, logits or
                values that are not finite. The cache is then unchanged.
            TypeError: for a `memory_cache` of another class, or a `return_dict` that is not a bool.
        """
        kwargs = self._by_name(args, kwargs)
        return_dict = kwargs.pop("return_dict", None)
        if not isinstance(return_dict, bool | None):
            raise TypeError(f"return_dict must be True, False or None, got {type(return_dict).__name__}.")
        input_ids = kwargs.get("input_ids")
        transaction = self._begin(memory_cache, input_ids, conversation_ids, speaker_ids, update_memory)
        has_labels = emotion_labels is not None or emotion_value_labels is not None
        may_wait = memory_cache is not None and not has_labels and not self.training
        call = self._memory_call(transaction, kwargs, emotion_labels, may_read_later=may_wait)
        steps_on = call is not None and call.positions is not None and self._scores_words()
        given_use_cache = kwargs.get("use_cache")
        if steps_on:
            kwargs["use_cache"] = True

        output = super().forward(**kwargs, **{CALL_KEYWORD: call}, return_dict=True)

        fields = dict(output)
        if call is not None and call.positions is not None:
            self._add_predictions(fields, output, call, kwargs, steps_on=steps_on)
            if steps_on and given_use_cache is False:
                fields.pop(HOST_CACHE, None)
            fields["memory_surprise"] = call.stacked_surprise()
        if has_labels:
            self._add_losses(fields, call, kwargs, emotion_labels, emotion_value_labels)
        if self.config.emotion_transitions is not None and not self.training:
            self._follow_transitions(fields, call)
        if isinstance(memory_cache, ConversationMemoryCache):
            fields["memory_cache"] = memory_cache
        result = self.output_class(**fields)
        if transaction is not None and memory_cache is not None:
            is_checked = transaction.write and not self.training
            unread = call.inputs if call is not None and call.reads_later else None
            transaction.end_of_forward(readings_of(fields) if is_checked else None, unread)
            if unread is not None and not unread.values["longest"]:
                without_audio = dict.fromkeys(("emotion_logits", "emotion_values", "memory_surprise"))
                result = self.output_class(**{**fields, **without_audio})
        wants_dict = return_dict if return_dict is not None else self.config.return_dict
        return result if wants_dict else result.to_tuple()

    def _by_name(self, args: tuple, kwargs: dict) -> dict:
        """All arguments of the host by name.

        Raises:
            TypeError: for more positional arguments than the host has, or one that is also given by name.
        """
        names = self._host_parameters[: len(args)]
        if len(args) > len(names):
            raise TypeError(f"forward takes at most {len(names)} positional arguments, got {len(args)}.")
        if twice := sorted({*names} & {*kwargs}):
            raise TypeError(f"forward got {twice} both by position and by name.")
        return {**dict(zip(names, args)), **kwargs}

    def _begin(self, cache, input_ids, conversation_ids, speaker_ids, write) -> MemoryTransaction | None:
        """The call's transaction; inside `generate`, the one that `generate` began."""
        if isinstance(cache, MemoryTransaction):
            return cache
        check_flag(write, "update_memory")
        if self.is_memory_disabled:
            return None
        if input_ids is None:
            raise ValueError("Memory needs input_ids to find the audio: use disable_memory() to pass inputs_embeds.")
        rows = input_ids.shape[0]
        fingerprint = None
        if cache is None:
            cache = ConversationMemoryCache(self.config, batch_size=rows)
        elif isinstance(cache, ConversationMemoryCache):
            # Compiled code was traced with a matching cache.
            if not torch.compiler.is_compiling():
                fingerprint = self.titans_memory.fingerprint()
                cache.check_reader(self.config, fingerprint)
        else:
            wanted, got = ConversationMemoryCache, type(cache)
            raise TypeError(
                f"memory_cache must be a ConversationMemoryCache of {wanted.__module__}, got {got.__name__} of "
                f"{got.__module__}: the model's own class is model.memory_cache_class."
            )
        return MemoryTransaction(
            cache,
            rows,
            conversation_ids=conversation_ids,
            speaker_ids=speaker_ids,
            write=write,
            weights_fingerprint=fingerprint,
            is_training=self.training,
        )

    def _memory_call(
        self, transaction: MemoryTransaction | None, kwargs: dict, emotion_labels=None, *, may_read_later: bool = False
    ) -> MemoryCall | None:
        """The data that the hooks need for this call; None if they have nothing to do.

        Args:
            may_read_later: whether values of the inputs may stay on their device until the end of the call.

        Raises:
            ValueError: for audio features that are not finite, if a memory would be computed from them.
        """
        input_ids, past = kwargs.get("input_ids"), kwargs.get(HOST_CACHE)
        past = kwargs.get("past_key_values") if past is None else past
        if input_ids is None or (transaction is not None and transaction.is_closed and past is not None):
            return None
        keep = kwargs.pop("logits_to_keep", 0) if "logits_to_keep" not in self._host_parameters else 0
        call = MemoryCall(
            transaction,
            sequence_length=input_ids.shape[1],
            logits_to_keep=int(keep),
            reads_audio=self.config.emotion_readout == "audio",
        )
        prompt, mask = input_ids, padding_mask(kwargs)
        if transaction is not None and transaction.prompt_audio is not None:
            before = 0 if past is None else int(past.get_seq_length())
            is_audio = transaction.audio_between(before, input_ids.shape[1])
            if not transaction.is_closed:
                # Assisted decoding appends candidates to the prompt of the first call.
                end = transaction.prompt_audio.shape[1]
                prompt, mask = prompt[:, : end - before], None if mask is None else mask[:, :end]
        else:
            is_audio = self.audio_mask(input_ids, kwargs)
        call.last_positions = last_unmasked_positions(mask, prompt)
        others = {}
        if isinstance(emotion_labels, Tensor) and emotion_labels.device.type != "cpu" and emotion_labels.numel():
            others["largest_label"] = emotion_labels.max()
        features = audio_features(kwargs) if transaction is not None else {}
        inputs = InputScalars(is_audio, call.last_positions, features, others)
        # A commit reads from the device anyway. With features, the call has audio, which is most of its positions,
        # unless the host leaves some of it out.
        reads_later = (
            may_read_later
            and is_slow_to_read(is_audio.device)
            and bool(features)
            and type(self).audio_mask is AudioEmotionMixin.audio_mask
            and transaction is not None
            and transaction.write
            and transaction.prompt_audio is None
            and not self._scores_words()
        )
        call.locate_audio(is_audio, inputs, reads_later=reads_later)
        return call


class _PerThread:
    """Counters per thread; a copy of the model starts with none."""

    def __init__(self):
        self.counts: dict[int, int] = {}

    @contextlib.contextmanager
    def one_more(self) -> Iterator[None]:
        thread = threading.get_ident()
        self.counts[thread] = self.counts.get(thread, 0) + 1
        try:
            yield
        finally:
            self.counts[thread] -= 1
            if not self.counts[thread]:
                del self.counts[thread]

    def is_any(self) -> bool:
        return bool(self.counts) and threading.get_ident() in self.counts

    def __deepcopy__(self, memo) -> _PerThread:
        return _PerThread()
