"""`hptransfer rules`: factors per role and parameter, beside the vanilla Transformer's."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from hptransfer.cli.main import main
from hptransfer.config.choices import Broken, EpsScaling, Init, Scaling
from hptransfer.models.parametrization.factors import Role
from hptransfer.models.parametrization.rule_table import RULE_COLUMNS, parameter_table, role_table
from hptransfer.models.parametrization.rules import build_model
from tests.support.mup_models import BASE, arm, families, trial

GROWING = ("input", "hidden", "output", "vector")


def rules_of(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(["rules", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@families
@pytest.mark.parametrize("width", [BASE, 4 * BASE])
def test_the_table_says_that_the_roles_coincide(family: str, width: int) -> None:
    table = role_table(trial(family, width))
    assert table["coincide"]
    assert table["roles"].keys() == {role.value for role in Role}
    model = build_model(trial(family, width))
    assert table["parameters"] == sum(p.numel() for p in model.parameters())
    parts = table["roles"].values()
    assert table["parameters"] == sum(entry["parameters"] for entry in parts)
    assert sum(entry["tensors"] for entry in parts) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"broken": Broken.readout}, {"output": ["forward_factor"]}),
        ({"broken": Broken.readout_twice}, {"output": ["forward_factor"]}),
        ({"broken": Broken.hidden_lr}, {"hidden": ["lr_factor", "weight_decay_factor"]}),
        ({"broken": Broken.hidden_lr_squared}, {"hidden": ["lr_factor", "weight_decay_factor"]}),
        ({"broken": Broken.input_lr}, {"input": ["lr_factor", "weight_decay_factor"]}),
        ({"eps_scaling": EpsScaling.width}, {role: ["eps_factor"] for role in GROWING}),
        (
            {"scaling": Scaling.standard},
            {"hidden": ["lr_factor", "weight_decay_factor"], "output": ["forward_factor"]},
        ),
    ],
)
@pytest.mark.parametrize("width", [BASE, 4 * BASE])
def test_the_table_names_the_role_that_differs(
    changes: dict[str, Any], differs: dict[str, list[str]], width: int
) -> None:
    table = role_table(arm(trial("dit", width), **changes))
    found = {role: e["differs"] for role, e in table["roles"].items() if e["differs"]}
    assert found == differs
    assert not table["coincide"]


def test_a_rule_that_is_no_power_of_the_width_gives_a_spread() -> None:
    config = arm(trial("dit", 4 * BASE, init=Init.original), scaling=Scaling.standard)
    entry = role_table(config)["roles"]["input"]
    # Xavier's 2/(fan_in + fan_out) at the patch embedding of fan-in 16, and a fixed .02 beside it.
    steepest = math.log(math.sqrt((16 + BASE) / (16 + 4 * BASE)), 4)
    assert entry["exponents"]["init_std"] == {"low": pytest.approx(steepest, abs=1e-4), "high": 0}
    assert entry["differs"] == ["init_std"]


def test_json_of_roles_and_of_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("model=mmdit", "model.width=96", "model.qk_norm=true")
    table = rules_of(capsys, *words)
    assert (table["width"], table["base_width"], table["width_mult"]) == (96, 24, 4)
    hidden = table["roles"]["hidden"]
    assert hidden["lr_factor"] == {"low": 0.25, "high": 0.25}
    assert hidden["exponents"]["lr_factor"] == {"low": -1, "high": -1}
    assert hidden["vanilla_factors"]["lr_factor"] == 0.25
    rows = rules_of(capsys, *words, "--all")
    columns = ["parameter", "shape", "role", *RULE_COLUMNS, "optimizer"]
    assert all(list(row) == columns for row in rows)
    by_name = {row["parameter"]: row for row in rows}
    assert by_name["joint_blocks.0.x_block.attn.proj.weight"] == {
        "parameter": "joint_blocks.0.x_block.attn.proj.weight",
        "shape": [96, 96],
        "role": "hidden",
        "init_std": pytest.approx(96**-0.5),
        "lr_factor": 0.25,
        "weight_decay_factor": 4.0,
        "eps_factor": 1.0,
        "forward_factor": 1.0,
        "optimizer": "adamw",
    }
    assert by_name["final_layer.linear.weight"]["forward_factor"] == 0.25


def test_the_text_has_a_line_per_role_and_says_what_differs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["rules", "model=uvit", "model.width=96"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("uvit width 96, base 24: m = 4; µP; ")
    for role in Role:
        assert sum(line.split()[:1] == [role.value] for line in lines) == 1
    (hidden,) = (line.split() for line in lines if line.split()[:1] == ["hidden"])
    assert hidden[-10:] == ["m^-½", "0.25", "4", "1", "1", "m^-½", "1/m", "m", "1", "1"]
    assert "In every role the rules are those of the plain Transformer." in lines
    assert lines[-1] == "next: hptransfer check model=uvit"
    assert max(map(len, lines)) <= 100

    assert main(["rules", "model=dit", "parametrization.broken=input_lr", "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "The role input differs in its lr factor: 1/m instead of 1." in lines
    assert lines[-1] == "next: hptransfer check model=dit parametrization.broken=input_lr"


def test_all_lists_every_parameter(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "model=pixart", "--all"]) == 0
    out = capsys.readouterr().out
    table = parameter_table(trial("pixart"))  # of the same depth, so of the same names
    assert all(row["parameter"] in out for row in table)


def test_rules_print_their_config_and_refuse_what_check_refuses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["rules", "model=dit", "model.width=96", "--print-config", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["model"]["width"] == 96 and printed["name"] == "rules"
    assert main(["rules", "model.width=97"]) == 2
    assert "`model.width` must be a multiple of the head dimension" in capsys.readouterr().err


def test_a_preset_of_billions_is_read_without_its_data_or_its_storage(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = rules_of(capsys, "model=mmdit_18b")
    assert table["parameters"] == 17_731_051_584
    assert table["width_mult"] == 10 and table["coincide"]
