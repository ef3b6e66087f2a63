"""How often the coordinate check errs: right and wrong models, checked again with other seeds.

    python -m benchmarks.check_zoo [--blocks 20] [--jobs 2] [--models NAME ...]
        [--resume] [--out FILE] [--page benchmarks/README.md]

Every model is checked once with each block of eight seeds. The right models are the shipped
families at the widths and rate of the quickstart, the narrowest that it may be asked of, and the
small custom models of tests/support/zoo.py. A `fail` of one of these is a false failure. The wrong
models are those of tests/support/zoo.py: a `pass` of one of these is a fault that was missed. The
record is written after every block of seeds, so a run that is cut keeps whole blocks.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import measure
from hptransfer.config import RuntimeConfig, TrialConfig
from hptransfer.config.compose.compose import compose_file, shipped_folder, sweep_config
from hptransfer.models.parametrization.rules import parameter_rules
from hptransfer.results.folder import read_json, write_json
from hptransfer.sweeping.run.job import central_log2_lr
from hptransfer.training.coordinate_record import CHECK_SEEDS
from hptransfer.training.packs.coordinate_check import coordinate_check
from tests.support import zoo

OUT = Path(__file__).resolve().parents[1] / "results" / "benchmarks" / "check_zoo.json"
VERDICTS = ("pass", "inconclusive", "fail")
COLUMNS = ("model", "n", "expected", *VERDICTS)
PAGE_COLUMNS = ("model", "what it is", "expected", "n", *VERDICTS)
SHIPPED = {  # sweep, overrides
    "quickstart": ("quickstart",),
    "quickstart model=uvit": ("quickstart", "model=uvit"),
    "quickstart model=pixart": ("quickstart", "model=pixart"),
    "quickstart model=mmdit": ("quickstart", "model=mmdit"),
    "quickstart model=dit_modern": ("quickstart", "model=dit_modern"),
    "quickstart_muon": ("quickstart_muon",),
    "quickstart, two narrow widths": (
        "quickstart", "model.width=16", "model.base_width=16", "sweep.widths=[16,32]",
    ),
    "quickstart, narrow and of one block": (
        "quickstart", "model.width=16", "model.base_width=16", "model.depth=1",
        "sweep.widths=[16,32,64]",
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, how it is checked, and the verdict that is right."""

    name: str
    kind: str  # what the model is, in words
    expected: str  # pass or fail
    config: TrialConfig
    widths: tuple[int, ...]
    log2_lr: float

    def checked(self, block: int) -> dict[str, Any]:
        """Return the check with the block's seeds."""
        config = dataclasses.replace(self.config, seed=block * len(CHECK_SEEDS))
        return coordinate_check(config, self.widths, self.log2_lr, RuntimeConfig())


def cases() -> list[Case]:
    """Return all models, the right ones first."""
    shipped = [_shipped(name, *words) for name, words in SHIPPED.items()]
    return [*shipped, *map(_right, zoo.RIGHT), *map(_wrong, zoo.WRONG)]


def _shipped(name: str, sweep: str, *overrides: str) -> Case:
    asked = sweep_config(compose_file(shipped_folder("sweeps") / f"{sweep}.yaml", list(overrides)))
    widths = tuple(asked.widths)
    kind = f"`hptransfer check {' '.join((sweep, *overrides))}`"
    return Case(name, kind, "pass", asked.base, widths, central_log2_lr(asked))


def _right(name: str) -> Case:
    return Case(name, _kind(name), "pass", zoo.trial(name), zoo.WIDTHS, zoo.LOG2_LR)


def _wrong(name: str) -> Case:
    roles = zoo.WRONG[name]
    stated = f" Stated: {', '.join(roles)}." if roles else ""
    config = zoo.trial(name, roles=roles)
    full = f"{name}, wrong" if name in zoo.RIGHT else name
    return Case(full, _kind(name) + stated, "fail", config, zoo.WIDTHS, zoo.LOG2_LR)


def _kind(name: str) -> str:
    """Return the first line of what the model's function says of it."""
    line, _, _ = (getattr(zoo, name).__doc__ or "").partition("\n")
    return line


def roles_sentence(config: TrialConfig) -> str:
    """Name the parameters of each role, as `hidden: fc1.weight, fc2.weight; output: ...`."""
    by_role: dict[str, list[str]] = {}
    for rule in parameter_rules(config):
        by_role.setdefault(rule.role.value, []).append(rule.name)
    return "; ".join(f"{role}: {', '.join(names)}" for role, names in sorted(by_role.items()))


def outcome(task: tuple[Case, int]) -> dict[str, Any]:
    """Return what one check tells: its verdict, its worst slope and its first cause."""
    case, block = task
    answer = case.checked(block)
    causes = answer["causes"]
    return {
        "block": block,
        "verdict": answer["verdict"],
        "log2_lr": answer["log2_lr"],
        "worst": answer["worst"],
        "told": causes[0]["sentence"] if causes else None,
    }


def entry(case: Case) -> dict[str, Any]:
    """Return a model's record before its first block."""
    return {
        "model": case.name,
        "kind": case.kind,
        "roles": roles_sentence(case.config),
        "widths": list(case.widths),
        "expected": case.expected,
        "n": 0,  # blocks of seeds
        **dict.fromkeys(VERDICTS, 0),
        "told": None,  # of a wrong model's fault, first
        "wrong": [],  # what the checks told that erred
    }


def added(known: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's record with one check more."""
    verdict, expected = found["verdict"], known["expected"]
    errs = verdict != expected and verdict != "inconclusive"
    told = found["told"] if expected == verdict == "fail" else None
    return {
        **known,
        "n": known["n"] + 1,
        verdict: known[verdict] + 1,
        "told": known["told"] or told,
        "wrong": [*known["wrong"], found] if errs else known["wrong"],
    }


def cells(told: Mapping[str, Any]) -> list[str]:
    """Return a model's row of the table."""
    return [told["model"], str(told["n"]), told["expected"], *(str(told[v]) for v in VERDICTS)]


def page_table(answer: Mapping[str, Any]) -> str:
    """Return the table of benchmarks/README.md, and the counts of errors above it."""
    models = answer["models"]
    right, wrong = ([m for m in models if m["expected"] == e] for e in ("pass", "fail"))
    checks, failed = (sum(m[name] for m in right) for name in ("n", "fail"))
    faults, missed = (sum(m[name] for m in wrong) for name in ("n", "pass"))
    rows = [
        [m["model"], m["kind"].rstrip("."), m["expected"], *(str(m[v]) for v in ("n", *VERDICTS))]
        for m in models
    ]
    return (
        f"n blocks of {answer['settings']['seeds_of_a_block']} seeds, recorded on "
        f"{answer['provenance']['time'][:10]}. Right models failed in {failed} of {checks} "
        f"checks; wrong models passed in {missed} of {faults}.\n\n"
        f"{measure.table_text(PAGE_COLUMNS, rows)}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Check all models with all blocks of seeds, print the counts, write the record."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.check_zoo", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--blocks", type=measure.count, default=20, help="of eight seeds each")
    parser.add_argument("--jobs", type=measure.count, default=1, help="processes")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--resume", action="store_true", help="add to the blocks of the record")
    parser.add_argument("--page", type=Path, help="into which the table is written")
    arguments = parser.parse_args(argv)
    asked = cases()
    if arguments.models:
        unknown = set(arguments.models) - {case.name for case in asked}
        if unknown:
            parser.error(f"there is no model {', '.join(sorted(unknown))}")
        asked = [case for case in asked if case.name in arguments.models]
    settings = {"seeds_of_a_block": len(CHECK_SEEDS)}
    answer = measure.record("check_zoo", settings, measure.machine())
    kept = read_json(arguments.out, "models") if arguments.resume else None
    models = {case.name: entry(case) for case in asked}
    models |= {each["model"]: each for each in (kept or {"models": []})["models"]}
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for block in range(arguments.blocks):
            left = [case for case in asked if models[case.name]["n"] == block]
            for case, found in zip(
                left, pool.map(outcome, [(case, block) for case in left]), strict=True
            ):
                models[case.name] = added(models[case.name], found)
            order = [case.name for case in cases() if case.name in models]
            answer |= {"models": [models[name] for name in order]}
            write_json(arguments.out, answer)
            print(f"block {block + 1} of {arguments.blocks}", file=sys.stderr, flush=True)
    measure.publish(answer, COLUMNS, [cells(m) for m in answer["models"]], arguments.out)
    if arguments.page is not None:
        measure.write_between(arguments.page, "check_zoo", page_table(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
