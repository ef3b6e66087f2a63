"""Sweep files of a trainer of the user's own: what they compose to, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from hptransfer.config.compose.compose import (
    Composed,
    compose_file,
    compose_function,
    resolved_yaml,
    sweep_config,
)
from hptransfer.config.external import ExternalArm, ExternalTrainer, ExternalTrial
from hptransfer.config.identity import trial_key
from hptransfer.config.sweep import ExternalSweep
from hptransfer.errors import UserError
from hptransfer.sweeping.design.trials import wanted

FILE: dict[str, Any] = {
    "train": {
        "command": "python train.py --width {width} --lr {lr} --seed {seed}",
        "result": r"loss=(\S+)",
    },
    "sweep": {"widths": [64, 128, 256], "seeds": 2, "target": {"width": 2048}},
    "search": {"lr": {"low": -10, "high": -4}},
    "fixed": {"steps": 100, "schedule": "cosine", "clip": None, "nesterov": True},
}


def changed(**sections: Any) -> dict[str, Any]:
    """Return the file with entries of sections set; an entry that is None is left out."""
    content = {key: dict(value) for key, value in FILE.items()}
    for name, section in sections.items():
        if isinstance(section, dict) and name in content:
            merged = {**content[name], **section}
            content[name] = {key: value for key, value in merged.items() if value is not ...}
        else:
            content[name] = section
    return content


@pytest.fixture
def composed(tmp_path: Path) -> Callable[..., Composed]:
    """Compose a file with overrides."""

    def make(content: dict[str, Any], *overrides: str) -> Composed:
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return compose_file(path, overrides)

    return make


def swept(composed: Composed) -> ExternalSweep:
    sweep = sweep_config(composed)
    assert isinstance(sweep, ExternalSweep)
    return sweep


def target(composed: Composed) -> ExternalTrial:
    found = swept(composed).target
    assert found is not None
    return found


def trials(composed: Composed) -> list[ExternalTrial]:
    found = list(wanted(swept(composed)).values())
    assert all(isinstance(trial, ExternalTrial) for trial in found)
    return found  # pyright: ignore[reportReturnType]


# Composition


def test_a_file_composes_to_trials_of_its_trainer(composed: Callable[..., Composed]) -> None:
    made = composed(FILE)
    sweep = swept(made)
    assert (sweep.name, sweep.widths, sweep.seeds) == ("mine", (64, 128, 256), (0, 1))
    assert sweep.target is not None and sweep.target.model.width == 2048
    assert "trainer" in sweep.question and sweep.statistic
    found = trials(made)
    assert len(found) == 3 * 2 * 7
    assert {trial.seed for trial in found} == {0, 1}
    assert {trial.values["lr"] for trial in found} == {2.0**n for n in range(-10, -3)}
    assert dict(found[0].fixed) == FILE["fixed"]
    words = found[0].trainer.command_words(found[0].told())
    assert words == ["python", "train.py", "--width", "64", "--lr", "0.0009765625", "--seed", "0"]


@pytest.mark.parametrize(
    ("word", "read"),
    [
        ("train.version=b", lambda made: made.base.trainer.version == "b"),
        ("train.timeout_s=30", lambda made: made.base.trainer.timeout_s == 30),
        ("sweep.widths=[32,64]", lambda made: swept(made).widths == (32, 64)),
        ("sweep.base_width=64", lambda made: made.base.model.base_width == 64),
        ("sweep.seeds=[7]", lambda made: swept(made).seeds == (7,)),
        ("sweep.target.width=512", lambda made: target(made).model.width == 512),
        ("sweep.target.steps=900", lambda made: dict(target(made).fixed)["steps"] == 900),
        ("fixed.steps=50", lambda made: dict(made.base.fixed)["steps"] == 50),
        ("fixed.more=text", lambda made: dict(made.base.fixed).get("more") == "text"),
        ("~fixed.clip", lambda made: "clip" not in dict(made.base.fixed)),
        ("search.lr.low=-6", lambda made: len(trials(made)) == 3 * 2 * 3),
        ("search.lr=[0.5,0.25]", lambda made: len(trials(made)) == 3 * 2 * 2),
        ("executor=local", lambda made: made.executor.name == "local"),
        ("executor.retries=5", lambda made: made.executor.retries == 5),
        ("name=other", lambda made: swept(made).name == "other"),
        ("sweep.parametrizations=[mup,sp]", lambda made: len(trials(made)) == 2 * 42),
    ],
)
def test_an_override_changes_what_it_names(
    composed: Callable[..., Composed], word: str, read: Callable[[Composed], bool]
) -> None:
    assert not read(composed(FILE))
    assert read(composed(FILE, word))


def test_retries_count_for_local_trials_too(composed: Callable[..., Composed]) -> None:
    assert composed(FILE, "executor=local", "executor.retries=7").executor.retries == 7
    with pytest.raises(UserError, match=r"`executor\.cpus` has no effect with executor=local"):
        composed(FILE, "executor=local", "executor.cpus=2")


def test_a_section_executor_chooses_and_changes(composed: Callable[..., Composed]) -> None:
    assert composed(changed(executor="local")).executor.name == "local"
    made = composed(changed(executor={"name": "local", "price_per_hour": 2.5}))
    assert (made.executor.name, made.executor.price_per_hour) == ("local", 2.5)
    assert composed(changed(executor="local"), "executor=ray").executor.name == "ray"


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("executor=local", "train.version=b", "train.timeout_s=9", "train.stop_hopeless=true"),
        ("sweep.parametrizations=[mup,sp]", "sweep.base_width=64", "sweep.target.steps=900"),
        ("search.wd={low: -10, high: -6}", "sweep.design.method=tpe", "train.command=t.sh"),
        ("sweep.design.method=refine", "sweep.seeds=[3,4]", "search.lr.step=0.5"),
        (
            "sweep.vary.steps=[50,200]",
            "sweep.realise={seeds: 2}",
            "fixed.note='7 # no comment: {}'",
        ),
    ],
)
def test_the_recorded_file_composes_to_the_same_sweep(
    composed: Callable[..., Composed], tmp_path: Path, words: Sequence[str]
) -> None:
    made = composed(FILE, *words)
    (tmp_path / "sweep.yaml").write_text(resolved_yaml(made, name=swept(made).name))
    again = compose_file(tmp_path / "sweep.yaml")
    assert sweep_config(again) == sweep_config(made)
    assert again == dataclasses.replace(made, name=swept(made).name)
    assert resolved_yaml(again, name="mine") == resolved_yaml(made, name="mine")


def test_a_function_composes_as_its_file_would(composed: Callable[..., Composed]) -> None:
    content = changed(train={"command": ..., "result": ..., "function": "lab:run"})
    of_function = compose_function({**content, "name": "mine"}, ["fixed.steps=7"])
    assert of_function == composed(content, "fixed.steps=7")


# Identity


def key(composed: Composed) -> str:
    return trial_key(trials(composed)[0])


IDENTITY = (
    *("train.command=python train.py {width} {lr} {seed}", "train.version=b"),
    *("train.result=(.*)", "train.stop_hopeless=true", "fixed.steps=101", "fixed.more=1"),
    *("fixed.nesterov=1", "fixed.clip=null_", "~fixed.clip", "sweep.base_width=64"),
    *("sweep.parametrizations=[mup]", "sweep.seeds=[5]", "sweep.widths=[65,128]"),
    *("search.lr.low=-9", "search.wd=[0.5,1.0]"),
)
SAME = (
    *("train.timeout_s=30", "train.grace_s=1", "executor=local", "executor.retries=1"),
    *("sweep.target.width=4096", "name=other", "question=Why?", "verdict.max_octaves=1.0"),
    *("sweep.widths=[64,512]", "sweep.seeds=[0]", "search.lr.high=-5", "sweep.seeds=3"),
)


@pytest.mark.parametrize("word", IDENTITY)
def test_what_can_change_a_result_changes_the_key(
    composed: Callable[..., Composed], word: str
) -> None:
    more = {"wd": "{wd}"} if word.startswith("search.wd") else {}
    command = FILE["train"]["command"] + "".join(f" --{n} {v}" for n, v in more.items())
    keys = {key(composed(FILE)), key(composed(changed(train={"command": command}), word))}
    assert len(keys) == 2


@pytest.mark.parametrize("word", SAME)
def test_what_cannot_change_a_result_leaves_the_key(
    composed: Callable[..., Composed], word: str
) -> None:
    assert key(composed(FILE)) == key(composed(FILE, word))


def test_keys_are_as_recorded_and_tell_all_trials_apart(
    composed: Callable[..., Composed],
) -> None:
    made = composed(FILE, "sweep.parametrizations=[mup,sp]")
    assert len({trial_key(trial) for trial in trials(made)}) == len(trials(made)) == 84
    assert key(composed(FILE)) == "b87beffce442"
    shuffled = {name: FILE[name] for name in reversed(FILE)}
    shuffled["fixed"] = dict(reversed(FILE["fixed"].items()))
    assert key(composed(shuffled)) == key(composed(FILE))


def test_a_function_is_part_of_the_key(composed: Callable[..., Composed]) -> None:
    train = {"command": ..., "result": ...}
    keys = {
        key(composed(changed(train={**train, "function": name}))) for name in ("lab:a", "lab:b")
    }
    assert len({*keys, key(composed(FILE))}) == 3


# Refusals

COMMAND = "python train.py --width {width} --lr {lr} --seed {seed}"


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"train": {"function": "lab:run"}}, "either `train.function` .* or `train.command`"),
        ({"train": {"command": ""}}, "either `train.function` .* Give one of them"),
        ({"train": {"command": "  "}}, "must be a command line, but it is empty. Give one"),
        ({"train": {"command": "python 'a"}}, "cannot be split into words .* Close its quotes"),
        ({"train": {"command": COMMAND + " {widht}"}}, r"uses \{widht\}.* Did you mean \{width\}"),
        ({"train": {"command": COMMAND + " {stepz}"}}, r"Did you mean \{steps\}\?"),
        ({"train": {"command": COMMAND + " {zzz}"}}, "no trial has such a value. There is: base_w"),
        ({"train": {"command": "t {width} {lr}"}}, r"but none for seed, .* Add \{seed\}"),
        ({"train": {"command": "t {seed}"}}, r"none for width, lr, .* Add \{width\} and \{lr\}"),
        ({"train": {"command": COMMAND + " {}"}}, "must be a name in braces such as {width}"),
        ({"train": {"command": COMMAND + " {lr:.3f}"}}, "must be a name in braces"),
        ({"train": {"command": COMMAND + " {lr!r}"}}, "must be a name in braces"),
        ({"train": {"command": COMMAND + " {0}"}}, "must be a name in braces"),
        ({"train": {"command": COMMAND + " {"}}, "must be a name in braces.* Write {{ and }}"),
        ({"train": {"command": COMMAND + " '{\"a\": 1}'"}}, "must be a name in braces"),
        ({"train": {"command": COMMAND + " > log"}}, "read by no shell, so '>' would be an arg"),
        ({"train": {"command": "cd x && " + COMMAND}}, "read by no shell, so '&&' would be"),
        ({"train": {"command": "cd x; " + COMMAND}}, "read by no shell, so 'x;' would be"),
        ({"train": {"command": COMMAND + " 2>&1"}}, "Write bash -c '...' around the whole line"),
        ({"train": {"result": "loss="}}, "must have one group .* has 0. Write it like val_loss="),
        ({"train": {"result": "(a)(b)"}}, "must have one group .* has 2"),
        ({"train": {"result": "loss=("}}, "must be a regular expression, but got 'loss=.'"),
        ({"train": {"timeout_s": 0}}, "train.timeout_s"),
        ({"train": {"timeout_s": -1}}, "train.timeout_s"),
        ({"train": {"grace_s": -1}}, "train.grace_s"),
        ({"train": {"comand": "x"}}, "There is no config key 'train.comand'. Did you mean train.c"),
        ({"train": {"steps": 1}}, "There is no config key 'train.steps'"),
        ({"sweep": {"widths": []}}, "widths"),
        ({"sweep": {"widths": [128, 64]}}, "widths"),
        ({"sweep": {"widths": [0, 64]}}, "widths"),
        ({"sweep": {"seeds": []}}, "seeds"),
        ({"sweep": {"seeds": 0}}, "sweep.seeds"),
        ({"sweep": {"base_width": 0}}, "base_width"),
        ({"sweep": {"parametrizations": ["shared"]}}, "other than shared, but got 'shared'"),
        ({"sweep": {"parametrizations": ["a b"]}}, "words of at most 40 letters"),
        ({"sweep": {"parametrizations": ["a", "a"]}}, "parametrizations"),
        ({"sweep": {"parametrizations": []}}, "parametrizations"),
        ({"sweep": {"target": {"steps": 5}}}, "must give the target's width, but it gives only s"),
        ({"sweep": {"target": {"width": 512, "stps": 5}}}, "names 'stps'. Did you mean steps"),
        ({"sweep": {"target": {"width": "wide"}}}, "sweep.target.width"),
        ({"sweep": {"gate": True}}, "There is no config key 'sweep.gate'"),
        ({"search": {"lr": ...}}, "search"),
        ({"search": {"width": [1, 2]}}, "`search.width` cannot be set, because every trial is"),
        ({"search": {"steps": [1, 2]}}, "`steps` stands in `search` and in `fixed`"),
        ({"search": {"l r": [1, 2]}}, "must consist of letters, digits and underscores"),
        ({"search": {"lr": {"low": -4, "high": -10}}}, "A search axis needs low < high"),
        ({"search": {"lr": [0.0, 1.0]}}, "lr"),
        ({"search": {"lr": [-1.0, 1.0]}}, "lr"),
        ({"search": {"lr": {"low": 0.001, "hight": 0.1}}}, "high"),
        ({"fixed": {"seed": 1}}, "`fixed.seed` cannot be set"),
        ({"fixed": {"folder": "x"}}, "`fixed.folder` cannot be set"),
        ({"fixed": {"a": [1]}}, r"must be a number, text, true, false or null, but got \[1\]"),
        ({"fixed": {"a": {"b": 1}}}, "must be a number, text, true, false or null"),
        ({"fixed": {"a": float("nan")}}, "`fixed.a` must be finite, but got nan"),
        ({"fixed": {"a": float("inf")}}, "must be finite, but got inf. Put it in quotes"),
        ({"fixed": [1]}, "`fixed` must be a section"),
        ({"model": {"width": 1}}, "has no section 'model', .* Values for the trainer belong into"),
        ({"budget": {"steps": 1}}, "has no section 'budget'"),
        ({"data": "digits"}, "has no section 'data'"),
        ({"serach": {}}, "Did you mean search"),
        ({"resources": {"wide": {"cpus": 2}}}, "gives resources by width, but got 'wide'"),
        ({"verdict": {"octave": 1}}, "octave"),
        ({"executor": {"retires": 1}}, "Did you mean executor.retries"),
    ],
)
def test_what_makes_no_sweep_is_refused_in_a_sentence(
    composed: Callable[..., Composed], sections: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        sweep_config(composed(changed(**sections)))
    assert str(caught.value).endswith((".", "?")) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("model=dit", "has no `model=`, since hptransfer does not know its model"),
        ("budget=short", "has no `budget=`"),
        ("model.width=64", "`model.width` is no key of a sweep of your own trainer"),
        ("budget.steps=9", "Values for the trainer belong into `fixed`"),
        ("optimizer.lr=0.1", "`optimizer.lr` is no key of"),
        ("runtime.pack_size=2", "`runtime.pack_size` is no key of"),
        ("transfer.allow=[depth]", "`transfer.allow` is no key of"),
        ("sweep.gate=false", "There is no config key 'sweep.gate'"),
        ("fixed.seed=1", "`fixed.seed` cannot be set"),
        ("fixd.steps=1", "no config key"),
        ("search.lr.lo=1", "lo"),
        ("sweep.target.stpes=1", "Did you mean steps"),
        ("~fixed.nothing", "there is no `fixed.nothing`"),
        ("executor.workers=2", "no effect with executor=local"),
    ],
)
def test_an_override_that_makes_no_sweep_is_refused(
    composed: Callable[..., Composed], word: str, said: str
) -> None:
    words = ["executor=local", word] if word.startswith("executor.") else [word]
    with pytest.raises(UserError, match=said):
        sweep_config(composed(FILE, *words))


def test_keys_of_such_a_sweep_are_refused_elsewhere() -> None:
    with pytest.raises(UserError, match="is for a sweep of your own trainer, whose file names"):
        compose_file(None, ["fixed.steps=1"])


@pytest.mark.parametrize(
    "command",
    [
        COMMAND + " --sep '|' --text 'a > b; c && d' \"x;\"",
        "bash -c 'cd x && exec python t.py {width} {lr} {seed} > log; true'",
        r"python t.py --name it\'s {width} {lr} {seed} a\;b",
        "python t.py",
        'python t.py --json \'{{"width": {width}, "lr": {lr}, "seed": {seed}}}\'',
    ],
)
def test_a_command_may_hold_what_a_shell_would_take_from_quotes(
    composed: Callable[..., Composed], command: str
) -> None:
    assert trials(composed(changed(train={"command": command})))


def test_a_hyperparameter_may_be_named_like_its_logarithm(
    composed: Callable[..., Composed],
) -> None:
    content = changed(
        train={"command": "t {width} {log2_lr} {seed}"}, search={"lr": ..., "log2_lr": [0.5, 1.0]}
    )
    found = trials(composed(content))[0]
    assert found.trainer.command_words(found.told()) == ["t", "64", "0.5", "0"]


@pytest.mark.parametrize("name", ["lab", "lab:", ":run", "lab/run.py:run", "lab:run()"])
def test_the_name_of_a_function_has_a_form(name: str) -> None:
    with pytest.raises(UserError, match="must have the form package"):
        ExternalTrainer(function=name)


def test_a_pattern_is_for_commands() -> None:
    with pytest.raises(UserError, match=r"trains with a function, .* Leave train.result out"):
        ExternalTrainer(function="lab:run", result="(.*)")


def test_an_arm_is_a_word() -> None:
    assert ExternalArm("mup-1.0").value == "mup-1.0"
    with pytest.raises(UserError, match="must be words"):
        ExternalArm("")
