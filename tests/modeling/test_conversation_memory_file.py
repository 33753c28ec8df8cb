"""The bytes of a state: what comes back, and what is noticed."""

import pytest
import torch
from tiny_models import tiny_config

from titans_mal import ConversationMemoryCache
from titans_mal.modeling.conversation_memory_file import read_state, state_from_bytes, state_to_bytes, write_state


TENSORS = {"turns": torch.tensor([2, 0]), "layers.0.weights.0": torch.tensor([[1.5, -2.0]])}
IDENTITY = {"model_type": 'quoted "checksum":"' + "0" * 64 + '"'}
ROWS = {"conversation_ids": {"7": 0}, "speaker_ids": [{"1": 0}, {}]}
NOTES = {"turns": ["é"]}


def content():
    return state_to_bytes(TENSORS, IDENTITY, ROWS, NOTES)


def test_a_state_comes_back_whole():
    tensors, *others = state_from_bytes(content())
    assert others == [IDENTITY, ROWS, NOTES]
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())


def test_any_changed_byte_is_noticed():
    whole = content()
    for place in {*range(0, len(whole), 7), len(whole) - 1}:
        changed = bytearray(whole)
        changed[place] ^= 1
        with pytest.raises(ValueError, match="The conversation memory of a call cannot be read: "):
            state_from_bytes(bytes(changed), "of a call")
    for cut in (whole[:-1], whole + b"\0", b""):
        with pytest.raises(ValueError, match="cannot be read"):
            state_from_bytes(cut)


def test_values_of_another_kind_are_rejected():
    for parts in ((TENSORS, [], ROWS, NOTES), (TENSORS, IDENTITY, {"speaker_ids": [1]}, NOTES)):
        with pytest.raises(ValueError, match="wrong type"):
            state_from_bytes(state_to_bytes(*parts))
    with pytest.raises(TypeError):
        state_to_bytes(TENSORS, IDENTITY, ROWS, {"file": object()})


def test_errors_do_not_repeat_what_a_header_holds():
    config, long = tiny_config(), "x" * 100_000
    tensors, identity, _, notes = state_from_bytes(ConversationMemoryCache(config).to_bytes())
    for changed, rows in (
        (identity, {"conversation_ids": None, "speaker_ids": [{"1": long}]}),
        (identity, {"conversation_ids": {long: 0}, "speaker_ids": [{}]}),
        (identity | {"model_type": long}, {"conversation_ids": None, "speaker_ids": [{}]}),
        (identity | {"memory_weights": long}, {"conversation_ids": None, "speaker_ids": [{}]}),
        (identity, {"conversation_ids": None, "speaker_ids": [{}], long: 1}),
    ):
        content = state_to_bytes(tensors | {long: torch.zeros(1)}, changed, rows, notes)
        with pytest.raises(ValueError) as raised:  # noqa: PT011
            ConversationMemoryCache.from_bytes(content, config, weights_fingerprint="w")
        assert len(str(raised.value)) < 3000


def test_a_write_that_fails_keeps_the_earlier_state(tmp_path, monkeypatch):
    write_state(tmp_path / "a", b"first")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_state(tmp_path / "a", b"second")
    assert read_state(tmp_path / "a") == b"first"
    assert len(list((tmp_path / "a").iterdir())) == 1
    with pytest.raises(FileNotFoundError, match=r"No conversation memory in .*b: "):
        read_state(tmp_path / "b")
