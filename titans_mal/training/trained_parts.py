"""Choose what is trained: memory and readout, and optionally a LoRA on the host; everything else is frozen."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator

from torch import nn
from transformers.utils import is_peft_available

from ..modeling.audio_emotion_mixin import AudioEmotionMixin


# Parts of the names of vision modules.
_VISION = ("visual", "vision", "image")


def choose_trained_parts(
    model: AudioEmotionMixin,
    *,
    lora_rank: int | None = None,
    lora_alpha: float | None = None,
    lora_dropout: float = 0.0,
    lora_on_audio_tower: bool = False,
) -> None:
    """Freeze the host, make memory and readout trainable, and optionally add a LoRA to the host.

    Args:
        model: a model with memory.
        lora_rank: of a LoRA (arXiv 2106.09685) on attention and MLP of the language model; None: no LoRA.
        lora_alpha: scale of the LoRA times its rank; None: twice the rank.
        lora_dropout: dropout on its inputs.
        lora_on_audio_tower: also add it to the modules that turn audio into audio tokens.

    Raises:
        ValueError: for a model that already has a LoRA or is saved in full, a host without linear layers for it, and
            as `check_lora_options` and `check_is_saved_whole`.
        ImportError: for a LoRA without PEFT.
    """
    check_is_saved_whole(model)
    check_lora_options(lora_rank, lora_alpha, lora_dropout, lora_on_audio_tower)
    if lora_rank is not None and not model.config.adapter_only:
        raise ValueError(
            "A model that is saved in full cannot have a LoRA: start from the host by from_base, or from an adapter."
        )
    if lora_rank is not None and model.added_adapters:
        raise ValueError(
            f"The model already has the LoRA {model.added_adapters}: load it without the LoRA, or give no lora_rank."
        )
    model.freeze_host()
    if lora_rank is not None:
        _add_lora(model, lora_rank, lora_alpha or 2 * lora_rank, lora_dropout, lora_on_audio_tower)
    else:
        for name, parameter in model.named_parameters():
            # Continue to train a LoRA from the checkpoint.
            if ".lora_" in name and {*name.split(".")} & {*model.added_adapters}:
                parameter.requires_grad_(True)


def check_lora_options(rank: int | None, alpha: float | None, dropout: float, on_audio_tower: bool) -> None:
    """Check the arguments of `choose_trained_parts`.

    Raises:
        ValueError: for a rank below 1, an alpha that is not above 0, a dropout outside [0, 1), and others without a
            rank.
    """
    if rank is None and (alpha is not None or dropout or on_audio_tower):
        raise ValueError("The alpha and dropout of a LoRA, and a LoRA on the audio tower, need its rank.")
    if rank is not None and rank < 1:
        raise ValueError(f"The rank of a LoRA must be at least 1, got {rank}.")
    if alpha is not None and not alpha > 0:
        raise ValueError(f"The alpha of a LoRA must be above 0, got {alpha}.")
    if not 0 <= dropout < 1:
        raise ValueError(f"The dropout of a LoRA must be at least 0 and below 1, got {dropout}.")


def freeze_before_voice_memory(model: AudioEmotionMixin) -> None:
    """Stop training all parts whose outputs a voice memory receives: its LoRA and other memories before it.

    A voice memory is fitted to these outputs once (`fit_voice_memory`) and would not fit them any longer. Warns if no
    part of a LoRA, or not all other memories, can be trained.

    Args:
        model: modified in place; without `voice_layers`, nothing is changed.
    """
    memory = model.config.memory_config
    if not memory.voice_layers:
        return
    last = max(memory.voice_layers)
    later = {id(parameter) for block in model.get_decoder().layers[last + 1 :] for parameter in block.parameters()}
    lora = [parameter for name, parameter in model.named_parameters() if ".lora_" in name]
    for parameter in lora:
        if id(parameter) not in later:
            parameter.requires_grad_(False)
    frozen = [number for number in memory.layers if number < last and number not in memory.voice_layers]
    for number in frozen:
        model.titans_memory.layers[memory.layers.index(number)].requires_grad_(False)
    untrained = [f"the memories on blocks {frozen}"] if frozen else []
    untrained += ["the LoRA"] if lora and not any(parameter.requires_grad for parameter in lora) else []
    if untrained:
        warnings.warn(
            f"Not trained: {' and '.join(untrained)}, since the memory of voices on block {last} is fitted to their "
            "outputs.",
            UserWarning,
            stacklevel=2,
        )


def check_is_saved_whole(model: AudioEmotionMixin) -> None:
    """Check before training that saving the model will lose nothing.

    Raises:
        ValueError: for a model in a PEFT wrapper, which does not save the memory, and as `check_adapters`.
    """
    if is_peft_available():
        from peft import PeftMixedModel, PeftModel

        if isinstance(model, PeftModel | PeftMixedModel):
            raise ValueError(
                f"A {type(model).__name__} saves its adapter without the memory: pass the model itself, with a LoRA "
                "added by model.add_adapter(LoraConfig(...)) or choose_trained_parts(model, lora_rank=...)."
            )
    model.check_adapters()


def _add_lora(model: AudioEmotionMixin, rank: int, alpha: float, dropout: float, on_audio_tower: bool) -> None:
    from peft import LoraConfig

    names = list(_linear_layers(model, on_audio_tower=on_audio_tower))
    if not names:
        raise ValueError("The host's decoder blocks have no linear layers for a LoRA.")
    # One pattern for all blocks, to keep adapter_config.json readable.
    patterns = sorted({re.sub(r"\\\.\d+\\\.", r"\\.\\d+\\.", re.escape(name)) for name in names})
    # PEFT computes with any number, and declares an integer.
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules="|".join(patterns),
    )
    model.add_adapter(config)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and ".lora_" in name:
            # In bfloat16, optimiser steps would be lost to rounding.
            parameter.data = parameter.data.float()


def _linear_layers(model: AudioEmotionMixin, *, on_audio_tower: bool) -> Iterator[str]:
    """Names of the linear layers of the decoder blocks, and optionally of the modules that make audio tokens."""
    blocks = {id(module) for block in model.get_decoder().layers for module in block.modules()}
    decoder = {id(module) for module in model.get_decoder().modules()}
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or module is head or name.split(".")[0] in model.extension_names:
            continue
        # Phi-4's encoder is inside its decoder.
        is_before = id(module) not in decoder or "audio" in name
        makes_audio = is_before and not any(word in name for word in _VISION)
        if id(module) in blocks or (on_audio_tower and makes_audio):
            yield name


def trained_parameters(model: AudioEmotionMixin) -> dict[str, int]:
    """The number of trained parameters by part: `memory`, `readout`, `lora`, `host`; and of `frozen` ones."""
    parts = dict.fromkeys(("memory", "readout", "lora", "host", "frozen"), 0)
    own = {"titans_memory": "memory", "emotion_head": "readout", "emotion_values_head": "readout"}
    for name, parameter in model.named_parameters():
        part = own.get(name.split(".")[0], "lora" if ".lora_" in name else "host")
        parts[part if parameter.requires_grad else "frozen"] += parameter.numel()
    return parts
