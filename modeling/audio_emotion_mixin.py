"""`forward` and `generate` of a host with memory: everything that is the same for all hosts."""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from .audio_emotion_checkpoint import AudioEmotionCheckpointMixin
from .audio_emotion_output import AudioEmotionOutput, annotated_output, extend_output, with_signature
from .conversation_memory_cache import ConversationMemoryCache
from .emotion_dimensions import concordance_loss
from .emotion_readout import emotion_loss, label_logits, last_unmasked_positions
from .memory_injection import CALL_KEYWORD, MemoryCall, attach_memory
from .memory_transaction import MemoryTransaction
from .turn_inputs import TurnInputsMixin


class AudioEmotionMixin(TurnInputsMixin, AudioEmotionCheckpointMixin):
    """Conversational memory and an emotion readout for a host: mix it in before the host's class.

    A host's class sets `config_class`. What else is special to the host, it overrides: `audio_token_id`, `audio_mask`,
    `hidden_states_index`, and what `TurnInputsMixin` says of its processor.

    Attributes:
        output_class: an `AudioEmotionOutput` and the host's own output; made for each host.
        host_output_class: what the host's `forward` returns, where that is not what it is annotated with.
        memory_cache_class: what its `memory_cache` is; code that stands apart from the model's finds it here.
        row_wise_tower: the name of an audio tower that computes each row of features by itself, whatever is beside it
            in a batch, so that its output can be kept; None: it does not.
        hidden_states_index: for a host whose blocks carry several versions of the hidden states, (versions, rows,
            positions, hidden_size), the one that the memory hears and adds to.
    """

    output_class: type[AudioEmotionOutput]
    host_output_class: type[ModelOutput] | None = None
    row_wise_tower: ClassVar[str | None] = None
    hidden_states_index: int | None = None
    memory_cache_class: type[ConversationMemoryCache] = ConversationMemoryCache

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        host = cls.host_class()
        if host is None:
            return
        cls._host_parameters = list(inspect.signature(host.forward).parameters)[1:]
        if "forward" not in vars(cls):
            cls.forward = with_signature(AudioEmotionMixin.forward, host.forward)
        cls.output_class = extend_output(cls, cls.host_output_class or annotated_output(host))

    def __init__(self, config, *args, **kwargs):
        config.check()
        # Not checked by the config: transformers builds one without any field, to compare with.
        if getattr(config, "audio_config", ...) is None:
            raise ValueError("This checkpoint of the host hears nothing: its audio_config is None.")
        if config.emotion_readout == "verbalizer" and config.label_token_ids is None:
            raise ValueError(
                'emotion_readout="verbalizer" needs label_token_ids in the config; `from_base` finds them.'
            )
        super().__init__(config, *args, **kwargs)
        if self.audio_token_id is None:
            raise ValueError(f"{type(config).__name__} names no audio placeholder: audio_token_id is None.")
        vocab_size = config.get_text_config(decoder=True).vocab_size
        if not isinstance(self.audio_token_id, int) or not 0 <= self.audio_token_id < vocab_size:
            raise ValueError(
                f"audio_token_id must be a token of the host's {vocab_size}, got {self.audio_token_id!r}: no turn "
                "would have audio."
            )
        attach_memory(self, config.memory_config, hidden_states_index=self.hidden_states_index)
        hidden_size = config.get_text_config(decoder=True).hidden_size
        if config.emotion_readout == "linear":
            self.emotion_head = nn.Linear(hidden_size, len(config.labels))
        if config.emotion_dimensions:
            self.emotion_values_head = nn.Linear(hidden_size, len(config.emotion_dimensions))
        # The placement, precision and tying rules of the new children join those of the host. Quantisers leave alone
        # what the first names.
        self._keep_in_fp32_modules = {*(self._keep_in_fp32_modules or ()), *self.extension_names}
        self._keep_in_fp32_modules_strict = {*(self._keep_in_fp32_modules_strict or ()), *self.extension_names}
        self._skip_keys_device_placement = {*(self._skip_keys_device_placement or ()), "memory_cache", CALL_KEYWORD}
        if config.adapter_only:
            # The base never has them; `from_pretrained` demands them of the adapter.
            names = {rf"^{name}\." for name in self.extension_names}
            self._keys_to_ignore_on_load_missing = {*(self._keys_to_ignore_on_load_missing or ()), *names}
        self._memory_disabled_in = _PerThread()
        self.post_init()

    @property
    def audio_token_id(self) -> int:
        """The id of the host's audio placeholder."""
        return self.config.audio_token_id

    def audio_mask(self, input_ids: Tensor, inputs: dict) -> Tensor:
        """(rows, positions) bool, the positions that hold a turn's sound: they read the memory and are written.

        Args:
            input_ids: (rows, positions).
            inputs: the other keywords of the host's `forward`.
        """
        is_audio = input_ids == self.audio_token_id
        attention_mask = _padding_mask(inputs)
        if attention_mask is not None and attention_mask.shape == input_ids.shape:
            is_audio &= attention_mask != 0
        return is_audio

    @contextlib.contextmanager
    def disable_memory(self) -> Iterator[None]:
        """Within it, and in this thread only, the model is exactly its host: no reads and no writes."""
        thread, counts = threading.get_ident(), self._memory_disabled_in.counts
        counts[thread] = counts.get(thread, 0) + 1
        try:
            yield
        finally:
            counts[thread] -= 1
            if not counts[thread]:
                del counts[thread]

    @property
    def is_memory_disabled(self) -> bool:
        counts = self._memory_disabled_in.counts
        return bool(counts) and threading.get_ident() in counts

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
        """The host's forward with memory; what the host takes, it takes as before.

        Args:
            memory_cache: state of the conversations; None: each starts from the learned memory and is dropped.
            conversation_ids: (rows,) integers; rows with one id are successive turns of one conversation, in row
                order. None: row i is a turn of the cache's row i.
            speaker_ids: (rows,) integers, for `memory_config.scope="speaker"`; ignored for "conversation".
            update_memory: False reads the history of each row's conversation and writes nothing.
            emotion_labels: (rows,) integers, below 0 = not scored. Their loss is added to that of `labels`: the mean
                over the scored rows, or under `num_items_in_batch` (of Trainer) their share of a step's mean.
            emotion_value_labels: (rows, dimensions), NaN = not known, in the order of `config.emotion_dimensions`.
                Their loss, 1 - CCC over the rows of the call, is added likewise.
            logits_to_keep (int): apply the output head to that many last positions only (0 = all).

        Returns:
            The host's output with `emotion_logits`, `emotion_values`, `memory_surprise` and `memory_cache`.

        Raises:
            ValueError: for ids, labels or a cache that do not fit, audio features that are not finite, or, where the
                call writes and the model is not in training, a state or emotion logits that are not; the cache is
                then as it was before the call.
            TypeError: for a `memory_cache` of another class, or a `return_dict` that is no bool.
        """
        kwargs.update(zip(self._host_parameters, args))
        return_dict = kwargs.pop("return_dict", None)
        if not isinstance(return_dict, bool | None):
            raise TypeError(f"return_dict must be True, False or None, got {type(return_dict).__name__}.")
        input_ids = kwargs.get("input_ids")
        transaction = self._begin(memory_cache, input_ids, conversation_ids, speaker_ids, update_memory)
        if transaction is not None:
            _check_features(kwargs)
        call = self._memory_call(transaction, kwargs)

        output = super().forward(**kwargs, **{CALL_KEYWORD: call}, return_dict=True)

        fields = dict(output)
        if call is not None and call.positions is not None:
            fields["emotion_logits"] = self._emotion_logits(output, call)
            if self.config.emotion_dimensions:
                fields["emotion_values"] = _read(self.emotion_values_head, call)
            fields["memory_surprise"] = call.stacked_surprise()
        losses = []
        if emotion_labels is not None:
            self._check_is_read("emotion_labels", fields.get("emotion_logits"))
            loss = emotion_loss(
                fields["emotion_logits"],
                emotion_labels,
                self.config.id2label,
                text_labels=kwargs.get("labels"),
                num_items_in_batch=kwargs.get("num_items_in_batch"),
            )
            losses.append(loss)
        if emotion_value_labels is not None:
            self._check_is_read("emotion_value_labels", fields.get("emotion_values"))
            losses.append(concordance_loss(fields["emotion_values"], emotion_value_labels))
        for loss in losses:
            fields["loss"] = loss if fields.get("loss") is None else fields["loss"] + loss
        if isinstance(memory_cache, ConversationMemoryCache):
            fields["memory_cache"] = memory_cache
        result = self.output_class(**fields)
        if transaction is not None and memory_cache is not None:
            if transaction.write and not self.training:
                _check_logits(fields.get("emotion_logits"))
            transaction.end_of_forward()
        wants_dict = return_dict if return_dict is not None else self.config.return_dict
        return result if wants_dict else result.to_tuple()

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        *args,
        memory_cache: ConversationMemoryCache | None = None,
        conversation_ids: Tensor | Sequence[int] | None = None,
        speaker_ids: Tensor | Sequence[int] | None = None,
        update_memory: bool = True,
        **kwargs,
    ) -> Any:
        """The host's `generate`; the prompt is read and written once, whatever the decoding mode, as one transaction.

        Args and errors as `forward`; what is decoded is never written.
        """
        input_ids = None if kwargs.get("inputs_embeds") is not None else kwargs.get("input_ids", inputs)
        transaction = self._begin(memory_cache, input_ids, conversation_ids, speaker_ids, update_memory)
        if transaction is not None:
            transaction.prompt_audio = self.audio_mask(input_ids, kwargs)
            kwargs["memory_cache"] = transaction
        result = super().generate(inputs, *args, **kwargs)
        if transaction is not None and memory_cache is not None:
            transaction.commit()
        return result

    def _expand_inputs_for_generation(self, expand_size: int = 1, *args, **kwargs):
        transaction = kwargs.get("memory_cache")
        if expand_size == 1:
            return super()._expand_inputs_for_generation(expand_size, *args, **kwargs)
        if transaction is not None:
            transaction.expand(expand_size)
        windows = _take_windows(kwargs)
        input_ids, kwargs = super()._expand_inputs_for_generation(expand_size, *args, **kwargs)
        # Copies of one prompt: its windows follow each other in each of them.
        return input_ids, kwargs | {key: torch.cat([tensor] * expand_size) for key, tensor in windows.items()}

    def _get_candidate_generator(self, *args, **kwargs):
        # An assistant has no use for this model's memory; what it proposes is checked with memory.
        kwargs["model_kwargs"] = {k: v for k, v in kwargs["model_kwargs"].items() if k != "memory_cache"}
        return super()._get_candidate_generator(*args, **kwargs)

    def _begin(self, cache, input_ids, conversation_ids, speaker_ids, write) -> MemoryTransaction | None:
        """The call's transaction; inside `generate` the one that `generate` began."""
        if isinstance(cache, MemoryTransaction):
            return cache
        if self.is_memory_disabled:
            return None
        if input_ids is None:
            raise ValueError("Memory needs input_ids to find the audio: use disable_memory() for inputs_embeds alone.")
        rows = input_ids.shape[0]
        fingerprint = None
        if cache is None:
            cache = ConversationMemoryCache(self.config, batch_size=rows)
        elif isinstance(cache, ConversationMemoryCache):
            # Compiled code was traced with a cache that fitted.
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

    def _memory_call(self, transaction: MemoryTransaction | None, kwargs: dict) -> MemoryCall | None:
        """What the hooks need to know of this call; None where nothing is to be done."""
        input_ids, past = kwargs.get("input_ids"), kwargs.get("past_key_values")
        if input_ids is None or (transaction is not None and transaction.is_closed and past is not None):
            return None
        keep = kwargs.pop("logits_to_keep", 0) if "logits_to_keep" not in self._host_parameters else 0
        call = MemoryCall(transaction, sequence_length=input_ids.shape[1], logits_to_keep=int(keep))
        if transaction is not None and transaction.prompt_audio is not None:
            is_audio = transaction.audio_between(0 if past is None else int(past.get_seq_length()), input_ids.shape[1])
        else:
            is_audio = self.audio_mask(input_ids, kwargs)
        call.locate_audio(is_audio)
        call.last_positions = last_unmasked_positions(_padding_mask(kwargs), input_ids)
        return call

    def _check_is_read(self, name: str, output: Tensor | None) -> None:
        if output is None:
            config = self.config
            raise ValueError(
                f"{name} were given, but input_ids hold no audio, or the model does not read them: it has "
                f"emotion_readout={config.emotion_readout!r} and emotion_dimensions={config.emotion_dimensions}."
            )

    def _emotion_logits(self, output, call: MemoryCall) -> Tensor | None:
        if self.config.emotion_readout is None:
            return None
        if self.config.emotion_readout == "linear":
            return _read(self.emotion_head, call)
        return label_logits(output.logits, call.last_positions, call.sequence_length, self.config.label_token_ids)


def _read(head: nn.Linear, call: MemoryCall) -> Tensor:
    """(rows, features), a head's output for the final hidden state of each row; float32, or float64 of such a head."""
    weight = head.weight
    with torch.autocast(weight.device.type, enabled=False):
        values = head(call.last_hidden_state.to(weight.device, weight.dtype))
    return values if values.dtype == torch.float64 else values.float()


def _take_windows(kwargs: dict) -> dict[str, Tensor]:
    """Take out of the keywords of `generate` what has a row for each window of sound, where a prompt has several.

    Raises:
        ValueError: for several prompts with other numbers of rows than prompts, whose windows cannot be told apart.
    """
    rows = kwargs["input_ids"].shape[0]
    names = [key for key, value in kwargs.items() if isinstance(value, Tensor) and key.endswith("input_features")]
    windows = next((kwargs[key].shape[0] for key in names if kwargs[key].shape[0] != rows), rows)
    if windows == rows:
        return {}
    if rows > 1:
        raise ValueError(
            f"Beams and several sequences need one window of sound for each prompt, got {windows} windows for {rows} "
            "prompts: give the prompts one by one."
        )
    several = [key for key, value in kwargs.items() if isinstance(value, Tensor) and key != "input_ids"]
    return {key: kwargs.pop(key) for key in several if kwargs[key].shape[:1] == (windows,)}


class _PerThread:
    """Counts by thread; a copy of the model starts without them."""

    def __init__(self):
        self.counts: dict[int, int] = {}

    def __deepcopy__(self, memo) -> _PerThread:
        return _PerThread()


def _check_features(inputs: dict) -> None:
    """Refuse features that are not finite: no layer behind them would be, and the memory would keep it."""
    if torch.compiler.is_compiling():  # which cannot ask
        return
    for name, value in inputs.items():
        if name.endswith("input_features") and isinstance(value, Tensor) and not bool(value.isfinite().all()):
            count = int((~value.isfinite()).sum())
            raise ValueError(f"{name} must be finite, and {count} of its {value.numel()} numbers are not.")


def _check_logits(logits: Tensor | None) -> None:
    """Refuse a turn that no emotion can be read from, before it is written."""
    if logits is None or torch.compiler.is_compiling() or bool(logits.isfinite().all()):
        return
    rows = (~logits.isfinite().all(-1)).nonzero().flatten().tolist()
    raise ValueError(f"The emotion logits are not finite for the rows {rows}: nothing was written.")


def _padding_mask(inputs: dict) -> Tensor | None:
    """The attention mask where it tells padding; a static cache has masks of its own shape, which do not."""
    mask = inputs.get("attention_mask")
    return mask if isinstance(mask, Tensor) and mask.dim() == 2 else None
