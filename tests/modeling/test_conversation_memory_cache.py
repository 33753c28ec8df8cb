import copy
import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save
from tiny_models import assert_same_state, rows_of, state_of, tiny_config, tiny_model, tiny_turns

from titans_mal import ConversationMemoryCache
from titans_mal.modeling.conversation_memory_file import state_from_bytes, state_to_bytes
from titans_mal.modeling.memory_state import NeuralMemoryState


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@torch.no_grad()
def written(model, rows=3, turns=2, seed=0):
    """A cache with a few turns in each row."""
    cache = ConversationMemoryCache(model.config, batch_size=rows)
    for turn in range(turns):
        model(**tiny_turns(rows, seed=seed + turn), memory_cache=cache)
    return cache


@torch.no_grad()
def listen(model, cache, seed=99, rows=None):
    """Logits after the cache's history; the cache stays as it is."""
    turns = tiny_turns(cache.batch_size if rows is None else rows, seed=seed)
    return model(**turns, memory_cache=cache, update_memory=False).logits


def test_a_new_cache_is_empty(model):
    cache = ConversationMemoryCache(model.config, batch_size=2)
    assert len(cache) == 2  # memory layers
    assert cache.batch_size == 2
    assert not cache.is_initialized
    assert not cache.has_previous_state()
    assert not cache.has_previous_state(0)
    assert cache.get_seq_length() == 0
    assert cache.nbytes == 0
    assert cache.layers[0].weights is None


def test_counts_turns_and_tokens(model):
    cache = ConversationMemoryCache(model.config, batch_size=2)
    with torch.no_grad():
        first = model(**tiny_turns(2, frames=[40, 80]), memory_cache=cache)
        model(**tiny_turns(2, frames=[60, 24]), memory_cache=cache)
    assert first.memory_cache is cache
    assert cache.turns.tolist() == [2, 2]
    assert cache.tokens.tolist() == [10 + 15, 20 + 6]
    assert cache.get_seq_length(1) == 26
    assert isinstance(cache.get_seq_length(), int)
    assert cache.is_initialized
    assert cache.has_previous_state(1)
    heads, dim = 2, 8
    assert [tuple(weight.shape) for weight in cache.layers[1].weights] == [(2, heads, dim, dim)] * 2
    assert [tuple(momentum.shape) for momentum in cache.layers[1].momentum] == [(2, heads, dim, dim)] * 2
    # 2 layers, weights and momentum, 2 matrices, float32.
    assert cache.nbytes == 2 * 2 * 2 * (2 * heads * dim * dim) * 4


def test_reset(model):
    cache = written(model)
    of_one = cache.clone()
    of_one.reset(1)
    cache.reset(rows=[1])
    assert cache.turns.tolist() == of_one.turns.tolist() == [2, 0, 2]
    for layer in cache.layers:
        for tensor in layer.state.tensors:
            assert not tensor[1].any(), "nothing of a forgotten conversation may be saved"
            assert tensor[[0, 2]].any()
    scored = listen(model, cache)
    fresh = listen(model, ConversationMemoryCache(model.config, batch_size=3))
    torch.testing.assert_close(scored[1], fresh[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(scored[[0, 2]], listen(model, written(model))[[0, 2]], rtol=0, atol=1e-5)
    cache.reset()
    assert not cache.is_initialized
    assert torch.equal(listen(model, cache), fresh)
    with pytest.raises(ValueError, match="rows 0 to 2, got 3"):
        cache.reset(rows=[3])


@pytest.mark.parametrize("rows", [None, [1]])
def test_a_reset_frees_ids_and_speakers(rows):
    model = tiny_model({"scope": "speaker", "max_speakers": 2})
    cache, kept = ConversationMemoryCache(model.config, batch_size=2), rows == [1]
    calls = [([5, 6], [1, 8]), ([5, 6], [2, 9])]
    with torch.no_grad():
        for seed, (ids, speakers) in enumerate(calls):
            turns = tiny_turns(2, seed=seed)
            model(**turns, memory_cache=cache, conversation_ids=ids, speaker_ids=speakers)
        before = cache.snapshot()
        cache.reset(rows)
        for layer in cache.layers:  # two streams a row
            assert layer.state is None or [bool(t.any()) for t in layer.weights[0]] == [True, True, False, False]
        assert cache.speaker_ids == ([{1: 0, 2: 1}, {}] if kept else [{}, {}])
        assert cache.conversation_ids == ({5: 0} if kept else None)
        assert cache.turns.tolist() == cache.tokens.clamp(max=1).tolist() == [int(kept), int(kept), 0, 0]
        # As many new speakers as before, of a new conversation, who begin from nothing.
        for seed, speaker in enumerate((3, 4)):
            turns = tiny_turns(1, seed=seed)
            output = model(**turns, memory_cache=cache, conversation_ids=[7], speaker_ids=[speaker])
            assert torch.equal(
                output.emotion_logits, model(**turns, conversation_ids=[7], speaker_ids=[0]).emotion_logits
            )
    assert cache.speaker_ids[1 if kept else 0] == {3: 0, 4: 1}
    # A snapshot of before has all of it still.
    cache.restore(before)
    assert cache.speaker_ids == [{1: 0, 2: 1}, {8: 0, 9: 1}]
    assert cache.conversation_ids == {5: 0, 6: 1}


@pytest.mark.parametrize("memory", [{"step_bound": "gram"}, {"feature_map": "quadratic"}])
def test_other_keys_and_steps_are_another_memory(model, memory):
    other = ConversationMemoryCache(tiny_config(memory), batch_size=1)
    assert other.identity != ConversationMemoryCache(model.config).identity
    with pytest.raises(ValueError, match="belong to different models"):
        other.check_reader(model.config, None)


@pytest.mark.parametrize("memory", [{"step_bound": "gram"}, {"feature_map": "quadratic", "depth": 1}])
@torch.no_grad()
def test_other_keys_and_steps_continue_from_a_file(tmp_path, memory):
    model = tiny_model(memory)
    cache = written(model)
    cache.save_pretrained(tmp_path)
    loaded = ConversationMemoryCache.from_pretrained(tmp_path, model.config)
    assert torch.equal(listen(model, loaded), listen(model, cache))
    assert not torch.equal(listen(model, loaded), listen(model, ConversationMemoryCache(model.config, batch_size=3)))


def test_select_reorder_and_repeat(model):
    cache = written(model)
    turns = tiny_turns(3, seed=99)
    with torch.no_grad():
        scored = model(**turns, memory_cache=cache, update_memory=False).emotion_logits
        selected = cache.clone()
        selected.batch_select_indices(torch.tensor([2, 0]))
        picked = model(**rows_of(turns, [2, 0]), memory_cache=selected, update_memory=False).emotion_logits
        torch.testing.assert_close(picked, scored[[2, 0]], rtol=0, atol=1e-5)
        repeated = cache.clone()
        repeated.batch_repeat_interleave(2)
        rows = [0, 0, 1, 1, 2, 2]
        doubled = model(**rows_of(turns, rows), memory_cache=repeated, update_memory=False).emotion_logits
        torch.testing.assert_close(doubled, scored[rows], rtol=0, atol=1e-5)
    cache.reorder_cache(torch.tensor([1, 1, 0]))
    assert torch.equal(cache.layers[0].weights[0][0], cache.layers[0].weights[0][1])


def test_selected_rows_keep_their_ids(model):
    cache = ConversationMemoryCache(model.config, batch_size=3)
    with torch.no_grad():
        model(**tiny_turns(3), memory_cache=cache, conversation_ids=[7, 8, 9])
    cache.batch_select_indices(torch.tensor([2, 0]))
    assert cache.conversation_ids == {9: 0, 7: 1}


def test_update_writes_chosen_streams(model):
    cache = written(model)
    before = cache.layers[0].state.map(torch.clone)
    one = cache.layers[0].state[1:2].map(lambda tensor: tensor + 1)
    whole = cache.update(one, 0, torch.tensor([1]))
    assert isinstance(whole, NeuralMemoryState)
    assert torch.equal(cache.layers[0].weights[0][1], before.weights[0][1] + 1)
    assert torch.equal(cache.layers[0].weights[0][[0, 2]], before.weights[0][[0, 2]])
    with pytest.raises(ValueError, match="memory layers 0 to 1, got 2"):
        cache.update(one, 2)


def test_crop_is_rejected(model):
    with pytest.raises(ValueError, match=r"cannot be cropped: take a snapshot"):
        written(model).crop(3)


def test_snapshot_and_restore(model):
    cache = written(model)
    before, snapshot = state_of(cache), cache.snapshot()
    for seed in (5, 6):
        with torch.no_grad():
            model(**tiny_turns(3, seed=seed), memory_cache=cache)
        assert cache.turns.tolist() == [3, 3, 3]
        cache.restore(snapshot)
        assert_same_state(before, state_of(cache))
    other = ConversationMemoryCache(tiny_config({"head_dim": 4}), batch_size=3)
    with pytest.raises(ValueError, match=r"The snapshot and the cache belong to different models.*memory_config"):
        cache.restore(other.snapshot())


@pytest.mark.parametrize(
    "copier", [ConversationMemoryCache.clone, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))]
)
def test_copies_are_independent(model, copier):
    cache = written(model)
    twin, before = copier(cache), state_of(cache)
    assert_same_state(before, state_of(twin))
    with torch.no_grad():
        model(**tiny_turns(3), memory_cache=twin)
        twin.layers[0].weights[0].zero_()
    assert_same_state(before, state_of(cache))


def test_a_shallow_copy_is_a_snapshot(model):
    cache = written(model)
    before, shallow = state_of(cache), copy.copy(cache)
    assert_same_state(before, state_of(shallow))
    shallow.reorder_cache(torch.tensor([2, 1, 0]))
    shallow.reset()
    assert_same_state(before, state_of(cache))
    assert cache.is_initialized


@pytest.mark.parametrize(
    "rows",
    [
        torch.tensor([False, True, True]),
        [False, True, True],
        np.array([True, False, True]),
        torch.tensor([1.0, 0.0]),
        [True, 2],
    ],
)
def test_rows_are_numbers(model, rows):
    cache = written(model)
    before = state_of(cache)
    for change in (cache.reset, cache.batch_select_indices, cache.reorder_cache):
        with pytest.raises(
            ValueError, match=r"Rows must be integers.* a mask must be given as the rows that it selects"
        ):
            change(rows)
    assert_same_state(before, state_of(cache))


@pytest.mark.parametrize(
    "rows", [[0, 2], torch.tensor([0, 2]), np.array([0, 2]), range(0, 3, 2), [torch.tensor(0), np.int64(2)], {0, 2}]
)
def test_rows_may_be_given_in_several_ways(model, rows):
    cache = written(model)
    cache.reset(rows)
    assert cache.turns.tolist() == [0, 2, 0]
    cache.reset([])
    assert cache.turns.tolist() == [0, 2, 0]


def test_to_is_in_place(model):
    cache = written(model)
    assert cache.to("cpu") is cache
    assert cache.to(torch.float64) is cache
    assert cache.layers[0].weights[0].dtype == torch.float64
    cache.to(device="meta")
    assert cache.turns.device.type == cache.layers[1].momentum[0].device.type == "meta"
    with pytest.raises(ValueError, match=r"float32 or float64, got dtype=torch\.float16"):
        cache.to(dtype=torch.float16)


def test_detach(model):
    cache = ConversationMemoryCache(model.config)
    model(**tiny_turns(1), memory_cache=cache)
    assert cache.layers[0].weights[0].requires_grad
    assert cache.detach_() is cache
    assert not any(tensor.requires_grad for layer in cache.layers for tensor in (*layer.weights, *layer.momentum))


def test_stack_and_split(model):
    caches = [written(model, rows=1, seed=seed) for seed in (0, 10)] + [ConversationMemoryCache(model.config)]
    turns = tiny_turns(3, seed=99)
    stacked = ConversationMemoryCache.stack(caches)
    assert stacked.batch_size == 3
    assert stacked.turns.tolist() == [2, 2, 0]
    with torch.no_grad():
        scored = model(**turns, memory_cache=stacked).emotion_logits
        for row, cache in enumerate(caches):
            alone = model(**rows_of(turns, [row]), memory_cache=cache).emotion_logits
            torch.testing.assert_close(scored[[row]], alone, rtol=0, atol=1e-5)
    for part, cache in zip(stacked.split(), caches):
        assert part.turns.tolist() == cache.turns.tolist()
        for x, y in zip(part.layers[1].weights, cache.layers[1].weights):
            torch.testing.assert_close(x, y, rtol=0, atol=1e-5)
    fresh = ConversationMemoryCache(model.config)
    ours, others, unknown = (cache.clone() for cache in [caches[0]] * 3)
    others.weights_fingerprint, unknown.weights_fingerprint = "other weights", None
    assert ConversationMemoryCache.stack([fresh, ours]).weights_fingerprint == ours.weights_fingerprint
    assert ConversationMemoryCache.stack([fresh, unknown, ours]).weights_fingerprint is None
    for mixed in ([ours, others], [fresh, ours, others], [unknown, ours, others], [others, unknown, ours]):
        with pytest.raises(ValueError, match="other weights"):
            ConversationMemoryCache.stack(mixed)
    assert ConversationMemoryCache.stack(cache for cache in caches).batch_size == 3
    for wrong in ([None], [caches[0], None]):
        with pytest.raises(ValueError, match=r"stack needs caches, got \['NoneType'\]"):
            ConversationMemoryCache.stack(wrong)
    with pytest.raises(ValueError, match="at least one cache"):
        ConversationMemoryCache.stack([])
    with pytest.raises(ValueError, match="A cache to be stacked and the cache belong to different models"):
        ConversationMemoryCache.stack([caches[0], ConversationMemoryCache(tiny_config({"depth": 1}))])


def test_splitting_an_unwritten_row_gives_an_empty_cache(model):
    parts = ConversationMemoryCache.stack([written(model, rows=1), ConversationMemoryCache(model.config)]).split()
    assert [part.is_initialized for part in parts] == [True, False]


@pytest.mark.parametrize("by_id", [False, True])
def test_save_and_load(tmp_path, by_id):
    model = tiny_model({"scope": "speaker", "max_speakers": 2} if by_id else None)
    cache = ConversationMemoryCache(model.config, batch_size=3)
    who = {"conversation_ids": [11, 5], "speaker_ids": [3, 4]} if by_id else {}
    with torch.no_grad():
        model(**tiny_turns(2 if by_id else 3), memory_cache=cache, **who)
    cache.save_pretrained(tmp_path / "new" / "folder")
    loaded = ConversationMemoryCache.from_pretrained(tmp_path / "new" / "folder", model.config)
    assert_same_state(state_of(cache), state_of(loaded))
    assert loaded.conversation_ids == ({11: 0, 5: 1} if by_id else None)
    empty = ConversationMemoryCache(model.config, batch_size=2)
    empty.save_pretrained(tmp_path)
    assert not ConversationMemoryCache.from_pretrained(tmp_path, model.config).is_initialized


def test_a_state_with_more_than_ten_matrices_keeps_their_order(tmp_path):
    model = tiny_model({"depth": 11, "head_dim": 4})
    cache = written(model, rows=1, turns=1)
    cache.save_pretrained(tmp_path)
    assert_same_state(state_of(cache), state_of(ConversationMemoryCache.from_pretrained(tmp_path, model.config)))


def test_a_state_of_another_model_is_rejected(model, tmp_path):
    written(model).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"belong to different models: .*memory_config"):
        ConversationMemoryCache.from_pretrained(tmp_path, tiny_config({"chunk_size": 8}))
    with pytest.raises(FileNotFoundError, match="No conversation memory in"):
        ConversationMemoryCache.from_pretrained(tmp_path / "elsewhere", model.config)


def test_a_broken_state_is_rejected(model, tmp_path):
    written(model).save_pretrained(tmp_path)
    file = next(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cannot be read"):
        ConversationMemoryCache.from_pretrained(tmp_path, model.config)


def test_mismatched_caches_are_rejected(model):
    turns = tiny_turns(2)
    with pytest.raises(ValueError, match=r"it has 2 rows and the cache has 3"):
        model(**turns, memory_cache=ConversationMemoryCache(model.config, batch_size=3))
    with pytest.raises(ValueError, match="The model and the cache belong to different models"):
        model(**turns, memory_cache=ConversationMemoryCache(tiny_config({"num_heads": 4}), batch_size=2))
    cache = written(model, rows=2).to(torch.float64)
    with pytest.raises(ValueError, match=r"in torch.float64, the memory layer on cpu in torch.float32: call"):
        model(**turns, memory_cache=cache)
    with pytest.raises(TypeError, match=r"must be a ConversationMemoryCache of .*, got dict of builtins"):
        model(**turns, memory_cache={})


@pytest.mark.parametrize("batch_size", [0, -1, 1.0, True])
def test_batch_size_is_checked(model, batch_size):
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1"):
        ConversationMemoryCache(model.config, batch_size=batch_size)


def test_a_config_without_memory_is_rejected():
    with pytest.raises(ValueError, match=r"config must be the config of a model with memory, got Qwen2Config"):
        ConversationMemoryCache(tiny_config().get_text_config(decoder=True))


@torch.no_grad()
def test_both_ways_of_addressing_do_not_mix(model):
    turns = tiny_turns(2)
    cache = ConversationMemoryCache(model.config, batch_size=2)
    model(**turns, memory_cache=cache, conversation_ids=[1, 2])
    with pytest.raises(ValueError, match="used with conversation_ids before: pass them in every call"):
        model(**turns, memory_cache=cache)
    cache.reset()
    model(**turns, memory_cache=cache)
    with pytest.raises(ValueError, match="used without conversation_ids before: do not pass them"):
        model(**turns, memory_cache=cache, conversation_ids=[1, 2])


@pytest.mark.parametrize("ids", [[1], [1, 2, 3], [[1, 2]], [0.5, 1.5], ["a", "b"]])
def test_mismatched_ids_are_rejected(model, ids):
    cache = ConversationMemoryCache(model.config, batch_size=2)
    with pytest.raises(ValueError, match=r"conversation_ids must be \(2,\) integers, one per row"):
        model(**tiny_turns(2), memory_cache=cache, conversation_ids=ids)
    with pytest.raises(ValueError, match=r"conversation_ids must be \(2,\) integers, one per row"):
        model(**tiny_turns(2), conversation_ids=ids)


def test_identity_is_json(model):
    assert json.loads(json.dumps(ConversationMemoryCache(model.config).identity))


def test_resetting_every_row_forgets_everything(model):
    cache = written(model)
    for row in range(cache.batch_size):
        cache.reset([row])
    assert not cache.is_initialized
    assert not cache.has_previous_state()
    assert cache.nbytes == 0


@torch.no_grad()
def test_an_incomplete_state_is_rejected():
    model = tiny_model()
    cache = ConversationMemoryCache(model.config)
    model(**tiny_turns(1), memory_cache=cache)
    tensors, *header = state_from_bytes(cache.to_bytes())
    broken = {
        "no turns": {name: tensor for name, tensor in tensors.items() if name != "turns"},
        "no momentum": {name: tensor for name, tensor in tensors.items() if name != "layers.1.momentum.1"},
        "other turns": tensors | {"turns": torch.zeros(3, dtype=torch.long)},
        "cut": tensors | {"layers.0.weights.0": tensors["layers.0.weights.0"][:, :1]},
        "not finite": tensors | {"layers.0.weights.0": tensors["layers.0.weights.0"] * float("nan")},
    }
    for name, content in broken.items():
        with pytest.raises(ValueError, match=f"memory {name} is broken"):
            ConversationMemoryCache.from_bytes(state_to_bytes(content, *header), model.config, name=name)
    identity, rows, notes = header
    for wrong in ((identity, {"speaker_ids": [[]]}, notes), (identity, {}, notes), ([], rows, notes)):
        with pytest.raises(ValueError, match="memory given cannot be read"):
            ConversationMemoryCache.from_bytes(state_to_bytes(tensors, *wrong), model.config)
    for content in (b"", b"no state", cache.to_bytes()[:-8]):
        with pytest.raises(ValueError, match="cannot be read"):
            ConversationMemoryCache.from_bytes(content, model.config)


@torch.no_grad()
def test_notes_go_with_the_state(tmp_path):
    model = tiny_model()
    cache = ConversationMemoryCache(model.config)
    model(**tiny_turns(1), memory_cache=cache)
    cache.notes = {"who": ["A"]}
    cache.save_pretrained(tmp_path)
    assert ConversationMemoryCache.from_pretrained(tmp_path, model.config).notes == {"who": ["A"]}
    before = cache.snapshot()
    cache.notes["who"] = ["B"]
    cache.restore(before)
    assert cache.notes == {"who": ["A"]}
    assert ConversationMemoryCache.stack([cache, cache]).split()[1].notes == {}
    cache.reset()
    assert cache.notes == {}


@torch.no_grad()
def test_an_edited_state_is_detected():
    """Wherever it is; and what says nothing of its contents is read as states of earlier versions are."""
    model = tiny_model()
    cache = ConversationMemoryCache(model.config)
    model(**tiny_turns(1), memory_cache=cache)
    cache.notes = {"text": '"checksum":"' + "0" * 64 + '"'}
    content, rng = cache.to_bytes(), np.random.default_rng(0)
    assert ConversationMemoryCache.from_bytes(content, model.config).notes == cache.notes
    header = int.from_bytes(content[:8], "little")
    places = [*rng.integers(8, 8 + header, 150), *rng.integers(8 + header, len(content), 50)]
    for place in places:
        edited = bytearray(content)
        edited[place] ^= int(rng.integers(1, 256))
        with pytest.raises(ValueError, match="cannot be read"):
            ConversationMemoryCache.from_bytes(bytes(edited), model.config)
    tensors, *parts = state_from_bytes(content)
    old = save(tensors, {n: json.dumps(p) for n, p in zip(("identity", "rows", "notes"), parts)})
    assert ConversationMemoryCache.from_bytes(old, model.config).notes == cache.notes


@torch.no_grad()
def test_forged_headers_are_rejected():
    model = tiny_model({"scope": "speaker", "max_speakers": 2})
    cache = ConversationMemoryCache(model.config)
    model(**tiny_turns(1), memory_cache=cache, speaker_ids=[7])
    tensors, identity, rows, notes = state_from_bytes(cache.to_bytes())
    for wrong in (
        {"speaker_ids": [{"7": 2}]}, {"speaker_ids": [{"7": -1}]}, {"speaker_ids": [{"7": True}]},
        {"speaker_ids": [{"x": 0}]}, {"speaker_ids": [{"7": 0, "8": 0}]}, {"speaker_ids": []}, {"speaker_ids": {}},
        {"conversation_ids": [0]}, {"conversation_ids": {"1": 5}}, {"conversation_ids": {"1": "0"}},
        {"conversation_ids": 3}, {"speaker_ids": [{"9" * 5000: 0}]},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="cannot be read"):
            ConversationMemoryCache.from_bytes(state_to_bytes(tensors, identity, rows | wrong, notes), model.config)
    with pytest.raises(ValueError, match="cannot be read"):
        ConversationMemoryCache.from_bytes(
            state_to_bytes(tensors, identity, {"speaker_ids": [{}]}, notes), model.config
        )
    deep = {name: json.dumps(part) for name, part in (("identity", identity), ("rows", rows))}
    with pytest.raises(ValueError, match="cannot be read"):
        ConversationMemoryCache.from_bytes(save(tensors, deep | {"notes": "[" * 100_000}), model.config)
    for wrong in (
        {"turns": tensors["turns"] - 5}, {"turns": tensors["turns"].float()},
        {"layers.0.weights.0": tensors["layers.0.weights.0"].half()},
        {"layers.0.weights.0": tensors["layers.0.weights.0"].to(torch.int32)},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="memory given is broken"):
            ConversationMemoryCache.from_bytes(state_to_bytes(tensors | wrong, identity, rows, notes), model.config)
