"""Which changes of a host, a memory or a state are noticed, and which are none."""

import pytest
import torch
from tiny_models import tiny_config
from torch import nn

from titans_mal.modeling import model_identity as identity


def checksums(**tensors):
    return identity.host_checksums(tensors, without=("memory",))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.bool])
def test_one_changed_bit_or_two_exchanged_entries_are_noticed(dtype):
    tensor = torch.tensor([[0, 1, 0, 0, 1], [1, 1, 0, 1, 0], [0, 0, 1, 1, 1]]).to(dtype)
    before = checksums(weight=tensor)
    assert checksums(weight=tensor.clone()) == before
    assert checksums(weight=tensor.T.contiguous().T) == before  # other strides, the same entries
    for row, column in ((0, 0), (2, 4), (1, 3)):
        changed = tensor.clone()
        changed[row, column] = 1 - int(changed[row, column])
        assert identity.changed_weights(before, {"weight": changed}, without=()) == ["weight"]
    for exchanged in (tensor.flip(0), tensor[:, [1, 0, 2, 3, 4]], tensor.reshape(5, 3)):
        assert checksums(weight=exchanged) != before


def test_names_of_wrapped_and_left_out_weights():
    one, two = torch.ones(2), torch.zeros(2)
    before = checksums(**{"q.weight": one, "memory.weight": two})
    assert list(before) == ["q.weight"]
    after = {"q.base_layer.weight": one, "q.lora_A.default.weight": two, "memory.weight": one}
    changed = identity.changed_weights(before, after, without=("memory",), added=("default",))
    assert changed == []
    assert identity.changed_weights(before, after, without=("memory",)) == ["q.lora_A.default.weight"]
    assert identity.changed_weights(before, {}, without=()) == ["q.weight"]


def test_fingerprints_of_hosts_are_compared_in_one_dtype():
    one, two = (identity.host_fingerprint(checksums(w=torch.full((2,), value))) for value in (1.0, 2.0))
    half = identity.host_fingerprint(checksums(w=torch.ones(2, dtype=torch.bfloat16)))
    assert (one.split("-")[0], half.split("-")[0]) == ("float32", "bfloat16")
    assert identity.host_fingerprint(checksums(renamed=torch.ones(2))) == one
    assert identity.is_other_host(one, two)
    assert not any(identity.is_other_host(one, other) for other in (one, half, None))
    assert identity.host_fingerprint(checksums(w=torch.ones(2, device="meta"))) is None


def test_shapes_differ_by_sizes_and_not_by_token_ids():
    one = {"hidden_size": 4, "pad_token_id": 0, "text_config": {"num_layers": 2, "is_causal": True}, "dropout": 0.1}
    other = {"hidden_size": 4, "pad_token_id": 9, "text_config": {"num_layers": 3, "is_causal": False}, "dropout": 0.2}
    assert identity.differing_shape(one, other) == {"text_config.num_layers": (2, 3)}


def test_the_fingerprint_of_a_memory_follows_its_weights():
    module, fingerprint = nn.Linear(2, 2), identity.FingerprintOfModule()
    before = fingerprint.of(module)
    assert before == identity.weights_fingerprint(module.double().state_dict())
    module.float()
    assert fingerprint.of(module) == before
    with torch.no_grad():
        module.weight[0, 0] += 1
    assert fingerprint.of(module) != before
    changed = fingerprint.of(module)
    module.bias.data[0] += 1  # unnoticed, until it is said
    assert fingerprint.of(module) == changed
    fingerprint.forget()
    assert fingerprint.of(module) != changed


def test_a_state_belongs_to_a_host_and_a_memory():
    own = identity.state_identity(tiny_config({"layers": [1]}))
    identity.check_same_model(own, identity.state_identity(tiny_config({"layers": [1]})), "The state")
    for memory, name in (({"layers": [2]}, "memory_layers"), ({"layers": [1], "depth": 1}, "memory_config")):
        with pytest.raises(ValueError, match=f"The state and the cache belong to different models: .*{name}"):
            identity.check_same_model(own, identity.state_identity(tiny_config(memory)), "The state")
    identity.check_same_weights("a", None)
    with pytest.raises(ValueError, match=r"other weights \(a\) than this one \(b\)"):
        identity.check_same_weights("a", "b")
