"""Results folders that are watched: what their pages show now, made anew in the background.

A request only looks at the times of a few files. Where one changed, a single worker thread reads
the folder again; the request is answered at once with what was known before. Estimates are fitted
once per change of the rows, and at most a quarter of the time.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hptransfer.analysis.answer.text import arm_names
from hptransfer.analysis.of_folder import fresh_estimates, require_trials
from hptransfer.analysis.target_rows import refreshed
from hptransfer.errors import UserError
from hptransfer.reporting.live.parts import Listed, progress, sweeps_table, trials_section
from hptransfer.reporting.live.state import (
    RunLog,
    Signature,
    SweepState,
    TimeLeft,
    signature_of,
    state_signature,
    state_word,
    sweep_state,
)
from hptransfer.reporting.of_folder import mup_check
from hptransfer.reporting.page.charts import charts
from hptransfer.reporting.page.page import document, element
from hptransfer.reporting.page.report import (
    answers,
    curves_section,
    details,
    page_header,
    value_and_cost,
)
from hptransfer.results.failed_trials import failed_file
from hptransfer.results.folder import ResultsFolder, read_json
from hptransfer.results.ledger_rows import LEDGER_NAME, read_ledger_rows
from hptransfer.results.sweep_file import read_facts
from hptransfer.system.files import require_links_inside
from hptransfer.system.folder_lock import lock_holder

PARTS = ("top", "state", "answer", "trials", "more")  # of a sweep's page
REST = 3.0  # times the duration of a fit that passes before the next one
NOT_YET = "No trial is finished yet. The first curve appears with the first finished trial."


@dataclass(frozen=True)
class News:
    """What a page shows: a title, parts as HTML by their place, and curves to draw."""

    title: str
    parts: Mapping[str, str]
    charts: Mapping[str, Any] | None = None

    def content(self, *, busy: bool) -> bytes:
        """Return the news as JSON; `busy`: more follows soon."""
        shown = {"title": self.title, "parts": self.parts, "charts": self.charts, "busy": busy}
        return json.dumps(shown, ensure_ascii=False, allow_nan=False).encode()


def tag_of(content: bytes) -> str:
    """Return the ETag of some content."""
    return f'"{hashlib.sha256(content).hexdigest()[:16]}"'


class Watched:
    """A page whose news a single worker makes anew where files changed."""

    places: tuple[str, ...] = ()  # of parts on the page, from the top
    fixed: Mapping[str, str] = MappingProxyType({})  # HTML of parts that stay

    def __init__(self, pool: ThreadPoolExecutor, first: News) -> None:
        self._pool, self._news = pool, first
        self._lock = threading.Lock()
        self._work: Future[None] | None = None
        self._is_due = True  # more is to be read than what is shown

    def content(self) -> bytes:
        """Return the news as JSON, at once; what changed since is read in the background."""
        with self._lock:
            if self._work is not None and self._work.done():
                done, self._work = self._work, None
                done.result()  # a fault of ours is raised where it is seen
            if self._work is None and self.has_changed():
                self._work = self._pool.submit(self.renew)
            return self._news.content(busy=self._is_due or self._work is not None)

    def page(self) -> str:
        """Return the whole page with the news of now in it."""
        content = self.content()
        news = json.loads(content)
        inner = [
            self.fixed.get(place) or f'<div id="{place}">{news["parts"][place]}</div>'
            for place in self.places
        ]
        data = {"tag": tag_of(content), "busy": news["busy"], "charts": news["charts"]}
        return document(news["title"], inner, {"live": True, **data})

    def has_changed(self) -> bool:
        """Say whether something is to be read."""
        raise NotImplementedError

    def renew(self) -> None:
        """Read what changed, in the worker's thread."""
        raise NotImplementedError

    def _show(self, news: News, *, is_due: bool = False) -> None:
        with self._lock:
            self._news, self._is_due = news, is_due


class WatchedSweep(Watched):
    """The page of one sweep."""

    places = ("top", "state", "answer", "curves", "trials", "more")
    fixed = MappingProxyType({"curves": curves_section()})

    def __init__(
        self,
        folder: ResultsFolder,
        pool: ThreadPoolExecutor,
        time_left: TimeLeft,
        *,
        step: int | None = None,
    ) -> None:
        name = folder.path.resolve().name
        self._parts: dict[str, str] = dict.fromkeys(PARTS, "")
        self._parts |= {"top": page_header({}, name), "state": "<p>Reading the results …</p>"}
        self._title, self._charts = f"{name}: hptransfer report", _nothing_drawn(name)
        super().__init__(pool, News(self._title, self._parts, self._charts))
        self._folder, self._time_left, self._step = folder, time_left, step
        self._log = RunLog(folder.log_file)
        self._read: tuple[Signature, bool] | None = (
            None  # of the files that the state was read from
        )
        self._answered: Signature | None = None  # of those that the answer was made from
        self._rests_until = 0.0

    def has_changed(self) -> bool:
        """Say whether the state or the answer is to be made anew."""
        return self._state_signature() != self._read or self._is_fit_due()

    def _state_signature(self) -> tuple[Signature, bool]:
        return state_signature(self._folder)

    def _answer_signature(self) -> Signature:
        folder = self._folder
        ledgers = (folder.path / LEDGER_NAME, folder.target / LEDGER_NAME)
        others = (folder.sweep_file, folder.design_file, folder.transfer_file, folder.check_file)
        return signature_of((*ledgers, *others))

    def _is_fit_due(self) -> bool:
        is_stale = self._answer_signature() != self._answered
        return is_stale and time.monotonic() >= self._rests_until

    def renew(self) -> None:
        """Read the state, show it, and then fit."""
        try:
            require_links_inside(self._folder.path)
            self._read = self._state_signature()
            state = sweep_state(self._folder, self._log, self._time_left)
            facts = read_facts(self._folder)
        except UserError as error:
            self._parts["state"] = element("p", str(error), "warning")
            self._answered = self._answer_signature()  # nothing to fit until a file changes
            self._publish(is_due=False)
            return
        self._title = f"{_mark(state)}{facts.name}: hptransfer report"
        self._parts["top"] = page_header(facts.tree, facts.name)
        self._parts["state"] = progress(state)
        self._parts["trials"] = trials_section(state)
        due = self._is_fit_due()
        self._publish(is_due=due)
        if due:
            began, signature = time.monotonic(), self._answer_signature()
            self._answer(state, facts.tree, facts.name)
            self._answered = signature
            self._rests_until = time.monotonic() + REST * (time.monotonic() - began)
            self._publish(is_due=False)

    def _answer(self, state: SweepState, tree: Mapping[str, Any], name: str) -> None:
        if not state.counts["recorded"]:
            self._parts |= {"answer": element("p", NOT_YET, "note"), "more": ""}
            self._charts = _nothing_drawn(name)
            return
        folder = self._folder
        try:
            require_trials(folder)
            transfer, realised = refreshed(folder)
            estimates = fresh_estimates(folder, step=self._step)
            check = mup_check(folder)
        except UserError as error:
            self._parts["answer"] = element("p", str(error), "warning")
            return
        except Exception as error:  # whatever rows of a moment make a fit raise, the page lives on
            traceback.print_exc()
            told = f"The rows so far cannot be fitted ({type(error).__name__}: {error}). "
            said = f"{told}Run `hptransfer fit {folder.path}` to see more."
            self._parts["answer"] = element("p", said, "warning")
            return
        below = details(
            {},
            estimates=estimates,
            check=check,
            realised=realised,
            transfer=transfer,
            sweep=tree,
            timing=None,
            commands=[],
        )
        self._parts |= {"answer": answers(estimates), "more": "\n".join(below)}
        self._charts = charts(estimates, realised, read_ledger_rows(folder.path))

    def _publish(self, *, is_due: bool) -> None:
        self._show(News(self._title, dict(self._parts), self._charts), is_due=is_due)


def _nothing_drawn(name: str) -> dict[str, Any]:
    return charts({"sweep": name, "arms": []})


def _mark(state: SweepState) -> str:
    """Return what a browser's tab shows first: the share that is done of a sweep that runs."""
    if not state.is_running or not state.counts["wanted"]:
        return ""
    return f"{100 * state.counts['recorded'] // state.counts['wanted']} % "


class WatchedRoot(Watched):
    """The page that lists the sweeps of a folder of results folders."""

    places = ("top", "list")

    def __init__(self, root: Path, pool: ThreadPoolExecutor) -> None:
        self._top = page_header({}, f"Sweeps in {root}")
        first = {"top": self._top, "list": "<p>Reading the results …</p>"}
        super().__init__(pool, News("hptransfer reports", first))
        self._root = root
        self._listed: dict[str, tuple[Any, Listed]] = {}

    def folders(self) -> dict[str, ResultsFolder]:
        """Return the results folders in the root, and in folders in it, by their paths below it."""
        found = [*self._root.glob("*/sweep.yaml"), *self._root.glob("*/*/sweep.yaml")]
        real = self._root.resolve()
        return {
            path.parent.relative_to(self._root).as_posix(): ResultsFolder(path.parent)
            for path in sorted(found)
            if path.resolve().is_relative_to(real)
        }

    def _signatures(self) -> dict[str, Any]:
        return {
            name: (state_signature(folder), signature_of([folder.estimates_file]))
            for name, folder in self.folders().items()
        }

    def has_changed(self) -> bool:
        """Say whether a sweep was added or has changed."""
        listed = {name: signature for name, (signature, _) in self._listed.items()}
        return self._is_due or self._signatures() != listed

    def renew(self) -> None:
        """Read the sweeps that changed, and list all of them."""
        folders = self.folders()
        self._listed = {
            name: known
            if (known := self._listed.get(name)) and known[0] == signature
            else (signature, _listed(name, folders[name]))
            for name, signature in self._signatures().items()
            if name in folders
        }
        listed = [each for _, each in self._listed.values()]
        listed.sort(key=lambda each: (each.word != "running", each.name))
        table = sweeps_table(listed, str(self._root))
        self._show(News("hptransfer reports", {"top": self._top, "list": table}))


def _listed(name: str, folder: ResultsFolder) -> Listed:
    """Read what the list shows of a sweep: counted lines of its ledger and its recorded answer."""
    try:
        wanted = read_facts(folder).wanted_count()
        estimates = read_json(folder.estimates_file, "arms")
        log = RunLog(folder.log_file)
        log.read_on()
    except UserError as error:
        return Listed(name, "unreadable", 0, 0, (), problem=str(error))
    recorded = _count_lines(folder.path / LEDGER_NAME)
    word = state_word(
        recorded=recorded,
        missing=max(wanted - recorded, 0),
        is_running=lock_holder(folder.path) is not None,
        has_failed=failed_file(folder.path).is_file() or log.error is not None,
    )
    arms = estimates["arms"] if estimates else []
    answers = tuple(
        f"{label}: {arm['verdict']}. {value_and_cost(arm['headline'])[0].rstrip('.:')}"
        for label, arm in zip(arm_names(arms), arms, strict=True)
    )
    return Listed(name, word, recorded, wanted, answers)


def _count_lines(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
    except OSError:
        return 0
