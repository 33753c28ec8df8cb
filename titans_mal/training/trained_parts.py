"""What is trained: the memory and the readout, optionally a LoRA on the host; everything else stays frozen."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel
from transformers.utils import is_peft_available


# In the names of what hosts see with.
_SIGHT = ("visual", "vision", "image")


def choose_trained_parts(
    model: PreTrainedModel,
    *,
    lora_rank: int | None = None,
    lora_alpha: float | None = None,
    lora_dropout: float = 0.0,
    lora_on_audio_tower: bool = False,
) -> None:
    """Freeze the host, let memory and readout train, and add a LoRA to the host where one is wanted.

    Args:
        model: with memory.
        lora_rank: of a LoRA (arXiv 2106.09685) on attention and MLP of the language model; None: none.
        lora_alpha: scale of the LoRA times its rank; None: twice the rank.
        lora_dropout: of its inputs.
        lora_on_audio_tower: also on what turns sound into audio tokens.

    Raises:
        ValueError: for a rank below 1, options of a LoRA without a rank, a model that carries a LoRA already or is
            saved in full, a host without linear layers to put it on, or what `check_is_saved_whole` refuses.
        ImportError: for a LoRA without PEFT.
    """
    check_is_saved_whole(model)
    if lora_rank is None and (lora_alpha is not None or lora_dropout or lora_on_audio_tower):
        raise ValueError("lora_alpha, lora_dropout and lora_on_audio_tower need a lora_rank.")
    if lora_rank is not None and lora_rank < 1:
        raise ValueError(f"lora_rank must be at least 1, got {lora_rank}.")
    if lora_rank is not None and not model.config.adapter_only:
        raise ValueError(
            "A model that is saved in full cannot carry a LoRA: begin from the host by from_base, or from an adapter."
        )
    if lora_rank is not None and model.added_adapters:
        raise ValueError(
            f"The model carries the LoRA {model.added_adapters} already: load it without, or give no rank."
        )
    model.freeze_host()
    if lora_rank is not None:
        _add_lora(model, lora_rank, lora_alpha or 2 * lora_rank, lora_dropout, lora_on_audio_tower)
    else:
        for name, parameter in model.named_parameters():
            # One that came with the checkpoint goes on training.
            if ".lora_" in name and {*name.split(".")} & {*model.added_adapters}:
                parameter.requires_grad_(True)


def check_is_saved_whole(model: PreTrainedModel) -> None:
    """Refuse, before it trains, a model of which saving would lose a part.

    Raises:
        ValueError: for a model in a wrapper of PEFT, which saves no memory, and for adapters that `check_adapters`
            refuses.
    """
    if is_peft_available():
        from peft import PeftMixedModel, PeftModel

        if isinstance(model, PeftModel | PeftMixedModel):
            raise ValueError(
                f"A {type(model).__name__} saves its adapter without the memory: give the model itself, with a LoRA "
                "by model.add_adapter(LoraConfig(...)) or choose_trained_parts(model, lora_rank=...)."
            )
    model.check_adapters()


def _add_lora(model: PreTrainedModel, rank: int, alpha: float, dropout: float, on_audio_tower: bool) -> None:
    from peft import LoraConfig

    names = list(_linear_layers(model, on_audio_tower=on_audio_tower))
    if not names:
        raise ValueError("The host's decoder blocks have no linear layers that a LoRA could be put on.")
    # One pattern for all blocks, which stays readable in adapter_config.json.
    patterns = sorted({re.sub(r"\\\.\d+\\\.", r"\\.\\d+\\.", re.escape(name)) for name in names})
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="|".join(patterns))
    model.add_adapter(config)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and ".lora_" in name:
            # An optimiser's steps are lost in the rounding of a host in bfloat16.
            parameter.data = parameter.data.float()


def _linear_layers(model: PreTrainedModel, *, on_audio_tower: bool) -> Iterator[str]:
    """Names of the linear layers of the decoder blocks, and of what makes audio tokens where that is wanted."""
    blocks = {id(module) for block in model.get_decoder().layers for module in block.modules()}
    decoder = {id(module) for module in model.get_decoder().modules()}
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or module is head or name.split(".")[0] in model.extension_names:
            continue
        # Phi-4 keeps its encoder inside of its decoder.
        is_before = id(module) not in decoder or "audio" in name
        hears = is_before and not any(word in name for word in _SIGHT)
        if id(module) in blocks or (on_audio_tower and hears):
            yield name


def trained_parameters(model: PreTrainedModel) -> dict[str, int]:
    """The number of parameters that train, by part: `memory`, `readout`, `lora`, `host`, and `frozen`."""
    parts = dict.fromkeys(("memory", "readout", "lora", "host", "frozen"), 0)
    own = {"titans_memory": "memory", "emotion_head": "readout", "emotion_values_head": "readout"}
    for name, parameter in model.named_parameters():
        part = own.get(name.split(".")[0], "lora" if ".lora_" in name else "host")
        parts[part if parameter.requires_grad else "frozen"] += parameter.numel()
    return parts
