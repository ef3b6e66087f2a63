"""Pictures and report of a results folder: what they read, and where they write."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from matplotlib.figure import Figure

import hptransfer
from hptransfer.cli.main import main
from hptransfer.reporting import figures
from tests.support.files import unchangeable
from tests.support.paths import ROOT


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder whose rows were not fitted yet, with one format of pictures to be quick."""
    own = tmp_path / "quickstart"
    recorded = ROOT / "results" / "studies" / "quickstart"
    left_out = shutil.ignore_patterns("figures", "estimates.json", "realised.json", "check.json")
    shutil.copytree(recorded, own, ignore=left_out)
    monkeypatch.setattr(figures, "FORMATS", {".svg": figures.FORMATS[".svg"]})
    monkeypatch.chdir(tmp_path)
    return own


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of every file in a folder by its path in it."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("command", ["plot", "report"])
def test_a_folder_that_cannot_be_written_is_one_sentence_that_names_the_option(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    with unchangeable(folder):
        assert main([command, str(folder)]) == 2
    error = capsys.readouterr().err
    assert str(folder) in error and "--out DIR" in error and error.count("\n") == 1


def test_out_gets_pictures_and_page_and_the_folder_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transfer = json.loads((folder / "transfer.json").read_text())
    (folder / "transfer.json").write_text(json.dumps({**transfer, "realised": None}))
    before = files(folder)
    with unchangeable(folder):
        assert main(["report", str(folder), "--out=mine"]) == 0
        assert "mine/report.html" in capsys.readouterr().out
    assert files(folder) == before
    found = files(Path("mine"))
    page = found.pop("report.html").decode()
    names = [
        *("summary", "basins-mup", "basins-standard", "optimum_width"),
        *("cost_of_value", "loss_width"),
        *("realised", "cost"),
    ]
    assert set(found) == {f"figures/{name}.svg" for name in names}
    assert "use learning rate" in page.lower() and "the prediction held" in page


def test_plot_writes_where_it_is_told_and_its_next_command_does_too(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pictures(estimates: object, **_: object) -> list[figures.Picture]:
        return [figures.Picture("one", "a picture", (1.0, 1.0), Figure.subplots)]

    monkeypatch.setattr(figures, "pictures", pictures)
    before = files(folder)
    assert main(["plot", str(folder), "--out=mine"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == ["mine/figures/one.svg", f"next: hptransfer report {folder} --out=mine"]
    assert files(folder) == before
    assert main(["plot", str(folder)]) == 0
    assert set(files(folder)) - set(before) == {"figures/one.svg"}


def test_a_place_that_cannot_be_written_either_names_the_option_too(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file")
    assert main(["plot", str(folder), "--out=taken/here"]) == 2
    error = capsys.readouterr().err
    assert "taken" in error and "--out" in error and error.count("\n") == 1


def test_figures_are_returned_and_nothing_is_written(folder: Path) -> None:
    before = files(folder)
    drawn = hptransfer.plot(folder)
    assert files(folder) == before
    assert list(drawn)[:2] == ["summary", "basins-mup"]
    assert len(drawn["summary"].axes) == 4
