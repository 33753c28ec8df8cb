"""Hosts in which the padding of a batch changes shorter turns: evaluation and pool batch turns of one length."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_hosts import HOSTS
from tiny_models import tone
from tiny_processors import PROCESSORS

from titans_mal.evaluation.table_scoring import GroupTurn, TableScorer
from titans_mal.live.pool import ConversationPool
from titans_mal.modeling.turn_scoring import TurnScorer


NAMES = ("GraniteSpeech", "Phi4Multimodal", "Qwen3OmniMoe", "Qwen3ASR")
LENGTHS = (0.9, 1.3, 1.3, 0.7)


def of_host(name, tmp_path):
    processor = PROCESSORS[name](tmp_path)
    host = HOSTS[name]
    return host.model(label_token_ids=host.model_class.label_tokens_of(host.config(), processor)), processor


def test_which_hosts_they_are():
    assert [name for name in HOSTS if HOSTS[name].model_class.tower_mixes_padding] == sorted(NAMES, key=[*HOSTS].index)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_scores_of_a_table_do_not_depend_on_the_batch(name, tmp_path):
    model, processor = of_host(name, tmp_path)
    scores = {}
    for size in (1, 4):
        scorer = object.__new__(TableScorer)
        scorer.model, scorer._batch_size, scorer._readout = model, size, "logits"
        scorer._scorer, scorer._label_columns = TurnScorer(model, processor), [0, 1, 2, 3]
        scorer._waveforms = {row: tone(seconds, frequency=200.0 + row) for row, seconds in enumerate(LENGTHS)}
        scorer._transcripts, scorer.processed_seconds = [None] * 4, {}
        turns = [GroupTurn(row, 0, "A") for row in range(4)]
        found = scorer.score(turns, None).logits
        scores[size] = np.array([found[row] for row in range(4)])
    assert np.abs(scores[1] - scores[4]).max() <= 1e-4


@torch.no_grad()
def test_a_pool_scores_turns_of_one_length_together(monkeypatch):
    calls = []

    def score(waveforms, speakers, caches):
        calls.append([len(waveform) for waveform in waveforms])
        return [len(waveform) for waveform in waveforms]

    pool = SimpleNamespace(_scorer=SimpleNamespace(model=SimpleNamespace(tower_mixes_padding=True), score=score))
    pool._score_together = lambda opened: ConversationPool._score_together(pool, opened)
    opened = [(SimpleNamespace(waveform=np.zeros(n), speaker=None), None) for n in (5, 7, 5, 9)]
    assert pool._score_together(opened) == [5, 7, 5, 9]
    assert sorted(calls) == [[5, 5], [7], [9]]
