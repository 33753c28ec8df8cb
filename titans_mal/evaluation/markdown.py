"""A report as Markdown."""

from __future__ import annotations

from ..safe_text import markdown_item, markdown_text
from .report_tables import (
    INTERVALS,
    SPELT_OUT,
    THIN,
    calibration_table,
    coverage_table,
    difference_table,
    dimension_table,
    group_tables,
    history_table,
    metrics_table,
    protocol_table,
    recall_table,
    worst_groups,
)


# Tables of groups with more rows are not included.
_MOST_ROWS = 30


def report_markdown(content: dict) -> str:
    """The content of a report as Markdown, for the folder that also holds its plots."""
    parts = [
        f"# {markdown_text(content['model']['name'])} on {markdown_text(content['protocol']['corpus'])}",
        protocol_table(content).markdown(),
        *_condition_parts(content),
        *_dimension_parts(content),
        *_group_parts(content),
        *_calibration_parts(content),
        *_turn_parts(content),
    ]
    return "\n\n".join(parts) + "\n"


def _condition_parts(content: dict) -> list[str]:
    """The parts about labels; for a model or data without labels, only the list of what was left out."""
    conditions = content["conditions"]
    reasons = content.get("left_out", {})
    lines = [markdown_text(f"Left out: {name}, since {why}.") for name, why in reasons.items()]
    left_out = ["\n".join(lines)] if lines else []
    if not conditions:
        return left_out
    parts = [
        f"## Conditions\n\n{INTERVALS} {SPELT_OUT}",
        metrics_table(content).markdown(),
        "\n".join(markdown_item(f"{found['title']}: {found['description']}") for found in conditions.values()),
        *left_out,
    ]
    if "other_state" in conditions and content.get("without_partner"):
        parts.append(
            f"{content['without_partner']} of {content['protocol']['conversations']} conversations have no partner "
            "(another one with no common speaker and at most one turn less): they are left out of "
            f"'{markdown_text(conditions['other_state']['title'])}'."
        )
    if "other_state" in conditions and content.get("partners_from_training"):
        parts.append(
            f"In '{markdown_text(conditions['other_state']['title'])}', the other conversation is of the training "
            f"split for {content['partners_from_training']} of {content['protocol']['conversations']} conversations, "
            "because the evaluated split has no suitable one."
        )
    if content["differences"]:
        parts += [
            "## Memory on, minus each other condition\n\nPercentage points on the same turns. McNemar's test assumes "
            "independent turns; the intervals, by conversation, do not.",
            difference_table(content).markdown(),
        ]
    return [
        *parts,
        f"## WA by history\n\nBy the number of earlier turns of the speaker in the conversation. {THIN}",
        history_table(content).markdown(),
        "![WA by history](history.png)",
        "## Recall of each label",
        recall_table(content).markdown(),
        "![Confusion](confusion.png)",
    ]


def _turn_parts(content: dict) -> list[str]:
    """Turns that were left out or cut, and problems of the data."""
    parts = []
    if content["not_scored"]:
        listed = [
            markdown_item(f"{t['conversation_id']}, turn {t['turn_index']}: {t['reason']}")
            for t in content["not_scored"]
        ]
        parts += [
            f"## Turns that could not be scored ({len(listed)})\n\nLeft out of every condition.",
            "\n".join(listed),
        ]
    if content.get("cut"):
        listed = [
            markdown_item(
                f"{turn['conversation_id']}, turn {turn['turn_index']}: the first {turn['processed_seconds']:g} of "
                f"{turn['seconds']:.1f} s"
            )
            for turn in content["cut"]
        ]
        parts += [f"## Turns longer than the host processes ({len(listed)})", "\n".join(listed)]
    if content["problems"]:
        listed = [markdown_item(problem) for problem in content["problems"]]
        parts += [f"## Problems of the data ({len(listed)})", "\n".join(listed)]
    return parts


def _group_parts(content: dict) -> list[str]:
    tables = group_tables(content)
    if not tables:
        return []
    shown = [table.markdown() for table in tables if len(table.rows) <= _MOST_ROWS]
    longer = [
        f"tables/{table.name}.csv has all {len(table.rows)}." for table in tables if len(table.rows) > _MOST_ROWS
    ]
    return ["## Results by group", *worst_groups(content), *shown, *longer]


def _dimension_parts(content: dict) -> list[str]:
    table = dimension_table(content)
    if not table.rows:
        return []
    return [
        "## Dimensions\n\nConcordance correlation coefficient (CCC) with the raters' values, times 100.",
        table.markdown(),
    ]


def _calibration_parts(content: dict) -> list[str]:
    table, coverage = calibration_table(content), coverage_table(content)
    if not table.rows:
        return []
    temperature = content["model"].get("temperature", 1.0)
    parts = [
        "## Calibration\n\nExpected calibration error: the mean difference between a probability and the share of "
        f"correct turns at it, in percentage points. The temperature of the probabilities is {temperature:.3g}.",
        table.markdown(),
        "![Calibration](calibration.png)",
    ]
    if coverage.rows:
        parts += [
            "If turns below a probability are labelled unknown (`--unknown-below`), with memory on:",
            coverage.markdown(),
        ]
    return parts
