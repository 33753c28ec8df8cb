"""How the turns of a table are grouped, paired and read."""

import pytest
from datasets import Dataset

from titans_mal.evaluation.table_scoring import TableScores, make_groups


# By conversation: speakers of its turns.
SPEAKERS = {"long": "ABAB", "same": "AAA", "other": "CDC", "short": "E"}


@pytest.fixture(scope="module")
def table():
    turns = [(name, speaker) for name, speakers in SPEAKERS.items() for speaker in speakers]
    return Dataset.from_dict(
        {"conversation_id": [name for name, _ in turns], "speaker": [speaker for _, speaker in turns]}
    )


def test_groups_hold_whole_conversations_in_the_order_of_the_table(table):
    groups = make_groups(table, batch_size=5)
    assert [[c.name for c in group.conversations] for group in groups] == [["long", "same"], ["other", "short"]]
    assert [[turn.row for turn in group.turns] for group in groups] == [list(range(7)), list(range(7, 11))]
    assert [group.number for group in groups] == [0, 1]
    assert {turn.conversation for turn in groups[1].conversations[1].turns} == {1}


def test_a_partner_shares_no_speaker_and_is_at_most_a_turn_shorter(table):
    conversations = {c.name: c for group in make_groups(table, batch_size=1) for c in group.conversations}
    partners = {name: [turn.row for turn in conversation.partner] for name, conversation in conversations.items()}
    assert partners == {"long": [7, 8, 9], "same": [7, 8, 9], "other": [0, 1, 2, 3], "short": [0, 1, 2, 3]}
    # A partner's turns stand in the row of the cache of the conversation that reads them.
    assert {turn.conversation for turn in conversations["same"].partner} == {0}


def test_partners_of_another_table_are_the_second_choice(table):
    others = Dataset.from_dict({"conversation_id": ["x", "x", "y", "y", "y"], "speaker": ["A", "C", "E", "F", "F"]})
    (group,) = make_groups(
        Dataset.from_dict({"conversation_id": ["a"] * 3 + ["b"], "speaker": ["A", "B", "A", "A"]}), 9, others
    )
    # Of two conversations of one speaker: "x" shares a speaker, so "y" it is, whose rows follow those of the table.
    assert [[turn.row for turn in c.partner] for c in group.conversations] == [[6, 7, 8], [6, 7, 8]]
    assert [turn.speaker for turn in group.conversations[0].partner] == ["E", "F", "F"]
    with_others = [c.partner for g in make_groups(table, 5, others) for c in g.conversations]
    assert with_others == [c.partner for g in make_groups(table, 5) for c in g.conversations]


def test_a_conversation_may_have_no_partner():
    table = Dataset.from_dict({"conversation_id": ["a", "a", "b"], "speaker": ["A", "B", "A"]})
    (group,) = make_groups(table, batch_size=10)
    assert [conversation.partner for conversation in group.conversations] == [[], []]


def test_scores_of_groups_are_added_by_row():
    scores = TableScores(logits={0: [1.0]}, surprise={0: 0.5})
    scores.add(TableScores(logits={1: [2.0]}, texts={2: "sad"}, values={1: [0.1]}))
    assert scores == TableScores({0: [1.0], 1: [2.0]}, {2: "sad"}, {0: 0.5}, {1: [0.1]})
