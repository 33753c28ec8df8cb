"""Names of earlier versions: they warn, and are what they were."""

import importlib
import sys

import pytest

from titans_mal import ConversationStore


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("titans_mal.data.suites", "titans_mal.data.synthetic.suites", "Suite"),
        ("titans_mal.data.voices", "titans_mal.data.synthetic.voices", "to_wav"),
        ("titans_mal.evaluation.rivals", "titans_mal.evaluation.baselines", "speaker_centred"),
        ("titans_mal.data.bayes_bound", "titans_mal.data.synthetic.bayes_bound", "best_accuracy"),
    ],
)
def test_modules_that_moved(old, new, name):
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} is now {new}"):
        module = importlib.import_module(old)
    assert getattr(module, name) is getattr(importlib.import_module(new), name)


@pytest.mark.parametrize(
    ("old", "new"), [("Listener", "TableScorer"), ("Heard", "TableScores"), ("HeardTurn", "GroupTurn")]
)
def test_names_that_changed(old, new):
    listener, scoring = (
        importlib.import_module(f"titans_mal.evaluation.{name}") for name in ("listener", "table_scoring")
    )
    with pytest.warns(DeprecationWarning, match=f"{old} is now titans_mal.evaluation.table_scoring.{new}"):
        assert getattr(listener, old) is getattr(scoring, new)
    with pytest.raises(AttributeError):
        listener.Hearing  # noqa: B018


def test_anew_is_now_reset(model, tmp_path):
    store = ConversationStore(model, tmp_path)
    with store.conversation("a") as cache:
        cache.notes = {"turn": 1}
    with pytest.warns(DeprecationWarning, match="anew is now reset"), store.conversation("a", anew=True) as cache:
        assert not cache.notes
