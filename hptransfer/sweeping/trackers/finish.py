"""`executor.on_finish`: a URL that gets the end of a sweep as JSON, or a command that reads it."""

from __future__ import annotations

import base64
import json
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from http.client import HTTPException
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from hptransfer.errors import UserError

POST_SECONDS = 10.0  # seconds in which the URL must answer
COMMAND_SECONDS = 60.0  # seconds in which the command must end


class Finish(NamedTuple):
    """The call at a sweep's end."""

    name: str  # of the URL or command, without credentials
    tell: Callable[[Mapping[str, Any]], None]  # raises OSError where it fails
    seconds: float  # that the call may take


def finish(target: str) -> Finish:
    """Return the call that a target names: a URL of http or https, else a command without a shell.

    Raises:
        UserError: the target is neither, or there is no such command.
    """
    first = target.split(maxsplit=1)[:1]
    return _post(target) if first and "://" in first[0] else _command(target)


def _post(url: str) -> Finish:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # whose text would show the URL
        raise UserError(
            "`executor.on_finish` must be a valid URL, but its host or port cannot be read. Mend "
            "it, or name a command."
        ) from None
    if parts.scheme not in ("http", "https") or not host:
        raise UserError(
            "`executor.on_finish` may post to a URL of http or https with a host, but got one of "
            f"{parts.scheme!r}. Name such a URL, or a command."
        )
    place = f"[{host}]" if ":" in host else host
    place = place if port is None else f"{place}:{port}"
    headers = {"Content-Type": "application/json", "User-Agent": "hptransfer"}
    plain = urlunsplit((parts.scheme, place, parts.path, parts.query, ""))

    def tell(outcome: Mapping[str, Any]) -> None:
        request = Request(plain, json.dumps(outcome).encode(), headers, method="POST")
        if parts.username:
            login = unquote(f"{parts.username}:{parts.password or ''}").encode()
            credentials = base64.b64encode(login).decode()
            request.add_unredirected_header("Authorization", f"Basic {credentials}")
        try:
            build_opener(_SameKind()).open(request, timeout=POST_SECONDS).close()
        except HTTPError as error:  # these texts would show the URL, or where it redirects to
            raise OSError(f"it answered with status {error.code}") from None
        except (HTTPException, ValueError):
            raise OSError("it cannot be posted to, or did not answer as HTTP says") from None

    return Finish(f"{parts.scheme}://{place}", tell, POST_SECONDS)


class _SameKind(HTTPRedirectHandler):
    """Follows a redirect only to http or https, and never from https to http."""

    def redirect_request(self, req: Request, fp, code, msg, headers, newurl: str):
        if urlsplit(newurl).scheme not in ("https", req.type):
            raise URLError(f"it redirects to a URL of {urlsplit(newurl).scheme!r}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _command(text: str) -> Finish:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(
            f"`executor.on_finish` must be a command as a shell would read it, but: {error}. Close "
            "every quote."
        ) from None
    if not words or shutil.which(words[0]) is None:
        raise UserError(
            "`executor.on_finish` must name a command that can be run, but there is no "
            f"{(words or [''])[0]!r} on the PATH. Give its full path, or a URL."
        )

    def tell(outcome: Mapping[str, Any]) -> None:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # ours holds nothing but the command's answer
            env={**os.environ, **_variables(outcome)},
            start_new_session=True,  # so that a Ctrl-C at the sweep does not end it
        )
        try:
            process.communicate(json.dumps(outcome).encode(), timeout=COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise TimeoutError(f"it took more than {COMMAND_SECONDS:.0f} s") from None
        if process.returncode:
            raise OSError(f"it ended with exit code {process.returncode}")

    return Finish(words[0], tell, COMMAND_SECONDS)


def _variables(outcome: Mapping[str, Any]) -> dict[str, str]:
    """Name every field and count of an outcome HPTRANSFER_<NAME>."""
    flat = {**{k: v for k, v in outcome.items() if k != "counts"}, **outcome["counts"]}
    return {f"HPTRANSFER_{name.upper()}": str(value) for name, value in flat.items()}
