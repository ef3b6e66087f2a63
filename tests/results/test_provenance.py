"""The commit that rows record, and checkouts where git cannot name it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hptransfer.results import provenance as module


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put a git of these lines in the place of the machine's own, over a checkout."""
    package = tmp_path / "checkout" / "hptransfer" / "results"
    (tmp_path / "checkout" / ".git").mkdir(parents=True)
    monkeypatch.setattr(module, "__file__", str(package / "provenance.py"))
    monkeypatch.setattr(module, "GIT_SECONDS", 0.5)
    monkeypatch.setenv("PATH", str(tmp_path))

    def make(*lines: str) -> None:
        script = tmp_path / "git"
        script.write_text("\n".join(("#!/bin/sh", *lines, "")))
        script.chmod(0o755)

    return make


def test_a_commit_is_what_git_says(git) -> None:
    git("echo abc1234+")
    assert module.provenance()["commit"] == "abc1234+"


@pytest.mark.parametrize(
    "lines", [("echo half", "exit 128"), ("exec /bin/sleep 30",)], ids=["fails", "hangs"]
)
def test_a_git_that_fails_or_hangs_leaves_the_commit_empty(git, lines: tuple[str, ...]) -> None:
    git(*lines)
    assert module.provenance()["commit"] == ""


def test_a_machine_without_git_leaves_the_commit_empty(git) -> None:
    assert module.provenance()["commit"] == ""
