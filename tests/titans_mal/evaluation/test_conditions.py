"""What each condition lets a turn read and write, recorded by a scorer without a model."""

import contextlib
from types import SimpleNamespace

import pytest

from titans_mal.evaluation.conditions import CONDITIONS
from titans_mal.evaluation.table_scoring import Conversation, Group, GroupTurn, TableScores


class Recorder:
    """Stands for a `TableScorer`: keeps the rows that are scored and written, and how the memory was set."""

    seed = 0

    def __init__(self, unusable=()):
        self.calls = []
        self.unusable = unusable
        self.is_disabled = False
        self.layer = SimpleNamespace(hooks=[])
        self.layer.register_forward_hook = self._register
        self.model = SimpleNamespace(
            disable_memory=self._disable, titans_memory=SimpleNamespace(layers=[self.layer]), config=None
        )

    def usable(self, turns):
        return [turn for turn in turns if turn.row not in self.unusable]

    def score(self, turns, cache, *, update_memory=True):
        rows = [turn.row for turn in turns]
        self.calls.append(("score", rows, cache, update_memory, self.is_disabled, len(self.layer.hooks)))
        return TableScores(logits={row: [0.0] for row in rows})

    def write(self, turns, cache):
        self.calls.append(("write", [(turn.row, turn.conversation) for turn in turns], cache))

    @contextlib.contextmanager
    def _disable(self):
        self.is_disabled = True
        yield
        self.is_disabled = False

    def _register(self, hook):
        self.layer.hooks.append(hook)
        return SimpleNamespace(remove=lambda: self.layer.hooks.remove(hook))


@pytest.fixture
def group(monkeypatch):
    """Conversations of rows 0 to 2 and 3 to 4, each the other's partner."""
    turns = [[GroupTurn(row, number, "A") for row in rows] for number, rows in enumerate(((0, 1, 2), (3, 4)))]
    monkeypatch.setattr(Group, "fresh_cache", lambda self, model: "cache")
    return Group(0, [Conversation("a", turns[0], turns[1]), Conversation("b", turns[1], turns[0])])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("memory", ("score", [0, 1, 2, 3, 4], "cache", True, False, 0)),
        ("memory_off", ("score", [0, 1, 2, 3, 4], None, True, True, 0)),
        ("memory_half", ("score", [0, 1, 2, 3, 4], "cache", True, False, 1)),
        ("reset", ("score", [0, 1, 2, 3, 4], None, True, False, 0)),
    ],
)
def test_a_condition_of_all_turns_at_once(group, name, expected):
    scorer = Recorder()
    scores = CONDITIONS[name](scorer, group)
    assert scorer.calls == [expected]
    assert sorted(scores.logits) == [0, 1, 2, 3, 4]
    assert not scorer.is_disabled
    assert not scorer.layer.hooks


def test_memory_half_halves_the_residual(group):
    from titans_mal.modeling.memory_layer import TitansMemoryOutput

    scorer, halved = Recorder(), []
    scorer.score = lambda *_: halved.append(scorer.layer.hooks[0](None, None, TitansMemoryOutput(3.0, 1.0, None)))
    CONDITIONS["memory_half"](scorer, group)
    assert halved == [TitansMemoryOutput(1.5, 1.0, None)]


def test_another_state_is_read_after_as_many_turns_of_the_partner(group):
    scorer = Recorder()
    scores = CONDITIONS["other_state"](scorer, group)
    scored = [call[1] for call in scorer.calls if call[0] == "score"]
    written = [call[1] for call in scorer.calls if call[0] == "write"]
    assert scored == [[0, 3], [1, 4], [2]]
    # The partner's rows, in the conversation that reads them next.
    assert written == [[(3, 0), (0, 1)], [(4, 0), (1, 1)], []]
    assert not any(call[3] for call in scorer.calls if call[0] == "score")
    assert sorted(scores.logits) == [0, 1, 2, 3, 4]


def test_a_turn_whose_partner_is_too_short_is_not_scored_with_another_state(group):
    scorer = Recorder(unusable={4})
    assert sorted(CONDITIONS["other_state"](scorer, group).logits) == [0, 1, 3]


def test_shuffling_stays_within_a_conversation_and_does_not_depend_on_the_others(group):
    scorer = Recorder()
    scores = [CONDITIONS["shuffled"](scorer, part) for part in (group, Group(0, group.conversations[:1]))]
    rows = scorer.calls[0][1]
    assert sorted(rows[:3]) == [0, 1, 2]
    assert sorted(rows[3:]) == [3, 4]
    assert scorer.calls[1][1] == rows[:3]
    assert sorted(scores[0].logits) == [0, 1, 2, 3, 4]
