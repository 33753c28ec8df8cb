"""Reports in one table, and those that do not belong there."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from tiny_models import tiny_model, tiny_processor
from typer.testing import CliRunner

from titans_mal.cli import app
from titans_mal.data.table import conversation_table
from titans_mal.evaluation.compare import compare_paired, compare_reports, comparison_markdown, paired_markdown
from titans_mal.evaluation.emotion_metrics import EmotionMetrics
from titans_mal.evaluation.markdown import report_markdown
from titans_mal.evaluation.protocol import ProtocolError, protocol_of
from titans_mal.evaluation.report import EvaluationReport, build_report
from titans_mal.evaluation.report_tables import lora_name


LABELS = ["neutral", "happy"]


def make_report(
    *, fold=None, seed=0, turns=40, prompt="emotion ?", corpus="talks", rng_seed=None, **model_fields
) -> EvaluationReport:
    """A report of made-up logits on a made-up table.

    Args:
        rng_seed: of the logits alone; None: also of the labels.
        model_fields: of the report's `model`.
    """
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
        | {"dtype": "float32", **model_fields},
        "requested_conditions": ["memory", "memory_off"],
        "batch_size": 4,
    }
    rng = rng if rng_seed is None else np.random.default_rng(rng_seed)
    scored = {
        name: {"logits": {row: rng.standard_normal(2).tolist() for row in range(turns)}, "texts": {}, "surprise": {}}
        for name in ("memory", "memory_off")
    }
    lines = [{"group": 0, "not_scored": {}, "scores": scored}]
    return build_report(run, table, lines, train=None, resamples=100, groups=1, problems=[], processes=1)


def test_means_and_pooled_folds():
    reports = [make_report(fold=fold, turns=20 * fold) for fold in (1, 2, 3)]
    compared = compare_reports(reports)
    values = [report.conditions["memory"]["metrics"]["ua"]["value"] for report in reports]
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


def test_conversations_of_different_folds_may_share_names():
    """Of six in each fold there is no telling; of twelve there is."""
    reports = [make_report(fold=fold, turns=30) for fold in (1, 2)]
    assert reports[0].conditions["memory"]["metrics"]["wa"]["interval"] is None
    assert compare_reports(reports)["pooled"]["memory"]["wa"]["interval"] is not None


def test_seeds_are_averaged_and_not_pooled():
    reports = [make_report(fold=1), make_report(fold=1)]
    with pytest.raises(ProtocolError, match="was given twice"):
        compare_reports([reports[0], reports[0]])
    reports[1].content["model"]["weights"] = "others"
    assert compare_reports(reports)["pooled"] is None
    assert "pooled" not in comparison_markdown(reports)
    assert compare_reports(reports[:1])["mean"]["memory"]["wa"]["deviation"] is None


def trained(seed: int, **recipe) -> dict:
    """Fields of a run whose training is recorded."""
    recipe = {"learning_rate": 1e-3, "seed": seed, "steps": 100 + seed, **recipe}
    return {"name": f"runs/{seed}", "weights": f"w{seed} {recipe}", "training": recipe, "rng_seed": seed}


MODELS = {
    "layers": {"memory": {"layers": [1, 3], "scope": "conversation"}},
    "scope": {"memory": {"layers": [0], "scope": "speaker"}},
    "lora": {"lora": {"type": "LORA", "rank": 4, "alpha": 8, "targets": ["q_proj"]}},
    "base": {"base": "org/another"},
    "dtype": {"dtype": "bfloat16"},
    "recipe": {"training": {"learning_rate": 1e-4, "seed": 2, "steps": 7}},
}


@pytest.mark.parametrize("differing", MODELS)
def test_no_mean_over_models_that_differ_in_more_than_seed_or_fold(differing):
    own = {"memory": {"layers": [0], "scope": "conversation"}, "lora": None}
    reports = [make_report(**own, **trained(0)), make_report(**own, **trained(1))]
    reports.append(make_report(**{**own, **trained(2), **MODELS[differing]}))
    compared = compare_reports(reports)
    assert [group["runs"] for group in compared["groups"]] == [2, 1]
    assert compared["mean"] is None
    values = [report.conditions["memory"]["metrics"]["wa"]["value"] for report in reports[:2]]
    assert compared["groups"][0]["mean"]["memory"]["wa"] == {
        "value": pytest.approx(np.mean(values)),
        "deviation": pytest.approx(np.std(values, ddof=1)),
    }
    assert compared["groups"][1]["mean"]["memory"]["wa"]["deviation"] is None
    text = comparison_markdown(reports)
    # Each report by its own name, and the two seeds as one row.
    for name in ("runs/0", "runs/1", "runs/2"):
        assert f"| {name} |" in text
    assert "| 2 (seeds) |" in text
    assert "standard deviation over seeds" in text


def test_models_are_described_in_the_table():
    one = make_report(**trained(0) | MODELS["layers"] | MODELS["lora"])
    two = make_report(**trained(5) | MODELS["scope"])
    lines = comparison_markdown([one, two]).splitlines()
    assert any(line.startswith("| runs/0 | 1, 3 | conversation | rank 4 on q_proj | 0 | - |") for line in lines)
    assert any(line.startswith("| runs/5 | 0 | speaker | not recorded | 5 | - |") for line in lines)


def test_models_of_one_name_are_distinguished():
    first = make_report(**trained(0) | {"name": "out/run"})
    cases = {
        "learning_rate 0.001": trained(1, learning_rate=0.5),
        "dtype float32": trained(1) | {"dtype": "bfloat16"},
        "weights 1": trained(1) | MODELS["scope"],
    }
    for difference, fields in cases.items():
        first.content["model"]["weights"] = "1"
        text = comparison_markdown([first, make_report(**fields | {"name": "out/run"})])
        assert text.count(f"| out/run ({difference}) |") == 2


def test_an_evaluation_of_the_same_weights_is_no_other_seed():
    reports = [make_report(fold=fold, **trained(0)) for fold in (1, 2, 1)]
    assert compare_reports(reports[:2])["groups"][0]["varies"] == "folds"
    reports[2].content["created"] = "later"
    with pytest.raises(ProtocolError, match="are of the same weights and turns"):
        compare_reports(reports)


def test_the_pattern_of_a_trained_lora_is_shown_by_layers():
    pattern = r"model\.layers\.\d+\.self_attn\.q_proj|model\.layers\.\d+\.mlp\.down_proj"
    for targets, shown in (
        (pattern, "down_proj, q_proj"),
        ("all-linear", "all-linear"),
        (".*(q|v)_proj", ".*(q|v)_proj"),
    ):
        assert lora_name({"lora": {"rank": 2, "targets": targets}}) == f"rank 2 on {shown}"


def test_seeds_of_several_folds_deviate_by_seed():
    reports = [make_report(fold=fold, **trained(seed, fold=fold)) for seed in (0, 1, 2) for fold in (1, 2)]
    group = compare_reports(reports)["groups"][0]
    assert (group["runs"], group["varies"], group["pooled"]) == (6, "seeds", None)
    values = np.array([report.conditions["memory"]["metrics"]["ua"]["value"] for report in reports]).reshape(3, 2)
    assert group["mean"]["memory"]["ua"]["value"] == pytest.approx(values.mean())
    assert group["mean"]["memory"]["ua"]["deviation"] == pytest.approx(np.std(values.mean(1), ddof=1))
    # Seeds with other folds each cannot be distinguished from the folds.
    uneven = compare_reports(reports[:3])["groups"][0]
    assert (uneven["varies"], uneven["mean"]["memory"]["ua"]["deviation"]) == (None, None)


def test_runs_without_a_recipe_are_matched_by_name():
    names = ["out/seed1/model", "out/seed-2/model", "other/seed3/model"]
    reports = [make_report(name=name, weights=name, rng_seed=i) for i, name in enumerate(names)]
    assert [group["runs"] for group in compare_reports(reports)["groups"]] == [2, 1]
    assert "The training of these runs is not recorded" in comparison_markdown(reports)


def test_reports_of_another_major_version_are_rejected():
    old = make_report(name="old")
    old.content["schema_version"] = 1
    with pytest.raises(ProtocolError, match=r"schema versions \[1, 3\]"):
        compare_reports([old, make_report()])
    minor = make_report(name="minor", weights="w")
    minor.content["schema_version"] = "3.7"
    assert len(compare_reports([minor, make_report()])["groups"]) == 2


def test_a_report_of_version_2_becomes_one_of_version_3(tmp_path):
    folder = Path(__file__).parent / "saved_report_2_1"
    saved, report = json.loads((folder / "report.json").read_text()), EvaluationReport.load(folder)
    assert (saved["schema_version"], report.content["schema_version"]) == ("2.1", "3.0")
    report.save(tmp_path)
    assert EvaluationReport.load(tmp_path) == report
    assert report.content["requested_conditions"] == ["memory", "memory_off", "memory_half"]
    assert report.conditions["memory_off"] == saved["columns"]["reads_off"]
    assert report.content["differences"]["memory_half"] == saved["differences"]["half_reads"]
    assert report.protocol["turn_seconds"] == saved["protocol"]["heard_seconds"]
    (by_speaker,) = [groups for name, groups in report.content["groups"].items() if name == "speaker"]
    assert {*by_speaker["A"]["conditions"]} == {"memory", "memory_off"}
    turns = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [turn["predicted"]["memory_off"] for turn in report.predictions] == [
        turn["predicted"]["reads_off"] for turn in turns
    ]
    former = json.dumps([report.content, report.predictions])
    assert not any(f'"{name}"' in former for name in ("columns", "reads_off", "half_reads", "not_heard"))
    with pytest.warns(DeprecationWarning, match="columns is now conditions"):
        assert report.columns is report.conditions


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"prompt": "feeling ?"}, "prompt: 'emotion . emotion' and|prompt: "),
        ({"corpus": "chats"}, "corpus: 'talks' and 'chats'"),
        ({"turns": 35}, "data: .*; turns: 40 and 35"),
        ({"seed": 1}, "data: "),
    ],
)
def test_other_protocols_are_rejected(other, message):
    with pytest.raises(ProtocolError, match=f"cannot be compared in one table: .*({message})"):
        compare_reports([make_report(), make_report(**other)])


def test_a_fold_with_different_turns_is_rejected():
    with pytest.raises(ProtocolError, match="Reports of fold 2 were measured on different turns"):
        compare_reports([make_report(fold=1), make_report(fold=2), make_report(fold=2, seed=1)])
    with pytest.raises(ProtocolError, match="Reports with and without a fold"):
        compare_reports([make_report(), make_report(fold=2)])
    same = make_report(fold=1)
    same.content["protocol"]["fold"] = 2
    with pytest.raises(ProtocolError, match="Folds 1 and 2 were measured on the same turns"):
        compare_reports([make_report(fold=1), same])
    unheard = make_report(fold=1)
    unheard.content["not_scored"] = [{"conversation_id": "c0", "turn_index": 0, "reason": "silent"}]
    with pytest.raises(ProtocolError, match="Reports of fold 1 were measured on different turns"):
        compare_reports([make_report(fold=1), unheard])
    bare = [make_report(fold=1), make_report(fold=2)]
    bare[1].predictions.clear()
    with pytest.raises(ValueError, match=r"needs their predictions\.jsonl; those of folds \[2\] are missing"):
        compare_reports(bare)
    with pytest.raises(ValueError, match="at least one report"):
        compare_reports([])


def test_invalid_reports(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no evaluation report"):
        EvaluationReport.load(tmp_path)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        EvaluationReport.load(tmp_path)
    content = copy.deepcopy(make_report().content)
    content["conditions"]["memory"]["metrics"]["wa"]["value"] = "high"
    (tmp_path / "report.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"Not an evaluation report: \$\.conditions\.memory\.metrics\.wa\.value: "):
        EvaluationReport.load(tmp_path)


def paired_reports() -> tuple[EvaluationReport, EvaluationReport]:
    return make_report(turns=60, rng_seed=1), make_report(turns=60, rng_seed=2, name="other", weights="w")


def test_two_runs_are_compared_turn_by_turn():
    one, two = paired_reports()
    found = compare_paired(one, two)
    assert set(found) == {*one.conditions} & {*two.conditions}
    values = [report.conditions["memory"]["metrics"]["wa"]["value"] for report in (one, two)]
    assert found["memory"]["metrics"]["wa"]["value"] == pytest.approx(values[0] - values[1])
    right = [[t["predicted"]["memory"] == t["label"] for t in report.predictions] for report in (one, two)]
    better = sum(a and not b for a, b in zip(*right))
    worse = sum(b and not a for a, b in zip(*right))
    assert (found["memory"]["mcnemar"]["better"], found["memory"]["mcnemar"]["worse"]) == (better, worse)
    assert better > 0
    assert worse > 0
    low, high = found["memory"]["metrics"]["wa"]["interval"]
    assert low <= values[0] - values[1] <= high
    back = compare_paired(two, one)["memory"]["metrics"]["ua"]["value"]
    assert back == pytest.approx(-found["memory"]["metrics"]["ua"]["value"])
    # The floors are the same turns and labels.
    assert found["majority"]["mcnemar"] == {"better": 0, "worse": 0, "p": 1.0}
    assert "# m0 minus other" in paired_markdown(one, two)


def test_names_are_text_in_markdown():
    """Those of corpora, models, prompts, conditions and speakers, whoever wrote the report."""
    hostile = "[a](http://b) ![c](http://d) <img src=x> `e` $f$ *g*\n# h\n| i |"
    reports = [make_report(corpus=hostile, prompt=hostile, name=f"{hostile}{n}", weights=str(n)) for n in range(2)]
    content = copy.deepcopy(reports[0].content)
    for condition in content["conditions"].values():
        condition["title"] = condition["description"] = hostile
    group = {"turns": 20, "conditions": {"memory": {"wa": 0.5, "ua": 0.5}}}
    content |= {"groups": {"speaker": {hostile: group, "B": group}}, "left_out": {hostile: hostile}}
    content["not_scored"] = [{"conversation_id": f"# {hostile}", "turn_index": 0, "reason": hostile}]
    texts = [comparison_markdown(reports), paired_markdown(*reports), report_markdown(content)]
    for text in texts:
        assert "http://b" in text
        for markup in ("](http", "<img", " `e`", "$f$", " *g*", "\n# h", "\n| i", "- # "):
            assert markup not in text


def test_pairs_are_of_the_same_turns():
    one, two = paired_reports()
    with pytest.raises(ProtocolError, match="needs the same turns, but these are of folds 1 and 2"):
        compare_paired(make_report(fold=1), make_report(fold=2))
    del two.predictions[3]
    with pytest.raises(ProtocolError, match="these reports scored different ones"):
        compare_paired(one, two)
    two.predictions.clear()
    with pytest.raises(ValueError, match=r"The report of other lacks its predictions\.jsonl"):
        compare_paired(one, two)


def test_the_command_writes_markdown_csv_and_latex(tmp_path):
    for name, report in zip(("a", "b"), paired_reports()):
        report.save(tmp_path / name)

    def compare(*arguments):
        done = CliRunner().invoke(app, ["compare", str(tmp_path / "a"), str(tmp_path / "b"), *map(str, arguments)])
        return done.exit_code, done.output

    for suffix, first in (
        (".md", "# talks"),
        (".csv", "model,memory layers,scope"),
        (".tex", "% \\usepackage{booktabs}"),
    ):
        assert compare("--output", tmp_path / f"out{suffix}")[0] == 0
        assert (tmp_path / f"out{suffix}").read_text().startswith(first)
    assert compare("--paired", "--output", tmp_path / "pair.csv")[0] == 0
    assert (tmp_path / "pair.csv").read_text().startswith("condition,WA,WA low,WA high,UA")
    code, text = compare("--paired")
    assert (code, "# m0 minus other" in text) == (0, True)
    code, text = compare("--output", tmp_path / "out.docx")
    assert (code, "must end in .md, .csv or .tex" in text) == (1, True)
    done = CliRunner().invoke(app, ["compare", str(tmp_path / "a"), "--paired"])
    assert (done.exit_code, "--paired needs exactly two reports, got 1" in done.output) == (1, True)


def test_a_report_of_a_later_version_is_rejected(tmp_path):
    report = make_report()
    report.save(tmp_path)
    text = (tmp_path / "report.json").read_text()
    (tmp_path / "report.json").write_text(text.replace('"schema_version": "3.0"', '"schema_version": "4.1"'))
    with pytest.raises(ValueError, match=r"schema version 4\.1, but this version of titans_mal reads only up to 3\.0"):
        EvaluationReport.load(tmp_path)


def test_reports_of_version_1_can_be_read(tmp_path):
    """Without what version 2 brought."""
    content = copy.deepcopy(make_report().content) | {"schema_version": 1}
    for name in ("left_out", "without_partner", "dimensions", "groups", "cut"):
        content.pop(name, None)
    content["model"] = {name: content["model"][name] for name in ("name", "class", "base", "base_revision", "memory")}
    content["model"] |= {"weights": None, "dtype": "float32"}
    for column in content["conditions"].values():
        del column["calibration"]
        for found in column["by_history"].values():
            del found["interval"]
    old = EvaluationReport(content, make_report().predictions)
    old.save(tmp_path)
    assert EvaluationReport.load(tmp_path) == old
    assert "| m0 | 0 | conversation | not recorded | not recorded |" in comparison_markdown([old])
    assert "## Calibration" not in (tmp_path / "report.md").read_text()
    assert not (tmp_path / "calibration.png").exists()
