"""The commands about a sweep's rows: how far they are, whether they are whole, from elsewhere."""

from __future__ import annotations

import argparse

from hptransfer.commands import next_command, of_folder
from hptransfer.results import ResultsFolder
from hptransfer.terminal import print_json


@of_folder
def status_command(arguments: argparse.Namespace, folder: ResultsFolder) -> int:
    """`hptransfer status`."""
    from hptransfer import answers, summary

    state = answers.status(folder)
    if arguments.json:
        print_json(state)
    else:
        print(summary.status_text(state))
        print(f"next: {next_command(arguments, folder, missing=state['wanted'] - state['recorded'])}")
    return 0
