"""Every file composes, overrides work, and Hydra's complaints are one sentence."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hptransfer.config.choices import Init, Scaling, Schedule
from hptransfer.config.compose.compose import (
    compose_file,
    load_trial,
    read_trial,
    resolved_yaml,
    shipped_folder,
    sweep_config,
    with_trial,
)
from hptransfer.config.compose.schema import GROUPS
from hptransfer.config.identity import canonical, with_width
from hptransfer.config.sweep import Axis
from hptransfer.errors import UserError
from hptransfer.sweeping.design.trials import wanted

QUICKSTART = shipped_folder("sweeps") / "quickstart.yaml"
CHOICES = [
    (group, path.stem)
    for group in GROUPS
    for path in sorted((shipped_folder("conf") / group).glob("*.yaml"))
]


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_config_file_composes(group: str, choice: str) -> None:
    content = yaml.safe_load((shipped_folder("conf") / group / f"{choice}.yaml").read_text())
    values = {key: value for key, value in content.items() if key != "defaults"}
    composed = compose_file(None, [f"{group}={choice}"]).tree[group]
    assert {key: composed[key] for key in values} == values


@pytest.mark.parametrize("path", sorted(shipped_folder("sweeps").glob("*.yaml")), ids=str)
def test_every_sweep_says_its_question_and_statistic(path: Path) -> None:
    sweep = sweep_config(compose_file(path, []))
    assert sweep.name == path.stem
    assert sweep.question and sweep.statistic and sweep.target is not None


def test_overrides_reach_the_records() -> None:
    composed = compose_file(
        QUICKSTART,
        [
            "model.depth=3",
            "sweep.widths=24,48",
            "sweep.parametrizations=standard_embed",
            "search.lr.low=-9",
            "search.init_scale={low: -1, high: 1}",
            "sweep.target.model.width=384",
            "init=paper",
            "budget.schedule=cosine",
            "optimizer.clip_norm=0.5",
            "executor=local",
        ],
    )
    sweep = sweep_config(composed)
    assert sweep.base.model.depth == 3  # pyright: ignore
    assert sweep.widths == (24, 48)
    assert sweep.parametrizations == (Scaling.standard_embed,)
    assert sweep.search == (("lr", Axis(-9, -3)), ("init_scale", Axis(-1, 1)))
    assert sweep.target is not None and sweep.target.model.width == 384
    assert sweep.target.model.depth == 3  # pyright: ignore
    assert sweep.base.init is Init.paper
    assert sweep.base.budget.schedule is Schedule.cosine
    assert sweep.base.optimizer.clip_norm == 0.5
    assert composed.executor.name == "local"


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "quickstart"),
        (["objective=ddpm"], "quickstart-ddpm"),
        (["objective=ddpm", "budget=constant_ema"], "quickstart-ddpm-constant_ema"),
        (["executor=local", "model.depth=3"], "quickstart"),
        (["objective=ddpm", "name=mine"], "mine"),
    ],
)
def test_results_are_named_after_the_overridden_groups(overrides: list[str], name: str) -> None:
    assert sweep_config(compose_file(QUICKSTART, overrides)).name == name


def test_a_file_without_a_name_is_named_after_itself(tmp_path: Path) -> None:
    path = tmp_path / "widths.yaml"
    path.write_text("sweep: {widths: [24]}\nsearch: {lr: {low: -4, high: -3}}\n")
    assert sweep_config(compose_file(path, [])).name == "widths"


def test_a_written_sweep_composes_to_itself(tmp_path: Path) -> None:
    first = compose_file(QUICKSTART, ["model.depth=3", "objective=ddpm", "search.lr.low=-9"])
    path = tmp_path / "sweep.yaml"
    path.write_text(resolved_yaml(first, name="again"))
    again = compose_file(path, [])
    assert dataclasses.replace(again, name=first.name) == first
    assert resolved_yaml(again, name="again") == path.read_text()


def test_a_written_sweep_needs_neither_the_config_dir_nor_hydra(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    first = compose_file(QUICKSTART, ["budget=seven"], config_dir=config_dir(tmp_path))
    path.write_text(resolved_yaml(first, name="x"))
    assert "defaults" not in yaml.safe_load(path.read_text())
    assert compose_file(path, ["model.depth=3"]).trial.budget.steps == 7
    looked = f"""
import sys
from pathlib import Path
from hptransfer.config.compose.compose import compose_file
compose_file(Path({str(path)!r}))
assert not {{"hydra", "omegaconf"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", looked], check=True)


def test_a_file_of_an_earlier_version_is_read_without_its_groups(tmp_path: Path) -> None:
    """Such a file lists the chosen groups in `defaults`, and gives every value as well."""
    first = compose_file(QUICKSTART, ["budget=seven"], config_dir=config_dir(tmp_path))
    listed = ["base", {"override model": "dit"}, {"override budget": "seven"}, "_self_"]
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({"defaults": listed, **first.tree}))
    assert compose_file(path, []) == first
    shorter = {**first.tree, "quality": {}}  # as before the group quality had fields
    path.write_text(yaml.safe_dump({"defaults": listed, **shorter}))
    assert compose_file(path, []).trial == first.trial


def test_choosing_a_group_replaces_the_section_of_a_written_file(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(resolved_yaml(compose_file(QUICKSTART, ["budget.steps=9"]), name="x"))
    assert compose_file(path, []).trial.budget.steps == 9
    assert compose_file(path, ["budget=constant_ema"]).trial.budget.steps == 150
    assert compose_file(path, ["model=uvit"]).trial.model.family == "uvit"
    with pytest.raises(UserError, match="no budget=seven"):
        compose_file(path, ["budget=seven"])
    chosen = compose_file(path, ["budget=seven"], config_dir=config_dir(tmp_path))
    assert chosen.trial.budget.steps == 7


def config_dir(folder: Path) -> Path:
    """Write a folder of config groups with the budget `seven`."""
    (folder / "budget").mkdir(exist_ok=True)
    body = "defaults: [schema_budget, _self_]\nsteps: 7\n"
    (folder / "budget" / "seven.yaml").write_text(body)
    return folder


def test_a_config_dir_adds_choices(tmp_path: Path) -> None:
    composed = compose_file(QUICKSTART, ["budget=seven"], config_dir=config_dir(tmp_path))
    assert composed.trial.budget.steps == 7


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("steps: 7\nstepz: 8\n", "no config key 'budget.stepz'"),
        ("steps: seven\n", "`budget.steps` must be a whole number, but got 'seven'"),
        ("defaults: [nothing]\n", "cannot be composed"),
        ("- 1\n", "`budget` must be a section"),
        ("steps: [\n", "cannot be composed"),
    ],
)
def test_a_broken_file_of_a_config_dir_is_one_sentence(
    body: str, sentence: str, tmp_path: Path
) -> None:
    (config_dir(tmp_path) / "budget" / "seven.yaml").write_text(body)
    with pytest.raises(UserError) as caught:
        compose_file(QUICKSTART, ["budget=seven"], config_dir=tmp_path)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def written(folder: Path, **sections: object) -> Path:
    """Write a sweep file of a few sections."""
    path = folder / "mine.yaml"
    needed = {"sweep": {"widths": [24, 48]}, "search": {"lr": {"low": -9, "high": -3}}}
    path.write_text(yaml.safe_dump({**needed, **sections}))
    return path


@pytest.mark.parametrize("executor", ["local", {"name": "local"}, {"name": "local", "gpus": 1}])
def test_a_group_on_the_command_line_wins_over_what_the_file_chooses(
    executor: object, tmp_path: Path
) -> None:
    path = written(tmp_path, executor=executor)
    assert compose_file(path, []).executor.name == "local"
    composed = compose_file(path, ["executor=ray", "executor.address=auto"])
    assert (composed.executor.name, composed.executor.address) == ("ray", "auto")
    kept = executor.get("gpus") if isinstance(executor, dict) else None
    assert composed.executor.gpus == kept


@pytest.mark.parametrize("name", ["conditions", "lr_transfer", "lr_transfer_fashion"])
def test_shipped_sweeps_run_where_the_command_line_says(name: str) -> None:
    path = shipped_folder("sweeps") / f"{name}.yaml"
    assert compose_file(path, []).executor.name == "local"
    assert compose_file(path, ["executor=ray"]).executor.name == "ray"


def test_a_file_chooses_groups_by_name_or_by_their_tag(tmp_path: Path) -> None:
    by_name = written(tmp_path, model="uvit", budget="constant_ema", optimizer="pixart")
    composed = compose_file(by_name, [])
    assert composed == compose_file(
        written(tmp_path), ["model=uvit", "budget=constant_ema", "optimizer=pixart", "name=mine"]
    )
    by_tag = written(tmp_path, model={"family": "uvit", "width": 48})
    at_24 = compose_file(None, ["model=uvit"]).trial
    assert compose_file(by_tag, []).trial == with_width(at_24, 48)
    assert compose_file(by_tag, ["model=dit"]).trial.model.family == "dit"
    with pytest.raises(UserError, match="no model=ditt"):
        compose_file(written(tmp_path, model="ditt"), [])


@pytest.mark.parametrize("word", ["executor.address=auto", "executor.resources.TPU=1"])
def test_a_word_without_effect_on_the_local_executor_is_refused(word: str) -> None:
    with pytest.raises(UserError, match=r"`executor\.\S+` has no effect with executor=local"):
        compose_file(QUICKSTART, ["executor=local", word])
    compose_file(QUICKSTART, [word])


RATES = [1e-3, 2e-3, 4e-3]


def test_a_list_of_rates_is_an_axis(tmp_path: Path) -> None:
    typed = sweep_config(compose_file(QUICKSTART, ["search.lr=[1e-3,2e-3,4e-3]"]))
    path = written(tmp_path, search={"lr": ["1e-3", 4e-3, 2e-3]})
    in_file = compose_file(path, [])
    assert typed.search == sweep_config(in_file).search
    ((name, axis),) = typed.search
    assert name == "lr" and [2**point for point in axis.points] == pytest.approx(RATES, rel=1e-9)
    path.write_text(resolved_yaml(in_file, name="mine"))
    assert sweep_config(compose_file(path, [])).search == typed.search
    assert yaml.safe_load(path.read_text())["search"]["lr"] == {"points": list(axis.points)}
    grid = sweep_config(compose_file(path, ["search.lr={low: -9, high: -3}"]))
    assert grid.search == (("lr", Axis(-9, -3)),)
    points = f"search.lr={{points: {list(axis.points)}}}"
    assert sweep_config(compose_file(QUICKSTART, [points])).search == typed.search
    assert wanted(sweep_config(in_file)).keys() == wanted(sweep_config(compose_file(path))).keys()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["search.lr=[1e-3]"], "two different values or more, but got [0.001]"),
        (["search.lr=[1e-3,1e-3]"], "two different values or more"),
        (["search.lr=[-10,-3]"], "must be positive, but got [-10, -3]"),
        (["search.lr=[a,b]"], "`search.lr[0]` must be a number, but got 'a'"),
        (["search.lr=[1e-3,2e-3]", "sweep.design.method=refine"], "method is refine"),
    ],
)
def test_a_list_that_is_no_axis_is_refused(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        sweep_config(compose_file(QUICKSTART, words))
    assert sentence in str(caught.value)


def test_one_number_of_seeds_is_how_many(tmp_path: Path) -> None:
    def seeds(*words: str, path: Path = QUICKSTART) -> tuple[int, ...]:
        return sweep_config(compose_file(path, list(words))).seeds

    assert seeds("sweep.seeds=3") == (0, 1, 2) and seeds("sweep.seeds=[3]") == (3,)
    assert seeds("sweep.seeds=0,2") == (0, 2)
    for typed, expected in ((2, (0, 1)), ([2], (2,))):
        in_file = written(tmp_path, sweep={"widths": [24], "seeds": typed})
        assert seeds(path=in_file) == expected
    with pytest.raises(UserError, match="must be 1 to 10,000, but got 0"):
        seeds("sweep.seeds=0")


SENTENCES = [
    ("model=ditt", "There is no model=ditt. Did you mean dit or mmdit or mmdit_tiny?"),
    (
        "modle.width=3",
        "There is no config key 'modle.width'. Did you mean model.width or model.base_width or "
        "model.depth?",
    ),
    ("model.width=a", "`model.width` must be a whole number, but got 'a'."),
    ("budget.steps=1.5", "`budget.steps` must be a whole number, but got 1.5."),
    (
        "+model.width=8",
        "An override sets a key that exists, so it needs no +, but got '+model.width=8'. Write "
        "'model.width=8' if 'model.width' is one.",
    ),
    (
        "init=paperr",
        "`init` must be one of paper, adaln_zero, original, but got 'paperr'. Did you mean paper?",
    ),
    (
        "model.width=[1",
        "The override 'model.width=[1' cannot be read as key=value. Put it in quotes if it "
        "holds brackets or spaces.",
    ),
    ("foo", "An override must have the form key=value, but got 'foo'."),
    (
        "search.lr.lwo=3",
        "`search.lr` must give low, high and perhaps step, in log2, or a list of values, but got "
        "{'low': -10, 'high': -3, 'step': 1, 'lwo': 3}. Write e.g. search.lr.low=-10 "
        "search.lr.high=-3.",
    ),
    (
        "search.lr.high=-10",
        "A search axis needs low < high and step > 0, so that it has two points or more, but got "
        "low=-10.0, high=-10.0, step=1.0.",
    ),
    (
        "search.learning_rate={low: 1, high: 2}",
        "`search.learning_rate` is not a hyperparameter that can be swept. With "
        "objective=rectified_flow and optimizer=adamw these can be: lr, weight_decay, "
        "decay_timescale, eps, clip_norm, one_minus_beta1, one_minus_beta2, init_scale, "
        "output_scale, warmup_fraction, repa_weight, auxiliary_weight, lr_mult_input, "
        "lr_mult_hidden, lr_mult_output, lr_mult_vector, lr_mult_adaln.",
    ),
    (
        "sweep.widths=[]",
        "A sweep needs at least one entry in `sweep.widths`, but it is empty. Add one.",
    ),
    (
        "sweep.widths=48,24",
        "`sweep.widths` must be increasing, but got [48, 24]. Sort the list and name each value "
        "once.",
    ),
    (
        "sweep.target.model.widht=4",
        "There is no config key 'sweep.target.model.widht'. Did you mean sweep.target.model.width "
        "or sweep.target.model.depth or sweep.target.model.base_width?",
    ),
    (
        "name=../x",
        "A sweep's `name` is also the name of its results folder, so it must consist of letters, "
        "digits, dots, dashes "
        "and underscores, but got '../x'. Set name=.",
    ),
]


@pytest.mark.parametrize(("override", "sentence"), SENTENCES)
def test_bad_overrides_are_one_sentence(override: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        sweep_config(compose_file(QUICKSTART, [override]))
    assert str(caught.value) == sentence


@pytest.mark.parametrize("content", ["a: [", "- 1", "name: !!python/object/apply:os.getcwd []"])
def test_files_that_are_no_config_are_one_sentence(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=r"must be YAML|must hold `key: value`"):
        compose_file(path, [])


KEYS = ["model.width", "optimizer.lr", "init", "sweep.seeds", "search.lr.low", "model", "x.y"]
VALUES = st.one_of(st.integers(-3, 300).map(str), st.text("ab[]{}:,=+~-1.", max_size=6))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KEYS), VALUES), min_size=1, max_size=3))
def test_any_overrides_compose_or_are_one_sentence(pairs: list[tuple[str, str]]) -> None:
    try:
        sweep_config(compose_file(QUICKSTART, [f"{key}={value}" for key, value in pairs]))
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) > 20


def test_the_target_keeps_init_and_seed_of_the_base_trial() -> None:
    sweep = sweep_config(compose_file(QUICKSTART, ["init=paper", "seed=3"]))
    assert sweep.target is not None
    for trial in (sweep.base, sweep.target):
        assert (trial.init, trial.seed) == (Init.paper, 3)


def test_an_emitted_trial_keeps_init_and_seed(tmp_path) -> None:
    composed = compose_file(QUICKSTART, ["init=paper", "seed=3"])
    trial = with_width(composed.trial, 96)
    path = tmp_path / "target.yaml"
    path.write_text(resolved_yaml(with_trial(composed, trial), name="x-target"))
    assert not {"sweep", "search", "question"} & yaml.safe_load(path.read_text()).keys()
    assert load_trial(path) == trial


def test_a_short_form_is_read_as_typed_fields() -> None:
    trial = with_width(compose_file(QUICKSTART, ["init=paper", "optimizer.lr=1"]).trial, 48)
    again = read_trial(canonical(trial))
    assert again == trial and again.init is Init.paper


def test_sections_of_a_sweep_file_reach_the_record() -> None:
    words = ["sweep.realise.points=7", "sweep.realise.seeds=2", "verdict.max_regret=0.01"]
    sweep = sweep_config(compose_file(QUICKSTART, words))
    assert (sweep.realise.points, sweep.realise.seeds) == (7, 2)
    assert sweep.verdict.max_regret == 0.01


def test_defaults_of_the_sweep_section() -> None:
    tree = compose_file(None, []).tree["sweep"]
    assert (tree["gate"], tree["seeds"], tree["parametrizations"]) == (True, [0], ["mup"])


@pytest.mark.parametrize("quote", ["", "'", '"'])
@pytest.mark.parametrize("sha256", ["1234567890123456", "1234567890123e45", "00ff00ff00ff00ff"])
def test_a_hash_of_digits_is_no_number(sha256: str, quote: str) -> None:
    composed = compose_file(None, [f"data.sha256={quote}{sha256}{quote}"])
    assert composed.trial.data.sha256 == sha256


def test_a_file_of_an_earlier_version_may_hold_an_empty_on_finish(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("executor: {on_finish: null, retries: 5}\n")
    assert compose_file(path).executor.retries == 5
    path.write_text("executor: {on_finish: ./tell.sh}\n")
    with pytest.raises(UserError, match="does not exist any more"):
        compose_file(path)
