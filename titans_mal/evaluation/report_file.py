"""The report of an evaluation on disk: JSON with a schema, tables, plots and predictions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ..modeling.atomic_files import replace_text
from ..modeling.deprecation import warn_renamed
from ..modeling.json_text import parse_json, read_json
from ..safe_text import encodable
from .report_schema import check_schema
from .report_versions import with_present_conditions, with_present_keys


# Major.minor. `report_versions` gives reports of earlier major versions the present keys.
SCHEMA_VERSION = "3.0"
REPORT_FILE, PREDICTIONS_FILE, TABLES_FOLDER = "report.json", "predictions.jsonl", "tables"


@dataclass
class EvaluationReport:
    """A report with its predictions.

    Attributes:
        content: as described by `report.schema.json`; a report of an earlier version gets the present keys.
        predictions: one dict per scored turn: `conversation_id`, `turn_index`, `speaker`, `label`, `predicted` (the
            label for each condition; None: an answer without a label), `probabilities` (of all labels, for each
            condition with probabilities) and `processed_seconds`.
    """

    content: dict
    predictions: list[dict]

    def __post_init__(self):
        version = self.content.get("schema_version") if isinstance(self.content, dict) else None
        if _is_later(version):
            raise ValueError(
                f"The report has schema version {version}, but this version of titans_mal reads only up to "
                f"{SCHEMA_VERSION}: use a later version."
            )
        self.content = with_present_keys(self.content)
        self.predictions = [with_present_conditions(prediction) for prediction in self.predictions]
        check_schema(self.content)

    @property
    def protocol(self) -> dict:
        return self.content["protocol"]

    @property
    def conditions(self) -> dict[str, dict]:
        """The results of each condition, baseline and floor."""
        return self.content["conditions"]

    @property
    def columns(self) -> dict[str, dict]:
        """Deprecated name of `conditions`."""
        warn_renamed("EvaluationReport.columns", "conditions")
        return self.conditions

    def save(self, folder: str | Path) -> None:
        """Write into a folder: JSON, Markdown, predictions, plots (PNG and PDF) and tables (CSV and LaTeX)."""
        from .markdown import report_markdown
        from .pictures import draw_calibration, draw_confusion, draw_history
        from .report_tables import report_tables

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps(turn) + "\n" for turn in self.predictions)
        (folder / PREDICTIONS_FILE).write_text("".join(lines), encoding="ascii")
        pictures = {"confusion": draw_confusion, "history": draw_history, "calibration": draw_calibration}
        for name, draw in pictures.items():
            draw(self.content, *(folder / f"{name}{suffix}" for suffix in (".png", ".pdf")))
        for table in report_tables(self.content):
            table.save(folder / TABLES_FOLDER)
        (folder / "report.md").write_text(encodable(report_markdown(self.content)), encoding="utf-8")
        content = json.dumps(self.content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        # It is written last and completely, since it marks the evaluation as finished.
        replace_text(folder / REPORT_FILE, encodable(content))

    @classmethod
    def load(cls, path: str | Path) -> EvaluationReport:
        """Read a report written by `save`.

        Args:
            path: the folder, or its `report.json`.

        Raises:
            FileNotFoundError: if there is no report.
            ValueError: if it does not match the schema, naming the position.
        """
        path = Path(path)
        path = path / REPORT_FILE if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"There is no evaluation report at {path}.")
        predictions = path.parent / PREDICTIONS_FILE
        lines = predictions.read_bytes().splitlines() if predictions.is_file() else []
        turns = [parse_json(line, f"{predictions}, line {number}", dict) for number, line in enumerate(lines, start=1)]
        return cls(read_json(path), turns)


def _is_later(version) -> bool:
    major = str(version).split(".")[0]
    return major.isdigit() and int(major) > int(SCHEMA_VERSION.split(".")[0])
