"""A report for people: Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .statistics import METRICS


INTERVALS = "Percent, with 95 % intervals by bootstrap over conversations, where there are at least ten."
METRIC_TITLES = {"wa": "WA", "ua": "UA", "weighted_f1": "WF1", "macro_f1": "macro F1"}


def report_markdown(content: dict) -> str:
    """The Markdown of a report's content, for the folder that also holds its pictures."""
    protocol, columns = content["protocol"], content["columns"]
    parts = [
        f"# {content['model']['name']} on {protocol['corpus']}",
        protocol_table(content),
        f"## Columns\n\n{INTERVALS}",
        metrics_table(content),
        "\n".join(f"- {column['title']}: {column['description']}" for column in columns.values()),
    ]
    if content["differences"]:
        parts += [
            "## Memory on, minus each other column\n\nPercentage points on the same turns. McNemar's test takes turns "
            "for independent; the intervals, by conversation, do not.",
            difference_table(content),
        ]
    depths = list(next(iter(columns.values()))["by_history"])
    counts = [str(next(iter(columns.values()))["by_history"][depth]["turns"]) for depth in depths]
    parts += [
        "## WA by history\n\nBy the number of earlier turns of the speaker in the conversation.",
        table(
            ["column", *depths],
            [["turns", *counts], *([c["title"], *(_percent(c["by_history"][d]["wa"]) for d in depths)]
                                   for c in columns.values())],
        ),
        "![WA by history](history.png)",
        "## Recall of each label",
        table(
            ["column", *protocol["labels"]],
            ([c["title"], *map(_percent, c["recall"].values())] for c in columns.values()),
        ),
        "![Confusion](confusion.png)",
    ]  # fmt: skip
    if content["not_heard"]:
        listed = [f"- {t['conversation_id']}, turn {t['turn_index']}: {t['reason']}" for t in content["not_heard"]]
        parts += [f"## Turns that could not be heard ({len(listed)})\n\nLeft out of every column.", "\n".join(listed)]
    if content["problems"]:
        listed = [f"- {problem}" for problem in content["problems"]]
        parts += [f"## Problems of the data ({len(listed)})", "\n".join(listed)]
    return "\n\n".join(parts) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; what would end a cell is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def protocol_table(content: dict) -> str:
    """What the numbers of a report were measured under."""
    protocol, model = content["protocol"], content["model"]
    shortest, longest = protocol["heard_seconds"]
    heard = f"padded to {shortest} s" + ("" if longest is None else f", cut to {longest:g} s")
    rows = {
        "corpus, label set": f"{protocol['corpus']}, {protocol['label_set']} ({', '.join(protocol['labels'])})",
        "fold, split": f"{'-' if protocol['fold'] is None else protocol['fold']}, {protocol['split']}",
        "turns, scored, conversations": f"{protocol['turns']}, {protocol['scored']}, {protocol['conversations']}",
        "data": protocol["data"],
        "prompt": protocol["prompt"],
        "readout": protocol["readout"],
        "turns are": heard,
        "model": f"{model['name']} ({model['class']}, {model['dtype']}, memory {model['weights']})",
        "base": f"{model['base'] or '-'} @ {model['base_revision'] or '-'}",
        "memory": f"layers {memory_layers(model)}, scope {memory_scope(model)}",
        "LoRA": lora_name(model),
        "training seed": training_seed(model),
        "seed, bootstrap": f"{protocol['seed']}, {content['bootstrap']['resamples']} resamples",
        "majority from": content["majority_from"],
        "versions": ", ".join(f"{package} {version}" for package, version in protocol["versions"].items()),
    }
    return table(["protocol", ""], rows.items())


def memory_layers(model: dict) -> str:
    """The blocks with memory of a report's `model`: "8, 16, 24"."""
    return ", ".join(map(str, model["memory"].get("layers", [0])))


def memory_scope(model: dict) -> str:
    return model["memory"].get("scope", "conversation")


def lora_name(model: dict) -> str:
    """The LoRA of a report's `model`: "rank 16 on .*q_proj", or "-"; reports of schema version 1 do not have it."""
    if "lora" not in model:
        return "not recorded"
    lora = model["lora"]
    if lora is None:
        return "-"
    targets = lora["targets"] if isinstance(lora["targets"], str) else ", ".join(lora["targets"] or [])
    return f"rank {lora['rank']} on {targets}"


def training_seed(model: dict) -> str:
    """The seed of the training of a report's `model`, where it is recorded."""
    return str((model.get("training") or {}).get("seed", "not recorded"))


def metrics_table(content: dict) -> str:
    """The metrics of each column of a report."""
    columns = content["columns"]
    return table(["column", *METRIC_TITLES.values(), *_unparsable_title(columns)], map(_metrics_row, columns.values()))


def difference_table(content: dict) -> str:
    """What memory on has more than each other column."""
    return table(["minus", *METRIC_TITLES.values(), "better / worse turns", "McNemar p"], _difference_rows(content))


def format_metric(metric: dict) -> str:
    """A metric in percent with its interval: "71.3 (68.0 to 74.2)"."""
    ends = metric["interval"]
    return _percent(metric["value"]) + ("" if ends is None else f" ({_percent(ends[0])} to {_percent(ends[1])})")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _unparsable_title(columns: dict) -> list[str]:
    return ["no label named"] if any(column["unparsable"] is not None for column in columns.values()) else []


def _metrics_row(column: dict) -> list[str]:
    unparsable = [] if column["unparsable"] is None else [_percent(column["unparsable"])]
    return [column["title"], *(format_metric(column["metrics"][name]) for name in METRICS), *unparsable]


def _difference_rows(content: dict) -> Iterable[list[str]]:
    for name, found in content["differences"].items():
        test = found["mcnemar"]
        metrics = [format_metric(found["metrics"][metric]) for metric in METRICS]
        yield [content["columns"][name]["title"], *metrics, f"{test['better']} / {test['worse']}", f"{test['p']:.2g}"]
