"""Reports in one table, and those that do not belong there."""

import copy
import json

import numpy as np
import pytest
from tiny_models import tiny_model, tiny_processor

from titans_mal.data.table import conversation_table
from titans_mal.evaluation.compare import compare_reports, comparison_markdown
from titans_mal.evaluation.emotion_metrics import EmotionMetrics
from titans_mal.evaluation.protocol import ProtocolError, protocol_of
from titans_mal.evaluation.report import EvaluationReport, build_report


LABELS = ["neutral", "happy"]


def make_report(*, fold=None, seed=0, turns=40, prompt="emotion ?", corpus="talks") -> EvaluationReport:
    """A report of made-up logits on a made-up table."""
    rng = np.random.default_rng((seed, fold or 0))
    rows = [
        {
            "conversation_id": f"c{i // 5}",
            "turn_index": i % 5,
            "speaker": "AB"[i % 2],
            "audio": {"bytes": b"", "path": None},
            "emotion": int(rng.integers(2)) if seed == 0 else i % 2,
        }
        for i in range(turns)
    ]
    table = conversation_table(rows, LABELS)
    table.info.dataset_name = corpus
    table.info.config_name = "own" if fold is None else f"own, fold {fold}"
    model = tiny_model()
    model.config.emotion_prompt = prompt
    run = {
        "protocol": protocol_of(model, tiny_processor(), table, readout="logits", max_new_tokens=8, seed=0),
        "model": {"name": f"m{seed}", "class": "M", "base": None, "base_revision": None, "memory": {}, "weights": None}
        | {"dtype": "float32"},
        "conditions": ["memory", "reads_off"],
        "batch_size": 4,
    }
    heard = {
        name: {"logits": {row: rng.standard_normal(2).tolist() for row in range(turns)}, "texts": {}, "surprise": {}}
        for name in ("memory", "reads_off")
    }
    lines = [{"group": 0, "not_heard": {}, "heard": heard}]
    return build_report(run, table, lines, train=None, resamples=100, groups=1, problems=[], processes=1)


def test_means_and_pooled_folds():
    reports = [make_report(fold=fold, turns=20 * fold) for fold in (1, 2, 3)]
    compared = compare_reports(reports)
    values = [report.columns["memory"]["metrics"]["ua"]["value"] for report in reports]
    assert compared["mean"]["memory"]["ua"]["value"] == pytest.approx(np.mean(values))
    assert compared["mean"]["memory"]["ua"]["deviation"] == pytest.approx(np.std(values, ddof=1))
    turns = [turn for report in reports for turn in report.predictions]
    scores = EmotionMetrics().compute(
        references=[LABELS.index(turn["label"]) for turn in turns],
        predictions=[LABELS.index(turn["predicted"]["memory"]) for turn in turns],
        num_labels=2,
    )
    assert len(turns) == 120
    assert compared["pooled"]["memory"]["ua"]["value"] == pytest.approx(scores["ua"])
    # Not the mean over folds, of which some are larger.
    assert compared["pooled"]["memory"]["ua"]["value"] != pytest.approx(np.mean(values), abs=1e-6)
    text = comparison_markdown(reports)
    assert "## Folds pooled" in text
    assert "Mean of 3 reports" in text


def test_conversations_of_folds_are_not_one_for_their_names():
    """Of six in each fold there is no telling; of twelve there is."""
    reports = [make_report(fold=fold, turns=30) for fold in (1, 2)]
    assert reports[0].columns["memory"]["metrics"]["wa"]["interval"] is None
    assert compare_reports(reports)["pooled"]["memory"]["wa"]["interval"] is not None


def test_seeds_are_averaged_and_not_pooled():
    reports = [make_report(fold=1), make_report(fold=1)]
    with pytest.raises(ProtocolError, match="is given twice"):
        compare_reports([reports[0], reports[0]])
    reports[1].content["model"]["weights"] = "others"
    assert compare_reports(reports)["pooled"] is None
    assert "pooled" not in comparison_markdown(reports)
    assert compare_reports(reports[:1])["mean"]["memory"]["wa"]["deviation"] is None


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"prompt": "feeling ?"}, "prompt: 'emotion . emotion' and|prompt: "),
        ({"corpus": "chats"}, "corpus: 'talks' and 'chats'"),
        ({"turns": 35}, "data: .*; turns: 40 and 35"),
        ({"seed": 1}, "data: "),
    ],
)
def test_other_protocols_are_refused(other, message):
    with pytest.raises(ProtocolError, match=f"belong in no common table: .*({message})"):
        compare_reports([make_report(), make_report(**other)])


def test_a_fold_twice_on_other_turns_is_refused():
    with pytest.raises(ProtocolError, match="Fold 2 was measured on different turns"):
        compare_reports([make_report(fold=1), make_report(fold=2), make_report(fold=2, seed=1)])
    with pytest.raises(ProtocolError, match="A report of a fold and one of none"):
        compare_reports([make_report(), make_report(fold=2)])
    same = make_report(fold=1)
    same.content["protocol"]["fold"] = 2
    with pytest.raises(ProtocolError, match="Folds 1 and 2 were measured on the same turns"):
        compare_reports([make_report(fold=1), same])
    unheard = make_report(fold=1)
    unheard.content["not_heard"] = [{"conversation_id": "c0", "turn_index": 0, "reason": "silent"}]
    with pytest.raises(ProtocolError, match="Fold 1 was measured on different turns"):
        compare_reports([make_report(fold=1), unheard])
    bare = [make_report(fold=1), make_report(fold=2)]
    bare[1].predictions.clear()
    with pytest.raises(ValueError, match=r"their predictions\.jsonl are needed; those of folds \[2\] are missing"):
        compare_reports(bare)
    with pytest.raises(ValueError, match="at least one report"):
        compare_reports([])


def test_what_is_no_report(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no evaluation report"):
        EvaluationReport.load(tmp_path)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        EvaluationReport.load(tmp_path)
    content = copy.deepcopy(make_report().content)
    content["columns"]["memory"]["metrics"]["wa"]["value"] = "high"
    (tmp_path / "report.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"No evaluation report: \$\.columns\.memory\.metrics\.wa\.value: 'high'"):
        EvaluationReport.load(tmp_path)
