"""The recipes under deploy/, as far as they can be tried without SLURM, Kubernetes or a cluster."""

from __future__ import annotations

import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from hptransfer.cli.main import main
from tests.support.paths import ROOT

DEPLOY = ROOT / "deploy"
SCRIPTS = ("slurm.sbatch", "ray-job-submit.sh")
RAY = str(Path(sys.executable).with_name("ray"))


def text(name: str) -> str:
    return (DEPLOY / name).read_text()


def rayjob() -> dict[str, Any]:
    documents = list(yaml.safe_load_all(text("kuberay-rayjob.yaml")))
    return next(document for document in documents if document["kind"] == "RayJob")


def commands(name: str) -> list[list[str]]:
    """Return the hptransfer commands of a recipe, variables of the shell replaced."""
    joined = text(name).replace("\\\n", " ")
    if name.endswith(".yaml"):
        joined = rayjob()["spec"]["entrypoint"]
    lines = [line for line in joined.splitlines() if not line.lstrip().startswith("#")]
    found = [re.search(r"hptransfer (sweep .*)", line) for line in lines]
    said = [match[1] for match in found if match]
    for pattern, value in (
        (r'"\$\{1:-quickstart\}"|"\$SWEEP"', "quickstart"),
        (r'"\$\{@:2\}"|"\$\{OVERRIDES\[@\]\}"|&\s*$', ""),
        (r"\$SHARED", "/shared"),
        (r"\$HEAD:\$PORT", "10.0.0.1:6379"),
    ):
        said = [re.sub(pattern, value, line) for line in said]
    return [shlex.split(line) for line in said]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_valid_bash(name: str):
    subprocess.run(["bash", "-n", str(DEPLOY / name)], check=True)


@pytest.mark.parametrize("name", [*SCRIPTS, "kuberay-rayjob.yaml"])
def test_commands_in_recipes_compose(name: str, capsys: pytest.CaptureFixture[str]):
    (words,) = commands(name)
    assert not any("$" in word for word in words)
    assert any(word.startswith("executor.storage=/shared/") for word in words)
    assert "--results=/shared/results" in words
    assert main([*words, "--print-config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["executor"]["address"] in ("auto", "10.0.0.1:6379")
    assert config["runtime"]["device"] == "cuda"


@pytest.mark.parametrize("name", [*SCRIPTS, "kuberay-rayjob.yaml", "Dockerfile"])
def test_every_recipe_sets_the_authentication_mode(name: str):
    assert re.search(r"RAY_AUTH_MODE(=token|\n *value: token)", text(name))


def test_sbatch_options():
    lines = re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", text("slurm.sbatch"), re.MULTILINE)
    options = dict(lines)
    assert len(lines) == text("slurm.sbatch").count("#SBATCH")
    assert options["ntasks-per-node"] == "1"  # one Ray per node
    assert "exclusive" in options  # `ray stop` stops every Ray on the node
    assert "requeue" in options
    target, name, seconds = re.fullmatch(r"(B):(\w+)@(\d+)", options["signal"]).groups()  # type: ignore[union-attr]
    assert (target, name) == ("B", "USR1")
    assert int(seconds) >= 60
    assert options["open-mode"] == "append"  # a requeued job keeps what it said before


def test_the_rayjob_is_whole():
    job = rayjob()
    assert job["apiVersion"] == "ray.io/v1"
    spec = job["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    cluster = spec["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    pods = [group["template"]["spec"] for group in groups]
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for pod in pods:
        (container,) = pod["containers"]
        assert container["resources"]["limits"] == container["resources"]["requests"]
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        claims = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"]}
        assert mounted == {"shared": "/shared"}
        assert claims == {"shared": "hptransfer-shared"}
    submitter = spec["submitterPodTemplate"]["spec"]
    for pod in (submitter, *pods):
        (container,) = pod["containers"]
        named = {variable["name"]: variable for variable in container["env"]}
        assert named["RAY_AUTH_MODE"]["value"] == "token"
        assert "secretKeyRef" in named["RAY_AUTH_TOKEN"]["valueFrom"]  # never in the file itself
        assert container["image"] == "registry.example.org/hptransfer:0.1.0"


def test_the_image_has_all_that_it_copies_and_no_secret():
    lines = [line for line in text("Dockerfile").splitlines() if not line.startswith("#")]
    assert "FROM python:3.12-slim" in lines
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert {"hptransfer", "conf", "sweeps", "pyproject.toml"} <= set(copied)
    assert all((ROOT / word).exists() for word in copied)
    installed = re.search(r"apt-get install (.*)", "\n".join(lines))
    assert installed and "g++" in installed[1].split()  # torch.compile needs one on a GPU
    user = [line.split()[1] for line in lines if line.startswith("USER")]
    assert user == ["ray"]
    assert not re.search(r"TOKEN[ =]|PASSWORD|SECRET", "\n".join(lines))


PACKAGE = """
import sys
from pathlib import Path
from zipfile import ZipFile
from ray._private.runtime_env.packaging import create_package
target = Path(sys.argv[2])
create_package(sys.argv[1], target, include_gitignore=True, excludes=[])
print(target.stat().st_size)
print(*sorted({name.split("/")[0] for name in ZipFile(target).namelist()}))
"""


def test_an_upload_has_the_source_and_little_else(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", PACKAGE, str(ROOT), str(tmp_path / "package.zip")],
        capture_output=True,
        text=True,
        check=True,
    )
    size, names = done.stdout.splitlines()[-2:]
    assert int(size) < 20e6
    assert {"hptransfer", "conf", "sweeps"} <= set(names.split())
    assert not {"results", ".git", ".venv", "tests"} & set(names.split())


def test_ray_has_the_flags_that_are_used():
    started = {}
    for command in ("symmetric-run", "start", "job submit"):
        done = subprocess.run(
            [RAY, *command.split(), "--help"], capture_output=True, text=True, check=True
        )
        started[command] = done.stdout
    assert all(flag in started["symmetric-run"] for flag in ("--address", "--min-nodes"))
    for flag in ("--num-cpus", "--object-store-memory", "--include-dashboard"):
        assert flag in text("slurm.sbatch")
        assert flag in started["start"]
    assert all(flag in started["job submit"] for flag in ("--address", "--working-dir"))


FAKES = {
    "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "ray": (
        'echo "$@" >"$SHARED/ray"; stat -c %a "$RAY_AUTH_TOKEN_PATH" >"$SHARED/mode"\n'
        'while [ "$1" != -- ]; do shift; done; shift; "$@"'
    ),
    "hptransfer": (
        'echo "$@" >"$SHARED/words"; trap "exit 130" USR1\n'
        "case $2 in short) exit 0;; broken) exit 3;; esac; while true; do sleep 0.05; done"
    ),
    "scontrol": 'echo "$@" >"$SHARED/requeued"',
}


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a batch script among programs that stand in for SLURM and Ray."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in FAKES.items():
        program = programs / name
        program.write_text(f"#!/bin/bash\n{body}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "SHARED": str(tmp_path),
        "HEAD": "127.0.0.1",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_CPUS_ON_NODE": "2",
        "USER": "somebody",
    }


def test_a_job_that_ends_is_not_queued_again(tmp_path: Path, slurm: dict[str, str]):
    script = [str(DEPLOY / "slurm.sbatch"), "short", "search.lr.low=-9"]
    subprocess.run(["bash", *script], env=slurm, check=True, timeout=30)
    words = (tmp_path / "words").read_text()
    assert words.startswith(f"sweep short --results={tmp_path}/results ")
    assert words.endswith(" search.lr.low=-9\n")
    assert "--min-nodes 1 " in (tmp_path / "ray").read_text()
    assert (tmp_path / "mode").read_text() == "600\n"
    assert not (tmp_path / "requeued").exists()
    left = {path.name for path in tmp_path.iterdir()} - {"bin", "words", "ray", "mode"}
    assert left == set()  # no token, no process id
    Path(f"/tmp/r{os.getpid()}").rmdir()


def test_a_job_that_fails_is_not_queued_again(tmp_path: Path, slurm: dict[str, str]):
    done = subprocess.run(["bash", str(DEPLOY / "slurm.sbatch"), "broken"], env=slurm, timeout=30)
    assert done.returncode == 3
    assert not (tmp_path / "requeued").exists()
    Path(f"/tmp/r{os.getpid()}").rmdir()


def test_a_job_that_is_cut_stops_in_order_and_is_queued_again(
    tmp_path: Path, slurm: dict[str, str]
):
    job = subprocess.Popen(["bash", str(DEPLOY / "slurm.sbatch"), "long"], env=slurm)
    until = time.monotonic() + 30
    while not (tmp_path / "words").exists() and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.2)
    job.send_signal(signal.SIGUSR1)  # to the batch script alone, as `--signal=B:` does
    assert job.wait(timeout=30) == 130
    assert (tmp_path / "requeued").read_text() == f"requeue {os.getpid()}\n"
    Path(f"/tmp/r{os.getpid()}").rmdir()
