"""What a sweep's driver does with a long ledger; prints its peak memory.

    python -m benchmarks.scale_driver TRIALS HALF WHOLE

With torch and Ray imported it plans so many trials, opens the ledger in HALF, which has half of
their rows, finds the packs that are pending, and appends the missing rows as packs of 64 report
them. Those rows are taken from the ledger in WHOLE, a few megabytes at a time.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks import scale
from hptransfer.results.ledger_rows import LEDGER_NAME, scan_ledger
from hptransfer.results.ledger_writer import LedgerWriter
from hptransfer.sweeping.design.trials import pending


def main(trials: int, half: Path, whole: Path) -> None:
    """Do it, and print the peak in GiB."""
    _, packs = scale.planned(trials)
    with LedgerWriter(half) as writer:
        assert pending(packs, writer.keys), "half of the rows are missing"
        for stretch in scan_ledger(whole / LEDGER_NAME):
            missing = [row for row in stretch.rows if row["trial_key"] not in writer.keys]
            for first in range(0, len(missing), 64):
                writer.append(missing[first : first + 64])
        assert not pending(packs, writer.keys), "no row is missing any more"
    print(peak_gib())


def peak_gib() -> float:
    """Return this program's peak; `ru_maxrss` would count the process that started it too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
