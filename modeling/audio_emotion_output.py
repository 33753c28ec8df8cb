"""Output class and signature of `forward` for a host with memory."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import get_args

from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import ModelOutput

from .conversation_memory_cache import ConversationMemoryCache


# The name of the host's keys and values in calls and outputs: "cache" from transformers 5.24 on.
HOST_CACHE = "cache" if "cache" in {field.name for field in fields(CausalLMOutputWithPast)} else "past_key_values"


@dataclass
class AudioEmotionOutput(ModelOutput):
    """The fields that a host's output gains.

    Attributes:
        emotion_logits: (rows, labels) float32, conditioned on earlier turns if the model has `emotion_transitions`;
            None where the call holds no audio, as in decoding steps, or the model predicts no labels.
        emotion_values: (rows, dimensions) float32, in the order of `config.emotion_dimensions`; None where the call
            holds no audio or there are no dimensions.
        memory_surprise: (rows, memory layers), the memory's relative prediction error for each turn,
            ||M(k) - v||^2 / ||v||^2 averaged over tokens and heads; None without memory or audio.
        memory_cache: the cache that was passed in.
    """

    emotion_logits: Tensor | None = None
    emotion_values: Tensor | None = None
    memory_surprise: Tensor | None = None
    memory_cache: ConversationMemoryCache | None = None


def annotated_output(host: type[PreTrainedModel]) -> type[ModelOutput]:
    """The output class in the return annotation of the host's `forward`."""
    annotation = inspect.signature(host.forward, eval_str=True).return_annotation
    declared = [t for t in (*get_args(annotation), annotation) if isinstance(t, type) and issubclass(t, ModelOutput)]
    if not declared:
        raise TypeError(f"{host.__name__}.forward declares no ModelOutput: set host_output_class.")
    return declared[0]


def extend_output(cls: type, host_output: type[ModelOutput]) -> type[AudioEmotionOutput]:
    """The host's output class with the fields of `AudioEmotionOutput`."""
    namespace = {
        "__module__": cls.__module__,
        "__qualname__": f"{cls.__qualname__}.output_class",
        "__doc__": f"Output of `{cls.__name__}`: `{host_output.__name__}` and `AudioEmotionOutput`.",
    }
    return dataclass(type(f"{cls.__name__}Output", (AudioEmotionOutput, host_output), namespace))


def with_signature(forward: Callable, host_forward: Callable) -> Callable:
    """`forward` with the host's signature plus the new arguments, which `generate` and Trainer inspect."""

    @functools.wraps(forward)
    def wrapped(self, *args, **kwargs):
        return forward(self, *args, **kwargs)

    parameters = list(inspect.signature(host_forward).parameters.values())
    own = [p for p in inspect.signature(forward).parameters.values() if p.kind is p.KEYWORD_ONLY]
    var_keyword = [p for p in parameters if p.kind is p.VAR_KEYWORD]
    named = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
    vars(wrapped)["__signature__"] = inspect.Signature([*named, *own, *var_keyword])
    return wrapped
