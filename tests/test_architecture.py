"""Which package may import which: arrows point down only, and start-up stays light."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import hptransfer

ROOT = Path(hptransfer.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# The packages in layers, each with those that it may import. Every file may import
# `hptransfer.errors`.
ALLOWED = {
    "cli": "reporting transfer sweeping execution training analysis models data results config "
    "system",
    "reporting": "analysis results config system",
    "transfer": "sweeping analysis training models results config system",
    "sweeping": "execution analysis training results config system",
    "execution": "training results config system",
    "training": "models data results config system",
    "analysis": "results config system",
    "models": "config system",
    "data": "config system",
    "results": "config system",
    "config": "system",
    "system": "",
}
MOST_ARROWS = 50  # between packages

# The only packages that may import a heavy library.
ONLY = {
    "torch": {"models", "data", "training", "execution", "transfer", "system"},
    "ray": {"execution/ray"},
    "submitit": {"execution/slurm"},
    "hydra": {"config/compose"},
    "omegaconf": {"config/compose"},
    "mup": {"models/parametrization"},
    "optuna": {"sweeping/design", "analysis/surfaces"},
    "matplotlib": {"reporting/figures", "training/sampling"},
    "fsspec": {"system"},
    "tensorboardX": {"sweeping/trackers"},
}
# Packages that commands without training import: no torch, Ray or Hydra at their import.
LIGHT = ("analysis", "cli", "config", "reporting", "results", "sweeping", "system", "execution")
HEAVY = {"torch", "ray", "submitit", "hydra", "omegaconf", "mup", "sklearn", "matplotlib"}
# Files of light packages that only heavier ones import.
LOADED_LATER = ("config/compose/", "execution/ray/", "execution/measure.py", "reporting/figures/")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def imported(path: Path, *, at_start: bool = False) -> set[str]:
    """Return the dotted names that a file imports; `at_start`: only those at its own import."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and at_start:
            node.body = []
    found = set()
    for node in tree.body if at_start else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def arrows_of(path: Path) -> set[str]:
    """Return the packages that a file imports, besides its own."""
    inner = {name.split(".")[1] for name in imported(path) if name.startswith("hptransfer.")}
    return {name for name in inner if name in ALLOWED} - {package_of(path)}


INSIDE = [path for path in FILES if path.parent != ROOT]


def test_every_package_has_its_line_and_little_lies_beside_them() -> None:
    assert {package_of(path) for path in INSIDE} == set(ALLOWED)
    beside = {path.name for path in FILES if path.parent == ROOT}
    assert beside == {"__init__.py", "__main__.py", "errors.py", "mup.py"}


@pytest.mark.parametrize("path", INSIDE, ids=name_of)
def test_a_file_imports_only_what_its_package_may(path: Path) -> None:
    assert arrows_of(path) <= set(ALLOWED[package_of(path)].split())


def test_arrows_point_down_and_are_few() -> None:
    layers = list(ALLOWED)
    for package, below in ALLOWED.items():
        assert all(layers.index(name) > layers.index(package) for name in below.split())
    arrows = {(package_of(path), name) for path in INSIDE for name in arrows_of(path)}
    assert len(arrows) <= MOST_ARROWS


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_heavy_libraries_have_their_homes(path: Path) -> None:
    tops = {name.split(".")[0] for name in imported(path)}
    for library in tops & set(ONLY):
        assert name_of(path).startswith(tuple(f"{home}/" for home in ONLY[library])), library


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_light_packages_start_without_heavy_libraries(path: Path) -> None:
    if package_of(path) in LIGHT and not name_of(path).startswith(LOADED_LATER):
        assert not {name.split(".")[0] for name in imported(path, at_start=True)} & HEAVY


def test_there_are_no_import_circles() -> None:
    graph = {}
    for path in FILES:
        name = f"hptransfer.{name_of(path).removesuffix('.py').replace('/', '.')}"
        graph[name.removesuffix(".__init__")] = imported(path, at_start=True)
    edges = {
        name: {m for m in modules if m in graph and m != name} for name, modules in graph.items()
    }

    def reaches(start: str, goal: str, seen: set[str]) -> bool:
        return any(
            step == goal or (step not in seen and not seen.add(step) and reaches(step, goal, seen))
            for step in edges[start]
        )

    assert [name for name in edges if reaches(name, name, set())] == []


FORBIDDEN = ("utils", "helpers", "common", "manager", "misc")


def test_no_file_is_named_after_nothing() -> None:
    assert not [name_of(path) for path in FILES if any(word in path.stem for word in FORBIDDEN)]
