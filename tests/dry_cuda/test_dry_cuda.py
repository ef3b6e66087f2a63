"""What a dry run without a GPU shows of packs on one: graphs, waits, allocations, memory.

Each test runs its cases in one process of its own, and names those that fail.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.dry_cuda.build import why_not
from tests.dry_cuda.cases import COUNTED, MORE_STEPS, NIGHTLY, PACKS, STEPS
from tests.dry_cuda.run import findings

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"no dry run here: {why_not()}")

# Of a step after the warm-up. The wait is for the oldest copy of a step's inputs.
CAPTURED = {"waits_a_step": 1.0, "kernels_a_step": 0.0, "allocations": 0, "pageable": 0}
SOUND = {"stray": 0, "invalid": 0, "left_mb": 0.0}  # of every case
# Of a target's step: the host waits for loss and gradient norm, which arrive in pageable memory.
TARGET = {"waits_a_step": 1.0, "pageable": COUNTED, "allocations": 0}
FLAT = 1.3  # how much more one pack may hold than another: blocks are placed a little differently
ATTENTION = {"fp32": ["efficient"], "bf16": ["flash"]}  # kernels of the families, by precision


def broken(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Return what of a case is not as expected, its error first."""
    if "error" in found:
        return [f"{found['case']} raised: {found['error']}"]
    wrong = (key for key in expected if found.get(key) != expected[key])
    return [f"{found['case']}: {key} is {found.get(key)}, not {expected[key]}" for key in wrong]


def all_broken(rows: Iterable[Mapping[str, Any]], expected: Mapping[str, Any]) -> list[str]:
    return [line for row in rows for line in broken(row, expected)]


@pytest.mark.parametrize(
    "cases", [STEPS, pytest.param(MORE_STEPS, marks=pytest.mark.slow)], ids=["some", "more"]
)
def test_every_step_after_the_warm_up_is_one_graph(cases: Mapping[str, object]) -> None:
    found = findings(list(cases))
    eager = {name: row for name, row in found.items() if name.startswith("eager")}
    captured = {name: row for name, row in found.items() if name not in eager}
    assert all_broken(captured.values(), {**SOUND, **CAPTURED, "graphs": 1}) == []
    assert all_broken(eager.values(), {**SOUND, "graphs": 0, "allocations": 0}) == []
    for name, row in found.items():
        family, precision = name.removeprefix("eager ").split()[:2]
        custom = family in ("net", "vit")  # attention of one's own is plain products
        assert row["attention"] == ([] if custom else ATTENTION[precision]), name


def test_packs_leave_no_memory_and_take_no_more_than_there_is() -> None:
    found = findings(list(PACKS))
    assert all_broken(found.values(), SOUND) == []

    def of(name: str) -> dict[str, Any]:
        return found[name]

    assert of("large evaluation")["evaluation_mb"] <= of("large evaluation")["step_mb"]
    for target in (of("target"), of("target of Muon")):
        assert broken(target, {**TARGET, "graphs": 0}) == []
    assert (of("compacted")["members"], of("compacted")["graphs"]) == ([0, 2], 2)
    assert "go on at step 3 of 8" in of("restored")["notes"][0]
    assert of("probed")["sizes"][:2] == [1, 4]
    assert len(set(of("equal packs")["allocated_mb"])) == 1
    alone = of("packs that fit alone")
    assert (alone["pack_sizes"], alone["single"]) == ([[4] * 4] * 2, [1] * 2)
    assert of("memory for half")["pack_sizes"] == [2, 2, 2, 2]
    assert "One trial must fit into the memory of Dry H100" in of("memory for none")["refusal"]
    assert of("memory of a dead cycle")["pack_sizes"] == [1]
    graph = of("memory for a graph")
    assert (graph["pack_sizes"], graph["text"]) == ([2, 2, 2, 2], "CUDA error: out of memory")


@pytest.mark.slow
@pytest.mark.parametrize("name", NIGHTLY)
def test_the_compiled_path(name: str, tmp_path: Path) -> None:
    row = findings([name], scratch=tmp_path)[name]
    if name == "memory for Triton":
        assert row["recognised"] and "out of memory" in row["text"]
    elif name.endswith("ten equal packs"):
        assert broken(row, SOUND) == []
        assert max(row["reserved_mb"]) < FLAT * min(row["reserved_mb"])
    else:
        assert broken(row, {**SOUND, **CAPTURED, "graphs": 1}) == []
        assert row["recompiled"] == 0
