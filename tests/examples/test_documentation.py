"""README and the pages of the documentation: their code, their links, and the site that is built of them."""

import contextlib
import io
import json
import re
import runpy
import shlex
from pathlib import Path

import pytest
from corpus_trees import iemocap, meld
from tiny_models import tiny_model, tiny_processor
from typer.testing import CliRunner

from titans_mal.cli import app


ROOT = Path(__file__).parents[2]
DOCUMENTATION = ROOT / "examples" / "documentation"
PAGES = DOCUMENTATION / "pages"
FILES = sorted([ROOT / "README.md", DOCUMENTATION / "package.md", *PAGES.rglob("*.md")])
NAMES = [str(path.relative_to(ROOT)) for path in FILES]
# How many blocks of each page are not run; each has its reason before it.
NOT_RUN = {"tutorial": 2, "analyse": 1, "evaluate": 1, "train": 2, "publish": 2, "serve": 1, "README": 1}
_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S
)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def blocks_of(path: Path) -> list[tuple[str | None, str, str]]:
    """Reason not to run it, language and code of each block."""
    return [match.group("reason", "language", "code") for match in _BLOCK.finditer(path.read_text(encoding="utf-8"))]


def test_blocks_that_are_not_run_are_marked_and_counted():
    marked = {path.stem: sum(reason is not None for reason, _, _ in blocks_of(path)) for path in FILES}
    assert {name: count for name, count in marked.items() if count} == NOT_RUN
    for path in FILES:
        assert path.read_text(encoding="utf-8").count("```") == 2 * len(blocks_of(path)), path
        languages = {language for _, language, _ in blocks_of(path)}
        assert languages <= {"bash", "bibtex", "python", "text"}, path


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_links_lead_somewhere(path):
    for link in _LINK.findall(path.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        if target.startswith("https://"):
            continue
        assert path.name != "package.md", f"{link} is broken outside of the repository"
        file = (path.parent / target) if target else path
        assert file.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, link


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"[\w/]+\.md", (DOCUMENTATION / "mkdocs.yml").read_text(encoding="utf-8")))
    assert listed == {str(path.relative_to(PAGES)) for path in PAGES.rglob("*.md")}


def test_the_readme_is_a_landing_page():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    _, glossary = text.split("| word | meaning |\n| --- | --- |\n")
    assert len(glossary.partition("\n\n")[0].splitlines()) <= 12
    human = (ROOT / "examples" / "real_voices" / "FEATURES.md").read_text(encoding="utf-8")
    same = {"utterance only": "utterance only", "memory of voices": "**memory**",
            "the same, reset before every turn": "memory, reset before every turn",
            "the same, with another dialogue's history": "memory, another dialogue's history"}  # fmt: skip
    page = (PAGES / "evidence.md").read_text(encoding="utf-8")
    for ours, theirs in same.items():
        cells = [_cells(ours, text), _cells(ours, page), _cells(theirs, human)]
        assert len(cells[0]) == 4
        assert cells[0] == cells[1] == cells[2], ours
    version = re.search(r"version = \{(.*?)\}", text)[1]
    assert runpy.run_path(str(ROOT / "titans_mal" / "_version.py"))["__version__"] == version


def _cells(row: str, table: str) -> list[str]:
    """The cells of the only row of a table that begins like this."""
    (found,) = re.findall(rf"^\| {re.escape(row)} \|(.*)\|$", table.split("\n| network |")[0], re.M)
    return [cell.strip() for cell in found.split("|")]


def test_the_readmes_code_prints_what_it_says(monkeypatch):
    """Five lines of code with at most five names."""
    monkeypatch.chdir(ROOT)
    (code,) = [code for _, language, code in blocks_of(ROOT / "README.md") if language == "python"]
    (said,) = [code for _, language, code in blocks_of(ROOT / "README.md") if language == "text"]
    assert len([line for line in code.splitlines() if line.strip()]) == 5
    imported = re.findall(r"import (.*?)(?:  #.*)?$", code, re.M)
    assert len([name for names in imported for name in names.split(",")]) <= 5
    printed = _run_python(code, {})
    assert said.endswith("\n...\n")
    assert printed.startswith(said.removesuffix("...\n"))


def _run_python(code: str, names: dict) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "documentation", "exec"), names)
    return out.getvalue()


def _run_commands(code: str) -> None:
    for line in code.replace("\\\n", " ").splitlines():
        command, *arguments = shlex.split(line, comments=True)
        assert command == "titans-mal", line
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in FILES if path.name != "README.md"], ids=lambda path: path.stem)
def test_code_runs(path, tmp_path, monkeypatch):
    """In a folder of its own that has the examples, page by page, from top to bottom."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for reason, language, code in blocks_of(path):
        if reason is None and language == "python":
            _run_python(code, names)
        elif reason is None and language == "bash":
            _run_commands(code)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*turns:UserWarning")
def test_the_guides_model_and_corpora_fit_each_other(tmp_path, monkeypatch):
    """The commands of the guide that need licensed corpora, on trees that look like them."""
    monkeypatch.chdir(tmp_path)
    tiny_model().save_pretrained("out/model")
    tiny_processor().save_pretrained("out/model")
    iemocap(tmp_path / "IEMOCAP_full_release")
    meld(tmp_path / "MELD.Raw")
    ((_, _, code),) = [block for block in blocks_of(PAGES / "guides" / "evaluate.md") if block[0] is not None]
    evaluate, _, calibrate = code.replace("\\\n", " ").splitlines()
    _run_commands(f"{evaluate} --resamples 100")
    _run_commands(calibrate)
    assert json.loads(Path("out/model/config.json").read_text())["emotion_temperature"] != 1


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_fetches_nothing(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    build = runpy.run_path(str(DOCUMENTATION / "build.py"))
    build["main"](tmp_path / "site")
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) == len(list(PAGES.rglob("*.md"))) + 1  # 404.html
    for page in pages:
        assert not re.findall(r'(?:src|<link[^>]*href)="https?://[^"]*"', page.read_text(encoding="utf-8")), page
    reference = (tmp_path / "site" / "reference" / "memory.html").read_text(encoding="utf-8")
    assert "doc-object" in reference
