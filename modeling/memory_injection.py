"""Attach memory layers to a host by forward hooks on its decoder blocks, which share one keyword argument."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging

from .configuration_titans_memory import TitansMemoryConfig
from .input_scalars import InputScalars
from .memory_layer import mean_of_turns
from .memory_transaction import MemoryTransaction
from .titans_memory_layer import TitansMemory


logger = logging.get_logger(__name__)

# The keyword argument that carries a `MemoryCall` from the top-level `forward` to the decoder blocks.
CALL_KEYWORD = "memory_call"
_NO_AUDIO = "This call has no audio, so there are no positions to read from or to add to."


@dataclass
class MemoryCall:
    """The data that one forward call shares with its hooks.

    Attributes:
        transaction: the view of the cache; None: memory is disabled.
        positions: (rows, capacity) indices into the flattened (rows * sequence_length) positions: a row's audio
            positions in order, then other positions of the row; rows in the order of the transaction. None if there
            is no audio.
        lengths: (rows,) how many of a row's positions are audio; None: all of them.
        sequence_length: length of the input ids.
        needs_gradients: whether gradients were enabled when the call began.
        logits_to_keep: number of last positions that the output head is applied to; 0 = all.
        last_positions: (rows,) positions of the readout.
        reads_audio: whether the readout takes the mean of the audio positions instead.
        inputs: scalars about the inputs; None before `locate_audio`.
        reads_later: whether they are read at the end of the call.
        surprise: one tensor (rows,) per memory layer that has run.
        read_hidden_state: (rows, hidden_size), the final hidden state at `last_positions`, or the mean of those at the
            audio positions.
    """

    transaction: MemoryTransaction | None
    sequence_length: int
    positions: Tensor | None = None
    lengths: Tensor | None = None
    needs_gradients: bool = field(default_factory=torch.is_grad_enabled)
    logits_to_keep: int = 0
    last_positions: Tensor | None = None
    surprise: list[Tensor] = field(default_factory=list)
    read_hidden_state: Tensor | None = None
    reads_audio: bool = False
    inputs: InputScalars | None = None
    reads_later: bool = False

    @property
    def seen(self) -> dict[str, int]:
        """The values of `inputs` that were read from their device, by name."""
        return {} if self.inputs is None else self.inputs.values

    def stacked_surprise(self) -> Tensor | None:
        """(rows, memory layers); None if no layer ran."""
        if not self.surprise:
            return None
        return torch.stack([surprise.to(self.surprise[0].device) for surprise in self.surprise], dim=-1)

    def locate_audio(self, is_audio: Tensor, inputs: InputScalars, *, reads_later: bool = False) -> None:
        """Find the audio positions from a mask (rows, sequence_length).

        Args:
            inputs: scalars of the call, which are read here.
            reads_later: leave them to the end of the call, and reserve room for every position.

        Raises:
            ValueError: for audio features that are not finite, if they are read.
        """
        self.inputs, self.reads_later = inputs, reads_later
        shortest, capacity = 0, self.sequence_length
        # Compiled code cannot depend on values.
        if not reads_later and not torch.compiler.is_compiling():
            inputs.read()
            shortest, capacity = inputs.values["shortest"], inputs.values["longest"]
        if capacity:
            counts = inputs.counts
            first = torch.arange(len(counts), device=counts.device)[:, None] * self.sequence_length
            self.positions = torch.argsort(~is_audio, dim=1, stable=True)[:, :capacity] + first
            self.lengths = None if shortest == capacity else counts
            if self.transaction is not None:
                self.transaction.stage_tokens(counts)
                self.positions = self.transaction.turn_by_turn(self.positions)
                self.lengths = None if self.lengths is None else self.transaction.turn_by_turn(counts)

    def audio_of(self, hidden_states: Tensor) -> Tensor:
        """(rows, sequence_length, hidden_size) -> (rows, capacity, hidden_size) at `positions`."""
        if self.positions is None:
            raise RuntimeError(_NO_AUDIO)
        positions = self.positions.to(hidden_states.device)
        return hidden_states.flatten(0, 1).index_select(0, positions.flatten()).unflatten(0, positions.shape)

    def mean_of_audio(self, hidden_states: Tensor) -> Tensor:
        """(rows, sequence_length, hidden_size) -> (rows, hidden_size) in the order of the call; zero without audio."""
        mean = mean_of_turns(self.audio_of(hidden_states), self.lengths)
        return mean if self.transaction is None else self.transaction.row_by_row(mean)

    def add_to_audio(self, hidden_states: Tensor, residual: Tensor) -> Tensor:
        """Add `residual`, shaped as `audio_of` returns it, to the hidden states at `positions`."""
        if self.positions is None:
            raise RuntimeError(_NO_AUDIO)
        positions = self.positions.to(hidden_states.device).flatten()
        added = hidden_states.flatten(0, 1).index_add(0, positions, residual.to(hidden_states).flatten(0, 1))
        return added.view(hidden_states.shape)


class BlockHook:
    """Adds a memory layer's residual to the output of its decoder block, and stages the new state.

    A class instead of a closure, so that a deep copy of the model gets its own hooks, which use the copy's memory.
    """

    def __init__(self, model: PreTrainedModel, layer_idx: int, hidden_states_index: int | None = None):
        self.model = model
        self.layer_idx = layer_idx
        self.hidden_states_index = hidden_states_index

    def __call__(self, block, args, kwargs, output):
        call = kwargs.get(CALL_KEYWORD)
        if call is None or call.transaction is None or call.positions is None:
            return None
        versions = output[0] if isinstance(output, tuple) else output
        hidden_states = versions if self.hidden_states_index is None else versions[self.hidden_states_index]
        if hidden_states.shape[1] != call.sequence_length:
            raise ValueError(
                f"The block has {hidden_states.shape[1]} positions but input_ids have {call.sequence_length}: the "
                "host itself expands the audio placeholder. Use a processor that expands it."
            )
        if call.needs_gradients and not torch.is_grad_enabled():
            raise ValueError(
                "Gradient checkpointing with use_reentrant=True loses the memory's gradients with transformers before "
                "5.23, which runs hooks inside it: use use_reentrant=False."
            )
        # Looked up at call time, since PEFT replaces modules that it trains.
        layer = self.model.titans_memory.layers[self.layer_idx]
        memory = layer(
            call.audio_of(hidden_states),
            functools.partial(call.transaction.read, self.layer_idx),
            lengths=None if call.lengths is None else call.lengths.to(hidden_states.device),
            batch_sizes=call.transaction.batch_sizes,
            write=call.transaction.write,
        )
        call.transaction.stage(self.layer_idx, memory.state, is_rejected=memory.is_rejected)
        call.surprise.append(call.transaction.row_by_row(memory.surprise))
        extended = call.add_to_audio(hidden_states, memory.residual)
        if self.hidden_states_index is not None:
            extended = versions.select_scatter(extended, dim=0, index=self.hidden_states_index)
        return (extended, *output[1:]) if isinstance(output, tuple) else extended


def decoder_hook(decoder, args, kwargs, output):
    """Keep the final hidden state for the readout, and drop positions whose logits are not needed."""
    call = kwargs.get(CALL_KEYWORD)
    if call is None:
        return None
    hidden_states = output.last_hidden_state
    if call.reads_audio:
        call.read_hidden_state = None if call.positions is None else call.mean_of_audio(hidden_states)
    elif call.last_positions is not None:
        rows = torch.arange(len(hidden_states), device=hidden_states.device)
        call.read_hidden_state = hidden_states[rows, call.last_positions.to(hidden_states.device)]
    if call.logits_to_keep:
        output.last_hidden_state = hidden_states[:, -call.logits_to_keep :]
    return output


def decoder_blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder blocks of a host's language model."""
    return model.get_decoder().layers


def attach_memory(
    model: PreTrainedModel,
    config: TitansMemoryConfig,
    *,
    hidden_states_index: int | None = None,
    reads_audio: bool = False,
) -> None:
    """Add a new memory to a host: the module `titans_memory`, and hooks on the blocks `config.layers`.

    Everything is checked before anything is changed. `detach_memory` undoes it.

    Args:
        model: a host with a `get_decoder()` that has `layers`.
        config: configuration of the memory.
        hidden_states_index: if the blocks' output is (versions, rows, positions, hidden_size), the version that the
            memory works on; None: the output is (rows, positions, hidden_size).
        reads_audio: whether the only readout takes the hidden states at the audio positions.

    Raises:
        ValueError: if a block of `config.layers` does not exist, or the model already has a memory.
    """
    blocks = decoder_blocks(model)
    missing = [layer for layer in config.layers if layer >= len(blocks)]
    if missing:
        raise ValueError(f"memory_config.layers {missing} do not exist: the host has blocks 0 to {len(blocks) - 1}.")
    if hasattr(model, "titans_memory"):
        raise ValueError("The model already has a memory: call detach_memory() first.")
    text_config = model.config.get_text_config(decoder=True)
    # Later positions see the audio through keys and values of later blocks; some hosts share those of the last blocks.
    last_read = len(blocks) - 1 - (getattr(text_config, "num_kv_shared_layers", None) or 0)
    unread = [layer for layer in config.layers if layer >= last_read]
    if unread and not reads_audio:
        logger.warning(
            f"memory_config.layers {unread}: a residual added after block {last_read} or later cannot influence the "
            "positions after the audio."
        )
    memory = TitansMemory(config, text_config.hidden_size)
    nn.Module.to(memory, next(blocks.parameters()).device)
    handles = []
    try:
        # Prepended, so that hooks that record hidden states see the residual.
        for index, layer in enumerate(config.layers):
            hook = BlockHook(model, index, hidden_states_index)
            handles.append(blocks[layer].register_forward_hook(hook, with_kwargs=True, prepend=True))
        decoder = model.get_decoder()
        handles.append(decoder.register_forward_hook(decoder_hook, with_kwargs=True, prepend=True))
    except BaseException:
        for handle in handles:
            handle.remove()
        raise
    model.titans_memory = memory
    vars(model)["_memory_handles"] = handles


def detach_memory(model: PreTrainedModel) -> None:
    """Remove memory and hooks; the host is then as before `attach_memory`.

    Raises:
        ValueError: if the model has no memory.
    """
    if not hasattr(model, "titans_memory"):
        raise ValueError("The model has no memory to detach.")
    for handle in vars(model).pop("_memory_handles"):
        handle.remove()
    del model.titans_memory
