"""What people look at: nothing is lost, nothing is loaded, nothing hostile runs, nothing predicted hides."""

from __future__ import annotations

import io
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
from records import DEVICE, student, synthetic_study
from rich.console import Console

from search.facts import axes_of, front_facts, log_ticks
from search.labels import figure, settings, settings_text
from search.plot import draw, front_figure, front_png
from search.record import Score
from search.report import AudioExample, write_report
from search.selection import best, front_of
from search.tables import devices_table, front_table, selection_table

OBJECTIVES = ["pesq_wb", "latency_ms", "macs_per_s"]
HOSTILE = """</script><img src="http://evil.example/x.png" onerror='alert(1)'>"""
BASELINE = {"unprocessed": {"pesq_wb": Score(mean=1.52, n=64, low=1.48, high=1.56)}}


class Page(HTMLParser):
    """Every tag with its attributes, and all text outside scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self._inside = [], [], ""
        self.feed(text)
        self.text = " ".join(self.words)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self.words.append(data.strip())


def take(format="WAV"):
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(160), 16000, format=format)
    return buffer.getvalue()


def report(path, **changes):
    records = synthetic_study()
    facts = {
        "study_name": "rpi4-voice",
        "definition_text": 'name = "rpi4-voice"',
        "device": DEVICE,
        "records": records,
        "objectives": OBJECTIVES,
        "limits": {"latency_ms": 4.0},
        "selected": best(records, {"latency_ms": 2.0}, "pesq_wb", DEVICE),
        "baseline": BASELINE,
        "audio": [AudioExample("babble", take(), take("FLAC"), take())],
        "commands": ["sekd resume rpi4-voice"],
    }
    write_report(path, **(facts | changes))
    return path.read_text(encoding="utf-8")


def printed(table):
    console = Console(width=200, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_the_page_holds_every_student_with_every_figure(tmp_path):
    page = Page(report(tmp_path / "r.html"))
    names = ["pesq_wb", "estoi", "si_sdr_db", "latency_ms", "paced_p95_ms", "macs_per_s", "weight_kib"]
    records = synthetic_study()
    for record, values in zip(records, settings(records), strict=True):
        row = " ".join([str(record.number), settings_text(values), record.status])
        figures = [figure(record, name, DEVICE) for name in names]
        assert " ".join([row, *figures]) in " ".join(page.text.split())
    for text in ("1.52 [1.48, 1.56]", 'name = "rpi4-voice"', "sekd resume rpi4-voice", "babble"):
        assert text in page.text


def test_the_page_needs_no_network(tmp_path):
    text = report(tmp_path / "r.html")
    page = Page(text)
    links = [a[key] for _, a in page.tags for key in ("src", "href", "srcset", "action", "data") if key in a]
    assert len(links) == 4 and all(link.startswith("data:") for link in links)
    assert links[2].startswith("data:audio/flac;base64,")
    assert "@import" not in text.split("<script", 1)[0] and "url(" not in text.split("</style>", 1)[0]
    assert text.count("plotly.js v") == 1
    assert [a["id"] for _, a in page.tags if a.get("id")] == ["front-latency_ms", "front-macs_per_s"]


def test_hostile_names_are_text(tmp_path):
    clean = Page(report(tmp_path / "clean.html"))
    records = [
        *synthetic_study(),
        student(90, params={HOSTILE: HOSTILE, "student.width": 8}),
        student(91, status="FAILED", reason=HOSTILE),
    ]
    text = report(
        tmp_path / "r.html",
        study_name=HOSTILE,
        definition_text=HOSTILE,
        records=records,
        baseline={HOSTILE: BASELINE["unprocessed"]},
        audio=[AudioExample(HOSTILE, take(), take())],
        commands=[HOSTILE],
        importances={HOSTILE: 1.0},
    )
    page = Page(text)
    assert "img" not in {tag for tag, _ in page.tags}
    assert [tag for tag, _ in page.tags].count("script") == [tag for tag, _ in clean.tags].count("script")
    assert not any(key.startswith("on") for _, attrs in page.tags for key in attrs)
    assert (
        "<img" not in front_figure(records, OBJECTIVES, DEVICE, baseline={HOSTILE: BASELINE["unprocessed"]}).to_json()
    )


@pytest.mark.parametrize("previous", [None, "the old page"])
def test_the_file_is_whole_or_untouched(tmp_path, previous, monkeypatch):
    path = tmp_path / "r.html"
    if previous:
        path.write_text(previous)

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("search.report.os.replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        report(path)
    with pytest.raises(ValueError, match="WAV or a FLAC"):
        report(path, audio=[AudioExample("x", b"OggS", b"OggS")])
    assert [p.read_text() for p in tmp_path.iterdir()] == ([previous] if previous else [])


def test_a_study_with_nothing_yet_is_a_page(tmp_path):
    page = Page(report(tmp_path / "r.html", records=[], selected=None, baseline=None, audio=[], commands=[]))
    assert "none yet" in page.text and "Before and after" not in page.text


def test_facts_sort_students_into_their_groups():
    records = [
        student(0, pesq=2.0, ms=1.0),
        student(1, pesq=1.9, ms=1.5),
        student(2, pesq=3.0, ms=9.0),
        student(3, pesq=None, ms=12.0, status="INFEASIBLE"),
        student(4, pesq=2.5, ms=3.0),
        student(5, pesq=None, ms=1.0, status="FAILED"),
    ]
    facts = front_facts(records, OBJECTIVES, DEVICE, limits={"latency_ms": 4.0}, baseline=BASELINE)
    groups = (facts.front, facts.evaluated, facts.over, facts.untrained)
    assert [group.x for group in groups] == [[1.0, 3.0], [1.5], [9.0], [12.0]]
    assert facts.front.y == [2.0, 2.5] and facts.lines == {"unprocessed": 1.52}
    assert facts.log_x and facts.x_limit == 4.0
    assert facts.untrained.y == [facts.y_range[0]]
    assert "width 12" in facts.front.hover[1] and "PESQ (wideband), MOS: 2.50" in facts.front.hover[1]


def test_stairs_end_at_the_budget_and_a_far_budget_is_not_drawn():
    records = [student(0, pesq=2.0, ms=1.0), student(1, pesq=2.5, ms=2.0)]
    near = draw(front_facts(records, OBJECTIVES, DEVICE, limits={"latency_ms": 3.0}))
    assert list(near.data[0].x) == [1.0, 2.0, 3.0] and list(near.data[0].y) == [2.0, 2.5, 2.5]
    assert near.data[0].line.shape == "hv" and near.layout.xaxis.title.text == f"latency p50 on {DEVICE}, ms"
    assert front_facts(records, OBJECTIVES, DEVICE, limits={"latency_ms": 30.0}).x_limit is None


def test_a_student_on_the_front_for_another_objective_is_set_apart():
    cheap = student(1).cost.model_copy(update={"macs_per_s": 1e6})
    records = [student(0, pesq=2.5, ms=1.0), student(1, pesq=2.0, ms=2.0, cost=cheap)]
    facts = front_facts(records, OBJECTIVES, DEVICE)
    assert facts.front.x == [1.0] and facts.elsewhere.x == [2.0] and facts.evaluated.x == []


def test_log_ticks_are_round():
    assert log_ticks(0.3, 6.0) == [0.5, 1.0, 2.0, 5.0]
    assert log_ticks(0.5, 2000.0) == [1.0, 10.0, 100.0, 1000.0]
    assert axes_of(["macs_per_s", "estoi", "latency_ms"]) == ("macs_per_s", "estoi")
    with pytest.raises(ValueError, match="a metric and a cost"):
        axes_of(["latency_ms"])


def test_a_predicted_latency_says_so_everywhere(tmp_path):
    records = [student(n, ms=1.0 + n, pesq=2.0 + n / 4, kind="predicted") for n in range(3)]
    assert "(predicted)" in printed(front_table(records, OBJECTIVES, DEVICE))
    assert "(predicted)" in front_figure(records, OBJECTIVES, DEVICE).layout.xaxis.title.text
    text = Page(report(tmp_path / "r.html", records=records, selected=None)).text
    assert "is predicted, not measured" in text and "latency p50, ms (predicted)" in text
    mixed = [*records, student(9, ms=7.0)]
    row = printed(front_table(mixed, OBJECTIVES, DEVICE))
    assert "predicted" not in row and "7.000" in row and "2.000" not in row


def test_tables_show_short_names_intervals_and_units():
    records = synthetic_study()
    text = printed(front_table(front_of(records, OBJECTIVES, {}, DEVICE), OBJECTIVES, DEVICE, title="front"))
    for part in ("width 48, kind supervised", "3.17 [3.09, 3.25]", "3.265", "6.530", "8.29", "495.0"):
        assert part in text
    assert "-" in printed(front_table([student(0, pesq=None, ms=None)], OBJECTIVES, DEVICE))
    hostile = printed(front_table([student(0, params={"a": "[red]x[/nothing]"})], OBJECTIVES, DEVICE))
    assert "[red]x[/nothing]" in hostile


def test_the_table_of_a_selection_names_limits_when_nothing_fits():
    text = printed(selection_table(None, [student(7, ms=2.5)], {"latency_ms": 2, "min_pesq_wb": 3}, DEVICE))
    for part in ("nothing fits", "at most 2.000", "at least 3.00", "2.500"):
        assert part in text
    assert f"selected for {DEVICE}" in printed(selection_table(student(7), [], {}, DEVICE, OBJECTIVES))
    assert "cortex-m7" in printed(devices_table([{"name": "cortex-m7", "threads": None}], ["name", "threads"]))


def test_settings_name_what_differs_and_keep_ambiguous_paths_whole():
    first = student(0, params={"student.width": 8, "teacher.width": 9, "data.seed": 0})
    second = student(1, params={"student.width": 16, "teacher.width": 7, "data.seed": 0})
    assert settings([first, second])[0] == {"student.width": 8, "teacher.width": 9}
    assert settings_text({"rate": 0.000123456, "kind": "x"}) == "rate 0.0001235, kind x"


def test_the_png_is_a_png_and_leaves_nothing_else(tmp_path):
    records = synthetic_study()
    front_png(tmp_path / "f.png", records, OBJECTIVES, DEVICE, limits={"latency_ms": 4.0}, title="a $\\bad$")
    front_png(tmp_path / "g.png", [], OBJECTIVES, DEVICE)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.png", "g.png"]
    data = (tmp_path / "f.png").read_bytes()
    assert data.startswith(b"\x89PNG") and int.from_bytes(data[16:20]) == 1600


def test_what_all_students_of_a_table_share_is_said_below_it():
    first, second = student(0), student(1)
    same = {"distill.term": "similarity", "distill.schedule.kd_weight": 0.4}
    records = [
        record.model_copy(update={"params": {"student.width": width, **same}})
        for record, width in ((first, 4), (second, 8))
    ]
    text = printed(front_table(records, OBJECTIVES, DEVICE))
    assert "all: term similarity, kd_weight 0.4" in text and "width 8" in text
    assert "all:" not in printed(front_table(records[:1], OBJECTIVES, DEVICE))
