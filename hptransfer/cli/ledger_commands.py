"""The commands `status` (count, verify and export rows) and `import`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hptransfer.cli.next_lines import after_status
from hptransfer.cli.sweep_commands import on_results_folder
from hptransfer.cli.terminal import command_line, print_json
from hptransfer.errors import UserError, abbreviate
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.sweep_file import read_facts


@on_results_folder
def status_command(arguments: argparse.Namespace, folder: ResultsFolder) -> int:
    """`hptransfer status`."""
    from hptransfer.analysis import of_folder
    from hptransfer.reporting.text import answers as text

    asked: dict[str, Any] = {}
    if arguments.verify:
        from hptransfer.results.ledger_verify import verify_folder

        asked["verified"] = verify_folder(folder)
    state = of_folder.status(folder)
    if arguments.export is not None:
        from hptransfer.results.export import export_rows

        asked["exported"] = export_rows(folder, read_facts(folder), arguments.export)
    if arguments.json:
        print_json({**state, **asked})
        return 0
    print(text.status_text(state))
    for ledger in asked.get("verified", []):
        print(_verified_line(ledger))
    if "exported" in asked:
        print(_exported_line(asked["exported"]))
    print(f"next: {after_status(arguments, folder, state)}")
    return 0


def _verified_line(ledger: Mapping[str, Any]) -> str:
    return (
        f"verified {ledger['file']}: {ledger['rows']} rows, {ledger['bytes']} bytes, "
        f"{ledger['curves']} curves; sha256 {ledger['sha256']}"
    )


def _exported_line(exported: Mapping[str, Any]) -> str:
    return (
        f"exported {exported['rows']} rows to {exported['file']}, what the columns mean to "
        f"{exported['dictionary']}"
    )


def import_command(arguments: argparse.Namespace) -> int:
    """`hptransfer import`."""
    from hptransfer.analysis import of_folder
    from hptransfer.results.importers.ledger import import_ledger, is_ledger

    folder = ResultsFolder(_named(arguments.folder, arguments.results))
    source = _named(arguments.source, arguments.results)
    if not is_ledger(source):
        return _import_table(arguments, folder)
    if arguments.columns:
        raise UserError(
            f"`--columns` says what another program's columns mean, but {source} is a ledger of "
            "our own, which says so itself. Leave it out."
        )
    answer = import_ledger(source, folder)
    if arguments.json:
        print_json(answer)
        return 0
    for ledger in answer["ledgers"]:
        print(_imported_text(ledger))
    state = of_folder.status(folder)
    print(f"next: {after_status(arguments, folder, state)}")
    return 0


def _import_table(arguments: argparse.Namespace, folder: ResultsFolder) -> int:
    """Import rows that another program wrote."""
    from hptransfer.results.importers.table import import_file

    words, drop = arguments.columns or [], arguments.missing == "drop"
    answer = import_file(arguments.source, folder, words, drop_missing=drop)
    if arguments.json:
        print_json(answer)
        return 0
    for note in answer["notes"]:
        print(note)
    print(
        f"imported {answer['appended']} trials of {answer['source']} into {answer['into']}; "
        f"{answer['identical']} were there already"
    )
    if answer["repaired"]:
        print(answer["repaired"])
    into_target = not folder.sweep_file.is_file()  # a target's rows have the sweep above them
    after = ("report", folder.path.parent) if into_target else ("fit", folder.path)
    print(f"next: {command_line(after[0], arguments, str(after[1]))}")
    return 0


def _named(path: Path, root: Path) -> Path:
    """Return a path, or what a bare name means: a folder of the results folder."""
    try:
        found = path.exists()
    except OSError as error:
        raise UserError(f"{abbreviate(str(path))} must be a path, but: {error.strerror}.") from None
    return path if found or len(path.parts) > 1 else root / path


def _imported_text(ledger: Mapping[str, Any]) -> str:
    wanted = "" if ledger["wanted"] is None else f" ({ledger['wanted']} of them the sweep wants)"
    lines = [
        f"imported {ledger['appended']} rows{wanted} and {ledger['curves']} curves of "
        f"{ledger['source']} into {ledger['into']}; {ledger['identical']} were there already"
    ]
    if ledger["differing"]:
        gap = ledger["largest_difference"]
        by = "" if gap is None else f", by up to {gap:.3g} in loss"
        lines.append(f"{ledger['differing']} trials have another outcome there{by}: ours are kept")
    notes = (ledger["notice"], ledger["repaired"])
    return "\n".join([*lines, *(note for note in notes if note)])
