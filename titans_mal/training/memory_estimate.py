"""Estimate the memory of a training step by a dry run on the meta device, which computes nothing."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from ..modeling.audio_emotion_mixin import AudioEmotionMixin
from ..modeling.conversation_memory_cache import ConversationMemoryCache
from ..modeling.memory_injection import CALL_KEYWORD, MemoryCall
from ..modeling.memory_transaction import MemoryTransaction


# Device of the dry run.
DEVICE = "meta"
# AdamW keeps two moments of each trained parameter in float32.
_MOMENTS = 2 * 4


class NotEstimatedError(RuntimeError):
    """The memory of a training cannot be estimated."""


@dataclass(frozen=True)
class StepShape:
    """Size of a batch in one process.

    Attributes:
        lanes, window: number of conversations, and of turns of each.
        positions: number of positions of a turn's prompt, including its audio tokens.
        audio_tokens: number of audio tokens of a turn.
    """

    lanes: int
    window: int
    positions: int
    audio_tokens: int

    @property
    def turns(self) -> int:
        return self.lanes * self.window

    @property
    def tokens(self) -> int:
        return self.turns * self.positions


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of a training step, without temporary memory of the audio tower and fragmentation.

    Attributes:
        weights: all weights of the model, including frozen ones.
        gradients, optimizer: gradients and optimizer states of trained parameters.
        activations: saved for the backward pass by the language model.
        memory: saved for it by the memory layers, including the states after each turn.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    memory: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.memory

    def __str__(self) -> str:
        parts = ("weights", "gradients", "optimizer", "activations", "memory", "total")
        return ", ".join(f"{name} {getattr(self, name) / 2**30:.2f} GiB" for name in parts)


def on_meta(model: AudioEmotionMixin) -> AudioEmotionMixin:
    """A copy of a model on the meta device, with its dtypes, LoRA and `requires_grad` flags, but without values."""
    with torch.device("meta"):
        twin = type(model)(copy.deepcopy(model.config))
        for name in model.added_adapters:
            twin.add_adapter(copy.deepcopy(model.peft_config[name]), name)
    like = dict(model.named_parameters())
    for name, parameter in twin.named_parameters():
        if name in like:
            parameter.data = parameter.data.to(like[name].dtype)
            parameter.requires_grad_(like[name].requires_grad)
    return twin


def estimate_training_memory(
    model: AudioEmotionMixin, shape: StepShape, *, gradient_checkpointing: bool = False
) -> MemoryEstimate:
    """The bytes of a training step on one device, without sharding.

    Attention is counted as if it saved its probabilities, which fused kernels do not, so the estimate is rather high.

    Args:
        model: on the meta device, after choosing the trained parts.
        shape: the shape of the step.
        gradient_checkpointing: blocks save only their input and are recomputed one by one.

    Raises:
        NotEstimatedError: for a host whose blocks do not run on the meta device.
    """
    try:
        of_blocks, outside, inputs = _saved_bytes(model, shape)
    except RuntimeError as error:
        raise NotEstimatedError(f"{type(model).__name__} does not run on the meta device: {error}") from error
    # Output head, for one position per turn: logits, their softmax and its gradient, in float32.
    head = 3 * 4 * shape.turns * model.config.get_text_config(decoder=True).vocab_size
    kept = inputs + max(of_blocks) if gradient_checkpointing else sum(of_blocks)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return MemoryEstimate(
        weights=sum(parameter.nbytes for parameter in model.parameters()),
        gradients=sum(parameter.nbytes for parameter in trained),
        optimizer=sum(_MOMENTS * parameter.numel() for parameter in trained),
        activations=kept + head,
        memory=outside,
    )


def _saved_bytes(model: AudioEmotionMixin, shape: StepShape) -> tuple[list[int], int, int]:
    """Bytes saved for the backward pass by each block and by everything else, and bytes of the blocks' inputs."""
    decoder = model.get_decoder()
    ledger = _Ledger(model, decoder.layers)
    config = model.config.get_text_config(decoder=True)
    embeddings = torch.empty(
        shape.turns, shape.positions, config.hidden_size, device=DEVICE, dtype=next(decoder.parameters()).dtype
    )
    cache = ConversationMemoryCache(model.config, batch_size=shape.lanes)
    ids = torch.arange(shape.lanes).repeat_interleave(shape.window)
    transaction = MemoryTransaction(cache, shape.turns, conversation_ids=ids, speaker_ids=torch.zeros_like(ids))
    call = MemoryCall(transaction, sequence_length=shape.positions)
    call.positions = torch.zeros(shape.turns, shape.audio_tokens, dtype=torch.long, device=DEVICE)
    call.lengths = torch.full((shape.turns,), shape.audio_tokens, device=DEVICE)
    # The mask of padded turns; on the meta device its content is unknown.
    mask = torch.ones(shape.turns, 1, shape.positions, shape.positions, dtype=torch.bool, device=DEVICE)
    with ledger:
        decoder(inputs_embeds=embeddings, attention_mask=mask, use_cache=False, **{CALL_KEYWORD: call})
    return ledger.of_blocks, ledger.outside, len(decoder.layers) * embeddings.nbytes


class _Ledger:
    """Attributes the tensors saved by autograd to the decoder block that is running, or to the rest."""

    def __init__(self, model: AudioEmotionMixin, blocks: nn.ModuleList):
        self.of_blocks = [0] * len(blocks)
        self.outside = 0
        self._blocks = blocks
        self._running: int | None = None
        # Kept alive, so that the id of a counted storage is not reused.
        self._seen: dict[int, object] = {}
        for parameter in model.parameters():
            self._is_new(parameter)
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._book, lambda tensor: tensor)

    def __enter__(self):
        self._handles = []
        for number, block in enumerate(self._blocks):
            self._handles.append(block.register_forward_pre_hook(lambda *_, number=number: self._set(number)))
            # Prepended, to run before the memory's own hook, which is not part of the block.
            self._handles.append(block.register_forward_hook(lambda *_: self._set(None), prepend=True))
        self._hooks.__enter__()

    def __exit__(self, *exception):
        self._hooks.__exit__(*exception)
        for handle in self._handles:
            handle.remove()

    def _set(self, number: int | None) -> None:
        self._running = number

    def _is_new(self, tensor: torch.Tensor) -> bool:
        storage = tensor.untyped_storage()
        if storage._cdata in self._seen:
            return False
        self._seen[storage._cdata] = storage
        return True

    def _book(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._is_new(tensor):
            nbytes = tensor.untyped_storage().nbytes()
            if self._running is None:
                self.outside += nbytes
            else:
                self.of_blocks[self._running] += nbytes
        return tensor
