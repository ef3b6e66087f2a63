"""Cases of the dry run in processes of their own, and the committed table of all of them.

    python -m tests.dry_cuda.run             # about ten minutes: the nightly cases are compiled

writes a row for each case into `results/benchmarks/dry_cuda.json`. Cases that are named are run
alone, and their rows replaced.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.dry_cuda.build import built, why_not

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "results/benchmarks/dry_cuda.json"


def cache() -> Path:
    """Return the folder in which the libraries are kept between runs."""
    return Path(tempfile.gettempdir()) / f"hptransfer-dry-cuda-{os.getuid()}"


def environment(libraries: Path) -> dict[str, str]:
    """Return the environment of a process on the dry run's device."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "LD_PRELOAD": str(libraries / "libdrycuda.so"),
        "LD_LIBRARY_PATH": str(libraries),
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "0",
    }


def rows_of(names: Sequence[str], *, scratch: Path | None = None) -> Iterator[dict[str, Any]]:
    """Yield what each case found; all run in one process, one after another.

    Args:
        scratch: where compiled code is cached; None: where torch caches it.

    Raises:
        RuntimeError: the process died, with the end of what it said.
    """
    own = {} if scratch is None else {"TORCHINDUCTOR_CACHE_DIR": str(scratch)}
    command = [sys.executable, "-m", "tests.dry_cuda.cases", *names]
    left = list(names)
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            cwd=ROOT,
            env={**environment(built(cache())), **own},
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            row = json.loads(line)
            left.remove(row["case"])
            yield row
        if process.wait() != 0 or left:
            said.seek(0)
            raise RuntimeError(f"the dry run died in {left[:1]}: {said.read()[-2000:]}")


def findings(names: Sequence[str], *, scratch: Path | None = None) -> dict[str, dict[str, Any]]:
    """Return what `rows_of` yields, by the cases' names."""
    return {row["case"]: row for row in rows_of(names, scratch=scratch)}


def main() -> None:
    """Run all cases, or those that are named, and write their rows into the table."""
    from tests.dry_cuda.cases import CASES

    reason = why_not()
    if reason is not None:
        raise SystemExit(f"There can be no dry run here: {reason}.")
    order = list(CASES)
    rows = {}
    if TABLE.is_file():
        rows = {row["case"]: row for row in json.loads(TABLE.read_text())}
    for row in rows_of(sys.argv[1:] or order):
        rows[row["case"]] = {k: round(v, 2) if isinstance(v, float) else v for k, v in row.items()}
        lines = [json.dumps(rows[name]) for name in order if name in rows]
        TABLE.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    print(TABLE)


if __name__ == "__main__":
    main()
