"""From YAML files and overrides to frozen dataclasses: the only importer of Hydra and OmegaConf.

Nothing downstream sees a DictConfig. Hydra's own messages are translated into one sentence each.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hptransfer.config import ExecutorConfig, RuntimeConfig, TrialConfig
from hptransfer.errors import UserError
from hptransfer.overrides import (
    GROUPS,
    TRIAL_FIELDS,
    TRIAL_GROUPS,
    explain,
    group_choices,
    nearest,
    normalised,
)
from hptransfer.questions import (
    Axis,
    DesignConfig,
    RealiseConfig,
    SweepConfig,
    VerdictConfig,
    require_known_hp,
)
from hptransfer.schema import SCHEMAS, Root, all_keys, thawed
from hptransfer.vocabulary import Method, Scaling


@dataclass(frozen=True)
class Composed:
    """A composed file: its tree as plain values, and the records made from it."""

    tree: dict[str, Any]
    choices: dict[str, str]  # group -> chosen file
    name: str  # of the results folder; empty where the file names no sweep
    trial: TrialConfig
    runtime: RuntimeConfig
    executor: ExecutorConfig


def shipped_folder(name: str) -> Path:
    """Return the folder `conf` or `sweeps`: beside the package's files, else one level up."""
    package = Path(__file__).resolve().parent
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
    file_tree: dict[str, Any] = {"defaults": ["base"]} if path is None else _read_yaml(path)
    if as_run:
        for group in group_choices(overrides):
            file_tree.pop(group, None)
    _register(file_tree)
    search_path = [config_dir] if config_dir else []
    tree = _compose(overrides, search_path)
    choices = dict(tree.hydra.runtime.choices)
    with_hydra = OmegaConf.masked_copy(tree, [str(key) for key in tree if key != "hydra"])
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
    )


def _suffix(overrides: list[str]) -> list[str]:
    chosen = group_choices(overrides)
    return [chosen[group] for group in TRIAL_GROUPS if group in chosen]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"There is no config file {path}. Check the path.") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder. Name a file in it, such as target.yaml.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = " ".join(str(error).split())
        raise UserError(f"{path} must be YAML, but cannot be read: {first}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold `key: value` lines, but holds {content!r}.")
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
    words = normalised(overrides)
    if search_path:
        words.append(f"hydra.searchpath=[{','.join(f'file://{p.resolve()}' for p in search_path)}]")
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            return compose("hptransfer_file", overrides=words, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        # Hydra raises a plain ValueError for e.g. model=0.
        raise UserError(explain(error, overrides, _available(conf, search_path))) from None


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
    return TrialConfig(**groups, **{name: tree[name] for name in TRIAL_FIELDS})


def sweep_config(composed: Composed) -> SweepConfig:
    """Read the sweep out of a composed file.

    The target is the base trial with `sweep.target` laid over it.
    """
    tree = composed.tree
    section = tree["sweep"]
    search = [(name, _axis(name, axis)) for name, axis in tree["search"].items() if axis]
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
    root = OmegaConf.structured(Root)
    _fill(root, composed.trial)
    try:
        root.merge_with(changes)
        return _trial(root)
    except OmegaConfBaseException as error:
        raise UserError(f"`sweep.target`: {explain(error, [], {'': all_keys()})}") from None


def _fill(root: DictConfig, trial: TrialConfig) -> None:
    for name in TRIAL_GROUPS:
        root[name] = thawed(getattr(trial, name))
    for name in TRIAL_FIELDS:
        root[name] = getattr(trial, name)


def _axis(name: str, axis: Any) -> Axis:
    require_known_hp(name)
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


def checked_name(name: str) -> str:
    """Return a sweep's name if it can name a folder."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(
            "A sweep's `name` names its results folder, so it must be letters, digits, dots, "
            f"dashes and underscores, but got {name!r}. Set name=."
        )
    return name


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
    runs = {name: composed.tree[name] for name in ("runtime", "executor")}
    return dataclasses.replace(composed, tree={**plain, **runs}, trial=trial)


def load_trial(path: str | Path) -> TrialConfig:
    """Read the trial of a config file, such as an emitted target.yaml."""
    return compose_file(Path(path), [], as_run=True).trial
