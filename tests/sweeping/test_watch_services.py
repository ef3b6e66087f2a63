"""Trackers of services, against stand-ins with the signatures of the real packages."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from hptransfer.config import ExecutorConfig
from hptransfer.errors import UserError
from hptransfer.sweeping.trackers import watch as watch_module
from hptransfer.sweeping.trackers.watch import watchers
from tests.support.watchers import CURVE, recorded

Calls = list[tuple[Any, ...]]


class FakeRun:
    """A run of wandb or trackio: `log` and `finish`, in this order."""

    def __init__(self, calls: Calls, config: dict[str, Any]) -> None:
        self._calls, self._open = calls, True
        self.summary: dict[str, Any] = {}
        calls.append(("init", config))

    def log(self, data: dict[str, Any], step: int | None = None) -> None:
        assert self._open
        assert all(isinstance(value, float) for value in data.values())
        self._calls.append(("log", data, step))

    def finish(self) -> None:
        assert self._open
        self._open = False
        self._calls.append(("finish", self.summary))


def fake_wandb(calls: Calls) -> ModuleType:
    module = ModuleType("wandb")

    def login(key: str | None = None, verify: bool = False, timeout: int | None = None) -> bool:
        calls.append(("login", verify))
        return True

    def settings(
        *,
        silent: bool,
        console: str,
        disable_git: bool,
        disable_code: bool,
        x_disable_meta: bool,
        x_disable_stats: bool,
    ) -> Any:
        return SimpleNamespace(**locals())

    def init(
        entity: str | None = None,
        project: str | None = None,
        dir: str | None = None,
        name: str | None = None,
        config: dict[str, Any] | None = None,
        group: str | None = None,
        settings: Any = None,
    ) -> FakeRun:
        assert settings.x_disable_meta  # the command line may name a webhook
        assert Path(dir or "").is_dir()
        return FakeRun(calls, {"project": project, "group": group, "name": name, "config": config})

    module.login, module.Settings, module.init = login, settings, init  # type: ignore[attr-defined]
    return module


def fake_trackio(calls: Calls) -> ModuleType:
    module = ModuleType("trackio")

    def init(
        project: str,
        name: str | None = None,
        group: str | None = None,
        space_id: str | None = None,
        config: dict[str, Any] | None = None,
        resume: str = "never",
        embed: bool = True,
    ) -> FakeRun:
        print(f"* Created new run: {name}")
        return FakeRun(calls, {"project": project, "group": group, "name": name, "config": config})

    module.init = init  # type: ignore[attr-defined]
    return module


def fake_mlflow(calls: Calls) -> ModuleType:
    module, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")

    class Metric:
        def __init__(self, key: str, value: float, timestamp: int, step: int) -> None:
            assert isinstance(timestamp, int)
            self.said = (key, value, step)

    class Param:
        def __init__(self, key: str, value: str) -> None:
            assert isinstance(value, str)
            self.said = (key, value)

    class MlflowClient:
        def __init__(self, tracking_uri: str | None = None) -> None: ...

        def create_run(
            self,
            experiment_id: str,
            start_time: int | None = None,
            tags: dict[str, Any] | None = None,
            run_name: str | None = None,
        ) -> Any:
            calls.append(("create_run", experiment_id, run_name))
            return SimpleNamespace(info=SimpleNamespace(run_id="r1"))

        def log_batch(
            self,
            run_id: str,
            metrics: list[Metric] | tuple[()] = (),
            params: list[Param] | tuple[()] = (),
        ) -> None:
            assert len(metrics) <= 1000
            assert len(params) <= 100
            calls.append(("log_batch", run_id, [each.said for each in (*metrics, *params)]))

        def set_terminated(self, run_id: str, status: str | None = None) -> None:
            assert status in ("FINISHED", "FAILED", "KILLED")
            calls.append(("set_terminated", run_id))

    def set_experiment(experiment_name: str | None = None) -> Any:
        calls.append(("set_experiment", experiment_name))
        return SimpleNamespace(experiment_id="e1")

    module.MlflowClient, module.set_experiment = MlflowClient, set_experiment  # type: ignore[attr-defined]
    entities.Metric, entities.Param = Metric, Param  # type: ignore[attr-defined]
    module.entities = entities  # type: ignore[attr-defined]
    return module


FAKES: dict[str, Callable[[Calls], ModuleType]] = {
    "wandb": fake_wandb,
    "trackio": fake_trackio,
    "mlflow": fake_mlflow,
}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Calls]:
    """Return what installs a fake package and returns its calls."""

    def install(name: str) -> Calls:
        calls: Calls = []
        monkeypatch.setitem(sys.modules, name, FAKES[name](calls))
        if name == "mlflow":
            monkeypatch.setitem(sys.modules, "mlflow.entities", sys.modules[name].entities)
        return calls

    return install


def watch_two(folder: Path, name: str, tiny_trial: Callable[..., Any]) -> None:
    with watchers(folder, "demo", ExecutorConfig(trackers=[name])) as watch:
        watch.row(recorded(tiny_trial(-6.0), -6.0), (*CURVE, (8, float("inf"))))
        watch.row(recorded(tiny_trial(-1.0), -1.0, None), ())


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_run_per_trial(
    tmp_path: Path,
    name: str,
    installed: Callable[[str], Calls],
    tiny_trial: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("SECRET_TOKEN", "hush")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    calls = installed(name)
    watch_two(tmp_path, name, tiny_trial)
    runs = [call[1] for call in calls if call[0] == "init"]
    assert [run["group"] for run in runs] == ["demo", "demo"]
    assert runs[0]["project"] == "hptransfer"
    assert runs[0]["name"].endswith("mup/w16/log2_lr=-6,seed=0")
    config = runs[0]["config"]
    assert (config["log2_lr"], config["width"], config["status"]) == (-6.0, 16, "completed")
    assert config["model.width"] == 16
    assert "hush" not in str(calls)
    curve = [(call[2], call[1]) for call in calls if call[0] == "log"]
    assert curve[:3] == [(step, {"train_loss": loss}) for step, loss in CURVE]
    assert [call[0] for call in calls].count("finish") == 2
    ends = [call[1] for call in calls if call[0] == "finish"]
    if name == "wandb":
        assert calls[0] == ("login", True)
        assert ends == [
            {"status": "completed", "loss": 0.5},
            {"status": "diverged", "loss": None},
        ]
        assert len(curve) == 3
    else:
        assert curve[3:] == [(8, {"loss": 0.5})]
    assert capsys.readouterr().out == ""


def test_mlflow_gets_an_experiment_per_sweep(
    tmp_path: Path, installed: Callable[[str], Calls], tiny_trial: Callable[..., Any]
):
    calls = installed("mlflow")
    watch_two(tmp_path, "mlflow", tiny_trial)
    assert calls[0] == ("set_experiment", "hptransfer-demo")
    assert calls[1] == ("create_run", "e1", "mup/w16/log2_lr=-6,seed=0")
    batches = [call[2] for call in calls if call[0] == "log_batch"]
    assert ("log2_lr", "-6.0") in batches[0]
    curve = [("train_loss", loss, step) for step, loss in CURVE]
    assert batches[1] == [*curve, ("loss", 0.5, 8)]
    assert [call[0] for call in calls].count("set_terminated") == 2


def test_a_bad_login_is_refused_before_anything_runs(
    tmp_path: Path, installed: Callable[[str], Calls]
):
    installed("wandb")

    def login(verify: bool) -> bool:
        raise RuntimeError("api_key not configured (no-tty)")

    sys.modules["wandb"].login = login  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="names wandb, but it cannot start: RuntimeError: api_key"):
        watchers(tmp_path, "demo", ExecutorConfig(trackers=["wandb"]))
    assert not (tmp_path / "log.jsonl").exists()


def test_services_get_so_many_runs(
    tmp_path: Path,
    installed: Callable[[str], Calls],
    tiny_trial: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(watch_module, "TRIAL_RUNS", 2)
    calls = installed("trackio")
    with watchers(tmp_path, "demo", ExecutorConfig(trackers=["trackio"])) as watch:
        for seed in range(4):
            watch.row(recorded(tiny_trial(seed=seed), -6.0), CURVE)
    assert [call[0] for call in calls].count("init") == 2
    assert (tmp_path / "log.jsonl").read_text().count("trackers show only the first 2 trials") == 1
