"""From YAML files and overrides to frozen dataclasses: the only importer of Hydra and OmegaConf.

Nothing downstream sees a DictConfig. Hydra's own messages are translated into one sentence each.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hptransfer.config import ExecutorConfig, RuntimeConfig, TrainerConfig, TrialConfig
from hptransfer.config.checks import require_own_tag
from hptransfer.config.choices import Method, Scaling
from hptransfer.config.compose.overrides import (
    GROUPS,
    SECTIONS,
    TRIAL_FIELDS,
    TRIAL_GROUPS,
    checked_name,
    explain,
    group_choices,
    nearest,
    no_key,
    normalised,
    quoted,
    require_defaults,
    require_flat_lists,
    require_section,
    require_sections,
)
from hptransfer.config.compose.schema import SCHEMAS, TOP_KEYS, Root, all_keys, text_keys, thawed
from hptransfer.config.conditions import VaryConfig
from hptransfer.config.design import DesignConfig
from hptransfer.config.hyperparameters import require_known_hp
from hptransfer.config.sweep import Axis, RealiseConfig, SweepConfig, VerdictConfig
from hptransfer.errors import UserError, abbreviate
from hptransfer.system.safe_yaml import read_mapping, require_plain


@dataclass(frozen=True)
class Composed:
    """A composed file: its tree as plain values, and the records made from it."""

    tree: dict[str, Any]
    choices: dict[str, str]  # group -> chosen file
    name: str  # of the results folder; empty where the file names no sweep
    trial: TrialConfig
    runtime: RuntimeConfig
    executor: ExecutorConfig
    trainer: TrainerConfig  # the section `train`


def shipped_folder(name: str) -> Path:
    """Return the folder `conf` or `sweeps`: beside the package's files, else one level up."""
    package = Path(__file__).resolve().parents[2]
    for candidate in (package / name, package.parent / name):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"the installation lacks its folder {name}: reinstall hptransfer")


def compose_file(
    path: Path | None,
    overrides: list[str],
    *,
    config_dir: Path | None = None,
    as_run: bool = False,
) -> Composed:
    """Compose a YAML file (or the base trial) with overrides.

    `as_run` marks a complete file that a run wrote: there a group chosen on the command line
    replaces the file's section instead of being overlaid by it.
    """
    if config_dir is not None and not config_dir.is_dir():
        raise UserError(f"--config-dir must name a folder of config groups, but got {config_dir}.")
    file_tree: dict[str, Any] = {"defaults": ["base"]} if path is None else _read_file(path)
    if as_run:
        for group in group_choices(overrides):
            file_tree.pop(group, None)
    _register(file_tree)
    search_path = [config_dir] if config_dir else []
    tree = _compose(overrides, search_path)
    choices = dict(tree.hydra.runtime.choices)
    with_hydra = OmegaConf.masked_copy(tree, TOP_KEYS)
    named = as_run or any(override.startswith("name=") for override in overrides)
    suffix = [] if named else _suffix(overrides)
    stem = path.stem if path else ""
    return Composed(
        tree=_plain(with_hydra),
        choices={group: str(choices[group]) for group in GROUPS},
        name="-".join([with_hydra.name or stem, *suffix]),
        trial=_trial(with_hydra),
        runtime=_record(with_hydra.runtime),
        executor=_record(with_hydra.executor),
        trainer=_record(with_hydra.train),
    )


def _suffix(overrides: list[str]) -> list[str]:
    chosen = group_choices(overrides)
    return [chosen[group] for group in TRIAL_GROUPS if group in chosen]


def _read_file(path: Path) -> dict[str, Any]:
    content = read_mapping(path)
    for key in content:
        if key != "defaults" and key not in all_keys():
            raise UserError(f"{path}: {no_key(key, all_keys())}")
    if "defaults" in content:
        require_defaults(content["defaults"])
    require_sections(content)
    return {"defaults": ["base", "_self_"], **content}


def _register(file_tree: dict[str, Any]) -> None:
    store = ConfigStore.instance()
    store.store("schema", Root)
    for group, schemas in SCHEMAS.items():
        for name, cls in schemas.items():
            store.store(f"schema_{name}", thawed(cls), group=group)
    store.store("hptransfer_file", OmegaConf.create(file_tree))


def _compose(overrides: list[str], search_path: list[Path]) -> DictConfig:
    conf = shipped_folder("conf")
    known, texts = all_keys(), text_keys()
    words = [_parsed(override, normalised(override, known, texts)) for override in overrides]
    if search_path:
        places = ",".join(quoted(f"file://{path.resolve()}") for path in search_path)
        words.append(f"hydra.searchpath=[{places}]")
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            tree = compose("hptransfer_file", overrides=words, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        # Hydra raises a plain ValueError for some words.
        raise UserError(explain(error, _available(conf, search_path))) from None
    except (yaml.YAMLError, OSError) as error:
        where = ", ".join(map(str, search_path))
        raise UserError(f"A file of {where} cannot be read: {abbreviate(str(error))}.") from None
    raw: Any = OmegaConf.to_container(OmegaConf.masked_copy(tree, TOP_KEYS), enum_to_str=True)
    require_plain(raw, "The config")  # a file of --config-dir too
    require_flat_lists(raw)
    return tree


def _parsed(override: str, word: str) -> str:
    """Return a word for Hydra once its value is known to be a plain one."""
    try:
        parsed = OverridesParser.create().parse_override(word)
        value = parsed.value()
    except (HydraException, ValueError, RecursionError):
        raise UserError(
            f"The override {abbreviate(override)} cannot be read as key=value."
        ) from None
    key = str(parsed.key_or_group)
    if parsed.is_sweep_override():
        raise UserError("An override gives one value; for a list write key=[a,b] in quotes.")
    if not parsed.is_delete():
        require_plain(value, f"`{key}`")
        if key in SECTIONS:
            require_section(key, value)
    return word


def _available(conf: Path, search_path: list[Path]) -> dict[str, list[str]]:
    """Return the files of each group, and under the empty name all dotted keys of the schema."""
    available = {
        group: sorted({p.stem for root in (conf, *search_path) for p in root.glob(f"{group}/*.y*")})
        for group in GROUPS
    }
    return {**available, "": all_keys()}


def _record(node: Any) -> Any:
    return OmegaConf.to_object(node)


def _plain(node: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(node, resolve=True, enum_to_str=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _trial(tree: DictConfig) -> TrialConfig:
    groups = {name: _record(tree[name]) for name in TRIAL_GROUPS}
    for name, record in groups.items():
        require_own_tag(name, record)
    return TrialConfig(**groups, **{name: tree[name] for name in TRIAL_FIELDS})


def sweep_config(composed: Composed) -> SweepConfig:
    """Read the sweep out of a composed file.

    The target is the base trial with `sweep.target` laid over it.
    """
    tree = composed.tree
    section = tree["sweep"]
    search = [
        (name, _axis(name, axis, composed.trial)) for name, axis in tree["search"].items() if axis
    ]
    return SweepConfig(
        name=checked_name(composed.name),
        question=tree["question"],
        statistic=tree["statistic"],
        base=composed.trial,
        widths=tuple(section["widths"]),
        parametrizations=tuple(Scaling(name) for name in section["parametrizations"]),
        seeds=tuple(section["seeds"]),
        search=tuple(search),
        target=overlaid(composed, section["target"]) if section["target"] else None,
        realise=RealiseConfig(**section["realise"]),
        verdict=VerdictConfig(**tree["verdict"]),
        design=_design(section["design"]),
        allow=tuple(tree["transfer"]["allow"]),
        vary=VaryConfig(**section["vary"]),
    )


def _design(section: dict[str, Any]) -> DesignConfig:
    return DesignConfig(**{**section, "method": Method(section["method"])})


def overlaid(composed: Composed, changes: dict[str, Any]) -> TrialConfig:
    """Return the composed trial with a nested mapping laid over it."""
    parts = (*TRIAL_GROUPS, *TRIAL_FIELDS)
    for name in changes:
        if name not in parts:
            raise UserError(
                f"`sweep.target` may change {', '.join(parts)}, but names {name!r}. "
                f"{nearest(name, list(parts))}"
            )
        if name in TRIAL_GROUPS:
            require_section(f"sweep.target.{name}", changes[name])
    root = OmegaConf.structured(Root)
    _fill(root, composed.trial)
    try:
        root.merge_with(changes)
        return _trial(root)
    except OmegaConfBaseException as error:
        raise UserError(f"`sweep.target`: {explain(error, {'': all_keys()})}") from None


def _fill(root: DictConfig, trial: TrialConfig) -> None:
    for name in TRIAL_GROUPS:
        root[name] = thawed(getattr(trial, name))
    for name in TRIAL_FIELDS:
        root[name] = getattr(trial, name)


def _axis(name: str, axis: Any, trial: TrialConfig) -> Axis:
    require_known_hp(name, trial.objective)
    allowed = {f.name for f in dataclasses.fields(Axis)}
    if not isinstance(axis, dict) or not {"low", "high"} <= axis.keys() <= allowed:
        raise UserError(
            f"`search.{name}` must give low, high and perhaps step, in log2, but got {axis}. "
            f"Write e.g. search.{name}.low=-10 search.{name}.high=-3."
        )
    for key, value in axis.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"`search.{name}.{key}` must be a number, but got {value!r}.")
    return Axis(**{key: float(value) for key, value in axis.items()})


def as_run_yaml(composed: Composed, *, name: str, comment: str = "") -> str:
    """Return a complete file that composes to the same records, here and by Hydra itself."""
    defaults = ["base", *({f"override {g}": c} for g, c in composed.choices.items()), "_self_"]
    tree = {"defaults": defaults, **composed.tree, "name": name}
    body = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=100)
    return "".join(f"# {line}\n" for line in comment.splitlines()) + body


def with_trial(composed: Composed, trial: TrialConfig) -> Composed:
    """Return a composed file of one trial: the sweep's sections left out."""
    root = OmegaConf.structured(Root)
    _fill(root, trial)
    parts = (*TRIAL_GROUPS, *TRIAL_FIELDS)
    plain = _plain(OmegaConf.masked_copy(root, list(parts)))
    runs = {name: composed.tree[name] for name in ("runtime", "executor", "train")}
    return dataclasses.replace(composed, tree={**plain, **runs}, trial=trial)


def load_trial(path: str | Path) -> TrialConfig:
    """Read the trial of a config file, such as an emitted target.yaml."""
    return compose_file(Path(path), [], as_run=True).trial
