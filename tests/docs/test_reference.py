"""The reference names every command, option, config key, public name, file and field."""

from __future__ import annotations

import dataclasses
import re
from operator import attrgetter
from pathlib import Path

import pytest

import hptransfer
from hptransfer.cli.commands import COMMANDS, parser_of
from hptransfer.cli.main import main
from hptransfer.config.compose.external import TrialResources
from hptransfer.config.compose.schema import GROUPS, SECTIONS, TRIAL_FIELDS, key_types
from hptransfer.config.external import ExternalTrainer
from hptransfer.config.hyperparameters import HYPERPARAMETERS
from hptransfer.results.ledger_rows import read_ledger
from website.reference import commands, config_keys, python_api, results_folder


def section(page: str, title: str) -> str:
    """Return a page's text below a heading, up to the next heading of its level."""
    (found,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    return found


def first_cells(text: str) -> set[str]:
    """Return what stands as code in the first column of a text's tables."""
    return set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))


def test_every_command_has_its_section_with_every_argument() -> None:
    page = commands.page()
    for command in COMMANDS:
        text = section(page, f"hptransfer {command.name}") + section(page, "Every command")
        for action in parser_of(command)._actions:
            names = action.option_strings or [str(action.metavar or action.dest)]
            for name in names:
                found = re.search(rf"^\| `[^`]*{re.escape(name)}\b", text, re.M | re.I)
                assert found, (command.name, name)


def test_every_exit_code_has_its_meaning() -> None:
    codes = [code for code, _ in commands.exit_codes()]
    assert codes == ["`0`", "`1`", "`2`", "`3`", "`130, 143`"]


def test_every_config_key_has_its_row() -> None:
    of_trial, of_sweep = config_keys.trial_page(), config_keys.sweep_page()
    shown = first_cells(of_trial) | first_cells(of_sweep)
    sections = {name for name in key_types() if any(k.startswith(f"{name}.") for k in key_types())}
    keys = set(key_types()) - sections - {*GROUPS, *SECTIONS, "search"}
    assert {"sweep.target", "executor.resources", *TRIAL_FIELDS} <= keys
    assert keys - shown == set()
    assert {*HYPERPARAMETERS, "vlb_weight"} <= first_cells(
        section(of_sweep, "The values to search")
    )


def test_the_keys_of_a_sweep_of_one_s_own_trainer_have_their_section() -> None:
    own = first_cells(section(config_keys.sweep_page(), "A sweep of your own trainer"))
    trainer = {f"train.{field.name}" for field in dataclasses.fields(ExternalTrainer)}
    of_width = {f"resources.WIDTH.{field.name}" for field in dataclasses.fields(TrialResources)}
    assert own == trainer | of_width | {
        *("sweep.widths", "sweep.base_width", "sweep.parametrizations", "sweep.seeds"),
        *("sweep.target", "fixed"),
    }


def test_a_key_s_row_says_type_default_and_meaning() -> None:
    page = config_keys.trial_page()
    of_budget, of_model = section(page, "budget"), section(page, "model")
    assert "| `budget.steps` | whole number | `150` | optimizer steps |" in of_budget
    assert "- `cosine`: to zero over the rest of the run" in of_budget
    row = re.escape("| `model.final_conv` | true or false | `true` |")
    assert re.search(rf"{row}.*\| `uvit` \|$", of_model, re.MULTILINE)
    assert "| `optimizer.beta2` | number | `0.99` |" in page  # as conf/ sets it


PUBLIC = [*hptransfer.__all__, *(f"mup.{name}" for name in hptransfer.mup.__all__)]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_its_section(name: str) -> None:
    text = section(python_api.page(), name)
    thing = attrgetter(name)(hptransfer)
    if isinstance(thing, type):
        public = {member for member in vars(thing) if not member.startswith("_")}
        assert "`_" not in text
        named = first_cells(text) | set(re.findall(r"^```python\n(\w+)\(", text, re.MULTILINE))
        assert public <= named | {"folder", "record", "notes"}
    else:
        assert f"```python\nhptransfer.{name}(" in text
        assert "at 0x" not in text


def test_a_signature_is_shown_as_it_is_written() -> None:
    text = section(python_api.page(), "plot")
    keywords = '    *,\n    step: int | None = None,\n    metric: str = "loss",\n'
    assert f"    into: str | Path | None = None,\n{keywords}) -> dict[str, Figure]" in text


def test_every_file_and_field_that_a_run_leaves_is_described(tiny_sweep: Path) -> None:
    few = ("sweep.seeds=[0]", "sweep.widths=[8,16]", "sweep.parametrizations=[mup]")
    assert main(["sweep", str(tiny_sweep), "--quiet", *few]) == 0
    assert main(["transfer", "tiny", "--quiet"]) == 0
    assert main(["train", "results/tiny/target.yaml", "--quiet"]) == 0
    folder = Path("results/tiny")
    page = results_folder.page()
    described = first_cells(section(page, "Files"))
    known = {name.split("/")[0] for name in described}
    assert {path.name for path in folder.iterdir()} <= known
    of_runs = first_cells(section(page, "Files of a training run"))
    (run,) = (folder / "target" / "runs").iterdir()
    assert {path.name for path in run.iterdir()} <= {name.split("/")[0] for name in of_runs}
    of_row = first_cells(section(page, "A row of the ledger"))
    row = read_ledger(folder).rows[0]
    inside = {f"{part}.{name}" for part in ("metrics", "cost") for name in row[part]}
    assert {*row, *inside} <= of_row
