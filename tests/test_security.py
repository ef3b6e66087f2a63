"""No code comes in by a file and no secret goes out by one: what sources may do, and readers."""

from __future__ import annotations

import ast
import importlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import hptransfer
from hptransfer.cli.main import main
from hptransfer.config import ExecutorConfig, TrialConfig
from hptransfer.config.compose.compose import compose_file
from hptransfer.errors import UserError
from hptransfer.models.weights import load_weights
from hptransfer.results.folder import ResultsFolder, find_folder
from hptransfer.results.sweep_file import read_facts
from hptransfer.system.files import require_inside
from hptransfer.system.safe_yaml import LARGEST_FILE, MOST_VALUES, read_mapping

PACKAGE = Path(hptransfer.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

PICKLES = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "code"}
CALLS = {  # what no source may call, whatever it is given
    *("eval", "exec", "__import__", "os.system", "os.popen", "tempfile.mktemp"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "pandas.read_pickle"),
    *("pd.read_pickle", "subprocess.getoutput", "subprocess.getstatusoutput"),
}
# The only files that import what a text names: a public name of the package, `model.factory` and
# `train.function`.
BY_NAME = {"__init__.py", "models/user_functions.py", "training/external/call.py"}
# The only files that pickle: a function goes from a notebook to the processes of its own trials, in
# a temporary file of the notebook's process.
PICKLING = {"sweeping/public.py", "training/external/call.py"}


def faults(source: str, name: str = "x.py") -> list[str]:
    """Return what a source does that none may, as `line: what`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            modules = [] if names == {"UnpicklingError"} else [node.module or ""]
        pickles = PICKLES - ({"cloudpickle"} if name in PICKLING else set())
        found += [f"{line}: {m}" for m in modules if m.split(".")[0] in pickles]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        unsafe = (
            called in CALLS
            or (called == "compile")
            or (called == "torch.load" and given.get("weights_only") != "True")
            or given.get("allow_pickle", "False") != "False"
            or given.get("shell", "False") != "False"
            or (called.endswith("import_module") and name not in BY_NAME)
        )
        found += [f"{line}: {called}"] if unsafe else []
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_source_runs_what_a_file_says(path: Path) -> None:
    assert faults(path.read_text(), path.relative_to(PACKAGE).as_posix()) == []


@pytest.mark.parametrize(
    "line",
    [
        *("import pickle", "from joblib import load", "torch.load(p)", "eval(x)", "os.system(x)"),
        *("torch.load(p, weights_only=False)", "np.load(p, allow_pickle=True)", "yaml.load(t, L)"),
        *("subprocess.run(x, shell=True)", "importlib.import_module(x)", "tempfile.mktemp()"),
    ],
)
def test_what_is_forbidden_is_found(line: str) -> None:
    assert faults(line)


class Bomb:
    """An object whose pickle makes a file as it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.trace),))


def test_a_bomb_goes_off_where_pickles_are_read(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "trace")))
    assert (tmp_path / "trace").exists()


def test_weights_that_are_a_pickle_run_nothing(tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / "weights.safetensors"
    for write in (
        lambda: path.write_bytes(pickle.dumps(Bomb(trace))),
        lambda: torch.save(Bomb(trace), path),
        lambda: np.save(path.open("wb"), np.array([Bomb(trace)]), allow_pickle=True),
    ):
        write()
        with pytest.raises(UserError):
            load_weights(TrialConfig(), path)
        assert not trace.exists()


def test_yaml_that_names_code_runs_nothing(tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / "sweep.yaml"
    path.write_text(f"name: x\nquestion: !!python/object/apply:os.mkdir ['{trace}']\n")
    with pytest.raises(UserError, match=r"line 2 cannot be read.*python/object/apply:"):
        compose_file(path, [])
    with pytest.raises(UserError):
        read_facts(ResultsFolder(tmp_path))
    assert not trace.exists()


NINE = "[" + ", ".join(["*{0}"] * 9) + "]"
BOMB = "a: &a [x]\n" + "".join(
    f"{now}: &{now} {NINE.format(before)}\n"
    for before, now in zip("abcdefgh", "bcdefghi", strict=True)
)
FILES_REFUSED = {
    "aliases": (BOMB.encode(), f"at most {MOST_VALUES:,} values"),
    "an endless alias": (b"question: &a [*a]\n", f"at most {MOST_VALUES:,} values"),
    "a repeated key": (b"seed: 1\nseed: 2\n", "line 2 cannot be read: it gives 'seed' again"),
    "a repeated inner key": (
        b"model:\n  width: 8\n  width: 16\n",
        "line 3 cannot be read: it gives",
    ),
    "another encoding": ("question: ü\n".encode("latin-1"), "byte 11 is not"),
    "nothing": (b"", "holds nothing"),
    "tabs": (b"a:\n\tb: 1\n", "line 2 cannot be read"),
    "a lookup": (b"question: ${oc.env:HOME}\n", "looks nothing up"),
    "a hidden lookup": (b'question: "\\x24{oc.env:HOME}"\n', "looks nothing up"),
    "too much": (b"#" * (LARGEST_FILE + 1), "at most 1,000,000 bytes"),
    "brackets": (b"a: " + b"[" * 100_000, "must be YAML of plain values"),
    "a section of Hydra's": (b"hydra: {run: {dir: x}}\n", "no config key 'hydra'"),
}


@pytest.mark.parametrize("kind", FILES_REFUSED)
def test_a_file_that_is_no_config_is_refused_in_a_sentence(tmp_path: Path, kind: str) -> None:
    content, sentence = FILES_REFUSED[kind]
    path = tmp_path / "sweep.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        compose_file(path, [])
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_pipe_or_a_folder_is_refused_and_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path, tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match=r"is a folder|must be a file"):
            read_mapping(path)


def test_a_byte_order_mark_and_modest_aliases_are_read(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_bytes("\ufeffa: &a {b: 1}\nc: {<<: *a, d: 2020-01-01}\n".encode())
    assert read_mapping(path) == {"a": {"b": 1}, "c": {"b": 1, "d": "2020-01-01"}}


@pytest.mark.parametrize(
    "secret",
    [
        *("https://me:S3cret@host/hook", "s3://KEY:S3cret@bucket/x", "https://S3cret@host/x"),
        *("https://host/x?token=S3cret", "curl -d done 'https://host/?a=1&api_key=S3cret'"),
        "az://box/x?sig=S3cret",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(UserError, match="must hold no password or token") as caught:
        ExecutorConfig(storage=secret)
    assert "S3cret" not in str(caught.value)


def test_addresses_without_credentials_are_taken() -> None:
    for value in ("s3://bucket/x", "sftp://me@host/x", "/mnt/x", "https://host/x?room=1"):
        ExecutorConfig(storage=value)


def test_links_may_not_lead_out_of_a_folder(tmp_path: Path) -> None:
    scratch, folder, outside = (tmp_path / name for name in ("scratch", "results", "outside"))
    scratch.mkdir()
    outside.mkdir()
    folder.symlink_to(scratch)  # the folder itself may be a link
    (scratch / "inner").mkdir()
    (scratch / "again").symlink_to(scratch / "inner")
    (scratch / "out").symlink_to(outside)
    (scratch / "file").symlink_to(outside / "new")
    (scratch / "loop").symlink_to(scratch / "loop")
    for sound in ("x.json", "inner/x.json", "again/x.json", "loop"):
        require_inside(folder, folder / sound)
    for bad in ("out/x.json", "file", "../outside/x.json", "inner/../../outside"):
        with pytest.raises(UserError, match="must stay in it"):
            require_inside(folder, folder / bad)


def test_a_received_folder_may_not_reach_outside_itself(tmp_path: Path) -> None:
    folder, outside = tmp_path / "received", tmp_path / "outside"
    (folder / "target").mkdir(parents=True)
    outside.mkdir()
    (folder / "sweep.yaml").write_text("name: x\n")
    assert find_folder(folder).path == folder
    for link in (folder / "figures", folder / "target" / "weights"):
        link.symlink_to(outside)
        with pytest.raises(UserError, match="must stay in it"):
            find_folder(folder)
        link.unlink()


def test_reading_a_strangers_folder_runs_nothing_that_it_names(
    tiny_sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["sweep", "tiny.yaml", "sweep.widths=[8]", "--quiet"]) == 0
    Path("evil.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    path = Path("results/tiny/sweep.yaml")
    tree = yaml.safe_load(path.read_text())
    tree["model"] |= {"family": "custom", "factory": "evil:build"}
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    for command in ("status", "fit", "plot", "report"):
        assert main([command, "results/tiny"]) == 0
    assert not Path("ran").exists()
    importlib.import_module("evil")
    assert Path("ran").exists()  # it would have told
