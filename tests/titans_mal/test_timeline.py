"""The timeline: what its figure holds, the files it writes, and what it refuses."""

import subprocess
import sys

import pytest
from matplotlib.colors import to_hex

from titans_mal.timeline import draw_timeline
from titans_mal.timeline_figure import BAR_HEIGHT, timeline_figure


EMOTIONS = ["anger", "joy", "neutral", "sadness"]


def make_turns(labels, *, speakers=("Ann", "Bob"), emotions=EMOTIONS, **common):
    """Turns of 2 s, one per label, the speakers by turns."""
    turns = []
    for index, label in enumerate(labels):
        turn = {
            "file": f"{index}.wav",
            "conversation_id": "dialogue 1",
            "turn_index": index,
            "speaker": speakers[index % len(speakers)],
            "start": 2.0 * index,
            "end": 2.0 * index + 2,
            "label": label,
            "score": 0.6,
            "scores": {emotion: 0.6 if emotion == label else 0.1 for emotion in emotions},
            "surprise": [1.0, 2.0 + index],
        }
        turns.append(turn | common)
    return turns


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_names_that_are_not_utf8_are_drawn_as_escapes(tmp_path, suffix):
    odd = "\ud800"
    turns = make_turns(
        ["anger", odd], speakers=("Ann", odd), emotions=["anger", odd], conversation_id=odd, emotion=odd
    )
    draw_timeline(turns, tmp_path / f"a.{suffix}", turns_without_memory=turns)
    assert (tmp_path / f"a.{suffix}").stat().st_size > 1000
    axes = timeline_figure(turns).axes[0]
    assert "\\ud800" in lane_names(axes)


def lane_names(axes):
    return [text.get_text() for text in axes.get_yticklabels()]


def legend_texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def legend_colours(figure):
    legend = figure.legends[0]
    return {
        text.get_text(): to_hex(patch.get_facecolor()) for text, patch in zip(legend.get_texts(), legend.get_patches())
    }


def bars(axes, kind):
    """The outlines, the bars, or the gold strips of a panel of lanes."""
    return axes.containers[("outline", "bar", "gold").index(kind)].patches


@pytest.mark.parametrize(
    ("name", "magic"),
    [("a.png", b"\x89PNG\r\n\x1a\n"), ("a.PNG", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")],
)
def test_writes_the_format_of_the_suffix(tmp_path, name, magic):
    path = draw_timeline(make_turns(["joy", "anger", "joy"]), str(tmp_path / name))
    assert path == tmp_path / name
    content = path.read_bytes()
    assert content.startswith(magic)
    assert len(content) > 5000


@pytest.mark.parametrize("count", [1, 3, 300])
def test_any_number_of_turns(tmp_path, count):
    turns = make_turns(["joy"] * count, speakers=("Ann", "Bob", "Cy"))
    path = draw_timeline(turns, tmp_path / "a.png", turns_without_memory=turns)
    assert path.stat().st_size > 5000


def test_width_grows_up_to_a_bound():
    widths = [timeline_figure(make_turns(["joy"] * count)).get_figwidth() for count in (3, 40, 300, 1000)]
    assert widths[0] < widths[1] < widths[2] == widths[3]


def test_lanes_bars_and_legend():
    turns = make_turns(["joy", "anger", "neutral"], speakers=("Zoe", None))
    figure = timeline_figure(turns)
    lanes, surprise = figure.axes
    assert lane_names(lanes) == ["Zoe", "(unknown)"]
    assert legend_texts(figure) == [*EMOTIONS, "full height: probability 1"]
    assert figure.get_suptitle() == "dialogue 1"
    assert [(bar.get_x(), bar.get_width(), bar.get_y()) for bar in bars(lanes, "bar")] == [
        (0, 2, 1),
        (2, 2, 0),
        (4, 2, 1),
    ]
    assert [bar.get_height() for bar in bars(lanes, "bar")] == pytest.approx([0.6 * BAR_HEIGHT] * 3)
    assert [bar.get_height() for bar in bars(lanes, "outline")] == pytest.approx([BAR_HEIGHT] * 3)
    colours = legend_colours(figure)
    assert [to_hex(bar.get_facecolor()) for bar in bars(lanes, "bar")] == [colours[turn["label"]] for turn in turns]
    assert surprise.get_xlabel() == "time (s)"


def test_surprise_is_the_mean_over_layers_at_the_middle_of_the_turn():
    turns = make_turns(["joy"] * 5)
    turns[1]["surprise"] = 7
    turns[2]["surprise"] = None
    turns[3]["surprise"] = []
    (line,) = timeline_figure(turns).axes[1].lines
    assert line.get_xdata() == pytest.approx([1, 3, 5, 7, 9])
    assert line.get_ydata() == pytest.approx([1.5, 7, float("nan"), float("nan"), 3.5], nan_ok=True)


def test_no_surprise_no_panel():
    assert len(timeline_figure(make_turns(["joy"] * 3, surprise=None)).axes) == 1


def test_memory_on_and_off_share_axis_and_colours():
    on, off = make_turns(["joy", "anger"]), make_turns(["neutral", "anger"], start=None, surprise=None)
    figure = timeline_figure(on, turns_without_memory=off, title="Kitchen")
    first, _, last = figure.axes
    assert (first.get_title(loc="left"), last.get_title(loc="left")) == ("memory on", "memory off")
    assert figure.get_suptitle() == "Kitchen"
    assert lane_names(first) == lane_names(last) == ["Ann", "Bob"]
    assert first.get_xlim() == last.get_xlim()
    (joy, anger), (neutral, anger_off) = bars(first, "bar"), bars(last, "bar")
    assert joy.get_facecolor() != neutral.get_facecolor()
    assert anger.get_facecolor() == anger_off.get_facecolor()


def test_a_label_keeps_its_colour():
    one = make_turns(["joy", "anger"])
    other = make_turns(["sadness"], emotions=EMOTIONS[::-1], emotion="a gold label without a score")
    colours = legend_colours(timeline_figure(one))
    others = legend_colours(timeline_figure(other))
    assert all(colours[emotion] == others[emotion] for emotion in EMOTIONS)


RED, BLUE, YELLOW, GREY = "#d55e00", "#0072b2", "#f0e442", "#999999"


@pytest.mark.parametrize(
    ("emotions", "expected"),
    [
        (["ang", "angry", "happy", "neutral", "sad"], [None, RED, YELLOW, GREY, BLUE]),
        (["anger", "boredom", "happiness", "neutral", "sadness"], [RED, None, YELLOW, GREY, BLUE]),
        (["Mad", "Joyful", "Neutral", "Sad"], [RED, YELLOW, GREY, BLUE]),
        (["excited", "frustrated", "angry", "happy"], [None, None, RED, YELLOW]),
    ],
)
def test_emotions_have_the_colours_that_people_expect(emotions, expected):
    legend = timeline_figure(make_turns([emotions[0]], emotions=emotions)).legends[0]
    names = [text.get_text() for text in legend.get_texts()]
    looks = {
        name: (to_hex(patch.get_facecolor()), patch.get_hatch()) for name, patch in zip(names, legend.get_patches())
    }
    for emotion, colour in zip(emotions, expected):
        if colour is not None:
            assert looks[emotion] == (colour, "")
    assert len({looks[emotion] for emotion in emotions}) == len(emotions)


def test_other_labels_have_a_fixed_order():
    """Whatever the order of the scores and the turns, and whichever known emotion is beside them."""
    first = legend_colours(timeline_figure(make_turns(["b"], emotions=["a", "b", "sad"])))
    second = legend_colours(timeline_figure(make_turns(["a"], emotions=["sad", "b", "a"], emotion="joy")))
    assert [first[name] for name in "ab"] == [second[name] for name in "ab"] == [RED, YELLOW]


def test_more_labels_than_colours_are_hatched():
    emotions = [f"emotion {number:02}" for number in range(20)]
    legend = timeline_figure(make_turns(["emotion 00", "emotion 08"], emotions=emotions)).legends[0]
    looks = {(patch.get_facecolor(), patch.get_hatch()) for patch in legend.get_patches()[:20]}
    assert len(looks) == 20


def test_gold_label_is_marked_where_it_differs():
    figure = timeline_figure(make_turns(["joy", "anger", "joy"], emotion="anger"))
    strips = bars(figure.axes[0], "gold")
    assert [strip.get_x() for strip in strips] == [0, 4]
    assert {to_hex(strip.get_facecolor()) for strip in strips} == {legend_colours(figure)["anger"]}
    assert legend_texts(figure)[-1] == "strip: gold label, where it differs"
    assert legend_texts(timeline_figure(make_turns(["joy"], emotion="joy")))[-1] == "full height: probability 1"


def test_turns_without_times_are_drawn_at_their_index():
    turns = make_turns(["joy"] * 3)
    turns[1]["end"] = None
    lanes, surprise = timeline_figure(turns).axes
    assert [(bar.get_x(), bar.get_width()) for bar in bars(lanes, "bar")] == [(-0.5, 1), (0.5, 1), (1.5, 1)]
    assert surprise.get_xlabel() == "turn"


def test_labels_are_written_on_few_turns_only():
    few, many = (timeline_figure(make_turns(["joy"] * count)).axes[0] for count in (3, 300))
    assert [text.get_text() for text in few.texts] == ["joy"] * 3
    assert not many.texts


def test_dollar_signs_are_not_math(tmp_path):
    turns = make_turns(["joy"], speakers=("$x^{",))
    assert draw_timeline(turns, tmp_path / "a.png", title="$ and $\\").stat().st_size > 1000


@pytest.mark.parametrize(
    ("turns", "without", "message"),
    [
        ([], None, "no turns"),
        (make_turns(["joy"]) + make_turns(["joy"], conversation_id="other"), None, "'dialogue 1', 'other'"),
        (make_turns(["joy"]), make_turns(["joy"], conversation_id="other"), "'dialogue 1', 'other'"),
        (make_turns(["joy"] * 2), make_turns(["joy"]), "2 turns but 1 turns without memory"),
        (make_turns(["joy"]), [], "1 turns but 0 turns without memory"),
        (make_turns(["joy"], score=1.5), None, "turn 0 has score 1.5"),
        (make_turns(["joy"], score=float("nan")), None, "turn 0 has score nan"),
        (make_turns(["joy"], end=-1.0), None, r"starts at 0.0 s and ends at -1.0 s"),
    ],
)
def test_refuses(tmp_path, turns, without, message):
    path = tmp_path / "a.png"
    with pytest.raises(ValueError, match=message):
        draw_timeline(turns, path, turns_without_memory=without)
    assert not path.exists()


@pytest.mark.parametrize("name", ["a.gif", "a"])
def test_refuses_another_suffix(tmp_path, name):
    with pytest.raises(ValueError, match=rf"'{name}'.*\.png, \.svg, \.pdf"):
        draw_timeline(make_turns(["joy"]), tmp_path / name)


def test_pyplot_stays_out(tmp_path):
    code = (
        "import sys; from titans_mal.timeline import draw_timeline\n"
        "turn = dict(conversation_id='c', turn_index=0, label='joy', score=1, scores={'joy': 1})\n"
        f"draw_timeline([turn], {str(tmp_path / 'a.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_html_is_one_file_that_holds_all(tmp_path):
    turns = make_turns(["anger", "joy", "anger"], speakers=("Ann", "<b>Bob"), emotion="joy")
    without = make_turns(["neutral", "joy", "joy"], speakers=("Ann", "<b>Bob"))
    path = draw_timeline(turns, tmp_path / "a.html", turns_without_memory=without, title="a < b")
    text = path.read_text(encoding="utf-8")
    assert "src=" not in text.partition("<body>")[0]  # nothing is fetched
    assert "a &lt; b" in text
    assert "<b>Bob" not in text.rpartition("Plotly.newPlot(")[2]
    shown = text.rpartition("Plotly.newPlot(")[2]
    for name in ("memory on", "memory off", "surprise", "gold: joy", "full height: probability 1", "sadness"):
        assert name in shown
    with pytest.raises(ValueError, match="got no turns"):
        draw_timeline([], tmp_path / "b.html")
    assert not (tmp_path / "b.html").exists()


def test_html_writes_labels_into_bars_and_may_share_its_script(tmp_path):
    turns = make_turns(["anger", "joy"])
    page = draw_timeline(turns, tmp_path / "a.html", include_plotlyjs="directory")
    assert page.stat().st_size < 100_000
    assert (tmp_path / "plotly.min.js").is_file()
    assert '"text":["anger","joy"]' in page.read_text(encoding="utf-8")
    page = draw_timeline(turns, tmp_path / "b.html", include_plotlyjs="cdn")
    assert page.stat().st_size < 100_000
    with pytest.raises(ValueError, match="include_plotlyjs must be True, 'directory' or 'cdn', got 'elsewhere'"):
        draw_timeline(turns, tmp_path / "c.html", include_plotlyjs="elsewhere")


@pytest.mark.parametrize("count", [1, 3, 300])
def test_html_of_few_turns_and_of_many(tmp_path, count):
    turns = make_turns([EMOTIONS[index % 4] for index in range(count)], surprise=None)
    shown = draw_timeline(turns, tmp_path / "a.html").read_text(encoding="utf-8").rpartition("Plotly.newPlot(")[2]
    assert shown.count("turn ") == count
    assert '"surprise"' not in shown


def test_dollar_signs_are_literal(tmp_path):
    """In matplotlib two of them hold a formula, and one that is none breaks the picture."""
    odd = "$\\frac{$ a_b^"
    turns = make_turns([odd, "sad"], emotions=[odd, "sad"], speakers=(odd, "Bob"), emotion=odd)
    for name in ("a.png", "a.svg"):
        draw_timeline(turns, tmp_path / name, turns_without_memory=turns, title=odd)
        assert (tmp_path / name).stat().st_size
