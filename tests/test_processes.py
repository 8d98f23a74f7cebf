"""A warm process is one like any other: what it is given, how it ends, what it leaves."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.processes import Process, WarmProcess

PIPE = subprocess.PIPE

both = pytest.mark.parametrize("kind", [Process, WarmProcess])
"""What a new interpreter does is the measure of what a warm one has to do."""

Kind = Callable[..., Process]


def ended(kind: Kind, *arguments: object, **options: Any) -> tuple[int, str, str]:
    command = [sys.executable, *map(str, arguments)]
    with kind(command, stdout=PIPE, stderr=PIPE, text=True, **options) as process:
        out, err = process.communicate(options.get("input"))
    return process.returncode, out, err


def said(kind: Kind, *arguments: object, **options: Any) -> Any:
    status, out, err = ended(kind, *arguments, **options)
    assert (status, err) == (0, "")
    return json.loads(out)


FACTS = """
import json, os, signal, sys, threading
import sys as itself
print(json.dumps({
    "argv": sys.argv,
    "main": [__name__, sys.modules["__main__"].__dict__ is globals()],
    "path": sys.path,
    "folder": os.getcwd(),
    "environment": dict(os.environ),
    "files": sorted(os.listdir("/proc/self/fd"))[:-1],
    "parent": os.getppid(),
    "signals": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
    "masked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
    "threads": threading.active_count(),
    "session": [os.getsid(0), os.getpgid(0)],
    "encoding": [[s.encoding, s.errors, s.line_buffering, s.name if s is sys.stdin else ""]
                 for s in (sys.stdout, sys.stderr)],
    "original": sys.orig_argv[1:],
}))
"""


@pytest.mark.parametrize("how", ["-c", "-m", "script"])
@pytest.mark.parametrize("safe", [[], ["-P"]])
def test_it_finds_what_a_new_one_finds(tmp_path: Path, how: str, safe: list[str]) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "facts.py").write_text(FACTS)
    program = {"-c": ["-c", FACTS], "-m": ["-m", "facts"], "script": ["here/facts.py"]}[how]
    path = os.pathsep.join(["here", str(tmp_path), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path, "A NAME": "of \udcff"}
    new, warm = (
        said(kind, *safe, *program, "one", "-c", cwd=tmp_path, env=environment)
        for kind in (Process, WarmProcess)
    )
    assert new["files"] == ["0", "1", "2"]
    assert new["parent"] == os.getpid()
    assert warm == new


@both
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
def test_its_zone_is_its_own(kind: Kind, zone: str) -> None:
    code = "import json, time; print(json.dumps(time.tzname[0]))"
    environment = {**os.environ, "TZ": zone}
    assert said(kind, "-c", code, env=environment) in (zone, "JST")


@both
def test_headway_is_not_there_before_it_is_imported(kind: Kind) -> None:
    code = "import json, sys; print(json.dumps([n for n in sys.modules if 'headway' in n]))"
    assert said(kind, "-c", code) == []


@both
def test_two_of_them_draw_different_numbers(kind: Kind) -> None:
    code = "import json, random, uuid; print(json.dumps([random.random(), uuid.uuid4().hex]))"
    first, second = said(kind, "-c", code), said(kind, "-c", code)
    assert first[0] != second[0]
    assert first[1] != second[1]


@both
@pytest.mark.parametrize(
    ("code", "status", "last"),
    [
        ("", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('why')", 1, "why"),
        ("import os; os._exit(7)", 7, ""),
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "KeyboardInterrupt"),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
        # In development mode Python says where it was.
        *([] if sys.flags.dev_mode else [("import os; os.abort()", -signal.SIGABRT, "")]),
    ],
)
def test_it_ends_as_a_new_one(kind: Kind, code: str, status: int, last: str) -> None:
    code = f"import atexit; atexit.register(print, 'at exit')\n{code}"
    returned, out, err = ended(kind, "-c", code)
    assert returned == status
    assert out == ("" if status in (7, -9, -6) else "at exit\n")
    assert (err.splitlines() or [""])[-1] == last


@both
def test_it_waits_for_its_threads_and_writes_what_it_printed(kind: Kind) -> None:
    code = "import threading, time\nthreading.Thread(target=lambda: print(time.sleep(0.1))).start()"
    assert ended(kind, "-c", f"{code}\nprint(1)") == (0, "1\nNone\n", "")


@both
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_takes_signals(kind: Kind, number: signal.Signals) -> None:
    command = [sys.executable, "-c", "import time; print('runs', flush=True); time.sleep(99)"]
    with kind(command, stdout=PIPE, stderr=PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "runs\n"
        assert process.poll() is None
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        assert process.wait() == -number


@both
def test_what_reads_its_output_and_leaves_ends_it(kind: Kind) -> None:
    command = [sys.executable, "-c", "while True: print('more')"]
    with kind(command, stdout=PIPE, stderr=PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert "BrokenPipeError" in process.stderr.read()
    assert process.returncode == 1


@both
def test_its_input_and_its_files(kind: Kind, tmp_path: Path) -> None:
    code = "import sys; print(sys.stdin.read().upper()); sys.stderr.reconfigure(errors='replace')"
    with (tmp_path / "out").open("w") as out:
        command = [sys.executable, "-c", code]
        with kind(command, stdin=PIPE, stdout=out, stderr=subprocess.STDOUT, text=True) as process:
            process.communicate("words")
    assert (tmp_path / "out").read_text() == "WORDS\n"


@both
def test_a_socket_of_the_test_is_closed_when_the_test_closes_it(kind: Kind) -> None:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", "input()"]
    with kind(command, stdin=PIPE, text=True) as process, theirs:
        ours.close()
        assert theirs.recv(1) == b""  # no other process holds it open
        process.communicate("\n")


def test_a_warning_is_an_error_where_that_is_asked(tmp_path: Path) -> None:
    code = "import warnings; warnings.warn('x', UserWarning)"
    for kind in (Process, WarmProcess):
        command = [sys.executable, "-W", "error::UserWarning", "-c", code]
        with kind(command, stderr=subprocess.PIPE, text=True) as process:
            # Not with communicate(), which takes a warning for a fault of the process.
            assert process.stderr is not None
            assert "UserWarning: x" in process.stderr.read()
        assert process.returncode == 1


def test_its_module_of_autogen_is_there_before(tmp_path: Path) -> None:
    """What it is for."""
    code = "import json, sys; print(json.dumps('autogen_ext.models.openai' in sys.modules))"
    assert said(WarmProcess, "-c", code) is (sys.platform == "linux")


@both
def test_a_block_that_fails_kills_it(kind: Kind) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        kind([sys.executable, "-c", "import time; time.sleep(999)"], text=True) as process,
    ):
        1 / 0  # noqa: B018
    assert process.returncode == -signal.SIGKILL
