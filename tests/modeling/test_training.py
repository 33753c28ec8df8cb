"""Gradients, losses, compilation, threads, and the libraries that train."""

import threading

import pytest
import torch
import transformers
from common_host_tester import deterministic
from packaging.version import Version
from peft import LoraConfig, get_peft_model
from tiny_hosts import HOSTS
from tiny_models import rows_of, stir, tiny_model, tiny_turns
from torch.nn import functional as F
from transformers import Trainer, TrainerCallback, TrainingArguments

from titans_mal import ConversationMemoryCache


LABELS = torch.tensor([1, 3])


def two_turn_gradients(model):
    """Gradients of the second turn's loss, through what the first turn wrote."""
    model.zero_grad()
    cache = ConversationMemoryCache(model.config, batch_size=2)
    model(**tiny_turns(2, seed=1), memory_cache=cache, use_cache=False)
    loss = model(**tiny_turns(2, seed=2), memory_cache=cache, emotion_labels=LABELS, use_cache=False).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(use_reentrant):
    model = tiny_model().train()
    loss, expected = two_turn_gradients(model)
    # The name since transformers 5.23, and the one before.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": use_reentrant})
    model.enable_input_require_grads()
    if use_reentrant and Version(transformers.__version__) < Version("5.23"):
        with pytest.raises(ValueError, match="use use_reentrant=False"):
            two_turn_gradients(model)
        return
    checkpointed_loss, actual = two_turn_gradients(model)
    assert torch.equal(loss, checkpointed_loss)
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-5, atol=1e-7)


def test_gradients_go_through_the_write():
    """Keys, values and gates act on the loss only by what they wrote in the turn before."""
    _, gradients = two_turn_gradients(tiny_model().train())
    for name in ("key_proj.weight", "value_proj.weight", "write_gates.bias", "initial_memory_0", "initial_memory_1"):
        for layer in (0, 1):
            assert gradients[f"titans_memory.layers.{layer}.{name}"].abs().max() > 0


def test_gradients_equal_finite_differences():
    model = tiny_model().double().train()
    turns = [{n: t.double() if t.is_floating_point() else t for n, t in tiny_turns(2, seed=s).items()} for s in (1, 2)]

    def loss():
        cache = ConversationMemoryCache(model.config, batch_size=2)
        model(**turns[0], memory_cache=cache)
        return model(**turns[1], memory_cache=cache, emotion_labels=LABELS).loss

    weight = model.titans_memory.layers[0].value_proj.weight
    (gradient,) = torch.autograd.grad(loss(), weight)
    direction = torch.randn_like(weight)
    with torch.no_grad():
        weight.add_(1e-3 * direction)
        above = loss()
        weight.sub_(2e-3 * direction)
        below = loss()
    # The host's own norms compute in float32.
    torch.testing.assert_close((above - below) / 2e-3, (gradient * direction).sum(), rtol=1e-3, atol=1e-5)


def test_the_gradient_reaches_the_memory_of_a_fresh_model():
    model = tiny_model(fresh=True).train()
    loss = model(**tiny_turns(4), conversation_ids=[0, 0, 0, 0], emotion_labels=torch.tensor([-1, 0, 1, 2])).loss
    loss.backward()
    assert model.titans_memory.layers[0].output_proj.weight.grad.abs().max() > 0


def test_emotion_loss():
    model, turns = tiny_model(), tiny_turns(3)
    output = model(**turns, emotion_labels=torch.tensor([2, -1, 0]))
    expected = F.cross_entropy(output.emotion_logits[[0, 2]], torch.tensor([2, 0]))
    torch.testing.assert_close(output.loss, expected)
    nothing = model(**turns, emotion_labels=torch.tensor([-1, -100, -1])).loss
    assert nothing == 0
    nothing.backward()
    text_labels = turns["input_ids"].masked_fill(turns["attention_mask"] == 0, -100)
    both = model(**turns, labels=text_labels, emotion_labels=torch.tensor([2, -1, 0])).loss
    text = model(**turns, labels=text_labels).loss
    torch.testing.assert_close(both, text + output.loss)


class Gradients(TrainerCallback):
    """Keeps the gradients of the memory that an optimiser step would use."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.kept = [
            parameter.grad.clone() for parameter in model.titans_memory.parameters() if parameter.grad is not None
        ]


def step_gradients(host, folder, *, rows: int, accumulation: int) -> torch.Tensor:
    """The memory's gradient of a step of four turns under transformers' own Trainer, as one vector."""
    torch.manual_seed(0)
    model = deterministic(host.model())
    turn = host.turns(1)
    text = torch.where(turn["attention_mask"] == 0, -100, turn["input_ids"])
    turns = [{**turn, "labels": text, "emotion_labels": torch.tensor([n])} for n in range(4)]
    arguments = TrainingArguments(
        output_dir=folder, max_steps=1, per_device_train_batch_size=rows, gradient_accumulation_steps=accumulation,
        max_grad_norm=0.0, report_to=[], save_strategy="no", disable_tqdm=True, use_cpu=True,
        remove_unused_columns=False,
    )  # fmt: skip
    gradients = Gradients()
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=turns,
        data_collator=lambda rows: {name: torch.cat([row[name] for row in rows]) for name in rows[0]},
        callbacks=[gradients],
    )
    trainer.train()
    return torch.cat([gradient.flatten() for gradient in gradients.kept])


@pytest.mark.parametrize("name", HOSTS)
def test_accumulated_emotion_labels_weigh_as_those_of_one_batch(name, tmp_path):
    """Beside the `labels` of the host, whose items Trainer counts."""

    whole = step_gradients(HOSTS[name], tmp_path, rows=4, accumulation=1)
    accumulated = step_gradients(HOSTS[name], tmp_path, rows=1, accumulation=4)
    assert whole.norm() > 0
    torch.testing.assert_close(accumulated, whole, rtol=0, atol=1e-3 * float(whole.abs().max()))


def test_emotion_labels_without_audio_are_rejected():
    with pytest.raises(ValueError, match="emotion_labels were given, but input_ids hold no audio"):
        tiny_model()(input_ids=torch.tensor([[8, 9]]), emotion_labels=torch.tensor([1]))


@torch.no_grad()
def test_logits_to_keep():
    model = tiny_model()
    left = tiny_turns(3)
    full, last = model(**left), model(**left, logits_to_keep=1)
    assert last.logits.shape[1] == 1
    torch.testing.assert_close(last.emotion_logits, full.emotion_logits, rtol=0, atol=1e-6)
    torch.testing.assert_close(last.logits, full.logits[:, -1:], rtol=0, atol=1e-6)
    right = tiny_turns(3, padding_side="right", frames=[30, 60, 90])
    with pytest.raises(ValueError, match="logits_to_keep=1 drops the last position of a right-padded row"):
        model(**right, logits_to_keep=1)
    for readout in ("linear", "audio"):
        head = tiny_model(emotion_readout=readout, label_token_ids=None)
        kept = head(**right, logits_to_keep=1).emotion_logits
        torch.testing.assert_close(kept, head(**right).emotion_logits, rtol=0, atol=1e-6)


@torch.no_grad()
def test_return_dict_false_gives_a_tuple():
    model, turns = tiny_model(), tiny_turns(1)
    values = model(**turns, return_dict=False)
    assert isinstance(values, tuple)
    assert any(torch.is_tensor(value) and torch.equal(value, model(**turns).emotion_logits) for value in values)


@torch.no_grad()
def test_positional_arguments_are_those_of_the_host():
    model, turns = tiny_model(), tiny_turns(1)
    output = model(*(turns[n] for n in ("input_ids", "input_features", "attention_mask", "feature_attention_mask")))
    assert torch.equal(output.logits, model(**turns).logits)
    with pytest.raises(TypeError, match=r"forward got \['input_ids'\] both by position and by name"):
        model(turns["input_ids"], **turns)
    count = len(model._host_parameters)
    with pytest.raises(TypeError, match=f"at most {count} positional arguments, got {count + 1}"):
        model(*turns.values(), *[None] * (count + 1 - len(turns)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("memory", "readout"), [({}, "verbalizer"), ({"read": "chunk"}, "verbalizer"), ({"step_rule": "paper"}, "audio")]
)
@torch.no_grad()
def test_prefill_compiles_in_one_graph_and_agrees(memory, readout):
    transitions = [[2.0 if i == j else 0.5 for j in range(4)] for i in range(4)]
    model, turns = tiny_model(memory, emotion_readout=readout, emotion_transitions=transitions), tiny_turns(2)
    eager, compiled = (ConversationMemoryCache(model.config, batch_size=2) for _ in range(2))
    # Older versions trace less of Python.
    run = torch.compile(model, backend="aot_eager", fullgraph=Version(torch.__version__) >= Version("2.13"))
    for seed in (1, 2):
        turns = tiny_turns(2, seed=seed, frames=[60, 40])
        expected = model(**turns, memory_cache=eager)
        actual = run(**turns, memory_cache=compiled)
        torch.testing.assert_close(actual.emotion_logits, expected.emotion_logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(actual.memory_surprise, expected.memory_surprise, rtol=0, atol=1e-5)
    assert torch.equal(eager.tokens, compiled.tokens)
    torch.testing.assert_close(eager.beliefs, compiled.beliefs, rtol=0, atol=1e-5)
    for a, b in zip(eager.layers[1].weights, compiled.layers[1].weights):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    # Compiled code cannot refuse a turn whose numbers are not finite: it leaves it out.
    before = compiled.snapshot()
    turns["input_features"][1] = torch.nan
    run(**turns, memory_cache=compiled)
    # The plain equation counts the turns that it rejects.
    assert compiled.turns.tolist() == [3, 3 if memory.get("step_rule") == "paper" else 2]
    assert all(tensor.isfinite().all() for layer in compiled.layers for tensor in layer.weights + layer.momentum)
    assert torch.equal(compiled.layers[1].weights[0][1], before.layers[1].weights[0][1])
    assert torch.equal(compiled.beliefs[1], before.beliefs[1])


@torch.no_grad()
def test_two_calls_that_write_one_cache_at_once_do_not_lose_a_turn():
    """The second to finish is refused: what it read is no longer what is there."""
    model = tiny_model()
    cache, other = (ConversationMemoryCache(model.config) for _ in range(2))
    turns = [tiny_turns(1, seed=seed) for seed in range(2)]

    def meanwhile(*_):
        hook.remove()
        model(**turns[1], memory_cache=cache)

    hook = model.get_decoder().layers[3].register_forward_pre_hook(meanwhile)
    with pytest.raises(RuntimeError, match="memory_cache was changed during this call"):
        model(**turns[0], memory_cache=cache)
    model(**turns[1], memory_cache=other)
    assert cache.turns.tolist() == [1]
    assert torch.equal(cache.layers[1].weights[0], other.layers[1].weights[0])


def test_four_threads_with_four_caches_agree_with_serial_runs():
    model = tiny_model()

    @torch.no_grad()
    def converse(number):
        cache = ConversationMemoryCache(model.config)
        scored = []
        for turn in range(6):
            turns = tiny_turns(1, seed=10 * number + turn)
            # Every other thread runs its host alone now and then; that must not affect the others.
            if number % 2 and turn == 3:
                with model.disable_memory():
                    scored.append(model(**turns, memory_cache=cache).emotion_logits)
            else:
                scored.append(model(**turns, memory_cache=cache).emotion_logits)
            model.generate(**turns, memory_cache=cache, update_memory=False, max_new_tokens=2)
        return torch.cat(scored), cache

    serial = [converse(number) for number in range(4)]
    parallel: dict[int, tuple] = {}
    threads = [threading.Thread(target=lambda n=n: parallel.update({n: converse(n)})) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, (scored, cache) in enumerate(serial):
        torch.testing.assert_close(parallel[number][0], scored, rtol=0, atol=1e-6)
        assert parallel[number][1].turns.tolist() == cache.turns.tolist() == [6 - number % 2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_hosts_keep_a_float32_memory(dtype):
    model = tiny_model().to(dtype)
    assert {p.dtype for p in model.titans_memory.parameters()} == {torch.float32}
    assert model.dtype == dtype
    turns = {n: t.to(dtype) if t.is_floating_point() else t for n, t in tiny_turns(2).items()}
    cache = ConversationMemoryCache(model.config, batch_size=2)
    output = model(**turns, memory_cache=cache)
    assert output.logits.dtype == dtype
    assert output.emotion_logits.dtype == cache.layers[0].weights[0].dtype == torch.float32
    assert model.generate(**turns, memory_cache=cache, max_new_tokens=3).shape[1] > 3


@torch.no_grad()
def test_the_audio_readout_of_a_float64_model_is_float64():
    model = tiny_model(emotion_readout="audio").double()
    turns = {n: t.double() if t.is_floating_point() else t for n, t in tiny_turns(2).items()}
    single = tiny_model(emotion_readout="audio")(**tiny_turns(2)).emotion_logits
    found = model(**turns).emotion_logits
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), single, rtol=0, atol=1e-5)
    assert (found - found.float().double()).abs().max() > 0


@pytest.mark.parametrize("readout", ["verbalizer", "linear", "audio"])
@torch.no_grad()
def test_emotion_logits_are_float32_whatever_the_host_computes_in(readout):
    model, turns = tiny_model(emotion_readout=readout), tiny_turns(2)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(**turns).emotion_logits.dtype == torch.float32
    half = {n: t.bfloat16() if t.is_floating_point() else t for n, t in turns.items()}
    assert model.bfloat16()(**half).emotion_logits.dtype == torch.float32


def test_training_under_autocast():
    model, turns = tiny_model().train(), tiny_turns(2)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**turns, conversation_ids=[0, 0], emotion_labels=LABELS).loss
    loss.backward()
    assert torch.isfinite(model.titans_memory.layers[0].key_proj.weight.grad).all()


def test_peft_trains_and_saves_memory(tmp_path):
    model = tiny_model()
    turns = tiny_turns(2)
    # As most people write it; the memory's projections have other names, so LoRA stays out of it.
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj", "o_proj"], modules_to_save=["titans_memory"])
    wrapped = get_peft_model(model, config)
    assert any(p.requires_grad for n, p in wrapped.named_parameters() if "titans_memory" in n)
    cache = ConversationMemoryCache(model.config, batch_size=2)
    wrapped(**turns, memory_cache=cache)
    loss = wrapped(**turns, memory_cache=cache, emotion_labels=LABELS).loss
    loss.backward()
    trained = {n for n, p in wrapped.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert any("modules_to_save" in name and "key_proj" in name for name in trained)
    assert any("lora" in name and "language_model" in name for name in trained)
    assert not any("lora" in name for name, _ in wrapped.named_parameters() if "titans_memory" in name)
    with torch.no_grad():
        stir(wrapped.base_model.model.titans_memory, std=0.1)
        expected = wrapped(**turns, conversation_ids=[0, 0]).emotion_logits
        wrapped.save_pretrained(tmp_path)
        again = tiny_model(seed=0)
        from peft import PeftModel

        loaded = PeftModel.from_pretrained(again, tmp_path)
        torch.testing.assert_close(loaded(**turns, conversation_ids=[0, 0]).emotion_logits, expected)


def test_trainer_trains_the_memory(tmp_path):
    model = tiny_model(fresh=True)
    model.requires_grad_(False)
    model.titans_memory.requires_grad_(True)
    host_before = model.lm_head.weight.clone()
    turns = tiny_turns(8)
    rows = [
        {name: tensor[0] for name, tensor in rows_of(turns, [i]).items()}
        | {"emotion_labels": torch.tensor(i % 4), "conversation_ids": torch.tensor(i // 4)}
        for i in range(8)
    ]
    arguments = TrainingArguments(
        output_dir=tmp_path, max_steps=3, per_device_train_batch_size=8, learning_rate=1e-2, report_to=[],
        label_names=["emotion_labels"], save_strategy="no", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
    assert trainer.predict(rows).label_ids.tolist() == [0, 1, 2, 3] * 2
    assert torch.equal(model.lm_head.weight, host_before)
    assert model.titans_memory.layers[0].output_proj.weight.abs().max() > 0
