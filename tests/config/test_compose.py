"""Every file composes, overrides work, and Hydra's complaints are one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st

from hptransfer.config.choices import Init, Scaling, Schedule
from hptransfer.config.compose.compose import (
    as_run_yaml,
    compose_file,
    load_trial,
    shipped_folder,
    sweep_config,
    with_trial,
)
from hptransfer.config.compose.overrides import GROUPS
from hptransfer.config.identity import with_width
from hptransfer.config.sweep import Axis
from hptransfer.errors import UserError

QUICKSTART = shipped_folder("sweeps") / "quickstart.yaml"
CHOICES = [
    (group, path.stem)
    for group in GROUPS
    for path in sorted((shipped_folder("conf") / group).glob("*.yaml"))
]


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_config_file_composes(group: str, choice: str) -> None:
    assert compose_file(None, [f"{group}={choice}"]).choices[group] == choice


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


def test_a_sweep_as_run_composes_to_itself_here_and_by_hydra(tmp_path: Path) -> None:
    first = compose_file(QUICKSTART, ["model.depth=3", "objective=ddpm", "search.lr.low=-9"])
    path = tmp_path / "sweep.yaml"
    path.write_text(as_run_yaml(first, name="again"))
    again = compose_file(path, [], as_run=True)
    assert again.trial == first.trial and again.executor == first.executor
    assert as_run_yaml(again, name="again") == path.read_text()
    plain = yaml.safe_load(path.read_text())
    search_path = f"hydra.searchpath=[file://{shipped_folder('conf')}]"
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        by_hydra = compose("sweep", overrides=[search_path])
    assert by_hydra.model == plain["model"] and by_hydra.search == plain["search"]


def test_choosing_a_group_replaces_the_section_of_a_file_as_run(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(as_run_yaml(compose_file(QUICKSTART, ["budget.steps=9"]), name="x"))
    assert compose_file(path, [], as_run=True).trial.budget.steps == 9
    assert compose_file(path, ["budget=constant_ema"], as_run=True).trial.budget.steps == 150


def test_a_config_dir_adds_choices(tmp_path: Path) -> None:
    (tmp_path / "budget").mkdir()
    body = "defaults: [schema_budget, _self_]\nsteps: 7\n"
    (tmp_path / "budget" / "seven.yaml").write_text(body)
    composed = compose_file(QUICKSTART, ["budget=seven"], config_dir=tmp_path)
    assert composed.trial.budget.steps == 7


SENTENCES = [
    ("model=ditt", "There is no model=ditt. Did you mean dit or mmdit or mmdit_tiny?"),
    (
        "modle.width=3",
        "There is no config key `modle.width`. Did you mean model.width or model.base_width or "
        "model.depth?",
    ),
    ("model.width=a", "`model.width` must be a whole number, but got a."),
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
    ("model.width=[1", "The override 'model.width=[1' cannot be read as key=value."),
    ("foo", "An override must read key=value, but got 'foo'."),
    (
        "search.lr.lwo=3",
        "`search.lr` must give low, high and perhaps step, in log2, but got {'low': -10, 'high': "
        "-3, 'step': 1, 'lwo': 3}. Write e.g. search.lr.low=-10 search.lr.high=-3.",
    ),
    (
        "search.lr.high=-10",
        "A search axis needs low < high and step > 0, so that it has two points or more, but got "
        "low=-10.0, high=-10.0, step=1.0.",
    ),
    (
        "search.learning_rate={low: 1, high: 2}",
        "`search.learning_rate` is not a hyperparameter that can be swept. Those that can "
        "with objective=rectified_flow: lr, weight_decay, eps, clip_norm, one_minus_beta1, "
        "one_minus_beta2, init_scale, output_scale, warmup_fraction.",
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
        "`sweep.target`: There is no config key `model.widht`. Did you mean model.width or "
        "model.base_width or model.depth?",
    ),
    (
        "name=../x",
        "A sweep's `name` names its results folder, so it must be letters, digits, dots, dashes "
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
    path.write_text(as_run_yaml(with_trial(composed, trial), name="x-target"))
    assert load_trial(path) == trial


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
