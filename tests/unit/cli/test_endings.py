"""However a verb ends, people read what happened, and scripts an exit code that says it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

VERB = """
import os, sys, threading, typer
from engine.cli.endings import Verbs, carry_out
from engine.errors import AreaError, RunError
app = typer.Typer(cls=Verbs, pretty_exceptions_enable=False)

@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def work(context: typer.Context) -> None:
    BODY

@app.command()
def rest() -> None: ...

carry_out(app)
"""


def end(
    body: str, redirection: str = "", before: str = "", **env: str
) -> tuple[int, str, subprocess.CompletedProcess[bytes]]:
    """Run a verb of some lines in a shell; its exit code, what it said, and all of it."""
    script = VERB.replace("BODY", body.replace("\n", "\n    "))
    command = f'{before}"{sys.executable}" -c "$SCRIPT" work {redirection}'
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "SCRIPT": script, **env},
        timeout=60,
    )
    return done.returncode, done.stderr.decode("utf-8", "replace"), done


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("raise AreaError('no ground', got='sea')", 2),
        ("raise RunError('no workers')", 1),
        ("raise OSError(28, 'No space left on device', 'a')", 2),
        ("raise ValueError('a file') from RuntimeError('(os error 24)')", 2),
        ("raise PermissionError(13, 'Permission denied', 'a')", 2),
        ("raise RuntimeError('[enforce fail at inline_container.cc] . unexpected pos 5 vs 1')", 2),
        ("os.mkdir('/usr')", 2),
        ("raise KeyboardInterrupt", 130),
        ("raise SystemExit(7)", 7),
        ("pass", 0),
    ],
)
def test_what_is_foreseen_has_its_exit_code(body: str, code: int) -> None:
    found, said, _ = end(body)
    assert found == code
    assert "Traceback" not in said
    assert "did not foresee" not in said


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_what_is_broken_off_names_the_command_that_resumes(name: str, tmp_path: Path) -> None:
    body = f"import signal, time\nos.chdir('/usr')\nos.kill(0, signal.{name})\ntime.sleep(60)"
    code, said, _ = end(f"os.setpgid(0, 0)\n{body}", "--set 'a b' < /etc/hostname")
    assert code == 130
    assert "Traceback" not in said
    assert "To resume: cd /usr && natmap work --set 'a b'\n" in said
    code, said, _ = end(f"sys.argv.append('-')\nos.setpgid(0, 0)\n{body}", "< /etc/hostname")
    assert "natmap work - < /etc/hostname\n" in said
    code, said, _ = end(f"sys.argv.append('-')\nos.setpgid(0, 0)\n{body}", "< /dev/null")
    assert "natmap work - < RECIPE\n" in said


def test_what_is_ignored_stays_ignored() -> None:
    body = "import signal\nos.setpgid(0, 0)\nos.kill(0, signal.SIGHUP)\nprint('on', flush=True)"
    code, said, done = end(body, "", "trap '' HUP; ")
    assert (code, said, done.stdout) == (0, "", b"on\n")


def test_what_is_broken_off_at_its_start_shows_no_trace() -> None:
    body = "import os, signal, sys; from engine.cli.start import main\n"
    body += "sys.addaudithook(lambda e, a: e == 'import' and a[0] == 'typer'"
    body += " and os.kill(os.getpid(), signal.SIGINT))\nmain()"
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, env=os.environ)
    assert done.returncode == -2  # a shell's 130
    assert done.stderr == b""


def test_a_signal_that_comes_late_changes_nothing() -> None:
    body = "import atexit, signal\natexit.register(os.kill, os.getpid(), signal.SIGINT)"
    code, said, _ = end(body)
    assert (code, said) == (0, "")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_that_comes_while_python_is_taken_down_changes_nothing(name: str) -> None:
    last = f"__del__=lambda _, kill=os.kill, me=os.getpid(): kill(me, {getattr(signal, name):d})"
    code, said, _ = end(f"sys.last_of_all = type('Last', (), dict({last}))()")
    assert (code, said) == (0, "")


@pytest.mark.parametrize(
    "body",
    [
        "[][1]",
        "open('/nowhere/at/all')",
        "raise BrokenPipeError(32, 'a socket of its own')",
        "raise EOFError('of a file')",
        "raise MemoryError",
        "def deep(n): return deep(n + 1)\ndeep(0)",
    ],
)
def test_what_is_not_foreseen_has_an_id_and_its_trace_in_a_file(body: str, tmp_path: Path) -> None:
    code, said, _ = end(body, TMPDIR=str(tmp_path))
    assert code == 3
    assert "Traceback" not in said
    (file,) = tmp_path.glob("natmap-error-*")
    assert str(file) in said
    identity = re.search(r"\(error (\w+)\)", said)
    assert identity is not None
    assert identity[1] in file.name
    assert "Traceback" in file.read_text()
    assert file.stat().st_mode & 0o077 == 0  # traces are of no other user's business
    again = end(body, TMPDIR=str(tmp_path))[1]
    assert f"error {identity[1]})" in again


def test_no_secret_gets_out(tmp_path: Path) -> None:
    body = "raise ValueError('https://me:hush-1@host/a?sig=hush-2 and ' + os.environ['MY_TOKEN'])"
    code, said, _ = end(body, TMPDIR=str(tmp_path), MY_TOKEN="hush-3-and-more")
    (file,) = tmp_path.glob("natmap-error-*")
    assert code == 3
    assert "hush" not in said
    assert "hush" not in file.read_text().partition("raise ValueError")[0]
    assert "hush-3" not in file.read_text()
    _, said, _ = end("raise AreaError('x', got='https://host/a?token=hush-4')")
    assert "hush" not in said


def test_no_secret_is_in_the_command_that_resumes() -> None:
    login = "imagery.catalog=https://me:hush-1@host/a.json?token=hush-2&id=3"
    body = "from engine.cli.endings import again\nfrom engine.cli.render import say\n"
    body += "say('To resume: ' + again())\nsay('at https://me:hush-3@host')"
    _, said, _ = end(body, f"--set '{login}'")
    assert "hush" not in said
    assert "--set 'imagery.catalog=https://host/a.json?id=3'  # with the secrets" in said


def test_where_no_file_can_be_written_the_trace_is_shown() -> None:
    body = "import tempfile\ntempfile.tempdir = '/nowhere'\n[][1]"
    code, said, _ = end(body)
    assert code == 3
    assert "IndexError" in said


def test_a_thread_that_fails_leaves_no_trace_on_the_terminal(tmp_path: Path) -> None:
    body = "t = threading.Thread(target=lambda: [][1]); t.start(); t.join()"
    code, said, _ = end(body, TMPDIR=str(tmp_path))
    assert code == 0
    assert "Traceback" not in said
    assert str(*tmp_path.glob("natmap-error-*")) in said


WRITE = "sys.stdout.write('x' * 300_000)"


@pytest.mark.parametrize(
    ("body", "redirection", "code", "said"),
    [
        (WRITE, ">&-", 2, "the output cannot be written"),
        (WRITE, "> /dev/full", 2, "the output cannot be written"),
        ("sys.stdout.write('a word')", "> /dev/full", 2, "the output cannot be written"),
        (WRITE, "| head -c 1; exit ${PIPESTATUS[0]}", 141, ""),
        ("pass", ">&-", 0, ""),
        ("sys.stderr.write('x' * 300_000)", "2>&-", 0, ""),
        ("sys.stderr.write('x' * 300_000)", "2> /dev/full", 0, ""),
        ("sys.stdin.read()", "<&-", 0, ""),
        # a file must not be given the number of a closed stream: its text would be the output
        ("open('/dev/null'); os.write(1, b'x'); print(os.readlink('/proc/self/fd/1'),"
         " file=sys.stderr)", ">&-", 0, "/dev/null"),
    ],
)  # fmt: skip
def test_an_output_that_takes_nothing(body: str, redirection: str, code: int, said: str) -> None:
    found, told, _ = end(body, redirection)
    assert found == code
    assert said in told
    assert "Traceback" not in told
    assert "Exception ignored" not in told


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_an_ascii_terminal_shows_the_nearest_it_has() -> None:
    code, said, done = end("print('0.9 \\u00b1 0.1, S\\u00e3o, \\u6f22', flush=True)", **ASCII)
    assert (code, said) == (0, "")
    assert done.stdout == b"0.9 +/- 0.1, Sao, ?\n"


@pytest.mark.parametrize("env", [ASCII, {"LC_ALL": "C.UTF-8"}])
def test_a_file_name_that_is_no_text_is_shown_as_its_bytes(env: dict[str, str]) -> None:
    code, said, done = end("print(os.fsdecode(bytes([97, 252])))", **env)
    assert (code, said) == (0, "")
    assert done.stdout == b"a\xfc\n"


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    before = f'cd "{tmp_path}/gone" && rmdir "{tmp_path}/gone" && '
    code, said, _ = end("print('worked')", before=before)
    assert code == 2
    assert "the folder in which natmap was started no longer exists" in said


def test_version_and_short_help() -> None:
    import engine

    main = [sys.executable, "-c", "from engine.cli.app import main; main()"]
    version = subprocess.run([*main, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout == f"natmap {engine.__version__}\n"
    for words in (["-h"], ["plan", "-h"]):
        told = subprocess.run([*main, *words], capture_output=True, text=True, check=True).stdout
        assert "Usage" in told
