"""The factors of DiT-XL/2 and MMDiT-18B are those of the published tables, typed off here."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.published_rules import PAGE, commands, written
from hptransfer.cli.main import main
from hptransfer.config import MuonConfig, TrialConfig
from hptransfer.config.choices import Broken
from hptransfer.config.compose.compose import compose_file
from hptransfer.config.identity import with_width
from hptransfer.models.parametrization.factors import Role
from hptransfer.models.parametrization.rules import ReadoutForm, parameter_rules, rules_in_form

COMMANDS = commands(PAGE.read_text(encoding="utf-8"))
# arXiv 2203.03466, Table 8, for Adam: powers of m of the rate, the multiplier and the initial std.
TABLE_8 = {
    "input": (0, 0, 0),
    "hidden": (-1, 0, -0.5),
    "output": (0, -1, 0),
    "vector": (0, 0, 0),
    "finite": (0, 0, 0),
}
# arXiv 2512.22382, Table 1: powers of m, r (in blocks, at a = 1) and κ of the rate, the weight
# decay and epsilon. The readout's 1/m is in its weight.
TABLE_1 = {
    "input": ((0, 0, 0.5), (0, 0, 0.5), (-1, 0, -0.5)),
    "hidden": ((-1, 0, 0.5), (1, 0, 0.5), (-1, -1, -0.5)),
    "output": ((-1, 0, 0.5), (1, 0, 0.5), (0, 0, -0.5)),
    "vector": ((0, 0, 0.5), (0, 0, 0.5), (-1, -1, -0.5)),
    "finite": ((0, 0, 0.5), (0, 0, 0.5), (0, -1, -0.5)),
}


def trial_of(words: list[str]) -> TrialConfig:
    return compose_file(None, words[1:]).trial


def test_the_page_shows_both_models_under_every_rule() -> None:
    shown = {
        (word, *sorted(w for w in words if "=complete" in w or "=muon" in w))
        for words in COMMANDS
        for word in words
        if word.startswith("model=")
    }
    rules = [(), ("parametrization=complete",), ("optimizer=muon",)]
    rules.append(("optimizer=muon", "parametrization=complete"))
    assert shown == {(m, *r) for m in ("model=dit_xl_2", "model=mmdit_18b") for r in rules}


@pytest.mark.slow
def test_the_page_is_what_the_program_says() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert written(page) == page, "Run python -m benchmarks.published_rules."


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_parameter_has_the_factors_of_its_table(words: list[str]) -> None:
    assert differing(trial_of(words)) == []


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_wrong_factor_differs(words: list[str]) -> None:
    config = trial_of([*words, f"parametrization.broken={Broken.hidden_lr.value}"])
    assert {role for role, _ in differing(config)} == {"hidden"}


def differing(config: TrialConfig) -> list[tuple[str, str]]:
    """Return the role and the name of every parameter whose factors are not published ones."""
    complete = config.parametrization.scaling.value == "complete"
    published = of_table_1 if complete else of_table_8
    form = ReadoutForm.folded if complete else ReadoutForm.hook
    base = {
        rule.name: rule.init_std
        for rule in parameter_rules(with_width(config, config.model.base_width))
    }
    apart = []
    for rule in rules_in_form(config, form):
        factors = rule.factors
        ours: Any = (factors.lr, factors.weight_decay, factors.eps)
        if not complete:
            std = rule.init_std / base[rule.name] if base[rule.name] else None
            ours = (factors.lr, factors.forward, std)
        if rule.matrices is not None:  # arXiv 2310.17813, Condition 1: no power of m
            rate = ratios(config, rule.name)[1:] if complete else (1.0, 1.0)
            ours, theirs = (factors.lr,), (rate[1] ** 0.5,)
        else:
            theirs = published(config, rule.name, rule.role)
        pairs = [(o, t) for o, t in zip(ours, theirs, strict=True) if o is not None]
        if any(o != pytest.approx(t) for o, t in pairs):
            apart.append((rule.role.value, rule.name))
    return apart


def ratios(config: TrialConfig, name: str) -> tuple[float, float, float]:
    """Return m, r of the place of a parameter, and κ, from the numbers of the config alone."""
    model, own, budget = config.model, config.parametrization, config.budget
    inside = "blocks." in name
    base_depth = getattr(model, "base_depth", None)
    r = model.depth / base_depth if inside and base_depth else 1.0  # pyright: ignore
    kappa = own.base_steps / budget.steps if own.base_steps else 1.0
    return model.width / model.base_width, r, kappa


def of_table_8(config: TrialConfig, name: str, role: Role) -> tuple[float, ...]:
    m, _, _ = ratios(config, name)
    return tuple(m**power for power in TABLE_8[role.value])


def of_table_1(config: TrialConfig, name: str, role: Role) -> tuple[float, ...]:
    m, r, kappa = ratios(config, name)
    powers = TABLE_1[role.value]
    return tuple(m**of_m * r**of_r * kappa**of_kappa for of_m, of_r, of_kappa in powers)


def test_the_models_are_those_of_the_papers(capsys: pytest.CaptureFixture[str]) -> None:
    """Their sizes and widths, and that every matrix under Muon has the scale √(out/in)."""
    sizes = {"dit_xl_2": (1152, 288), "mmdit_18b": (5120, 512)}
    for name, widths in sizes.items():
        model = trial_of(["rules", f"model={name}"]).model
        assert (model.width, model.base_width) == widths
    assert main(["rules", "model=dit_xl_2", "optimizer=muon", "--all", "--json"]) == 0
    for row in json.loads(capsys.readouterr().out):
        if row["optimizer"] == MuonConfig().name:
            rows, columns = row["shape"][0] / row["matrices"], row["shape"][1]
            assert row["update_scale"] == pytest.approx((rows / columns) ** 0.5)
