"""Watching: the log, TensorBoard's files, and that no watcher can end a sweep."""

from __future__ import annotations

import json
import struct
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.plugin_hparams_pb2 import (
    HParamsPluginData,  # pyright: ignore[reportAttributeAccessIssue]
)

from hptransfer.config import ExecutorConfig
from hptransfer.errors import Interrupted, MachineError, UserError
from hptransfer.sweeping.trackers import tensorboard as tensorboard_module
from hptransfer.sweeping.trackers import watch as watch_module
from hptransfer.sweeping.trackers.watch import Watch, watchers
from tests.support.watchers import CURVE, recorded

LOCAL = ExecutorConfig(trackers=[])
BOARD = ExecutorConfig(trackers=["tensorboard"])


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def events(folder: Path) -> list[Any]:
    """Read all events of the files in a folder: records of length, its check, data, its check."""
    found = []
    for path in sorted(folder.glob("events*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    series = defaultdict(list)
    for event in events(folder):
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                series[value.tag].append((event.step, round(value.simple_value, 6)))
    return dict(series)


def test_the_log_has_a_strict_line_per_event(tmp_path: Path, tiny_trial: Callable[..., Any]):
    with watchers(tmp_path, "demo", LOCAL) as watch:
        watch.started({"trials": 2, "workers": 1})
        watch.pack_started(0, 2)
        watch.pack_started(0, 2)  # handed out again after its worker was lost
        watch.row(recorded(tiny_trial(), -6.0), CURVE)
        watch.row(recorded(tiny_trial(seed=1), -6.0, None), ())
        watch.pack_finished(0)
        watch.note("A sentence.")
    lines = logged(tmp_path)
    assert [line["event"] for line in lines] == [
        *("started", "pack_started", "pack_lost", "pack_started", "row", "row"),
        *("pack_finished", "note", "finished"),
    ]
    assert all(line["time"].endswith("+00:00") for line in lines)
    assert lines[0]["trials"] == 2
    assert lines[4]["hps"] == {"log2_lr": -6.0}
    assert lines[5]["loss"] is None
    assert lines[-1]["outcome"] == "done"
    assert lines[-1]["counts"] == {"rows": 2, "completed": 1, "diverged": 1, "stopped": 0}


def test_runs_append_and_a_torn_line_stays_alone(tmp_path: Path):
    (tmp_path / "log.jsonl").write_text('{"event": "note", "te')
    with watchers(tmp_path, "demo", LOCAL):
        pass
    with watchers(tmp_path, "demo", LOCAL):
        pass
    torn, *whole = (tmp_path / "log.jsonl").read_text().splitlines()
    assert torn == '{"event": "note", "te'
    assert [json.loads(line)["event"] for line in whole] == ["finished", "finished"]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(Interrupted(10), "interrupted"), (MachineError("node lost"), "failed")],
)
def test_the_end_says_how_it_ended(tmp_path: Path, error: BaseException, outcome: str):
    with pytest.raises(type(error)), watchers(tmp_path, "demo", LOCAL) as watch:
        watch.started({})
        raise error
    assert [line.get("outcome") for line in logged(tmp_path)] == [None, outcome]


def test_tensorboard_draws_curves_and_compares_rates(
    tmp_path: Path, tiny_trial: Callable[..., Any]
):
    with watchers(tmp_path, "demo", BOARD) as watch:
        watch.row(recorded(tiny_trial(-6.0), -6.0, 0.5), (*CURVE, (8, float("nan"))))
        watch.row(recorded(tiny_trial(-7.0), -7.0, 0.4), CURVE)
        watch.row(recorded(tiny_trial(-1.0), -1.0, None), ())
    root = tmp_path / "tensorboard"
    run = root / "mup" / "w16" / "log2_lr=-7,seed=0"
    assert scalars(run) == {"train_loss": [(2, 0.9), (4, 0.7), (6, 0.6)], "loss": [(6, 0.4)]}
    assert "loss" not in scalars(root / "mup" / "w16" / "log2_lr=-1,seed=0")
    assert all(step != 8 for step, _ in scalars(run.with_name("log2_lr=-6,seed=0"))["train_loss"])
    plugin = {
        value.tag: HParamsPluginData.FromString(value.metadata.plugin_data.content)
        for event in events(run)
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "hparams"
    }
    values = plugin["_hparams_/session_start_info"].session_start_info.hparams
    assert values["log2_lr"].number_value == -7.0
    assert values["width"].number_value == 16
    metrics = plugin["_hparams_/experiment"].experiment.metric_infos
    assert [metric.name.tag for metric in metrics] == ["loss"]
    (sweep,) = (root / "sweep").iterdir()
    whole = scalars(sweep)
    assert whole["rows"] == [(1, 1), (2, 2), (3, 3)]
    assert whole["diverged"] == [(3, 1)]
    assert whole["best_loss/mup/w16"] == [(1, 0.5), (2, 0.4)]


def test_tensorboard_stops_at_so_many_runs_also_when_continued(
    tmp_path: Path, tiny_trial: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tensorboard_module, "TRIAL_RUNS", 3)
    for seeds in (range(2), range(2, 5)):
        with watchers(tmp_path, "demo", BOARD) as watch:
            for seed in seeds:
                watch.row(recorded(tiny_trial(seed=seed), -6.0), CURVE)
    assert len(list((tmp_path / "tensorboard" / "mup" / "w16").iterdir())) == 3


class Failing:
    """A watcher whose second row fails."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def row(self, row: Any, curve: Any) -> None:
        self.told.append(row["seed"])
        if len(self.told) == 2:
            raise OSError("no space\nleft")

    def close(self) -> None:
        self.told.append(-1)


def test_a_failing_watcher_is_told_once_and_left_out(
    tmp_path: Path, tiny_trial: Callable[..., Any], capsys: pytest.CaptureFixture[str]
):
    failing = Failing()
    with Watch(tmp_path, {"mlflow": failing}) as watch:
        for seed in range(4):
            watch.row(recorded(tiny_trial(seed=seed), -6.0), CURVE)
    assert failing.told == [0, 1]
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "hptransfer: mlflow is not used from here on: OSError: no space. The results folder has all rows.\n"
    )
    assert [line["event"] for line in logged(tmp_path)].count("watcher_failed") == 1
    assert logged(tmp_path)[-1]["event"] in ("finished", "watcher_failed")


def test_a_watcher_that_hangs_neither_holds_up_rows_nor_the_end(
    tmp_path: Path,
    tiny_trial: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setitem(watch_module.END_SECONDS, "done", 0.2)
    hanging, free = Failing(), threading.Event()
    hanging.row = lambda row, curve: free.wait()  # type: ignore[method-assign]
    release = threading.Timer(10, free.set)  # waiting for it would take this long
    release.start()
    with Watch(tmp_path, {"wandb": hanging}) as watch:
        for seed in range(4):
            watch.row(recorded(tiny_trial(seed=seed), -6.0), CURVE)
    free.set()
    release.cancel()
    assert "wandb took too long and does not show the last trials" in capsys.readouterr().err
    assert [line["event"] for line in logged(tmp_path)].count("row") == 4


def test_a_full_disk_ends_the_log_and_not_the_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with watchers(tmp_path, "demo", LOCAL) as watch, Path("/dev/full").open("ab", buffering=0) as f:
        assert watch._log is not None
        watch._log._file = f
        watch.note("one")
        watch.note("two")
    err = capsys.readouterr().err
    assert err.count("the log is not written from here on: OSError") == 1
    assert "No space left" in err


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_missing_package_is_refused_with_its_extra(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(UserError, match=rf"pip install 'hptransfer\[{name}\]'"):
        watchers(tmp_path, "demo", ExecutorConfig(trackers=[name]))
    assert not (tmp_path / "log.jsonl").exists()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="must be writable"):
        watchers(tmp_path / "file" / "sweep", "demo", LOCAL)


@pytest.mark.parametrize("name", ["log.jsonl", "tensorboard"])
def test_links_out_of_the_folder_are_refused(tmp_path: Path, name: str):
    inside, outside = tmp_path / "sweep", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / name).symlink_to(outside / "target")
    with pytest.raises(UserError, match="must stay in it"):
        watchers(inside, "demo", BOARD)
    assert list(outside.iterdir()) == []
