"""The pages of docs/reference that are written from the code, at every build of the site."""

from __future__ import annotations

from website.reference import commands, config_keys, python_api, results_folder


def reference_pages() -> dict[str, str]:
    """Return the text of each generated page by its name in docs/reference."""
    return {
        "commands.md": commands.page(),
        "sweep_file.md": config_keys.sweep_page(),
        "trial_config.md": config_keys.trial_page(),
        "python_api.md": python_api.page(),
        "results_folder.md": results_folder.page(),
    }
