"""Cases of the dry run in processes of their own, and the committed table of all of them.

    python -m tests.dry_cuda.run             # about ten minutes: the nightly cases are compiled

writes `results/benchmarks/dry_cuda.json`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.dry_cuda.build import built, why_not

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "results/benchmarks/dry_cuda.json"
LONGEST = 1800.0  # seconds of a process


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


def findings(names: Sequence[str], *, scratch: Path | None = None) -> dict[str, dict[str, Any]]:
    """Return what each case found, by its name; all run in one process, one after another.

    Args:
        scratch: where compiled code is cached; None: where torch caches it.

    Raises:
        RuntimeError: the process died, with the end of what it said.
    """
    own = {} if scratch is None else {"TORCHINDUCTOR_CACHE_DIR": str(scratch)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.dry_cuda.cases", *names],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**environment(built(cache())), **own},
        timeout=LONGEST,
        check=False,
    )
    found = {row["case"]: row for row in map(json.loads, done.stdout.splitlines())}
    missing = [name for name in names if name not in found]
    if missing:
        raise RuntimeError(
            f"the dry run ended with {done.returncode} in {missing[0]!r}: {done.stderr[-2000:]}"
        )
    return found


def main() -> None:
    """Run all cases and write the table."""
    from tests.dry_cuda.cases import NIGHTLY, PACKS, STEPS

    reason = why_not()
    if reason is not None:
        raise SystemExit(f"There can be no dry run here: {reason}.")
    rows = [row for part in (STEPS, PACKS, NIGHTLY) for row in findings(list(part)).values()]
    TABLE.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    print(TABLE)


if __name__ == "__main__":
    main()
