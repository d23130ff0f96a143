"""How the command ends: every way out in one place, and none of them is a traceback.

Exit codes: 0 done; 1 a run or a judgement that did not succeed; 2 what was asked for cannot be
done; 3 not foreseen, the trace is in a file; 130 asked to end; 141 nobody reads the output.
"""

from __future__ import annotations

import codecs
import errno
import hashlib
import logging
import os
import shlex
import sys
import tempfile
import threading
import traceback
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO, cast

import typer.core

from engine.errors import NatmapError, RunError, first_line, refusal_of
from engine.runs.signals import deaf, last_work, listen

__all__ = ["Verbs", "again", "carry_out", "without_secrets"]

_UNFORESEEN, _INTERRUPTED, _UNREAD = 3, 130, 141
_PLAIN = {
    "±": "+/-",
    "×": "x",
    "·": ".",
    "–": "-",
    "—": "-",
    "…": "...",
    "→": "->",
    "≤": "<=",
    "≥": ">=",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
}
_SECRET = ("KEY", "SECRET", "TOKEN", "PASSWORD", "PASSWD", "CREDENTIAL", "SIGNATURE")
_LEAST = 6  # letters of a value that is told apart from ordinary text


def carry_out(command: Callable[[], object]) -> None:
    """Run the command to its exit code.

    Raises
    ------
    SystemExit
    """
    _mend_streams()
    listen()
    last_work()
    threading.excepthook = _thread_failed
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # below it has traces only
    code: object = 0
    broken = False
    try:
        _require_folder()
        command()
    except SystemExit as end:
        code = end.code
        broken = isinstance(end, _BrokenOff)
    except BaseException as error:
        deaf()
        code = _say(error)
        broken = isinstance(error, KeyboardInterrupt)
    deaf()  # it is over: what comes now must not break the end
    try:
        sys.stdout.flush()
    except _OutputError as error:
        code = _say(error)
    if broken:  # what libraries had begun would only fail in closing, and say so
        sys.stderr.flush()
        os._exit(_INTERRUPTED)
    sys.exit(cast("int | str | None", code))


def _require_folder() -> None:
    """Nearly every path is resolved from the current folder."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise NatmapError(
            "the folder in which natmap was started no longer exists",
            remedy="change to another folder first",
        ) from error


class Verbs(typer.core.TyperGroup):
    """The verbs. What a verb raises gets out as it is.

    Typer takes each broken pipe for its own output's and each end of a file for the reader's wish
    to end; it leaves without a word, with a code that means something else.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the verb that was asked for."""
        try:
            return super().invoke(ctx)
        except (OSError, EOFError) as error:
            raise _CarriedError() from error
        except KeyboardInterrupt as error:
            raise _BrokenOff(_say(error)) from None


class _BrokenOff(SystemExit):
    """The end of a verb that was broken off; it has said so."""


class _CarriedError(Exception):
    """Holds an exception past Typer."""


class _OutputError(Exception):
    """Standard output takes nothing; not an OSError, which others would take for theirs."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(first_line(reason))
        self.unread = reason.errno == errno.EPIPE


def again() -> str:
    """The command as it was given, for a shell: it resumes from any folder.

    A recipe of standard input is named if it is a file. What addresses keep secret is left out, as
    the line is kept in logs.
    """
    shown = [without_secrets(word) for word in sys.argv[1:]]
    words = shlex.join(["natmap", *shown])
    if "-" in sys.argv[1:]:
        try:
            file = os.readlink("/proc/self/fd/0")
        except OSError:
            file = ""
        words += f" < {shlex.quote(file)}" if os.path.isfile(file) else " < RECIPE"
    if shown != sys.argv[1:]:
        words += "  # with the secrets that are left out here"
    try:
        return f"cd {shlex.quote(os.getcwd())} && {words}"
    except OSError:  # the folder is gone
        return words


def _say(error: BaseException) -> int:
    """Say what ended the command; its exit code."""
    if isinstance(error, KeyboardInterrupt):
        _tell(f"broken off; what was finished is kept. To resume: {again()}")
        return _INTERRUPTED
    if isinstance(error, _CarriedError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, _OutputError):
        # what is left in its buffer would be tried once more when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if error.unread:
            return _UNREAD
        error = NatmapError("the output cannot be written", got=f"standard output: {error}")
    if "icechunk" in sys.modules and not isinstance(error, NatmapError):
        from engine.store.reading import damage_of

        error = damage_of(error) or error
    error = refusal_of(error) or error
    if isinstance(error, NatmapError):
        _tell(str(error))
        return 1 if isinstance(error, RunError) else 2
    _tell(_file(error))
    return _UNFORESEEN


def _thread_failed(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        _tell(_file(args.exc_value))


def _tell(text: str) -> None:
    sys.stderr.write(f"natmap: {without_secrets(text)}\n")


# -- what is not foreseen ---------------------------------------------------------------------


def _file(error: BaseException) -> str:
    """Write the trace into a file; what people are told."""
    trace = "".join(traceback.format_exception(error))
    identity = _identity(error)
    head = f"natmap: error {identity}\npython {sys.version}\n{' '.join(sys.argv)}\n\n"
    remedy = "it is a fault of natmap's; please report it with the trace in "
    try:
        descriptor, path = tempfile.mkstemp(f"-{identity}.txt", "natmap-error-")  # its owner's
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(without_secrets(head + trace))
        remedy += path
    except OSError:
        remedy += "these lines:\n" + head + trace
    said = NatmapError(
        f"something went wrong that natmap did not foresee (error {identity})",
        got=f"{type(error).__name__}: {first_line(error)}",
        remedy=remedy,
    )
    return str(said)


def _identity(error: BaseException) -> str:
    """The same for the same fault: of its kind and of where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{Path(frame.filename).name}:{frame.name}" for frame in frames]
    text = "|".join([type(error).__name__, *places])
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:8]


def without_secrets(text: str) -> str:
    """Text without what addresses carry, and without values of secret variables."""
    if "://" in text:
        from engine.addresses import public

        text = "\n".join(str(public(line)) for line in text.split("\n"))
    for name, value in os.environ.items():
        if len(value) >= _LEAST and any(word in name.upper() for word in _SECRET):
            text = text.replace(value, f"({name})")
    return text


# -- streams ----------------------------------------------------------------------------------


class _Output:
    """A stream that raises `_OutputError` where it takes nothing, or drops what is no result."""

    def __init__(self, stream: TextIO, needed: bool, closed: bool = False) -> None:
        self._stream, self._needed, self._shut = stream, needed, closed

    def write(self, text: str) -> int:
        """Write text."""
        if self._shut and self._needed:
            raise _OutputError(OSError(errno.EBADF, "it is closed"))
        return self._try(lambda: self._stream.write(text)) or 0

    def flush(self) -> None:
        """Hand on what was written."""
        self._try(self._stream.flush)

    def _try(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except OSError as error:
            if self._needed:
                raise _OutputError(error) from error
            return None  # a run goes on where nobody hears of it

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _mend_streams() -> None:
    """Make all three standard streams usable: none closed, and no sign that cannot be shown."""
    codecs.register_error("natmap", _plain)
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # else the next file that is opened takes its place
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115  # as long as the process lives
    for name, needed in (("stdout", True), ("stderr", False)):
        stream: Any = getattr(sys, name)
        closed = stream is None
        if closed:
            stream = open(os.devnull, "w")  # noqa: SIM115
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="natmap")
        setattr(sys, name, _Output(stream, needed, closed))


def _plain(error: UnicodeError) -> tuple[bytes, int]:
    """The nearest that an encoding has for signs that it lacks; file names as their bytes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = []
    for sign in error.object[error.start : error.end]:
        if "\udc80" <= sign <= "\udcff":
            found.append(bytes([ord(sign) - 0xDC00]))
        else:
            near = _PLAIN.get(sign) or unicodedata.normalize("NFKD", sign)
            found.append(near.encode("ascii", "ignore") or b"?")
    return b"".join(found), error.end
