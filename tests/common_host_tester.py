"""What holds for every host: one class of properties, run on a tiny random model of each."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import pytest
import torch
from accelerate import dispatch_model
from peft import LoraConfig, get_peft_model
from tiny_hosts import LABELS, PAD, TinyHost
from tiny_models import assert_same_state, state_of, unpadded

from titans_mal import AutoModelForAudioEmotion, ConversationMemoryCache
from titans_mal.modeling import audio_emotion_mixin


CLOSE = {"rtol": 0, "atol": 1e-5}

GENERATION_MODES = {
    "greedy": {},
    "sampling": {"do_sample": True},
    "beams": {"num_beams": 3},
    "several samples": {"do_sample": True, "num_return_sequences": 2},
    "beams that return several": {"num_beams": 3, "num_return_sequences": 2},
    "static cache": {"cache_implementation": "static"},
    "no key-value cache": {"use_cache": False},
    "beams without a key-value cache": {"num_beams": 2, "use_cache": False},
    "prompt look-up": {"prompt_lookup_num_tokens": 2},
}

# What a host cannot do by itself, so that it is not asked of it with memory: (host, property) -> why.
SKIPS = {
    ("Gemma4", "sdpa attention"): "its audio tower has eager attention only",
}


def skip_where_the_host_cannot(host: TinyHost, what: str) -> None:
    if (host.name, what) in SKIPS:
        pytest.skip(f"{host.name}: {SKIPS[host.name, what]}")


def assert_states_close(one: ConversationMemoryCache, other: ConversationMemoryCache) -> None:
    assert torch.equal(one.turns, other.turns)
    assert torch.equal(one.tokens, other.tokens)
    for a, b in zip(one.layers, other.layers):
        for x, y in zip((*a.weights, *a.momentum), (*b.weights, *b.momentum)):
            torch.testing.assert_close(x, y, **CLOSE)


class CommonHostTester:
    """Inherit it, and give it a fixture `host`, a `TinyHost`."""

    @pytest.fixture
    def model(self, host):
        return host.model()

    @pytest.fixture
    def remembering(self, model, host):
        """A cache of two conversations that wrote two turns each."""
        cache = ConversationMemoryCache(model.config, batch_size=2)
        with torch.no_grad():
            for seed in (11, 12):
                model(**host.turns(2, seed=seed), memory_cache=cache)
        return cache

    # --- The host, untouched

    @torch.no_grad()
    def test_a_fresh_memory_leaves_the_host_as_it_is(self, host):
        model, plain = host.model(fresh=True), host.plain()
        plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("titans_memory")})
        cache = ConversationMemoryCache(model.config, batch_size=2)
        for seed in range(2):
            turns = host.turns_like_the_host(2, seed=seed)
            ours = model(**turns, memory_cache=cache, output_hidden_states=True)
            theirs = plain(**turns, output_hidden_states=True)
            assert torch.equal(ours.logits, theirs.logits)
            assert all(map(torch.equal, ours.hidden_states, theirs.hidden_states))
            assert isinstance(ours, type(theirs))
        kwargs = {"max_new_tokens": 4, "suppress_tokens": [host.audio]}
        text = model.generate(**turns, memory_cache=cache, **kwargs)
        assert torch.equal(text, plain.generate(**turns, **kwargs))

    @torch.no_grad()
    def test_without_memory_it_equals_the_host_after_training_too(self, model, host, remembering):
        plain, turns = host.plain(), host.turns_like_the_host(2)
        plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("titans_memory")})
        before = state_of(remembering)
        with model.disable_memory():
            ours = model(**turns, memory_cache=remembering, output_hidden_states=True)
            text = model.generate(**turns, memory_cache=remembering, max_new_tokens=4)
        theirs = plain(**turns, output_hidden_states=True)
        assert torch.equal(ours.logits, theirs.logits)
        assert all(map(torch.equal, ours.hidden_states, theirs.hidden_states))
        assert torch.equal(text, plain.generate(**turns, max_new_tokens=4))
        assert_same_state(before, state_of(remembering))

    @torch.no_grad()
    def test_a_voice_memory_leaves_a_first_turn_exactly_as_in_the_host(self, host, tmp_path):
        memory = {"layers": [0, 2], "voice_layers": [0, 2], "voice_key_dim": 4}
        model, ids = host.model(memory_config=memory), torch.tensor([0, 1, 1, 0, 1])
        turns = host.turns(len(ids))
        together, streamed = (ConversationMemoryCache(model.config, batch_size=2) for _ in range(2))
        batch = model(**turns, memory_cache=together, conversation_ids=ids)
        with model.disable_memory():
            alone = model(**turns)
        is_first = torch.tensor([True, True, False, False, False])
        assert torch.equal(batch.logits[is_first], alone.logits[is_first])
        changed = (batch.emotion_logits - alone.emotion_logits).abs().amax(-1)
        assert (changed[~is_first] > 1e-4).all()
        for row in range(len(ids)):
            single = model(**unpadded(turns, row), memory_cache=streamed, conversation_ids=ids[[row]])
            torch.testing.assert_close(batch.emotion_logits[[row]], single.emotion_logits, **CLOSE)
            # What is kept between two turns may be kept in a file.
            streamed.save_pretrained(tmp_path)
            streamed = ConversationMemoryCache.from_pretrained(tmp_path, model.config)
        assert_states_close(together, streamed)

    # --- Turns

    @torch.no_grad()
    def test_the_history_reaches_the_answer(self, model, host, remembering):
        turns = host.turns(2)
        fresh, later = model(**turns), model(**turns, memory_cache=remembering)
        assert (fresh.emotion_logits - later.emotion_logits).abs().max() > 1e-3
        assert later.emotion_logits.shape == (2, len(LABELS))
        assert later.memory_surprise.shape == (2, 2)
        again = model(**turns, memory_cache=remembering)
        assert again.memory_surprise.mean() < later.memory_surprise.mean()

    @torch.no_grad()
    def test_streaming_equals_turn_parallel(self, model, host):
        ids = torch.tensor([0, 1, 1, 0, 1, 2, 1])
        turns = host.turns(len(ids))
        together, streamed = (ConversationMemoryCache(model.config, batch_size=3) for _ in range(2))
        batch = model(**turns, memory_cache=together, conversation_ids=ids)
        for row in range(len(ids)):
            single = model(**unpadded(turns, row), memory_cache=streamed, conversation_ids=ids[[row]])
            torch.testing.assert_close(batch.emotion_logits[[row]], single.emotion_logits, **CLOSE)
            torch.testing.assert_close(batch.memory_surprise[[row]], single.memory_surprise, **CLOSE)
        assert_states_close(together, streamed)

    def test_a_call_that_reads_its_device_once_gives_the_same(self, host, model, monkeypatch):
        caches = [ConversationMemoryCache(model.config, batch_size=3) for _ in range(2)]
        # A host may allow audio features for which the text has no place.
        text = host.turns(3)["input_ids"]
        silent = {"input_ids": torch.where(text == host.audio, PAD + 7, text)}
        outputs = []
        for is_slow in (False, True):
            monkeypatch.setattr(audio_emotion_mixin, "is_slow_to_read", lambda device, is_slow=is_slow: is_slow)
            unused = ConversationMemoryCache(model.config, batch_size=3)
            with torch.no_grad(), contextlib.suppress(ValueError, RuntimeError):
                model(**host.turns(3) | silent, memory_cache=unused, conversation_ids=[9, 10, 11])
            assert unused.conversation_ids is None
            assert not unused.has_previous_state()
        for is_slow, cache in zip((False, True), caches):
            monkeypatch.setattr(audio_emotion_mixin, "is_slow_to_read", lambda device, is_slow=is_slow: is_slow)
            with torch.no_grad():
                outputs += [model(**host.turns(3, seed=seed), memory_cache=cache) for seed in range(2)]
                with contextlib.suppress(ValueError, RuntimeError):
                    outputs[-1] = model(**host.turns(3) | silent, memory_cache=cache)
        for one, other in zip(outputs[:2], outputs[2:]):
            assert (one.emotion_logits is None) == (other.emotion_logits is None)
            if one.emotion_logits is not None:
                torch.testing.assert_close(one.emotion_logits, other.emotion_logits, **CLOSE)
                torch.testing.assert_close(one.memory_surprise, other.memory_surprise, **CLOSE)
        assert caches[0].turns.tolist() == [2, 2, 2]
        assert_states_close(*caches)

    @pytest.mark.parametrize("padding_side", ["left", "right"])
    @torch.no_grad()
    def test_padded_batches_equal_single_runs(self, model, host, padding_side):
        cache = ConversationMemoryCache(model.config, batch_size=3)
        singles = [ConversationMemoryCache(model.config) for _ in range(3)]
        for seed in range(2):
            turns = host.turns(3, seed=seed, padding_side=padding_side)
            batch = model(**turns, memory_cache=cache)
            for row in range(3):
                single = model(**unpadded(turns, row), memory_cache=singles[row])
                torch.testing.assert_close(batch.emotion_logits[[row]], single.emotion_logits, **CLOSE)
        assert_states_close(cache, ConversationMemoryCache.stack(singles))

    @torch.no_grad()
    def test_later_turns_and_other_conversations_change_nothing(self, model, host):
        ids = torch.tensor([5, 8, 5, 8, 5])
        turns = host.turns(5, frames=[60] * 5)
        features = next(name for name in turns if name.endswith("input_features"))
        before = model(**turns, conversation_ids=ids)
        turns[features] = turns[features].clone()
        turns[features][2] = turns[features][2].flip(-1) * -2
        after = model(**turns, conversation_ids=ids)
        untouched = [0, 1, 3]
        torch.testing.assert_close(before.logits[untouched], after.logits[untouched], rtol=0, atol=1e-6)
        assert not torch.allclose(before.emotion_logits[4], after.emotion_logits[4], atol=1e-4)

    @torch.no_grad()
    def test_hidden_states_include_the_residual_at_audio_positions_only(self, model, host, remembering):
        turns = host.turns(2)
        ours = model(**turns, memory_cache=remembering, output_hidden_states=True).hidden_states
        with model.disable_memory():
            theirs = model(**turns, output_hidden_states=True).hidden_states
        is_audio = model.audio_mask(turns["input_ids"], turns)
        after_block = [states if model.hidden_states_index is None else states[model.hidden_states_index]
                       for states in (ours[1], theirs[1])]  # fmt: skip
        differs = (after_block[0] != after_block[1]).any(-1)
        assert torch.equal(differs, is_audio)

    # --- Generation

    @pytest.mark.parametrize("mode", GENERATION_MODES)
    @torch.no_grad()
    def test_generate_writes_a_turn_once(self, model, host, mode):
        rows = 1 if mode == "prompt look-up" else 2
        generated, expected = (ConversationMemoryCache(model.config, batch_size=rows) for _ in range(2))
        kwargs = {"max_new_tokens": 4, "suppress_tokens": [host.audio, PAD], "pad_token_id": PAD}
        for seed in range(2):
            turns = host.turns(rows, seed=seed)
            model.generate(**turns, memory_cache=generated, **kwargs, **GENERATION_MODES[mode])
            model(**turns, memory_cache=expected)
        assert generated.turns.tolist() == [2] * rows
        assert_states_close(generated, expected)

    @pytest.mark.parametrize("mode", ["greedy", "static cache", "no key-value cache"])
    @torch.no_grad()
    def test_generate_reads_the_history(self, model, host, remembering, mode):
        turns = host.turns(2)
        kwargs = {"max_new_tokens": 4, "suppress_tokens": [host.audio, PAD], "pad_token_id": PAD}
        before = state_of(remembering)
        text = model.generate(
            **turns, memory_cache=remembering, update_memory=False, **kwargs, **GENERATION_MODES[mode],
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
        assert_same_state(before, state_of(remembering))
        logits = model(**turns, memory_cache=remembering, update_memory=False).logits[:, -1]
        torch.testing.assert_close(text.logits[0], logits.float(), rtol=0, atol=1e-4)

    # --- Failure

    @torch.no_grad()
    def test_a_call_that_fails_leaves_the_cache_as_it_was(self, model, host, remembering):
        before = state_of(remembering)

        def fail(*args):
            raise RuntimeError("half-way")

        hook = model.get_decoder().layers[3].register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="half-way"):
            model(**host.turns(2), memory_cache=remembering)
        with pytest.raises(RuntimeError, match="half-way"):
            model.generate(**host.turns(2), memory_cache=remembering, max_new_tokens=2)
        hook.remove()
        assert_same_state(before, state_of(remembering))

    # --- Training

    def gradients(self, model, host: TinyHost) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Of the second turn's loss, through what the first turn wrote."""
        model.zero_grad()
        cache = ConversationMemoryCache(model.config, batch_size=2)
        model(**host.turns(2, seed=1), memory_cache=cache, use_cache=False)
        labels = torch.tensor([1, 3])
        turns = host.turns(2, seed=2)
        loss = model(**turns, memory_cache=cache, emotion_labels=labels, use_cache=False).loss
        loss.backward()
        return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    def test_gradients_go_through_the_write(self, model, host):
        _, gradients = self.gradients(model.train(), host)
        for name in ("key_proj.weight", "value_proj.weight", "write_gates.bias", "initial_memory_1"):
            assert gradients[f"titans_memory.layers.1.{name}"].abs().max() > 0

    def test_gradient_checkpointing_changes_nothing(self, host):
        if not host.plain_class.supports_gradient_checkpointing:
            pytest.skip(f"{host.plain_class.__name__} does not support gradient checkpointing")
        model = deterministic(host.model().train())
        loss, expected = self.gradients(model, host)
        # The name since transformers 5.23, and the one before.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        checkpointed, actual = self.gradients(model, host)
        torch.testing.assert_close(checkpointed, loss, rtol=1e-6, atol=1e-7)
        for name, gradient in expected.items():
            torch.testing.assert_close(actual[name], gradient, rtol=1e-4, atol=1e-6)

    def test_both_losses_add_up(self, model, host):
        turns, labels = host.turns(2), torch.tensor([2, -1])
        words = turns["input_ids"].masked_fill(turns["attention_mask"] == 0, -100)
        emotion = model(**turns, emotion_labels=labels).loss
        text = model(**turns, labels=words).loss
        both = model(**turns, labels=words, emotion_labels=labels).loss
        torch.testing.assert_close(both, emotion + text)

    def test_lora_on_the_language_model_does_not_touch_the_memory(self, model, host):
        decoder = next(name for name, module in model.named_modules() if module is model.get_decoder())
        attention = rf"{decoder}\.layers\.\d+\.self_attn\.\w+_proj"
        config = LoraConfig(r=2, target_modules=attention, modules_to_save=["titans_memory"])
        wrapped = get_peft_model(model, config)
        cache = ConversationMemoryCache(model.config, batch_size=2)
        wrapped(**host.turns(2, seed=1), memory_cache=cache)
        wrapped(**host.turns(2, seed=2), memory_cache=cache, emotion_labels=[1, 2]).loss.backward()
        trained = {n for n, p in wrapped.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        assert any("lora_" in name for name in trained)
        assert any("titans_memory.modules_to_save" in name and "key_proj" in name for name in trained)
        assert not any("lora_" in name and "titans_memory" in name for name, _ in wrapped.named_parameters())

    @torch.no_grad()
    def test_the_audio_readout_is_of_the_mean_of_the_audio_tokens(self, host):
        model, ids = host.model(emotion_readout="audio"), [0, 1, 1, 0, 1]
        turns, seen = host.turns(len(ids)), []
        hook = model.get_decoder().register_forward_hook(lambda decoder, args, output: seen.append(output))
        batch = model(**turns, memory_cache=ConversationMemoryCache(model.config, batch_size=2), conversation_ids=ids)
        hook.remove()
        is_audio = model.audio_mask(turns["input_ids"], turns)
        means = torch.stack([hidden[mask].mean(0) for hidden, mask in zip(seen[0].last_hidden_state, is_audio)])
        torch.testing.assert_close(batch.emotion_logits, model.emotion_head(means), **CLOSE)
        streamed = ConversationMemoryCache(model.config, batch_size=2)
        for row, conversation in enumerate(ids):
            single = model(**unpadded(turns, row), memory_cache=streamed, conversation_ids=[conversation])
            torch.testing.assert_close(batch.emotion_logits[[row]], single.emotion_logits, **CLOSE)
        with model.disable_memory():
            alone = model(**turns).emotion_logits
        assert ((batch.emotion_logits - alone).abs().amax(-1) > 1e-5).all()

    # --- Saving and loading

    @torch.no_grad()
    def test_a_checkpoint_of_the_plain_class_loads_completely(self, host, tmp_path):
        plain = host.plain()
        plain.save_pretrained(tmp_path)
        with host.patches():
            model, info = AutoModelForAudioEmotion.from_base(
                tmp_path, id2label=dict(enumerate(LABELS)), emotion_readout="linear",
                memory_config={"layers": [0, 2], "num_heads": 2, "head_dim": 8}, output_loading_info=True,
            )  # fmt: skip
        assert type(model) is host.model_class
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        turns = host.turns_like_the_host(2)
        assert torch.equal(model(**turns).logits, plain(**turns).logits)

    @torch.no_grad()
    def test_saving_in_full_and_as_an_adapter(self, host, tmp_path):
        base, full, adapter = tmp_path / "base", tmp_path / "full", tmp_path / "adapter"
        host.plain().save_pretrained(base)
        with host.patches():
            model = AutoModelForAudioEmotion.from_base(
                base, id2label=dict(enumerate(LABELS)), emotion_readout="linear",
                memory_config={"layers": [0, 2], "num_heads": 2, "head_dim": 8},
            )  # fmt: skip
            for parameter in model.titans_memory.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
            model.save_pretrained(adapter)
            model.config.adapter_only = False
            model.save_pretrained(full)
            turns, ids = host.turns(3), [0, 0, 0]
            expected = model(**turns, conversation_ids=ids)
            for folder in (adapter, full):
                again = AutoModelForAudioEmotion.from_pretrained(folder)
                assert type(again) is host.model_class
                actual = again(**turns, conversation_ids=ids)
                torch.testing.assert_close(actual.emotion_logits, expected.emotion_logits, rtol=0, atol=1e-6)
                torch.testing.assert_close(actual.logits, expected.logits, rtol=0, atol=1e-6)
        sizes = [(folder / "model.safetensors").stat().st_size for folder in (adapter, full)]
        assert sizes[0] < sizes[1]

    # --- Precision, placement, threads

    @torch.no_grad()
    def test_a_half_precision_host_keeps_a_float32_memory(self, host):
        model = host.model().to(torch.bfloat16)
        turns = {n: t.to(torch.bfloat16) if t.is_floating_point() else t for n, t in host.turns(2).items()}
        cache = ConversationMemoryCache(model.config, batch_size=2)
        output = model(**turns, memory_cache=cache)
        assert output.logits.dtype == torch.bfloat16
        assert output.emotion_logits.dtype == cache.layers[0].weights[0].dtype == torch.float32
        assert output.emotion_logits.isfinite().all()

    @torch.no_grad()
    def test_a_dispatched_model_writes_to_the_given_cache(self, model, host, remembering):
        turns = host.turns(2)
        expected = remembering.clone()
        logits = model(**turns, memory_cache=expected).logits
        dispatched = dispatch_model(model, {"": "cpu"}, force_hooks=True)
        torch.testing.assert_close(dispatched(**turns, memory_cache=remembering).logits, logits)
        assert_states_close(remembering, expected)

    @torch.no_grad()
    def test_four_threads_with_four_caches_agree_with_serial_runs(self, model, host):
        def converse(number: int) -> torch.Tensor:
            cache = ConversationMemoryCache(model.config)
            return torch.cat([
                model(**host.turns(1, seed=10 * number + turn), memory_cache=cache).emotion_logits
                for turn in range(3)
            ])  # fmt: skip

        serial = [converse(number) for number in range(4)]
        parallel = in_threads([lambda n=n: converse(n) for n in range(4)])
        for one, other in zip(serial, parallel):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)

    @torch.no_grad()
    def test_whole_words_score_as_the_host_goes_on(self, host, model, remembering):
        words = [[10], [11, 30], [11, 31, 40], [13, 30]]
        model.config.label_token_ids = words
        turns = host.turns(2, seed=5)
        scores = model(**turns, memory_cache=remembering, update_memory=False).emotion_logits
        for label, word in enumerate(words):
            longer = {**turns, "input_ids": torch.cat([turns["input_ids"], torch.tensor([word, word])], dim=1)}
            longer["attention_mask"] = torch.nn.functional.pad(turns["attention_mask"], (0, len(word)), value=1)
            logits = model(**longer, memory_cache=remembering, update_memory=False).logits[:, -len(word) - 1 : -1]
            expected = sum(logits.log_softmax(-1)[:, i, token] for i, token in enumerate(word))
            torch.testing.assert_close(scores[:, label], expected, rtol=0, atol=1e-4)
        # Rows that end apart take other steps.
        turns = host.turns(2, seed=5, padding_side="right")
        on_right = model(**turns, memory_cache=remembering, update_memory=False).emotion_logits
        torch.testing.assert_close(on_right, scores, rtol=0, atol=1e-4)

    @torch.no_grad()
    def test_one_position_of_logits_is_enough(self, model, host):
        turns = host.turns(3)
        full, last = model(**turns), model(**turns, logits_to_keep=1)
        assert last.logits.shape[1] == 1
        torch.testing.assert_close(last.emotion_logits, full.emotion_logits, **CLOSE)


def deterministic(model):
    """In training mode, but without dropout, whose draws would differ from one pass to the next."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout", "activation_dropout", "layerdrop"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def in_threads(tasks: list[Callable]) -> list:
    """The results of the tasks, run at the same time."""
    results = [None] * len(tasks)

    def run(index: int) -> None:
        results[index] = tasks[index]()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
