"""The report: one page that needs nothing else, says what the records say, and escapes it all."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from hptransfer.reporting.figures import Picture, drawn, pictures, wording
from hptransfer.reporting.page.report import report_html
from hptransfer.system.version import package_version
from tests.support.figure_extras import COST, full_estimates
from tests.support.figure_records import (
    bare_arm,
    coordinate_check,
    mup_arm,
    quickstart,
    target_sweep,
)


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
            "share_of_gain": 0.011,
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
    "statistic": "regret at the widest width of the constant law fitted without it",
    "sweep": {"widths": [24, 48, 96], "parametrizations": ["mup", "standard"], "seeds": [0, 1, 2]},
    "search": {"lr": {"low": -10, "high": -3, "step": 1}},
}
TIMING = {"training": 71.2, "importing torch and Ray": 6.8, "fit": 0.9, "pictures": 1.7}
COMMANDS = ["hptransfer run quickstart", "hptransfer train results/quickstart/target.yaml"]


def records(**changes: Any) -> dict[str, Any]:
    """The quickstart's records, some of them changed."""
    return {
        "estimates": quickstart(),
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
    assert not {"script", "link", "img", "iframe", "object"} & set(reader.tags)
    assert "@import" not in page
    assert len(reader.ids) == len(set(reader.ids))
    assert reader.references
    assert {r.removeprefix("#") for r in reader.references} <= set(reader.ids)


def test_the_headline_says_what_to_train(page: str):
    text = words(page)
    assert (
        "µP transfers: train width 192 at log2 base learning rate −5.60 (0.0206); "
        "expected regret 0.0004 (0.0000 to 0.0011)." in text
    )
    assert (
        "standard drifts: its optimum moves by −0.75 (−0.89 to −0.61) octaves per doubling" in text
    )


def test_the_page_holds_what_the_records_say(page: str):
    text = words(page)
    for expected in (
        SWEEP["question"],
        "Deciding statistic: regret at the widest width",
        "−7.20 (0.0068)",
        "linear: θ = a + b·log2(n)",
        "Warning: The share of clipped steps differs",
        "the prediction held",
        "0.0007 (0.0000 to 0.0019)",
        "dit under µP passes the coordinate check.",
        "1,873,680 parameters",
        "Conditional on steps 150, batch_size 64, schedule linear_decay.",
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
    page = page_of(estimates=full_estimates(), sweep={**SWEEP, "imported": imported})
    text = words(page)
    for expected in (
        "µP, log2 base learning rate: wider is better. From width 48 to 96 the best loss fell by "
        "0.03 to 0.05 per doubling.",
        "linear: loss = a + b·log2(n)",
        "Loss expected at the target's optimum: 0.4780 (0.4580 to 0.4980).",
        "one octave below the optimum constant 0.12 (−0.10 to 0.35)",
        "useful transfer not known Not assessable below five widths",
        "−5.40 (−5.65 to −5.15) −3.80 (−4.30 to −3.30) 0.5100",
        "Width 96: A lower learning rate with more decay costs nearly nothing.",
        "Expected regret of the joint value: 0.0006 (0.0000 to 0.0019).",
        "base learning rate 62 % 70 %",
        "From 300 to 600 steps the optimum moved",
        "per doubling of the training steps −0.29 (−0.36 to −0.22)",
        "600 −0.16 (−0.31 to 0.06) −6.39 (0.0119)",
        "From the sweep's conditions to the target's: −0.58 (−0.72 to −0.44) octaves.",
        "held-out minus training loss standard error 96 0.0210 not known",
        "At the widest, 4 % of the loss.",
        "1,234 rows of another program's sweep.",
        "mine.csv log2_lr from learning <rate>",
    ):
        assert expected in text, expected
    assert not re.search(r"https?:", page)
    assert '<figure class="wide">' in page
    reader = Reader(page)
    assert len(reader.ids) == len(set(reader.ids))


def test_an_optimum_that_still_moves_is_on_the_card_of_its_arm():
    assert words(page_of()).count("Warning: From 300 to 600 steps") == 0
    page = page_of(estimates=full_estimates())
    assert "Warning: From 300 to 600 steps the optimum moved" in words(page)


def test_arms_of_several_hps_are_told_apart():
    estimates = quickstart()
    estimates["arms"] = [mup_arm(), mup_arm() | {"hp": "log2_weight_decay"}]
    text = words(page_of(estimates=estimates))
    assert "µP, log2 base learning rate µP, log2 weight decay verdict" in text
    assert "µP, log2 weight decay: laws of the optimum" in text


def test_values_of_rows_that_say_no_condition_end_without_an_empty_list():
    transfer = handed_over()
    transfer["expected_regret"]["conditional_on"] = {"steps": None, "depth": None}
    assert "Conditional on" not in words(page_of(transfer=transfer))


def test_the_page_depends_on_its_records_alone():
    assert page_of() == page_of()


def test_hostile_names_are_text():
    evil = "<script>alert('x')</script>\"&"
    estimates = quickstart()
    estimates["sweep"] = evil
    estimates["arms"][1] |= {"parametrization": evil, "reasons": [evil], "warnings": [evil]}
    check = coordinate_check()
    check["slopes"][0]["module"] = evil
    check |= {"family": evil, "zero": [evil], "warnings": [evil]}
    transfer = handed_over()
    transfer |= {"warnings": [evil], "files": [evil]}
    extra = full_estimates()
    arm, joint = extra["arms"][0], extra["surfaces"][0]
    arm["loss_law"]["reason"] = arm["quality"]["robustness"]["sentence"] = evil
    arm["conditions"]["over"][0]["sentence"] = evil
    joint["widths"][0]["flat_directions"][0]["sentence"] = joint["parametrization"] = evil
    estimates["arms"][0], estimates["surfaces"] = arm, [joint]
    page = page_of(
        estimates=estimates,
        check=check,
        transfer=transfer,
        sweep={**SWEEP, "question": evil, "imported": {"rows": 1, "files": {evil: {evil: evil}}}},
        timing={evil: 1.0},
        commands=[evil],
    )
    assert "<script" not in page
    assert "script" not in Reader(page).tags
    assert words(page).count(evil) >= 18


def test_missing_records_leave_their_sections_out():
    estimates = quickstart()
    estimates["arms"] = [bare_arm()]
    nothing = dict.fromkeys(("check", "realised", "transfer", "timing"))
    page = page_of(estimates=estimates, commands=[], **nothing)
    text = words(page)
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == ["The curves", "Optimum at each width", "Does it transfer?", "Provenance"]
    assert "../<b>mine: no verdict." in text
    assert "no law; a law needs three usable widths" in text
    assert "on the grid's lower edge" in text
    assert "None" not in text


def test_every_figure_colour_has_a_light_and_a_dark_value(page: str):
    used = set(re.findall(r"var\((--c[0-9a-f]{6})\)", page))
    light, dark = page.split("prefers-color-scheme:dark", 1)
    assert used
    for name in used:
        assert f"{name}:#" in light and f"{name}:#" in dark
    figures = page[page.index("<main>") :]
    assert not re.search(r"(fill|stroke): #", figures)


@pytest.mark.parametrize(
    ("verdict", "start"),
    [
        ("extend", "µP: extend the sweep before you use it. The held-out"),
        ("inconclusive", "µP: inconclusive. The held-out"),
        (None, "µP: no verdict."),
    ],
)
def test_headlines_of_the_other_verdicts(verdict: str | None, start: str):
    assert wording.headline({**mup_arm(), "verdict": verdict}).startswith(start)


def test_a_drift_that_only_the_loss_shows_is_not_said_to_be_a_move_of_the_optimum():
    arm = {**mup_arm(), "verdict": "drifts"}
    seen = arm | {"drift_octaves_per_doubling": {"estimate": -0.7, "low": -0.9, "high": -0.5}}
    assert "its optimum moves by −0.70 (−0.90 to −0.50) octaves" in wording.headline(seen)
    unseen = arm | {"drift_octaves_per_doubling": {"estimate": -0.01, "low": -0.29, "high": 0.24}}
    said = wording.headline(unseen)
    assert "moves by" not in said
    assert "is not seen to move: −0.01 (−0.29 to 0.24) octaves" in said
    nowhere = wording.headline(arm | {"drift_octaves_per_doubling": None})
    assert "one value for all widths costs more than the limit" in nowhere


def test_a_headline_without_a_target_does_not_deny_one():
    said = wording.headline(mup_arm() | {"target": None})
    assert said == (
        "µP transfers: one value of log2 base learning rate serves every width of the sweep, "
        "which names no target."
    )


def test_numbers_are_written_for_readers():
    assert wording.number_text(-0.00001, 4) == "0.0000"
    assert wording.number_text(-5.6, 2) == "−5.60"
    assert wording.number_text(None, 2) == "not known"
    assert wording.regret_text({"estimate": 4e-7, "low": 0.0, "high": 0.0000021}) == (
        "0.0000004 (0.0000000 to 0.0000021)"
    )
    assert (
        wording.regret_text({"estimate": 0.1, "low": None, "high": None}) == "0.1000 (no interval)"
    )
    assert (
        wording.regret_text({"estimate": 0.1, "low": 0.05, "high": None})
        == "0.1000 (0.0500 or more)"
    )
    assert wording.regret_text({"estimate": None, "low": 0.05, "high": None}) == "at least 0.0500"
    assert wording.flops_text(9.31e13) == "93.1 TFLOP"
    assert wording.percent_text(None) == "not known"
