"""How often a call looks at values of tensors: on an accelerator each look waits for all that was launched before."""

import sys
from collections import Counter

import pytest
import torch
from tiny_models import tiny_model, tiny_turns

from titans_mal import ConversationMemoryCache
from titans_mal.modeling import memory_transaction


# What these look at is on the CPU wherever the model is: ids, and turns before an accelerator has counted them.
ON_THE_CPU = ("__init__", "_as_list", "_rows_of_cache")


@pytest.fixture
def looks(monkeypatch):
    """Counts of the looks since, by who looks; those of the host and of torch itself are left out."""
    counts = Counter()

    def counting(name, original):
        def look(self, *args, **kwargs):
            frame = sys._getframe(1)
            module, function = frame.f_globals.get("__name__", ""), frame.f_code.co_name
            of_transaction = module == memory_transaction.__name__ and function in ON_THE_CPU
            if module.startswith("titans_mal") and not of_transaction:
                counts[f"{module}.{function}"] += 1
            return original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, look)

    for name in ("tolist", "item", "nonzero", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__"):
        counting(name, getattr(torch.Tensor, name))
    return counts


@pytest.mark.parametrize(("ids", "rows"), [(None, 2), ([5, 5, 7], 2)])
@torch.no_grad()
def test_a_call_looks_at_its_inputs_once_and_at_what_it_writes_once(looks, ids, rows):
    model = tiny_model()
    turns, cache = tiny_turns(len(ids or [0, 1])), ConversationMemoryCache(model.config, batch_size=rows)
    for _ in range(2):  # the first call finds the fingerprint of the weights
        looks.clear()
        model(**turns, memory_cache=cache, conversation_ids=ids, logits_to_keep=1)
    assert sum(looks.values()) <= 2, looks
    looks.clear()
    model(**turns, memory_cache=cache, conversation_ids=ids, update_memory=False, logits_to_keep=1)
    assert sum(looks.values()) <= 1, looks


def test_a_training_step_looks_once(looks):
    """Its turns start from the learned memory, and what they write is read by the loss alone."""
    model, turns = tiny_model().train(), tiny_turns(3)
    labels = torch.tensor([1, -1, 2])
    looks.clear()
    model(**turns, conversation_ids=[5, 5, 7], emotion_labels=labels, logits_to_keep=1).loss.backward()
    # One more for the labels where they are on the CPU, which waits for nothing.
    assert sum(looks.values()) <= 2, looks
