"""The evidence: the arithmetic of the gap, features of scripts, the memory and its baselines at tiny sizes."""

import math
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from titans_mal.data.synthetic.suites import SPEAKER_SPREAD, SUITES, carry_over, interleaved, null


EVIDENCE = Path(__file__).parents[2] / "examples" / "evidence"
MODULES = ("gap", "turn_features", "models", "baselines", "variants", "features", "explore")


@pytest.fixture(scope="module", autouse=True)
def _evidence_on_path():
    """The scripts import each other by name, as they do when they are run."""
    sys.path.insert(0, str(EVIDENCE))
    yield
    sys.path.remove(str(EVIDENCE))
    for name in MODULES:
        sys.modules.pop(name, None)


def scores(share: float, *, turns: int = 40):
    """The first `share` of each conversation's turns is right; 25 conversations."""
    from gap import Scores

    right = np.tile(np.arange(turns) < share * turns, 25)[None]
    return Scores(right, np.repeat(np.arange(25), turns))


@pytest.mark.parametrize(("accuracy", "gap"), [(0.5, 0.0), (0.9, 1.0), (0.7, 0.5), (0.4, -0.25)])
def test_gap_closed_is_the_share_of_the_way_to_the_bound(accuracy, gap):
    from gap import gap_closed

    value, (low, high) = gap_closed(scores(accuracy), scores(0.5), scores(0.9))
    assert value == pytest.approx(gap)
    # Conversations that are all alike leave nothing to luck.
    assert (low, high) == pytest.approx((gap, gap))


def test_intervals_hold_the_value_and_are_paired():
    from gap import Scores, difference, gap_closed

    rng = np.random.default_rng(0)
    conversations = np.repeat(np.arange(60), 6)
    ease = np.repeat(rng.uniform(0.2, 1.0, 60), 6)
    luck = rng.uniform(size=360)
    model, utterance, bound = (Scores((luck < ease * s)[None], conversations) for s in (0.8, 0.5, 1.0))
    value, (low, high) = gap_closed(model, utterance, bound)
    assert low < value < high
    # A model differs from itself by nothing on the same turns, however uneven the conversations are.
    assert difference(model, model) == (0.0, (0.0, 0.0))
    alone = np.diff(difference(model, Scores(np.zeros((1, 360), bool), conversations))[1])
    paired = np.diff(difference(model, bound)[1])
    assert paired < alone


def test_seeds_are_averaged_and_other_turns_rejected():
    from gap import Scores, difference, gap_closed

    one, other = scores(0.5), scores(0.9)
    both = Scores(np.concatenate([one.right, other.right]), one.conversations)
    assert gap_closed(both, one, other)[0] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no gap"):
        gap_closed(one, other, one)
    with pytest.raises(ValueError, match="same turns"):
        difference(one, scores(0.5, turns=20))


def test_the_bound_is_scored_on_the_scripts():
    from gap import bound_scores
    from turn_features import draw_scripts

    from titans_mal.data.synthetic.bayes_bound import accuracy_of_best

    suite = interleaved()
    scripts = draw_scripts(suite, 20, seed=(0,))
    assert bound_scores(suite, scripts).accuracy == pytest.approx(accuracy_of_best(scripts, suite))
    strangers = draw_scripts(null(), 20, seed=(0,))
    alone = bound_scores(null(), strangers, uses_history=False)
    np.testing.assert_array_equal(bound_scores(null(), strangers).right, alone.right)


def test_features_hold_the_script():
    from models import pool
    from turn_features import FEWEST_TOKENS, draw_scripts, draw_turns

    scripts = draw_scripts(interleaved(), 100, seed=(0,))
    turns = draw_turns(scripts, seed=(0,))
    pitch = [turn.pitch for script in scripts for turn in script.turns]
    pooled = pool(turns.features, turns.mask).numpy()
    error = pooled[:, 0] - np.array(pitch) / SPEAKER_SPREAD[0]
    assert error.std() < 0.15
    assert turns.mask.sum(1).min() == FEWEST_TOKENS
    assert torch.equal(turns.features, draw_turns(scripts, seed=(0,)).features)
    # A speaker keeps the signature, which no other has.
    first, second = (turns.speakers[0] == 0).nonzero().flatten()[:2].tolist()
    signatures = pooled[:, 2:10]
    strangers = np.linalg.norm(signatures[8:] - signatures[first], axis=1)
    assert np.linalg.norm(signatures[second] - signatures[first]) < strangers.mean() / 2
    whispers = draw_turns(draw_scripts(carry_over(), 10, seed=(0,)), seed=(0,))
    assert set(pool(whispers.features, whispers.mask)[:, -1].round().tolist()) == {0.0, 1.0}


def test_speaker_streams_hold_each_turn_once_in_order():
    from turn_features import draw_scripts, draw_turns

    turns = draw_turns(draw_scripts(interleaved(speakers=3), 4, seed=(0,)), seed=(0,))
    order = turns.in_order_of_speakers()
    assert sorted(torch.cat(order).tolist()) == list(range(4 * 12))
    speakers = turns.speakers.flatten()
    for earlier, later in pairwise(order):
        stream = earlier[: len(later)]
        assert (later > stream).all()
        assert torch.equal(later // 12, stream // 12)
        assert torch.equal(speakers[later], speakers[stream])


@pytest.fixture
def encoded():
    from turn_features import draw_scripts, draw_turns

    return draw_turns(draw_scripts(interleaved(), 6, seed=(0,)), seed=(0,))


def model_that_adds(**options):
    from models import WithMemory

    torch.manual_seed(0)
    model = WithMemory(num_heads=2, head_dim=8, **options)
    torch.nn.init.normal_(model.layer.output_proj.weight)
    for weight in model.layer.initial_memory:
        torch.nn.init.normal_(weight)
    return model


@torch.no_grad()
def test_a_memory_that_is_never_written_scores_each_turn_alone(encoded):
    never, reset, memory = model_that_adds(write=False), model_that_adds(), model_that_adds()
    reset.is_reset = True
    torch.testing.assert_close(never(encoded), reset(encoded))
    # The first turn of a conversation has nothing to read, the others have.
    alone, after_others = never(encoded).view(6, 8, -1), memory(encoded).view(6, 8, -1)
    torch.testing.assert_close(alone[:, 0], after_others[:, 0])
    assert not torch.isclose(alone[:, 1:], after_others[:, 1:]).all(-1).any()


@torch.no_grad()
def test_convolution_outputs_beyond_a_turn_are_not_written():
    import variants

    layer = model_that_adds(layer=variants.Convolved).layer
    torch.nn.init.normal_(layer.key_convolution.weight)
    written = torch.arange(9) < torch.tensor([[9], [4]])
    normed = torch.randn(2, 9, layer.key_proj.in_features) * written[..., None]
    tokens = layer._project(normed, written)
    assert not tokens.keys[1, :, 4:].any()
    assert tokens.keys[1, :, :4].any()


@pytest.mark.parametrize("variant", ["PooledWrite", "PlainValues", "Convolved"])
def test_variants_of_the_layer_run_and_remember(encoded, variant):
    import variants

    model = model_that_adds(layer=getattr(variants, variant))
    before = model(encoded)
    model.is_reset = True
    assert not torch.isclose(before, model(encoded)).all()


@torch.no_grad()
def test_a_new_baseline_sees_no_later_turn_and_only_its_prompt(encoded):
    from baselines import PromptHistory

    model = PromptHistory(turns=2)
    result = model(encoded).view(6, 8, -1)
    encoded.features.view(6, 8, *encoded.features.shape[1:])[:, 3] += 1.0
    changed = ~torch.isclose(result, model(encoded).view(6, 8, -1)).all(-1).all(0)
    assert changed.tolist() == [False] * 3 + [True] * 3 + [False] * 2


def test_normalisation_removes_the_speakers_voice(encoded):
    from baselines import SpeakerNormalised

    model = SpeakerNormalised()
    is_first = torch.tensor([[s not in row[:i] for i, s in enumerate(row)] for row in encoded.speakers.tolist()])
    from models import UtteranceOnly

    plain = UtteranceOnly()
    plain.load_state_dict(model.state_dict())
    same = torch.isclose(model(encoded), plain(encoded), atol=1e-5).all(-1).view(6, 8)
    assert torch.equal(same, is_first)


def test_a_temporary_lora_forgets_with_the_conversation(encoded):
    from baselines import TemporaryLora
    from models import UtteranceOnly

    model = TemporaryLora().eval()
    plain = UtteranceOnly()
    plain.load_state_dict(model.state_dict(), strict=False)
    still, moved = model.adapt(encoded, 0.0), model.adapt(encoded, 3.0)
    torch.testing.assert_close(still, plain(encoded).detach())
    is_same = torch.isclose(still, moved).all(-1).view(6, 8)
    assert is_same[:, 0].all()
    assert not is_same[:, 1:].any()
    model.choose_step(encoded)
    assert model.step in model.steps


@pytest.mark.parametrize("suite", [pytest.param("interleaved", marks=pytest.mark.slow), "null"])
def test_a_suite_runs_from_seed_to_table_and_picture(suite, tmp_path):
    import features

    # The model that the others are compared with is no bar of the picture.
    features.main(suite, seeds=2, steps=2, models="utterance", conversations=12, output=tmp_path)
    assert not (tmp_path / suite / "gaps.png").exists()
    features.main(suite, seeds=2, steps=2, models=",".join(features.ENTRIES), conversations=12, output=tmp_path)
    table = (tmp_path / suite / "table.md").read_text()
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in table.splitlines()[2:]}
    assert len(rows) == len(features.ENTRIES) + 4  # two that are reset, and the two bounds
    assert int(rows[features.ENTRIES["memory"].title][0]) == 2
    assert int(rows["8 turns in the prompt"][0]) == 1
    assert math.isclose(float(rows["utterance only"][2].split()[0]), 0.0)
    assert (tmp_path / suite / "gaps.png").read_bytes().startswith(b"\x89PNG")
    # The table includes models that were tested before.
    features.main(suite, seeds=1, steps=2, models="memory", conversations=12, output=tmp_path)
    assert len((tmp_path / suite / "table.md").read_text().splitlines()) == len(table.splitlines())
    # But not those of other sizes, which did not score the same turns or were not trained as long.
    for other in ({"conversations": 14}, {"steps": 1}):
        features.main(
            suite,
            **{"seeds": 1, "steps": 2, "conversations": 12, "models": "never-written", "output": tmp_path} | other,
        )
        assert len((tmp_path / suite / "table.md").read_text().splitlines()) == 2 + 2 + 2


def test_every_threshold_belongs_to_a_suite():
    import features

    assert set(features.TO_REACH) <= set(SUITES)


@pytest.mark.parametrize(
    "arguments", [("nosuch",), ("baseline", "--tried", "nosuch"), ("baseline", "--models", "nosuch")]
)
def test_unknown_names_are_usage_errors(arguments, monkeypatch, tmp_path):
    """The commands name what is known, before they write or train anything."""
    import explore
    import features

    script = explore if "--tried" in arguments else features
    application = typer.Typer()
    application.command()(script.main)
    answer = CliRunner().invoke(application, [*arguments, "--output", str(tmp_path / "results")])
    assert answer.exit_code == 2, answer.output
    assert not (tmp_path / "results").exists()
