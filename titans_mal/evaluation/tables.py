"""A table of a report as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..safe_text import csv_cell, markdown_text


_LATEX = str.maketrans(
    {character: rf"\{character}" for character in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "<": r"\textless{}"}
    | {">": r"\textgreater{}", "|": r"\textbar{}"}
    # At the beginning of a row these would be arguments of the line break before it.
    | {"[": "{[}", "]": "{]}", "*": "{*}"}
)


@dataclass(frozen=True)
class Number:
    """A share or a difference of shares, shown in percent.

    Attributes:
        value: None if there is none.
        interval: its two ends.
        deviation: sample standard deviation over runs.
    """

    value: float | None
    interval: Sequence[float] | None = None
    deviation: float | None = None

    @classmethod
    def of(cls, metric: dict) -> Number:
        """From a report's `{"value", "interval"}`, or a mean's `{"value", "deviation"}`."""
        return cls(metric["value"], metric.get("interval"), metric.get("deviation"))

    def __str__(self) -> str:
        return self.text("{} ({} to {})", "{} +- {}")

    def text(self, with_interval: str, with_deviation: str) -> str:
        """Percent, formatted by the template for a value with an interval or for one with a deviation."""
        if self.interval is not None:
            return with_interval.format(*map(percent, (self.value, *self.interval)))
        if self.deviation is not None:
            return with_deviation.format(*map(percent, (self.value, self.deviation)))
        return percent(self.value)


def percent(share: float | None) -> str:
    """A share as "71.3"; "-" for None."""
    return "-" if share is None else f"{100 * share:.1f}"


@dataclass
class Table:
    """Rows under a header.

    Attributes:
        name: file name without suffix.
        header: one title per column.
        rows: cells are text, integers or `Number`s; as many as titles.
    """

    name: str
    header: Sequence[str]
    rows: list[Sequence] = field(default_factory=list)

    def markdown(self) -> str:
        """As Markdown, with escaped cells."""
        return markdown_table(self.header, self.rows)

    def csv(self) -> str:
        """As CSV: numbers in percent, with extra columns for the ends of intervals and for deviations."""
        has_ends = [any(getattr(cell, "interval", None) for cell in column) for column in self._columns()]
        deviates = [any(getattr(cell, "deviation", None) is not None for cell in column) for column in self._columns()]
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            csv_cell(title)
            for name, ends, deviation in zip(self.header, has_ends, deviates)
            for title in [name, *[f"{name} low", f"{name} high"] * ends, *[f"{name} deviation"] * deviation]
        )
        for row in self.rows:
            writer.writerow(
                value
                for cell, ends, deviation in zip(row, has_ends, deviates)
                for value in _csv_cells(cell, has_ends=ends, deviates=deviation)
            )
        return file.getvalue()

    def latex(self) -> str:
        """As a LaTeX `tabular` with booktabs."""
        is_number = [all(isinstance(cell, Number | int) for cell in column) for column in self._columns()]
        lines = [
            r"% \usepackage{booktabs}",
            rf"\begin{{tabular}}{{{''.join('r' if number else 'l' for number in is_number)}}}",
            r"\toprule",
            " & ".join(map(_latex, self.header)) + r" \\",
            r"\midrule",
            *(" & ".join(map(_latex, row)) + r" \\" for row in self.rows),
            r"\bottomrule",
            r"\end{tabular}",
        ]
        return "\n".join(lines) + "\n"

    def save(self, folder: Path) -> None:
        """Write NAME.csv and NAME.tex into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.csv").write_text(self.csv(), encoding="utf-8")
        (folder / f"{self.name}.tex").write_text(self.latex(), encoding="utf-8")

    def _columns(self) -> list[list]:
        return [[row[place] for row in self.rows] for place in range(len(self.header))]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence]) -> str:
    """A Markdown table with escaped cells."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(markdown_text, line)) + " |" for line in lines)


def _csv_cells(cell, *, has_ends: bool, deviates: bool) -> list:
    if not isinstance(cell, Number):
        return [csv_cell(cell), *[""] * (2 * has_ends + deviates)]
    ends: Sequence[float | None] = [None, None] if cell.interval is None else cell.interval
    numbers = [cell.value, *(ends if has_ends else []), *([cell.deviation] if deviates else [])]
    return ["" if value is None else f"{100 * value:.4f}" for value in numbers]


def _latex(cell) -> str:
    if not isinstance(cell, Number):
        # An empty line would end the paragraph, and with it the table.
        return " ".join(str(cell).split()).translate(_LATEX)
    text = cell.text(r"{} {{\scriptsize [{}, {}]}}", r"{} $\pm$ {}")
    return re.sub(r"-(?=\d)", "$-$", text)
