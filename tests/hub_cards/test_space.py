"""The Space's app in a headless browser, with the tiny checkpoint and no network but loopback."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoProcessor

from titans_mal import AudioEmotionPipeline, AutoModelForAudioEmotion
from titans_mal.publishing import write_space


QUICKSTART = Path(__file__).resolve().parents[2] / "examples" / "quickstart"
CHECKPOINT = QUICKSTART / "tiny-qwen2-audio-mal"
TURNS = [QUICKSTART / "conversation" / name for name in ("turn_00_A.wav", "turn_01_B.wav", "turn_03_A.wav")]
# A microphone that beeps, and no question whether it may be used.
ARGUMENTS = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
SECONDS_TO_START = 120
SECONDS_TO_ANSWER = 30

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = [name for name in ("gradio", "playwright") if importlib.util.find_spec(name) is None]
if CHROMIUM is None:
    MISSING.append("chromium")
if MISSING:
    pytest.skip(f"not installed: {', '.join(MISSING)}", allow_module_level=True)

from playwright.sync_api import BrowserContext, Locator, Page, expect, sync_playwright  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def _patience():
    expect.set_options(timeout=1000 * SECONDS_TO_ANSWER)


@pytest.fixture(scope="module")
def pipe() -> AudioEmotionPipeline:
    """The tiny checkpoint, by the package."""
    model, processor = AutoModelForAudioEmotion.from_pretrained(CHECKPOINT), AutoProcessor.from_pretrained(CHECKPOINT)
    return AudioEmotionPipeline(model=model, processor=processor)


@pytest.fixture(scope="module")
def address(pipe, tmp_path_factory) -> Iterator[str]:
    """Of the app, which runs in a process of its own, on what a Space has: its files, and a model with its code."""
    folder = tmp_path_factory.mktemp("space")
    pipe.save_pretrained(folder / "model")
    write_space(folder, "org/name")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    environment = {
        **os.environ,
        "MODEL_ID": str(folder / "model"),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_SERVER_PORT": url.rpartition(":")[2],
        "GRADIO_TEMP_DIR": str(folder / "gradio"),
        "HF_HUB_OFFLINE": "1",
        "HF_MODULES_CACHE": str(folder / "modules"),
    }
    log = folder / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait_until_served(url, process, log)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)
    assert "Traceback" not in log.read_text(), log.read_text()


def _wait_until_served(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the app does not answer, its exit status is {process.poll()}:\n{log.read_text()}")


@pytest.fixture
def page(address) -> Iterator[Page]:
    """The app, just opened. What it asks of other hosts is refused, and fails the test."""
    asked_elsewhere = []

    def refuse(route):
        asked_elsewhere.append(route.request.url)
        route.abort()

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        context = browser.new_context(viewport={"width": 1280, "height": 1000})
        context.set_default_timeout(1000 * SECONDS_TO_ANSWER)
        context.route(lambda url: url.startswith(("http:", "https:")) and not url.startswith(f"{address}/"), refuse)
        yield _open(context, address)
        browser.close()
    assert not asked_elsewhere


def _open(context: BrowserContext, address: str) -> Page:
    page = context.new_page()
    page.goto(address)
    expect(_button(page, "Add turn")).to_be_visible()
    return page


@pytest.fixture
def bad_audio(tmp_path) -> Path:
    path = tmp_path / "bad.wav"
    path.write_text("This is no audio.")
    return path


def _button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def _rows(page: Page) -> Locator:
    """Of the table, without its head."""
    return page.get_by_role("grid", name="Turns").get_by_role("row").filter(has=page.get_by_role("gridcell"))


def _picture(page: Page) -> Locator:
    return page.locator("img[src*='timeline.png']")


def _choose(page: Page, file: Path) -> None:
    audio = page.locator("#audio")
    expect(audio.get_by_role("button", name="Clear")).to_have_count(0)
    audio.locator("input[type=file]").set_input_files(file)
    audio.get_by_role("button", name="Clear").wait_for()


def _add(page: Page, file: Path, speaker: str | None = None) -> None:
    _choose(page, file)
    if speaker is not None:
        page.get_by_role("combobox").fill(speaker)
        page.get_by_role("combobox").press("Enter")
    _button(page, "Add turn").click()


def _add_several(page: Page, files: list[Path]) -> None:
    page.get_by_test_id("Choose several files-upload-button").set_input_files(files)
    _button(page, "Add these turns").click()


def _downloaded(page: Page) -> list[dict]:
    with page.expect_download() as download:
        _button(page, "Download JSON").click()
    return json.loads(download.value.path().read_text(encoding="utf-8"))


def _check_scores(turns: list[dict], pipe: AudioEmotionPipeline, files: list[Path]) -> None:
    """The scores of the files are those of the pipeline."""
    said = [{"audio": file, "speaker": turn["speaker"]} for file, turn in zip(files, turns, strict=True)]
    for turn, scored, alone in zip(turns, pipe(said), pipe(said, memory=False)):
        assert turn["scores"] == pytest.approx(scored["scores"], abs=1e-5)
        assert turn["surprise"] == pytest.approx(scored["surprise"], abs=1e-5)
        assert turn["without_memory"]["scores"] == pytest.approx(alone["scores"], abs=1e-5)


def test_a_conversation_is_scored_shown_downloaded_and_reset(page, tmp_path):
    expect(_rows(page)).to_have_count(0)
    expect(_button(page, "Download JSON")).to_be_disabled()
    page.screenshot(path=tmp_path / "empty.png", full_page=True)

    for count, file in enumerate(TURNS[:2], start=1):
        _add(page, file)
        expect(_rows(page)).to_have_count(count)
    assert [row.split("\n")[1] for row in _rows(page).all_inner_texts()] == ["A", "B"]
    _picture(page).scroll_into_view_if_needed()
    expect(_picture(page)).to_have_js_property("complete", True)
    assert _picture(page).evaluate("picture => picture.naturalWidth") > 0
    page.screenshot(path=tmp_path / "two_turns.png", full_page=True)

    _button(page, "Add turn").click()
    expect(page.get_by_text("There is no audio yet")).to_be_visible()
    expect(_rows(page)).to_have_count(2)
    page.screenshot(path=tmp_path / "no_audio.png", full_page=True)

    turns = _downloaded(page)
    assert [(turn["turn_index"], turn["speaker"], turn["file"]) for turn in turns] == [
        (0, "A", "turn_00_A.wav"),
        (1, "B", "turn_01_B.wav"),
    ]
    assert turns[0]["start"] == 0 < turns[0]["end"] == turns[1]["start"] < turns[1]["end"]

    _button(page, "New conversation").click()
    expect(_rows(page)).to_have_count(0)
    expect(_picture(page)).to_have_count(0)
    expect(_button(page, "Download JSON")).to_be_disabled()


def test_the_memory_goes_from_turn_to_turn_as_in_the_pipeline(page, pipe):
    _add(page, TURNS[0], speaker="Ada")
    expect(_rows(page)).to_have_count(1)
    _add_several(page, TURNS[1:])
    expect(_rows(page)).to_have_count(3)
    turns = _downloaded(page)

    assert [turn["speaker"] for turn in turns] == ["Ada", "A", "Ada"]
    _check_scores(turns, pipe, TURNS)
    assert turns[2]["scores"] != pytest.approx(turns[2]["without_memory"]["scores"], abs=1e-2)


def test_bad_audio_is_reported_and_changes_nothing(page, pipe, bad_audio):
    _add(page, TURNS[0])
    expect(_rows(page)).to_have_count(1)
    before = _downloaded(page)

    _add(page, bad_audio)
    expect(page.get_by_text("Turn 1 (file 'bad.wav')")).to_be_visible()
    _add_several(page, [TURNS[1], bad_audio])  # what comes before the bad one is not kept either
    expect(page.get_by_text("Turn 2 (file 'bad.wav')")).to_be_visible()

    expect(_rows(page)).to_have_count(1)
    assert _downloaded(page) == before
    page.locator("#audio").get_by_role("button", name="Clear").click()
    _add(page, TURNS[2])
    expect(_rows(page)).to_have_count(2)
    _check_scores(_downloaded(page), pipe, [TURNS[0], TURNS[2]])


def test_each_page_has_its_own_conversation(page, address):
    _add(page, TURNS[0])
    expect(_rows(page)).to_have_count(1)
    other = _open(page.context, address)
    expect(_rows(other)).to_have_count(0)
    _add(other, TURNS[1])
    expect(_rows(other)).to_have_count(1)
    assert [turn["file"] for turn in _downloaded(other)] == ["turn_01_B.wav"]
    assert [turn["file"] for turn in _downloaded(page)] == ["turn_00_A.wav"]


def test_a_turn_is_recorded(page):
    audio = page.locator("#audio")
    audio.get_by_role("button", name="Record audio").click()
    audio.get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(1000)
    audio.get_by_role("button", name="Stop").locator("visible=true").click()
    expect(audio.get_by_role("button", name="Play", exact=True)).to_be_visible()
    _button(page, "Add turn").click()
    expect(_rows(page)).to_have_count(1)
    (turn,) = _downloaded(page)
    assert turn["end"] > 0.3


def test_each_of_several_files_has_a_speaker_that_can_be_changed(page):
    page.get_by_test_id("Choose several files-upload-button").set_input_files(TURNS[:2])
    waiting = page.get_by_role("grid", name="To be added").get_by_role("row").filter(has=page.get_by_role("gridcell"))
    expect(waiting).to_have_count(2)
    speaker = waiting.nth(1).get_by_role("gridcell").last
    speaker.dblclick()
    page.keyboard.press("ControlOrMeta+A")
    page.keyboard.type("Bob")
    page.keyboard.press("Enter")
    _button(page, "Add these turns").click()
    expect(_rows(page)).to_have_count(2)
    assert [turn["speaker"] for turn in _downloaded(page)] == ["A", "Bob"]


def test_an_example_is_clicked(page):
    expect(page.get_by_text("Model:")).to_be_visible()
    page.get_by_text("turn_01_B.wav").first.click()
    page.locator("#audio").get_by_role("button", name="Clear").wait_for()
    _button(page, "Add turn").click()
    expect(_rows(page)).to_have_count(1)
    (turn,) = _downloaded(page)
    assert turn["speaker"] == "B"
