"""SLURM's recipe with a real `ray symmetric-run`, on this machine.

It ends with `ray stop`, which stops every Ray that it sees: so all of it runs among processes and a
network of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

APART = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--net"]
JOB = """
ip link set lo up
sbatch() { exec bash "$ROOT/deploy/slurm.sbatch" "$SHARED/tiny.yaml" runtime=cpu; }
sbatch & job=$!
until [ "$(cat "$SHARED"/results/tiny/ledger.jsonl 2>/dev/null | wc -l)" -ge 4 ]; do
    kill -0 $job || exit 1
    sleep 0.1
done
kill -USR1 $job
code=0; wait $job || code=$?
echo "cut: $code"
cp "$SHARED/results/tiny/ledger.jsonl" "$SHARED/first.jsonl"
(sbatch)
echo "continued: $?"
"""


def apart() -> bool:
    """Whether this user may have namespaces of their own."""
    try:
        return not subprocess.run([*APART, "true"], capture_output=True).returncode
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.skipif(not apart() or shutil.which("ip") is None, reason="no namespaces here")
def test_a_cut_job_goes_on_where_it_was(tmp_path: Path, tiny_sweep: Path):
    sweep = tiny_sweep.read_text()
    for old, new in (
        ("steps: 12", "steps: 100"),
        ("seeds: [0, 1]", "seeds: [0]"),
        ("{name: local}", "{name: ray}"),
        ("target:", "#"),
        ("realise:", "#"),
    ):
        assert old in sweep
        sweep = sweep.replace(old, new)
    tiny_sweep.write_text(sweep)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in (
        ("srun", 'while [[ $1 == --* ]]; do shift; done; exec "$@"'),
        ("scontrol", 'echo "$@"'),
    ):
        (programs / name).write_text(f"#!/bin/bash\n{body}\n")
        (programs / name).chmod(0o755)
    environment = {
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "ROOT": str(ROOT),
        "SHARED": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "HEAD": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_CPUS_ON_NODE": "2",
    }
    try:
        done = subprocess.run(
            [*APART, "bash", "-c", JOB],
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
    finally:
        shutil.rmtree(f"/tmp/r{os.getpid()}", ignore_errors=True)
    said = done.stdout + done.stderr
    assert "cut: 130\n" in done.stdout, said
    assert f"requeue {os.getpid()}\n" in done.stdout
    assert "continued: 0\n" in done.stdout, said
    first = (tmp_path / "first.jsonl").read_text()
    whole = (tmp_path / "results" / "tiny" / "ledger.jsonl").read_text()
    assert 4 <= first.count("\n") < whole.count("\n") == 30
    assert whole.startswith(first)
    assert len({json.loads(line)["trial_key"] for line in whole.splitlines()}) == 30
    log = (tmp_path / "results" / "tiny" / "log.jsonl").read_text().splitlines()
    ends = [json.loads(line) for line in log if '"finished"' in line]
    assert [end["outcome"] for end in ends if end["event"] == "finished"] == ["interrupted", "done"]
