"""The tables of a report, for Markdown, CSV and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence

from ..safe_text import markdown_text
from .statistics import METRICS, MIN_CONVERSATIONS
from .tables import Number, Table


INTERVALS = "Percent, with 95 % intervals by bootstrap over conversations if there are at least ten."
METRIC_TITLES = {"wa": "WA", "ua": "UA", "weighted_f1": "WF1", "macro_f1": "macro F1"}
SPELT_OUT = (
    "WA: weighted accuracy, the share of correct turns. UA: unweighted accuracy, the mean recall over labels. "
    "WF1: F1 weighted by the turns of each label. Macro F1: mean F1 of the labels."
)
TITLES = {
    "memory": "memory on",
    "memory_off": "memory off",
    "host_memory": "memory on, LoRA off",
    "host": "host alone",
    "memory_half": "memory at half strength",
    "reset": "reset every turn",
    "other_state": "another conversation's state",
    "shuffled": "shuffled history",
    "speaker_normalised": "baseline: running per-speaker z-normalisation",
    "speaker_centred": "baseline: speaker centring",
    "transitions": "baseline: emotion transitions",
    "memory_transitions": "memory on, with emotion transitions",
    "majority": "floor: majority",
    "copy_previous": "floor: copy of the speaker's previous gold label",
}
# Titles for a model with a LoRA, which is independent of the memory.
TITLES_WITH_LORA = {"memory": "memory on, LoRA on", "memory_off": "memory off, LoRA on"}
# A range of history with fewer turns, or with too few conversations for an interval, is marked as uncertain.
MIN_TURNS = 20
# The same for a group of turns.
MIN_GROUP = 10


def report_tables(content: dict) -> list[Table]:
    """All tables of a report."""
    tables = [metrics_table(content), difference_table(content), history_table(content), recall_table(content)]
    tables += [calibration_table(content), dimension_table(content), *group_tables(content)]
    return [table for table in tables if table.rows]


def metrics_table(content: dict) -> Table:
    """The metrics of each condition."""
    conditions = content["conditions"]
    has_text = any(condition["unparsable"] is not None for condition in conditions.values())
    header = ["condition", *METRIC_TITLES.values()]
    rows: list[Sequence] = [[condition["title"], *_numbers(condition["metrics"])] for condition in conditions.values()]
    if has_text:
        header.append("no label named")
        rows = [[*row, Number(found["unparsable"])] for row, found in zip(rows, conditions.values())]
    return Table("metrics", header, rows)


def difference_table(content: dict) -> Table:
    """Memory on minus each other condition."""
    table = Table("differences", ["minus", *METRIC_TITLES.values(), "better / worse turns", "McNemar p"])
    for name, found in content["differences"].items():
        table.rows.append([content["conditions"][name]["title"], *difference_cells(found)])
    return table


def difference_cells(found: dict) -> list:
    """The cells of a difference: its metrics, the turns that only one side got right, and McNemar's p."""
    test = found["mcnemar"]
    return [*_numbers(found["metrics"]), f"{test['better']} / {test['worse']}", f"{test['p']:.2g}"]


def history_table(content: dict) -> Table:
    """WA of each condition by the number of earlier turns of the speaker; uncertain ranges are in brackets."""
    conditions = list(content["conditions"].values())
    depths = conditions[0]["by_history"] if conditions else {}
    titles = [f"({depth})" if is_thin(found) else depth for depth, found in depths.items()]
    table = Table("history", ["condition", *titles])
    if depths:
        table.rows.append(["turns", *(found["turns"] for found in depths.values())])
    for condition in conditions:
        found = (condition["by_history"].get(depth, {"wa": None}) for depth in depths)
        table.rows.append([condition["title"], *(Number(f["wa"], f.get("interval")) for f in found)])
    return table


def is_thin(found: dict) -> bool:
    """Whether a range of history has too few turns or conversations (unknown in reports of schema version 1)."""
    return found["turns"] < MIN_TURNS or ("interval" in found and found["interval"] is None)


def recall_table(content: dict) -> Table:
    """The recall of each label under each condition."""
    table = Table("recall", ["condition", *content["protocol"]["labels"]])
    for condition in content["conditions"].values():
        table.rows.append([condition["title"], *map(Number, condition["recall"].values())])
    return table


def calibration_table(content: dict) -> Table:
    """Calibration error and log loss of each condition."""
    table = Table("calibration", ["condition", "expected calibration error", "log loss"])
    for condition in content["conditions"].values():
        found = condition.get("calibration")
        if found is not None:
            table.rows.append([condition["title"], Number(found["ece"]), f"{found['log_loss']:.3f}"])
    return table


def dimension_table(content: dict) -> Table:
    """The concordance of each dimension under each condition, times 100."""
    results = content.get("dimensions", {})
    names = list(dict.fromkeys(name for found in results.values() for name in found))
    table = Table("dimensions", ["condition", *names])
    for condition, found in results.items():
        cells = (found.get(name, {"value": None, "interval": None}) for name in names)
        table.rows.append([TITLES.get(condition, condition), *map(Number.of, cells)])
    return table


def coverage_table(content: dict, *, accuracies=(0.6, 0.7, 0.8, 0.9, 0.95)) -> Table:
    """For several accuracies, the threshold below which turns are "unknown", with memory on."""
    table = Table("coverage", ["accuracy of at least", "threshold", "turns answered", "accuracy"])
    curve = (content["conditions"].get("memory", {}).get("calibration") or {}).get("coverage", [])
    for wanted in accuracies:
        point = next((point for point in curve if point["accuracy"] >= wanted), None)
        if point is not None:
            numbers = [Number(point["coverage"]), Number(point["accuracy"])]
            table.rows.append([Number(wanted), f"{point['threshold']:.3f}", *numbers])
    return table


def group_tables(content: dict) -> list[Table]:
    """WA and UA by gender, language and speaker, as far as the report has them."""
    tables = []
    for column, groups in content.get("groups", {}).items():
        names = list(next(iter(groups.values()))["conditions"])
        titles = [content["conditions"][name]["title"] for name in names]
        shown = [f"{metric}, {title}" for title in titles for metric in ("WA", "UA")]
        table = Table(f"by_{column}", [column, "turns", *shown])
        for group, found in groups.items():
            numbers = [Number(found["conditions"][name][metric]) for name in names for metric in ("wa", "ua")]
            table.rows.append([group, found["turns"], *numbers])
        tables.append(table)
    return tables


def worst_groups(content: dict) -> list[str]:
    """For each kind of group, a Markdown line: the worst and best group with enough turns, by UA with memory on."""
    lines = []
    for column, groups in content.get("groups", {}).items():
        condition = next(iter(next(iter(groups.values()))["conditions"]))
        enough = {name: found for name, found in groups.items() if found["turns"] >= MIN_GROUP}
        if len(enough) < 2:
            continue
        ranked = sorted(enough, key=lambda name: enough[name]["conditions"][condition]["ua"])
        ends = [
            f"{name} (UA {Number(enough[name]['conditions'][condition]['ua'])}, {enough[name]['turns']} turns)"
            for name in (ranked[0], ranked[-1])
        ]
        title = content["conditions"][condition]["title"]
        lines.append(
            markdown_text(
                f"By {column}, {title}: the worst of {len(enough)} with at least {MIN_GROUP} turns is {ends[0]}, the "
                f"best {ends[1]}."
            )
        )
    return lines


def protocol_table(content: dict) -> Table:
    """The protocol of a report."""
    protocol, model = content["protocol"], content["model"]
    shortest, longest = protocol["turn_seconds"]
    length = f"padded to {shortest} s" + ("" if longest is None else f", cut to {longest:g} s")
    rows = {
        "corpus, label set": f"{protocol['corpus']}, {protocol['label_set']} ({', '.join(protocol['labels'])})",
        "fold, split": f"{'-' if protocol['fold'] is None else protocol['fold']}, {protocol['split']}",
        "turns, scored, conversations": f"{protocol['turns']}, {protocol['scored']}, {protocol['conversations']}",
        "data": protocol["data"],
        "prompt": protocol["prompt"],
        "readout": protocol["readout"],
        "turns are": length,
        "model": f"{model['name']} ({model['class']}, {model['dtype']}, weights {model['weights']})",
        "base": f"{model['base'] or '-'} @ {model['base_revision'] or '-'}",
        "memory": f"layers {memory_layers(model)}, scope {memory_scope(model)}",
        "LoRA": lora_name(model),
        "training seed": training_seed(model),
        "seed, bootstrap": f"{protocol['seed']}, {content['bootstrap']['resamples']} resamples",
        "majority from": content["majority_from"],
        "versions": ", ".join(f"{package} {version}" for package, version in protocol["versions"].items()),
    }
    return Table("protocol", ["protocol", ""], list(rows.items()))


def memory_layers(model: dict) -> str:
    """The blocks with memory of a report's `model`: "8, 16, 24"."""
    return ", ".join(map(str, model["memory"].get("layers", [0])))


def memory_scope(model: dict) -> str:
    """The scope of the memory of a report's `model`."""
    return model["memory"].get("scope", "conversation")


def lora_name(model: dict) -> str:
    """The LoRA of a report's `model`: "rank 16 on .*q_proj", or "-"; not recorded in reports of schema version 1."""
    if "lora" not in model:
        return "not recorded"
    lora = model["lora"]
    if lora is None:
        return "-"
    targets = lora["targets"] or []
    if isinstance(targets, str):
        # A training writes one pattern per kind of layer, whose last part is the layer's name.
        is_written = "(" not in targets
        targets = sorted({pattern.rpartition(".")[2] for pattern in targets.split("|")}) if is_written else [targets]
    return f"rank {lora['rank']} on {', '.join(targets)}"


def training_seed(model: dict) -> str:
    """The training seed of a report's `model`, if it is recorded."""
    return str((model.get("training") or {}).get("seed", "not recorded"))


THIN = (
    f"Ranges of fewer than {MIN_TURNS} turns or {MIN_CONVERSATIONS} conversations are uncertain: they are in brackets "
    "here and grey in the plot."
)


def _numbers(metrics: dict) -> list[Number]:
    return [Number.of(metrics[name]) for name in METRICS]
