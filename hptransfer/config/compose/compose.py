"""Config files with overrides, composed to frozen records, and records written as config files.

A written file holds every value, so that reading it needs neither Hydra nor the user's folder of
config groups.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hptransfer.config import (
    ExecutorConfig,
    PlanConfig,
    RuntimeConfig,
    TrainerConfig,
    TrialConfig,
)
from hptransfer.config.checks import require_own_tag
from hptransfer.config.compose.external import SECTIONS as EXTERNAL_SECTIONS
from hptransfer.config.compose.external import (
    ExternalSweepSection,
    TrialResources,
    external_sweep,
    external_trial,
    read_fixed,
    read_resources,
    require_external_keys,
    require_resources_count,
)
from hptransfer.config.compose.schema import (
    EXTERNAL_ONLY,
    GROUPS,
    MEMBERS,
    OPEN,
    SECTIONS,
    TAGS,
    TEXTS,
    TRIAL_FIELDS,
    TRIAL_GROUPS,
    SweepSection,
    TransferSection,
    all_keys,
    is_whole,
    key_types,
    member,
)
from hptransfer.config.external import ExternalTrainer, ExternalTrial, is_external
from hptransfer.config.records import (
    field_types,
    is_list,
    is_text,
    may_be_list,
    plain,
    read_record,
    read_value,
    require_mapping,
)
from hptransfer.config.sweep import (
    Axis,
    SweepConfig,
    VerdictConfig,
    axis_entry,
    current_rule,
    read_axis,
)
from hptransfer.errors import UserError, abbreviate, require
from hptransfer.system.safe_yaml import read_mapping, require_plain, require_text
from hptransfer.system.text import nearest


def shipped_folder(name: str) -> Path:
    """The folder `conf` or `sweeps`: beside the package's files, else one level up."""
    package = Path(__file__).resolve().parents[2]
    for candidate in (package / name, package.parent / name):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"the installation lacks its folder {name}: reinstall hptransfer")


def compose_groups(
    defaults: Sequence[Any], choices: Mapping[str, str], config_dir: Path | None
) -> dict[str, Any]:
    """The values that config files give, as plain values by section.

    Args:
        defaults: a file's defaults list; later entries win over earlier ones.
        choices: the file of each group that is chosen; it wins over the defaults list.
        config_dir: the user's folder of groups, beside those that ship.

    Raises:
        UserError: a file that is not there, or one of `config_dir` that cannot be composed.
    """
    folders = [shipped_folder("conf"), *([config_dir] if config_dir else [])]
    for group, name in choices.items():
        _require_file(group, name, folders)
    for entry in defaults:
        group, name = _chosen(entry)
        _require_file(group, name, folders)
    asked = json.dumps(list(defaults)), tuple(sorted(choices.items()))
    if config_dir is None:
        return copy.deepcopy(_shipped(*asked))
    return _composed(*asked, config_dir)


def _chosen(entry: Any) -> tuple[str, str]:
    """The group and the file that an entry of a defaults list names; no group: a file of `conf`."""
    if isinstance(entry, str):
        return "", entry
    ((key, name),) = entry.items()
    return key.removeprefix("override "), name


def _require_file(group: str, name: str, folders: Sequence[Path]) -> None:
    known = sorted({path.stem for folder in folders for path in (folder / group).glob("*.y*ml")})
    if name not in known:
        what = f"{group}={name}" if group else f"config file {name}"
        meant = MEANT.get((group, name.lower()))
        told = nearest(name, known) if meant is None else f"Did you mean {group}={meant}?"
        raise UserError(f"There is no {what}. {told}")


@functools.lru_cache(maxsize=64)
def _shipped(defaults: str, choices: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """The values of shipped files alone, which do not change while a process runs."""
    return _composed(defaults, choices, None)


def _composed(
    defaults: str, choices: tuple[tuple[str, str], ...], config_dir: Path | None
) -> dict[str, Any]:
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    store = ConfigStore.instance()
    for group, members in MEMBERS.items():
        for name, cls in members.items():
            store.store(f"schema_{name}", plain(cls()), group=group)
    store.store("hptransfer_file", {"defaults": json.loads(defaults)})
    words = [f"{group}='{name}'" for group, name in choices]
    if config_dir is not None:
        words.append(f"hydra.searchpath=['file://{_escaped(str(config_dir.resolve()))}']")
    try:
        with initialize_config_dir(str(shipped_folder("conf")), version_base="1.3"):
            tree = compose("hptransfer_file", overrides=words)
        values: Any = OmegaConf.to_container(tree, enum_to_str=True)
    except (HydraException, OmegaConfBaseException, ValueError, OSError, yaml.YAMLError) as error:
        # Hydra raises a plain ValueError for some files.
        reason = " ".join(str(error).split())
        raise UserError(
            f"The config files of {config_dir or shipped_folder('conf')} cannot be composed: "
            f"{abbreviate(reason, 200)}. Each must give `key: value` lines of its group."
        ) from None
    require_plain(values, "The config")  # a file of --config-dir too
    return values


def _escaped(text: str) -> str:
    """Text for single quotes in Hydra's grammar, to which backslashes and quotes are special."""
    return text.replace("\\", "\\\\").replace("'", "\\'")


# What people call a file of a group -> its name, where that is no near spelling.
MEANT = {("runtime", "gpu"): "cuda", ("runtime", "nvidia"): "cuda"}
LONGEST = 20_000  # characters of an override
EXAMPLES = {  # a choice of each group
    **{"model": "dit", "parametrization": "mup", "objective": "ddpm", "data": "digits"},
    **{"optimizer": "adamw", "budget": "short", "quality": "frechet"},
    **{"runtime": "cpu", "executor": "local"},
}


@dataclass(frozen=True)
class Change:
    """One override of a value: the key with its value, or the key removed."""

    key: str  # dotted
    value: Any = None
    removed: bool = False


@dataclass(frozen=True)
class Overrides:
    """The overrides of a command: files chosen for groups, and changes in the order typed."""

    choices: dict[str, str]  # group -> the chosen file's name
    changes: tuple[Change, ...]


def read_overrides(words: Sequence[str]) -> Overrides:
    """The meaning of overrides as typed.

    Raises:
        UserError: a word that is no override, or sets a key that no config file has.
    """
    choices: dict[str, str] = {}
    changes = []
    for word in words:
        require_text(word, "An override", most=LONGEST)
        if word.startswith("~"):
            changes.append(_removal(word))
            continue
        key, text = _key_and_text(word)
        if key in GROUPS:
            choices[key] = choice(key, text)
        else:
            changes.append(Change(key, _value(key, text, word)))
    return Overrides(choices, tuple(changes))


def _key_and_text(word: str) -> tuple[str, str]:
    if "=" not in word:
        raise UserError(f"An override must have the form key=value, but got {abbreviate(word)}.")
    key, text = (part.strip() for part in word.split("=", 1))
    if key.startswith("+"):
        raise UserError(
            f"An override sets a key that exists, so it needs no +, but got {abbreviate(word)}. "
            f"Write {abbreviate(word.lstrip('+'))} if {abbreviate(key.lstrip('+'))} is one."
        )
    if not re.fullmatch(r"\w+(\.\w+)*", key):
        raise UserError(
            "An override's key must be words with dots between, such as model.width, but got "
            f"{abbreviate(key)}."
        )
    if key not in key_types() and not key.startswith(tuple(f"{name}." for name in OPEN)):
        raise UserError(no_key(key))
    return key, text


def _removal(word: str) -> Change:
    mappings = "|".join(name.replace(".", r"\.") for name in OPEN)
    if not re.fullmatch(rf"~({mappings})(\.\w+)+", word):
        raise UserError(
            "A leading ~ removes an entry of search, sweep.target or executor.resources, such as "
            f"~search.lr, but got {abbreviate(word)}. Set the key to a value instead."
        )
    return Change(word[1:], removed=True)


def choice(group: str, text: str) -> str:
    """The name of a group's file as given, unquoted.

    Raises:
        UserError: text that cannot be the name of a file.
    """
    name = text.strip("'\"")
    if not is_file_name(name):
        raise UserError(
            f"`{group}=` must name a file of the group {group}, such as {group}={EXAMPLES[group]}, "
            f"but got {abbreviate(text)}. Set single values as {group}.<key>=."
        )
    return name


def is_file_name(text: str) -> bool:
    """Whether text can be the name of a config file: letters, digits, `_`, `.` and `-`."""
    return re.fullmatch(r"\w[\w.-]*", text) is not None


def _value(key: str, text: str, word: str) -> Any:
    """The value of an override: of Hydra's grammar, but a key that holds text needs no quotes.

    A list needs no brackets, so that `sweep.widths=24,48` is one. One number of `sweep.seeds` is
    how many seeds there are, and not a list of one.
    """
    kind = key_types().get(key)
    if is_text(kind) and text not in ("", "null") and text[0] not in "'\"":
        return text
    if is_list(kind) and not text.startswith("[") and ("," in text or key != "sweep.seeds"):
        text = f"[{text}]"
    if may_be_list(kind) and "," in text and not text.startswith("["):
        text = f"[{text}]"
    value = _parsed(key, text, word)
    require_plain(value, f"`{key}`")
    return value


def _parsed(key: str, text: str, word: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(f"{key}={text}")
        value = parsed.value()
    except (HydraException, ValueError, RecursionError):
        raise UserError(
            f"The override {abbreviate(word)} cannot be read as key=value. Put it in quotes if it "
            "holds brackets or spaces."
        ) from None
    if parsed.is_sweep_override():
        raise UserError("An override gives one value. For a list write key=[a,b] in quotes.")
    return value


def no_key(key: str) -> str:
    """The sentence for a key that no config file has, or that the chosen group's file has not."""
    known = all_keys()
    section = key.split(".")[0]
    if key in known:
        return (
            f"`{key}` exists, but not for the chosen {section}=. Leave it out where it is set (on "
            f"the command line or in the file), or choose another {section}=."
        )
    near = [name for name in known if name.startswith(f"{section}.")]
    tops = sorted({name.split(".")[0] for name in known})
    return f"There is no config key {abbreviate(key)}. {nearest(key, known, near or tops)}"


# Fields of the executor that not every executor reads.
OF_RAY = ("resources", "accelerator_type", "address", "wait_for_nodes_s", "nodes", "placement")
OF_SLURM = ("slurm",)
OF_BOTH = ("workers", "cpus", "memory_gib", "retries")
NO_EFFECT = {
    "local": (
        (*OF_RAY, *OF_BOTH, *OF_SLURM),
        "which runs one pack after another in this process. Leave it out, or add executor={}.",
    ),
    "ray": (OF_SLURM, "which asks SLURM for nothing. Leave it out, or add executor={}."),
    "slurm": (OF_RAY, "which does without Ray. Leave it out, or add executor={}."),
}


@dataclass(frozen=True)
class SweepSections:
    """The sections of a config file that say what a sweep asks."""

    question: str
    statistic: str
    sweep: SweepSection | ExternalSweepSection
    search: tuple[tuple[str, Axis], ...]  # (hp name, axis), in the order of the file
    transfer: TransferSection
    verdict: VerdictConfig
    plan: PlanConfig = dataclasses.field(default_factory=PlanConfig)  # of our own models


@dataclass(frozen=True)
class Composed:
    """A config file with its overrides, as records."""

    name: str  # of the results folder; empty where nothing names one
    base: TrialConfig | ExternalTrial  # the trial that all others are made from
    runtime: RuntimeConfig
    executor: ExecutorConfig
    trainer: TrainerConfig  # the section `train` of our own models
    sweep: SweepSections | None  # None: the file of one trial
    # Of widths whose trials ask for other resources than `executor` says; only a trainer that is
    # not ours has them.
    resources: Mapping[int, TrialResources] = dataclasses.field(default_factory=dict)

    @property
    def trial(self) -> TrialConfig:
        """The trial, of a model of hptransfer.

        Raises:
            UserError: it is that of a trainer that is not ours.
        """
        if isinstance(self.base, ExternalTrial):
            raise UserError(
                f"This command needs a model of hptransfer, but {self.name} trains with "
                f"{abbreviate(self.base.trainer.name)}, of which hptransfer knows only the "
                "losses. Use plan, sweep, run, status, logs, fit, transfer, plot or report."
            )
        return self.base

    @property
    def allow(self) -> tuple[str, ...]:
        """What a target may differ in besides width."""
        return self.sweep.transfer.allow if self.sweep else ()

    @property
    def tree(self) -> dict[str, Any]:
        """Every value of the file, plain and in the order in which it is written."""
        if isinstance(self.base, ExternalTrial):
            return self._external_tree
        trial = {f.name: plain(getattr(self.trial, f.name)) for f in dataclasses.fields(self.trial)}
        groups = {group: trial.pop(group) for group in TRIAL_GROUPS}
        runs = {"runtime": self.runtime, "executor": self.executor, "train": self.trainer}
        tree = {"name": self.name, **groups, **plain(runs), **trial}
        if self.sweep is None:
            return tree
        asked = self.sweep
        return {
            "name": self.name,
            "question": asked.question,
            "statistic": asked.statistic,
            **tree,
            "sweep": plain(asked.sweep),
            "search": {name: axis_entry(axis) for name, axis in asked.search},
            "transfer": plain(asked.transfer),
            "verdict": plain(asked.verdict),
            "plan": plain(asked.plan),
        }

    @property
    def _external_tree(self) -> dict[str, Any]:
        assert isinstance(self.base, ExternalTrial) and self.sweep is not None
        asked = self.sweep
        tree = {
            "name": self.name,
            "question": asked.question,
            "statistic": asked.statistic,
            "train": plain(self.base.trainer),
            "sweep": plain(asked.sweep),
            "search": {name: axis_entry(axis) for name, axis in asked.search},
            "fixed": dict(self.base.fixed),
            "executor": plain(self.executor),
            "verdict": plain(asked.verdict),
        }
        resources = {width: plain(request) for width, request in self.resources.items()}
        return {**tree, "resources": resources} if resources else tree


def compose_file(
    path: Path | None, overrides: Sequence[str] = (), *, config_dir: Path | None = None
) -> Composed:
    """Compose a YAML file (None: the base trial) with overrides.

    Values come from the files of the groups, then from the file's sections, then from the
    overrides; later ones win. A group that an override chooses replaces a section that gives every
    value, such as a run's own file has, and lies under one that gives a few.

    Raises:
        UserError: a file, word or value that makes no config, in a sentence.
    """
    if config_dir is not None and not config_dir.is_dir():
        raise UserError(f"--config-dir must name a folder of config groups, but got {config_dir}.")
    words = read_overrides(overrides)
    content = {} if path is None else read_mapping(path)
    if path is not None and "imported" in content:
        raise _of_another_program(path)
    if is_external(content):
        assert path is not None
        return _compose_external(content, words, path.stem, str(path), config_dir)
    for change in words.changes:
        require(
            not f"{change.key}.".startswith(EXTERNAL_ONLY),
            f"`{change.key}` is for a sweep of your own trainer, whose file names train.function "
            "or train.command. Leave it out.",
        )
    for key in content:
        if key not in {"defaults", *TEXTS, *TRIAL_FIELDS, *GROUPS, *SECTIONS, "search"}:
            raise UserError(f"{path}: {no_key(key)}")
    tree = _tree(content, words, config_dir)
    members = {group: _member(group, tree[group]) for group in GROUPS}
    for change in words.changes:
        _apply(tree, change)
    groups = {group: _read_group(group, members[group], tree[group]) for group in GROUPS}
    runtime, executor = groups.pop("runtime"), groups.pop("executor")
    _require_effect(words, executor)
    require(
        executor.nodes == 1,
        "`executor.nodes` is for trials of your own trainer, since a pack of trials of hptransfer "
        f"trains on one node, but got {executor.nodes}. Set executor.nodes=1.",
    )
    trial = TrialConfig(**groups, **_trial_fields(tree))
    sections = _sweep_sections(tree)
    stem = path.stem if path else ""
    name = _text("name", tree) or stem
    if sections.search and not any(change.key == "name" for change in words.changes):
        name = "-".join([name, *(words.choices[g] for g in TRIAL_GROUPS if g in words.choices)])
    trainer = read_record(TrainerConfig, tree.get("train", {}), "train")
    return Composed(name, trial, runtime, executor, trainer, sections)


QUESTION = "Does the optimum of this trainer's hyperparameters stay where it is over width?"
STATISTIC = (
    "The factor by which a doubling of the width multiplies the best value, with its 90 % "
    "interval, and what the transferred value costs at the target; decided by the verdict rule."
)


def compose_function(content: Mapping[str, Any], overrides: Sequence[str]) -> Composed:
    """Compose the sweep of a function, from sections as they would stand in a file.

    Raises:
        UserError: a section or value that makes no sweep, in a sentence.
    """
    words = read_overrides(overrides)
    return _compose_external(content, words, "", "The sweep", None)


def _compose_external(
    content: Mapping[str, Any],
    words: Overrides,
    default_name: str,
    where: str,
    config_dir: Path | None,
) -> Composed:
    """Compose a sweep whose trials a function or a command of the user's own trains."""
    require_external_keys(content, where)
    for group in words.choices:
        require(
            group == "executor",
            f"A sweep of your own trainer has no `{group}=`, since hptransfer does not know its "
            "model or its data. Leave it out.",
        )
    tree = {key: value for key, value in content.items() if key != "executor"}
    tree["executor"] = _executor_section(content.get("executor"), words, config_dir)
    for change in words.changes:
        require(
            change.key.split(".")[0] in (*TEXTS, *EXTERNAL_SECTIONS),
            f"`{change.key}` is no key of a sweep of your own trainer, since hptransfer does not "
            "know its model or its data. Values for the trainer belong into `fixed`, such as "
            "fixed.steps=100.",
        )
        _apply(tree, change)
    trainer = read_record(ExternalTrainer, tree["train"], "train")
    section = tree.get("sweep", {})
    if isinstance(section, Mapping) and isinstance(section.get("seeds"), int):
        section = {**section, "seeds": _counted(section["seeds"])}
    asked = read_record(ExternalSweepSection, section, "sweep")
    executor = _read_group("executor", ExecutorConfig, tree["executor"])
    _require_effect(words, executor, read=("executor.retries",))  # whatever runs its trials
    resources = read_resources(tree.get("resources", {}))
    require_resources_count(executor, resources)
    sections = SweepSections(
        question=_text("question", tree) or QUESTION,
        statistic=_text("statistic", tree) or STATISTIC,
        sweep=asked,
        search=_search(tree, external=True),
        transfer=TransferSection(),
        verdict=read_record(VerdictConfig, tree.get("verdict", {}), "verdict"),
    )
    return Composed(
        name=_text("name", tree) or default_name,
        base=external_trial(trainer, asked, read_fixed(tree.get("fixed", {}))),
        runtime=RuntimeConfig(pack_size=1),
        executor=executor,
        trainer=TrainerConfig(),
        sweep=sections,
        resources=resources,
    )


def _executor_section(section: Any, words: Overrides, config_dir: Path | None) -> dict[str, Any]:
    """The values of the section `executor`, with those of the file it chooses below them."""
    chosen = words.choices.get("executor")
    if isinstance(section, str):
        chosen, section = chosen or choice("executor", section), None
    if is_whole("executor", section) and chosen is None:
        return dict(section)
    if isinstance(section, Mapping) and chosen is not None:
        kept = {key: value for key, value in section.items() if key != TAGS["executor"]}
        section = None if is_whole("executor", section) else kept
    if isinstance(section, Mapping) and chosen is None and isinstance(section.get("name"), str):
        chosen = choice("executor", section["name"])
    below = compose_groups(["base"], {"executor": chosen} if chosen else {}, config_dir)
    return _laid_over(below["executor"], {} if section is None else section)


def _of_another_program(path: Path) -> UserError:
    """Return the error of a folder of imported rows that is to be planned or trained."""
    return UserError(
        f"hptransfer can plan and train only its own sweeps, but {path} is of rows that were "
        "imported from another program, whose model hptransfer does not have. Train further "
        "trials with that program and add them with `hptransfer import MORE_ROWS.csv "
        f"{path.parent}`, or read what the rows say with `hptransfer fit {path.parent}`."
    )


def _tree(content: Mapping[str, Any], words: Overrides, config_dir: Path | None) -> dict[str, Any]:
    """The values of the groups' files with the file's sections laid over them."""
    defaults = content.get("defaults", ["base"])
    _require_defaults(defaults)
    sections = {key: value for key, value in content.items() if key != "defaults"}
    executor = sections.get("executor")
    if isinstance(executor, Mapping) and "on_finish" in executor:  # earlier versions wrote it
        require(
            executor["on_finish"] is None,
            "`executor.on_finish` does not exist any more. Remove it from the file, and chain "
            "commands instead, such as `hptransfer sweep NAME; COMMAND`.",
        )
        sections["executor"] = {k: v for k, v in executor.items() if k != "on_finish"}
    if isinstance(sections.get("verdict"), Mapping):
        sections["verdict"] = current_rule(sections["verdict"])
    choices: dict[str, str] = {}
    for group in GROUPS:
        section = sections.get(group)
        if isinstance(section, str):  # `executor: local` chooses as executor=local does
            choices[group] = choice(group, section)
            del sections[group]
        elif group in words.choices and is_whole(group, section):
            del sections[group]
        elif isinstance(section, Mapping) and group in words.choices:
            tag = TAGS.get(group)
            sections[group] = {key: value for key, value in section.items() if key != tag}
    whole = {group for group in GROUPS if is_whole(group, sections.get(group))}
    if len(whole) == len(GROUPS):
        return dict(sections)
    entries = [entry for entry in defaults if _chosen(entry)[0] not in whole and entry != "_self_"]
    for group, members in MEMBERS.items():  # `model: {family: uvit}` chooses as model=uvit does
        section = sections.get(group)
        tag = section.get(TAGS.get(group, "")) if isinstance(section, Mapping) else None
        if tag in members and group not in (_chosen(entry)[0] for entry in entries):
            choices[group] = str(tag)
    below = compose_groups(entries, {**choices, **words.choices}, config_dir)
    return _laid_over({**below, **dict.fromkeys(whole)}, sections)


def _require_defaults(entries: Any) -> None:
    """Refuse a defaults list that is not of files and of group choices."""
    form = rf"(?:override )?(?:{'|'.join(GROUPS)})"
    for entry in entries if isinstance(entries, list) else [entries]:
        pair = next(iter(entry.items())) if isinstance(entry, dict) and len(entry) == 1 else None
        name = pair[1] if pair and re.fullmatch(form, pair[0]) else entry
        if not (isinstance(entries, list) and isinstance(name, str) and is_file_name(name)):
            raise UserError(
                "`defaults` must be a list of base, _self_ and choices such as `override model: "
                f"dit`, but got {abbreviate(entry)}. Leave it out for the usual ones."
            )
    if "base" not in entries:
        raise UserError(
            "`defaults` must hold base, which every file starts from, but got "
            f"{abbreviate(entries)}. Leave it out for the usual ones."
        )


def _laid_over(below: Any, above: Any) -> Any:
    """A tree with another laid over it: mappings are merged, other values replaced."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: _laid_over(below.get(key), value) for key, value in above.items()}}


def _apply(tree: dict[str, Any], change: Change) -> None:
    """Set or remove the value at a dotted key."""
    *sections, name = change.key.split(".")
    level = tree
    for depth, section in enumerate(sections):
        inner = level.get(section)
        where = ".".join(sections[: depth + 1])
        require_mapping(where, inner or {})
        level[section] = dict(inner or {})
        level = level[section]
    below, above = level.get(name), change.value
    if sections == ["search"] and _is_list_of_points(below) != _is_list_of_points(above):
        below = None  # a list of points takes the place of a grid, and a grid that of a list
    if not change.removed:
        level[name] = _laid_over(below, above)
    elif name in level:
        del level[name]
    else:
        raise UserError(
            f"An entry that is removed must be there, but there is no `{change.key}`. Leave "
            f"~{change.key} out."
        )


def _is_list_of_points(entry: Any) -> bool:
    return isinstance(entry, Mapping) and "points" in entry


def _member(group: str, section: Any) -> type:
    require_mapping(group, section)
    return member(group, section)


def _read_group(group: str, cls: type, section: Any) -> Any:
    for name in section:
        if name not in field_types(cls):
            raise UserError(no_key(f"{group}.{name}"))
    record = read_record(cls, section, group)
    if len(MEMBERS[group]) > 1:
        require_own_tag(group, record)
    return record


def read_trial(tree: Mapping[str, Any]) -> TrialConfig:
    """The trial that a tree of plain values describes; what the tree lacks has its default.

    Raises:
        UserError: a key or a value that no trial has.
    """
    sections = {group: tree.get(group, {}) for group in TRIAL_GROUPS}
    groups = {
        group: _read_group(group, _member(group, section), section)
        for group, section in sections.items()
    }
    return TrialConfig(**groups, **_trial_fields(tree))


def _trial_fields(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: read_value(key_types()[name], tree[name], name)
        for name in TRIAL_FIELDS
        if name in tree
    }


def _text(name: str, tree: Mapping[str, Any]) -> str:
    return read_value(str, tree.get(name, ""), name)


def _require_effect(words: Overrides, executor: ExecutorConfig, read: Collection[str] = ()) -> None:
    """Refuse an override that the chosen executor would not read, but for keys that others read."""
    unread, why = NO_EFFECT[executor.name]
    for change in words.changes:
        if change.key in read:
            continue
        section, _, name = change.key.partition(".")
        field = name.split(".")[0]
        require(
            section != "executor" or field not in unread,
            f"`{change.key}` has no effect with executor={executor.name}, "
            + why.format("slurm" if field in OF_SLURM else "ray"),
        )


def _sweep_sections(tree: Mapping[str, Any]) -> SweepSections:
    section = tree.get("sweep", {})
    if isinstance(section, Mapping) and isinstance(section.get("seeds"), int):
        section = {**section, "seeds": _counted(section["seeds"])}
    return SweepSections(
        question=_text("question", tree),
        statistic=_text("statistic", tree),
        sweep=read_record(SweepSection, section, "sweep"),
        search=_search(tree),
        transfer=read_record(TransferSection, tree.get("transfer", {}), "transfer"),
        verdict=read_record(VerdictConfig, tree.get("verdict", {}), "verdict"),
        plan=read_record(PlanConfig, tree.get("plan", {}), "plan"),
    )


def _search(tree: Mapping[str, Any], *, external: bool = False) -> tuple[tuple[str, Axis], ...]:
    search = tree.get("search", {})
    require_mapping("search", search)
    return tuple(
        (name, read_axis(name, entry, external=external))
        for name, entry in search.items()
        if entry is not None and entry != {}
    )


def _counted(seeds: int) -> list[int]:
    """The seeds 0, 1, ... of which a file gives the number."""
    require(
        1 <= seeds <= 10_000 and not isinstance(seeds, bool),
        "`sweep.seeds` as one number says how many seeds there are, so it must be 1 to 10,000, "
        f"but got {seeds}. Write [{seeds}] for the one seed with that number.",
    )
    return list(range(seeds))


def sweep_config(composed: Composed) -> SweepConfig:
    """The sweep of a composed file; its target is the base trial with `sweep.target` laid over it.

    Raises:
        UserError: a file without widths or axes, or a sweep that cannot be run.
    """
    asked = composed.sweep
    require(
        asked is not None,
        "A sweep file must hold `search` axes, but this file is the config of one trial. Name "
        "the file of a sweep.",
    )
    assert asked is not None
    shared: dict[str, Any] = {
        "name": checked_name(composed.name),
        "question": asked.question,
        "statistic": asked.statistic,
        "search": asked.search,
        "verdict": asked.verdict,
    }
    section = asked.sweep
    if isinstance(section, ExternalSweepSection):
        assert isinstance(composed.base, ExternalTrial)
        return external_sweep(section, composed.base, **shared)
    base = composed.trial
    return SweepConfig(
        **shared,
        base=base,
        widths=section.widths,
        parametrizations=section.parametrizations,
        seeds=section.seeds,
        target=target_trial(base, section.target) if section.target else None,
        realise=section.realise,
        design=section.design,
        allow=asked.transfer.allow,
        vary=section.vary,
        gate=section.gate,
    )


def target_trial(base: TrialConfig, changes: Mapping[str, Any]) -> TrialConfig:
    """The base trial with the nested mapping `sweep.target` laid over it."""
    parts = (*TRIAL_GROUPS, *TRIAL_FIELDS)
    for name, section in changes.items():
        if name not in parts:
            raise UserError(
                f"`sweep.target` may change {', '.join(parts)}, but names {abbreviate(name)}. "
                f"{nearest(name, parts)}"
            )
        if name in TRIAL_GROUPS:
            require_mapping(f"sweep.target.{name}", section)
    fields: dict[str, Any] = {}
    for name, section in changes.items():
        record, where = getattr(base, name), f"sweep.target.{name}"
        if name in TRIAL_GROUPS:
            fields[name] = read_record(type(record), _laid_over(plain(record), section), where)
            require_own_tag(name, fields[name])
        else:
            fields[name] = read_value(key_types()[name], section, where)
    return dataclasses.replace(base, **fields)


def checked_name(name: str) -> str:
    """A sweep's name, if it can name a folder."""
    require(
        re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) is not None,
        "A sweep's `name` is also the name of its results folder, so it must consist of letters, "
        f"digits, dots, dashes and underscores, but got {abbreviate(name)}. Set name=.",
    )
    return name


def resolved_yaml(composed: Composed, *, name: str, comment: str = "") -> str:
    """The text of a config file with every value, which composes to the same records."""
    tree = dataclasses.replace(composed, name=name).tree
    body = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=100)
    return "".join(f"# {line}\n" for line in comment.splitlines()) + body


def with_trial(composed: Composed, trial: TrialConfig) -> Composed:
    """The composed file of another trial, without the sections of a sweep."""
    return dataclasses.replace(composed, base=trial, sweep=None)


def load_trial(path: str | Path) -> TrialConfig:
    """Return the trial of a config file, such as an emitted `target.yaml`.

    Raises:
        UserError: no such file, or one that is no config.

    Example:
        >>> config = hptransfer.load_trial("results/studies/quickstart/target.yaml")
        >>> config.model.width, config.parametrization.scaling.value
        (192, 'mup')
    """
    return compose_file(Path(path)).trial


LISTS = {
    "models": "hptransfer list models: families, and every released size as a preset",
    "sweeps": "hptransfer list sweeps: the sweeps that ship, and those in ./sweeps",
    "data": "hptransfer list data: data sets, embedded or in a folder",
}


def find_sweep(name: str, root: Path | None = None) -> Path:
    """Return a sweep's file: a path, or a bare name in ./sweeps, then among those that ship.

    Args:
        root: the folder of results folders; what names one of them, and no sweep, is refused with
            what to type.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
        if not path.is_file():
            _refuse_results_folder(path)
            raise UserError(f"There is no sweep file {path}. Check the path.")
        return path
    folders = (Path("sweeps"), shipped_folder("sweeps"))
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    _refuse_results_folder((root or Path()) / name)
    known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    raise UserError(f"There is no sweep {name!r}. {nearest(name, known)}")


def _refuse_results_folder(path: Path) -> None:
    """Refuse a results folder in the place of a sweep, with what to type instead."""
    file = path / "sweep.yaml"
    if not file.is_file():
        return
    if "imported" in read_mapping(file):
        raise _of_another_program(file)
    raise UserError(
        f"A sweep is named by its file, but {path} is a results folder. To go on with the sweep "
        f"that it holds, give its file: {file}."
    )


def entries_of(kind: str) -> dict[str, str]:
    """Return what there is of a kind, each with the first line of its file."""
    kinds = {
        "models": [shipped_folder("conf") / "model"],
        "sweeps": [shipped_folder("sweeps"), Path("sweeps")],
        "data": [shipped_folder("conf") / "data"],
    }
    if kind not in kinds:
        raise UserError(f"There is a list of {', '.join(kinds)}, but not of {kind!r}.")
    found = {path.stem: path for folder in kinds[kind] for path in folder.glob("*.yaml")}
    return {name: _first_comment(found[name]) for name in sorted(found)}


def _first_comment(path: Path) -> str:
    line = path.read_text(encoding="utf-8", errors="replace").split("\n", 1)[0]
    return line.removeprefix("#").strip() if line.startswith("#") else ""
