"""Who may import whom: arrows point down only, and start-up stays light."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import hptransfer

PACKAGE = Path(hptransfer.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# The only files that may import a heavy library, and those that must stay free of all of them.
ONLY = {
    "ray": {
        *("executors/cluster.py", "executors/ray_session.py", "executors/ray_survey.py"),
        *("executors/ray_tune.py", "executors/shared_storage.py", "executors/tune_thread.py"),
    },
    "hydra": {"compose.py"},
    "omegaconf": {"compose.py", "schema.py"},
    "mup": {"parametrization/roles.py"},
    "optuna": {"adaptive/importance.py", "adaptive/optuna_rounds.py"},
    "fsspec": {"storage.py"},
    "tensorboardX": {"watch/tensorboard.py"},
}
FIGURES_ONLY = {"matplotlib"}
LIGHT = (
    *("analysis/", "figures/", "config/", "ledger", "pack_cost.py", "pack_cache.py"),
    *("packing.py", "sweep.py", "search.py", "results.py", "adaptive/", "watch/", "plan.py"),
)
HEAVY = {"torch", "ray", "hydra", "omegaconf", "mup", "sklearn"}

# A file may import only from layers at or below its own.
LAYERS = [
    ["errors", "interruption", "disk", "vocabulary", "config", "yaml_files"],
    ["identity", "design", "questions", "vary", "ledger_table", "outcome", "storage", "__init__"],
    ["streams", "overrides", "search", "schema", "compose", "pack_cost", "pack_cache", "packing"],
    ["results", "sweep_facts"],
    ["models", "objectives", "samplers", "data", "sweep"],
    ["ledger_schema", "ledger_rows", "ledger_lock", "ledger"],
    ["ledger_index", "ledger_check", "ledger_export", "importing", "foreign"],
    ["parametrization"],
    ["training"],
    ["quality"],
    ["trial"],
    ["probe"],
    ["rule_table", "weights", "exports"],
    ["generate"],
    ["trainer"],
    [
        "coordinate_check",
        "executors",
        "analysis",
        "figures",
        "emit",
        "progress",
        "summary",
        "rules_text",
        "agreement_text",
    ],
    ["adaptive", "watch", "realising"],
    ["answers", "text_plot", "jobs", "catalogue", "plan", "plan_costs", "plan_text", "budget"],
    ["running", "imported_target", "replaying"],
    ["pipeline", "training_runs"],
    [
        "commands",
        "model_commands",
        "train_commands",
        "ledger_commands",
        "plan_commands",
        "terminal",
    ],
    ["cli"],
    ["__main__"],
]


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def imported(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Return the dotted modules a file imports, type-checking blocks left out."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def layer_of(module: str) -> int:
    top = module.split(".")[1] if "." in module else "__init__"
    if not (PACKAGE / top).exists() and not (PACKAGE / f"{top}.py").exists():
        top = "__init__"  # a name that the package itself defines
    return next(i for i, names in enumerate(LAYERS) if top in names)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_heavy_libraries_have_one_home(path: Path) -> None:
    tops = {module.split(".")[0] for module in imported(path)}
    for library, homes in ONLY.items():
        if library in tops:
            assert name_of(path) in homes
    if tops & FIGURES_ONLY:
        assert name_of(path).startswith("figures/")
    if name_of(path).startswith(LIGHT):
        assert not tops & HEAVY


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_arrows_point_down_only(path: Path) -> None:
    own = f"hptransfer.{name_of(path).removesuffix('.py').replace('/', '.')}"
    for module in imported(path):
        if module.startswith("hptransfer.") and module.split(".")[1] != own.split(".")[1]:
            assert layer_of(module) <= layer_of(own), f"{own} imports {module}"


def test_there_are_no_import_cycles() -> None:
    graph = {}
    for path in FILES:
        name = f"hptransfer.{name_of(path).removesuffix('.py').replace('/', '.')}"
        graph[name.removesuffix(".__init__")] = imported(path, top_level_only=True)
    edges = {
        name: {m for m in modules if m in graph and m != name} for name, modules in graph.items()
    }

    def reaches(start: str, goal: str, seen: set[str]) -> bool:
        return any(
            step == goal or (step not in seen and not seen.add(step) and reaches(step, goal, seen))
            for step in edges[start]
        )

    cycles = [name for name in edges if reaches(name, name, set())]
    assert cycles == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_of_readable_length(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


FORBIDDEN = ("utils", "helpers", "common", "manager", "misc")


def test_no_file_is_named_after_nothing() -> None:
    assert not [name_of(path) for path in FILES if any(word in path.stem for word in FORBIDDEN)]
