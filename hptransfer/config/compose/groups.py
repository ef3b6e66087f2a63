"""Files of config groups, from `conf/` and the user's folder, composed by Hydra."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hptransfer.config.compose.schema import MEMBERS
from hptransfer.config.records import nearest, plain
from hptransfer.errors import UserError, abbreviate
from hptransfer.system.safe_yaml import require_plain


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
        raise UserError(f"There is no {what}. {nearest(name, known)}")


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
