"""The version of the package, installed or not."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import NoReturn

import pytest

from hptransfer.system import version


def test_a_checkout_that_is_not_installed_has_the_version_that_it_states(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a machine for a quarter of an hour, to which only the files were brought."""

    def not_installed(name: str) -> NoReturn:
        raise PackageNotFoundError(name)

    installed = version.package_version()
    version.package_version.cache_clear()
    monkeypatch.setattr("importlib.metadata.version", not_installed)
    try:
        assert version.package_version() == installed
    finally:
        version.package_version.cache_clear()


def test_it_is_read_from_the_projects_file(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "9.9"\n')
    assert version.checkout_version(tmp_path) == "9.9"
