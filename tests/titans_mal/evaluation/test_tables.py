"""Tables as Markdown, CSV and LaTeX."""

import csv
import io

from titans_mal.evaluation.tables import Number, Table


TABLE = Table(
    "metrics",
    ["condition", "turns", "WA", "mean"],
    [
        ["memory_on & 100 %", 12, Number(0.71314, (-0.02, 0.742)), Number(0.5, deviation=0.012)],
        ["a|b", 3, Number(-0.1), Number(None)],
    ],
)


def test_markdown():
    assert TABLE.markdown().splitlines() == [
        "| condition | turns | WA | mean |",
        "| --- | --- | --- | --- |",
        "| memory_on & 100 % | 12 | 71.3 (-2.0 to 74.2) | 50.0 +- 1.2 |",
        "| a\\|b | 3 | -10.0 | - |",
    ]


def test_csv_has_columns_of_numbers():
    rows = list(csv.reader(io.StringIO(TABLE.csv())))
    assert rows == [
        ["condition", "turns", "WA", "WA low", "WA high", "mean", "mean deviation"],
        ["memory_on & 100 %", "12", "71.3140", "-2.0000", "74.2000", "50.0000", "1.2000"],
        ["a|b", "3", "-10.0000", "", "", "", ""],
    ]


def test_latex_escapes_and_uses_booktabs():
    assert TABLE.latex().splitlines() == [
        r"% \usepackage{booktabs}",
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r"condition & turns & WA & mean \\",
        r"\midrule",
        r"memory\_on \& 100 \% & 12 & 71.3 {\scriptsize [$-$2.0, 74.2]} & 50.0 $\pm$ 1.2 \\",
        r"a\textbar{}b & 3 & $-$10.0 & - \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_files(tmp_path):
    TABLE.save(tmp_path / "tables")
    assert (tmp_path / "tables" / "metrics.csv").read_text() == TABLE.csv()
    assert (tmp_path / "tables" / "metrics.tex").read_text() == TABLE.latex()


def test_headers_are_no_formulas():
    """Titles of columns are labels, which a corpus names."""
    assert Table("recall", ["=1+1", "WA"], [["a", 1]]).csv().startswith("'=1+1,WA\n")


def test_latex_cells_are_neither_arguments_nor_paragraphs():
    """`\\\\[` and `\\\\*` have a meaning, and an empty line ends a table."""
    lines = Table("recall", ["[x]", "*"], [["[sad]", 1], ["*sad", 2], ["a\n\nb_~^%#", 3]]).latex().splitlines()
    assert lines[3] == r"{[}x{]} & {*} \\"
    assert lines[5:8] == [
        r"{[}sad{]} & 1 \\",
        r"{*}sad & 2 \\",
        r"a b\_\textasciitilde{}\textasciicircum{}\%\# & 3 \\",
    ]
