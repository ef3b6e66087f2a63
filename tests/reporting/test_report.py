"""The report: one page that needs nothing else, says what the records say, and escapes it all."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from hptransfer.analysis.answer.text import OCTAVE, percent, trial_notes
from hptransfer.reporting.figures import Picture, drawn, pictures, wording
from hptransfer.reporting.page.charts import charts
from hptransfer.reporting.page.report import report_html, value_and_cost
from hptransfer.results.ledger_rows import read_ledger_rows
from hptransfer.system.version import package_version
from tests.support.figure_records import (
    COST,
    bare,
    coordinate_check,
    over_depth,
    study,
    surface,
    target_sweep,
    two_families,
)
from tests.support.paths import ROOT


def handed_over() -> dict[str, Any]:
    """What `hptransfer transfer --json` says for the quickstart."""
    return {
        "target": {"family": "dit", "width": 192, "params": 1_873_680},
        "hps": {"log2_lr": {"value": -5.6, "low": -5.84, "high": -5.36}},
        "expected_regret": {
            "mean": 0.0004,
            "low": 0.0,
            "high": 0.0011,
            "percent": 0.08,
            "compute_percent": 5.1,
            "conditional_on": {"steps": 150, "batch_size": 64, "schedule": "linear_decay"},
        },
        "realised_regret": None,
        "cost": COST,
        "train_validation_gap": {
            "mean": 0.021,
            "share_of_loss": 0.04,
            "widths": [{"width": 96, "mean": 0.021, "error": None}],
        },
        "verdict": "transfers",
        "warnings": ["The target trains for 600 steps, the proxies for 150: θ is not corrected."],
        "files": ["results/quickstart/target.yaml", "results/quickstart/target_groups.json"],
    }


SWEEP: dict[str, Any] = {
    "name": "quickstart",
    "question": "Does the best base learning rate of a small DiT stay best when it grows?",
    "statistic": "drift of the optimum",
    "sweep": {"widths": [24, 48, 96], "parametrizations": ["mup", "standard"], "seeds": [0, 1, 2]},
    "search": {"lr": {"low": -10, "high": -3, "step": 1}},
}
TIMING = {"training": 71.2, "importing torch and Ray": 6.8, "fit": 0.9, "pictures": 1.7}
COMMANDS = ["hptransfer run quickstart", "hptransfer train results/quickstart/target.yaml"]


def records(**changes: Any) -> dict[str, Any]:
    """The quickstart's records, some of them changed."""
    return {
        "estimates": study(),
        "check": coordinate_check(),
        "realised": target_sweep(),
        "transfer": handed_over(),
        "sweep": SWEEP,
        "timing": TIMING,
        "commands": COMMANDS,
        **changes,
    }


STUB = '<svg xmlns="http://www.w3.org/2000/svg"><path id="line" style="fill: #0072b2"/></svg>'


def page_of(svg: Callable[[Picture], str] = lambda _: STUB, **changes: Any) -> str:
    """Return the report of changed records; a stub stands for each of its pictures."""
    told = records(**changes)
    shown = {name: told[name] for name in ("estimates", "check", "realised", "transfer")}
    return report_html([(p, svg(p)) for p in pictures(**shown)], **told)


def svg_of(picture: Picture) -> str:
    """Return a picture as matplotlib writes it."""
    file = io.StringIO()
    drawn(picture).savefig(file, format="svg")
    return file.getvalue()


class Reader(HTMLParser):
    """Checks that tags balance, and collects text, ids and what attributes refer to."""

    VOID = frozenset(("meta", "br", "hr", "img", "input", "link"))

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self._note(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.text.append(" ")

    def handle_data(self, data: str) -> None:
        where = self.open[-1] if self.open else ""
        if where == "script":
            self.scripts.append(data)
        elif where != "style":
            self.text.append(data)

    def _note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("href", "src", "xlink:href", "srcset", "action"):
                self.references.append(value or "")
            elif value is not None:
                self.references += [m for m in re.findall(r"url\(([^)]*)\)", value)]


def words(page: str) -> str:
    """The page's text with single, ordinary spaces."""
    return " ".join("".join(Reader(page).text).split())


@pytest.fixture(scope="module")
def page() -> str:
    """Return the quickstart's report with its real pictures."""
    return page_of(svg_of)


def test_the_page_parses_and_refers_only_to_itself(page: str):
    reader = Reader(page)
    assert not re.search(r"https?:", page)
    assert not {"link", "img", "iframe", "object"} & set(reader.tags)
    assert "@import" not in page
    assert len(reader.ids) == len(set(reader.ids))
    assert reader.references
    assert {r.removeprefix("#") for r in reader.references} <= set(reader.ids)


def test_only_the_packages_own_script_may_run_and_nothing_may_be_loaded(page: str):
    data, script = Reader(page).scripts
    policy = html.unescape(re.findall(r'Content-Security-Policy" content="([^"]*)"', page)[0])
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.split("; ") == [
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        f"script-src 'sha256-{digest}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert "live" not in json.loads(data)


def test_the_page_draws_what_the_pictures_show(page: str):
    shown = json.loads(Reader(page).scripts[0])["charts"]
    assert [arm["name"] for arm in shown["arms"]] == ["µP", "standard"]
    assert [width["name"] for width in shown["settings"]] == ["24", "48", "96"]
    for panel, arm in zip(shown["panels"], study()["arms"], strict=True):
        for curve, optimum in zip(panel["curves"], arm["optima"], strict=True):
            assert curve["optimum"]["x"] == optimum["optimum"]
            marks = [*curve["points"], *curve["above"], *curve["failed"]]
            assert sorted(mark["x"] for mark in marks) == sorted(optimum["basin"]["theta"])
    (over,) = shown["over"]
    assert (
        over["x"]["target"] == 192 and over["realised"]["y"] == target_sweep()["optimum"]["optimum"]
    )


def test_a_mark_says_its_values():
    folder = ROOT / "results" / "studies" / "quickstart"
    rows = [row for row in read_ledger_rows(folder) if (row["width"], row["seed"]) != (48, 2)]
    (mup, _) = charts(study(), rows=rows)["panels"]
    middle = mup["curves"][1]
    losses = [
        row["loss"]
        for row in read_ledger_rows(folder)
        if (row["width"], row["parametrization"], row["hps"]["log2_lr"]) == (48, "mup", -6.0)
    ]
    (point,) = (point for point in middle["points"] if point["x"] == -6.0)
    assert point["text"] == [
        "width 48",
        "learning rate 0.0156 (log2 −6.00)",
        f"mean loss {sum(losses) / 3:.4f}, 2 seeds",
        f"loss of the seeds: {min(losses):.4f} to {max(losses):.4f}",
    ]
    optimum = study()["arms"][0]["optima"][1]
    ends = f"{2 ** optimum['low']:.3g} to {2 ** optimum['high']:.3g}"
    assert f"90 % interval {ends}" in middle["optimum"]["text"]
    failed = [mark for curve in mup["curves"] for mark in curve["failed"]]
    assert failed[0]["text"][2] == "diverged, or hardly better than at the start"


def test_the_page_opens_with_every_arms_headline_and_then_the_curves(page: str):
    text, estimates = words(page), study()
    above, below = text.split("The curves", 1)
    for name, arm in zip(("µP", "standard"), estimates["arms"], strict=True):
        said = [name, arm["verdict"], *arm["headline"].splitlines(), f"moves: {arm['moves']},"]
        assert " ".join(said) in above
        start = below.index(arm["reasons"][0])
        places = [below.index(reason, start) for reason in arm["reasons"]]
        for optimum in arm["optima"]:
            shown = f"{2 ** optimum['optimum']:.3g} {2 ** optimum['low']:.3g} to"
            places.append(below.index(shown, start))
        assert places == sorted(places)
    assert OCTAVE in below


def test_an_answer_from_a_part_of_the_trials_is_one_so_far():
    estimates = study()
    estimates["trials"]["missing"] = 40
    text = words(page_of(estimates=estimates))
    assert "µP so far: transfers Use learning rate" in text
    assert trial_notes(estimates)[0] in text
    assert "40 trials" in trial_notes(estimates)[0]


def test_the_page_holds_what_the_records_say(page: str):
    text = words(page)
    own, (mup, standard) = target_sweep(), study()["arms"]
    kept = standard["cost"]["ignoring"]
    for expected in (
        SWEEP["question"],
        "Deciding statistic: drift of the optimum",
        f"standard use {2 ** standard['target']['emitted']:.3g}",
        f"standard keep width 96's {2 ** kept['value']:.3g} {percent(kept['percent']['mean'])}",
        f"µP: a loss of {mup['loss_law']['at_target']['estimate']:.4f} (",
        "the prediction held",
        f"measured cost in loss {wording.regret_text(own['regret'])}",
        "dit under µP passes the coordinate check.",
        "1,873,680 parameters",
        "Expected cost in loss: 0.0004 (below 0.0011). It holds for steps 150, batch size 64",
        "93.1 TFLOP",
        "6.6 %",
        "a direct search at the target, same grid and seeds",
        "training 71 s",
        "hptransfer train results/quickstart/target.yaml",
        "results/quickstart/target_groups.json",
        f"hptransfer {package_version()}.",
        "widths: - 24 - 48 - 96",
    ):
        assert expected in text, expected
    assert page.count("<svg ") == 9


def test_what_goes_beyond_one_hp_and_the_width_has_its_tables():
    imported = {"rows": 1234, "files": {"mine.csv": {"log2_lr": "learning <rate>"}}}
    estimates = study("conditions") | {"surfaces": [surface()]}
    page = page_of(estimates=estimates, sweep={**SWEEP, "imported": imported})
    text = words(page)
    steps = estimates["arms"][0]["conditions"]["octaves_per_doubling"]["steps"]
    for expected in (
        "−5.40 (−5.65 to −5.15) −3.80 (−4.30 to −3.30) 0.5100",
        "Where the loss hardly changes:",
        "Width 96: A lower learning rate with more decay costs nearly nothing.",
        "The joint value is expected to cost 0.0006 (below 0.0019) in loss.",
        "base learning rate 62 % 70 %",
        "octaves per doubling of estimate 90 % interval published width",
        f"training steps {steps['estimate']:+.2f} {steps['low']:+.2f} to",
        "Tokens are batch size times training steps",
        "arXiv 2203.03466",
        "held-out minus training loss standard error 96 0.0210 not known",
        "At the widest, 4 % of the loss.",
        "1,234 rows of another program's sweep.",
        "mine.csv log2_lr from learning <rate>",
    ):
        assert expected in text, expected
    assert "is expected at the target's optimum" not in text  # it trains for longer
    assert not re.search(r"https?:", page)
    assert re.search(r'<figure [^>]*class="wide">', page)
    reader = Reader(page)
    assert len(reader.ids) == len(set(reader.ids))


def test_arms_of_several_families_or_hps_are_told_apart():
    text = words(page_of(estimates=two_families(), realised=None, transfer=None))
    for family in ("dit", "uvit"):
        assert re.search(rf"{family} µP \w+ use learning rate", text, re.IGNORECASE)
    text = words(page_of(estimates=study("mmdit_search"), realised=None, transfer=None))
    assert re.search(r"µP, learning rate \w+ use learning rate", text, re.IGNORECASE)
    assert "µP, warm-up share keep width 64's" in text


def test_a_headline_is_split_after_its_value():
    first = study()["arms"][0]["headline"].splitlines()[0]
    value, cost = value_and_cost(first)
    assert f"{value} {cost}" == first and value.startswith("Use") and value.endswith(").")
    assert value_and_cost("use x 0.1 at y: it costs 0.2 %.") == (
        "use x 0.1 at y:",
        "it costs 0.2 %.",
    )
    assert value_and_cost("Nothing is known.") == ("Nothing is known.", "")


def test_an_answer_along_the_depth_is_tabulated_by_depth():
    text = words(page_of(estimates=over_depth(), realised=None, transfer=None))
    assert "depth learning rate 90 % interval log2" in text
    assert re.search("cost in % of the loss in % more compute µP use", text, re.IGNORECASE)
    assert "µP keep depth 2's" in text


def test_values_of_rows_that_say_no_condition_end_without_an_empty_list():
    transfer = handed_over()
    transfer["expected_regret"]["conditional_on"] = {"steps": None, "depth": None}
    assert "It holds for" not in words(page_of(transfer=transfer))


def test_the_page_depends_on_its_records_alone():
    assert page_of() == page_of()


def test_hostile_names_are_text():
    evil = "<script>alert('x')</script>\"&"
    estimates: dict[str, Any] = study() | {"sweep": evil}
    told = {"parametrization": evil, "headline": evil, "reasons": [evil], "warnings": [evil]}
    estimates["arms"][1] |= told
    check = coordinate_check()
    check["slopes"][0]["module"] = evil
    check |= {"family": evil, "zero": [evil], "warnings": [evil]}
    transfer = handed_over()
    transfer |= {"warnings": [evil], "files": [evil]}
    joint = surface()
    joint["widths"][0]["principal_axes"][0]["sentence"] = joint["parametrization"] = evil
    estimates["surfaces"] = [joint]
    page = page_of(
        estimates=estimates,
        check=check,
        transfer=transfer,
        sweep={**SWEEP, "question": evil, "imported": {"rows": 1, "files": {evil: {evil: evil}}}},
        timing={evil: 1.0},
        commands=[evil],
    )
    assert evil not in page
    data, _ = Reader(page).scripts
    assert json.loads(data)["charts"]["sweep"] == evil
    assert words(page).count(evil) >= 18


def test_missing_records_leave_their_sections_out():
    nothing = dict.fromkeys(("check", "realised", "transfer", "timing"))
    page = page_of(estimates=bare(), commands=[], **nothing)
    text = words(page)
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == ["The curves", "The optimum at each width, and why the verdict", "Provenance"]
    assert "../<b>mine inconclusive use learning rate" in text.replace("Use", "use")
    assert "on the grid's lower edge" in text
    assert "None" not in text


def test_every_figure_colour_has_a_light_and_a_dark_value(page: str):
    used = set(re.findall(r"var\((--c[0-9a-f]{6})\)", page))
    used |= {f"--c{color[1:]}" for color in re.findall(r'"color":"(#[0-9a-f]{6})"', page)}
    light, system, switched = re.split(r"prefers-color-scheme:dark|data-theme=dark", page)[:3]
    assert used
    for name in used:
        assert all(f"{name}:#" in style for style in (light, system, switched))
    figures = page[page.index("<main>") :]
    assert not re.search(r"(fill|stroke): #", figures)


def test_numbers_are_written_for_readers():
    assert wording.number_text(-0.00001, 4) == "0.0000"
    assert wording.number_text(-5.6, 2) == "−5.60"
    assert wording.number_text(None, 2) == "not known"
    assert wording.regret_text({"estimate": 4e-7, "low": 0.0, "high": 0.0000021}) == (
        "4e-07 (below 2.1e-06)"
    )
    assert wording.regret_text({"estimate": 0.1, "low": None, "high": None}) == "0.1"
    assert wording.regret_text({"estimate": 0.1, "low": 0.05, "high": None}) == "0.1 (0.05 or more)"
    assert (
        wording.estimate_text({"estimate": 1.0, "low": None, "high": 2.0}, 1) == "1.0 (up to 2.0)"
    )
    assert wording.regret_text({"estimate": None, "low": 0.05, "high": None}) == "at least 0.05"
    assert wording.flops_text(9.31e13) == "93.1 TFLOP"
    assert wording.percent_text(None) == "not known"
    assert wording.hp_text("log2_lr", -5.6) == "−5.60 (0.0206)"
    assert wording.hp_text("momentum", 0.91234) == "0.9123"
    assert wording.hp_text("momentum", None) == "not known"
