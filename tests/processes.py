"""Processes that tests start: really, or warm where the start itself is not at issue.

To import AutoGen, the OpenAI SDK and pydantic takes a second of CPU, more than most tests use for
what they are about. So each pytest worker has a *fork server*: this file, run as a program. It has
imported other people's modules and none of Headway's. A :class:`WarmProcess` is a fork of it: a
real process, whose program runs at the server's own top level and so ends as under any interpreter.

It differs from a new interpreter in this:

- Other people's modules are there before they are imported. That an ``import`` of a submodule of
  theirs is missing shows in a real start only; ``make wheel-test`` starts everything really.
- What Python and these modules read of the environment as they start is that of the tests:
  PYTHONHASHSEED, PYTHONDEVMODE, PYTHONWARNINGS, PYTHONUTF8, LANG, OPENAI_LOG, OTEL_*. Processes of
  one server order sets alike. PYTHONPATH, TZ and what is read later are the child's own.
- ``/proc/PID/cmdline`` and ``sys.flags`` are the server's.

A test of these things, or of how long a start takes, starts a :class:`Process`.
"""

import atexit
import builtins
import ctypes
import gc
import importlib
import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import warnings
from functools import cache
from pathlib import Path
from typing import Any

PRELOADED = (
    "aiosqlite",
    "anyio._backends._asyncio",
    "autogen_agentchat.agents",
    "autogen_agentchat.conditions",
    "autogen_agentchat.teams",
    "autogen_ext.models.openai",
    "genai_prices",
    "msgspec",
    "openai.lib.streaming.chat",
    "openai.resources.chat.completions",
    "rich.live",
    "rich.table",
    "starlette.applications",
    "uvicorn.protocols.http.h11_impl",
    "yaml",
)
MOST_BYTES = 1 << 17
"""Of a request: its arguments and its environment."""


LOST = re.compile(
    r"^(?:.*Warning: |Exception ignored in|Task was destroyed|.* was never retrieved)", re.MULTILINE
)
"""What a process says on stderr of that which fails a test of pytest's own process."""

SLOW = re.compile(r"^Executing <.* took \d+\.\d+ seconds\n", re.MULTILINE)
"""What asyncio says in its debug mode of a machine that is busy."""


class Process(subprocess.Popen[str]):
    """A process that is killed where an error leaves its block, and may lose no task and no file.

    Else the block would wait for a process that waits for the test, as one with ``--forever``
    does, and what had failed would hang.
    """

    def communicate(self, *arguments: Any, **options: Any) -> tuple[str, str]:
        """Read what it says to its end."""
        out, err = super().communicate(*arguments, **options)
        assert not LOST.search(err or ""), err
        if sys.flags.dev_mode:
            out, err = (text and SLOW.sub("", text) for text in (out, err))
        return out, err

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        """Wait for its end."""
        if kind is not None:
            self.kill()
        super().__exit__(kind, *rest)


class WarmProcess(Process):
    """A process of ``[sys.executable, ...]``, forked; of ``Popen``'s options it takes the usual.

    Python's own options may be -P and ``-W ACTION::CATEGORY``, then -c, -m or a script.
    """

    def _execute_child(self, *options: Any) -> None:
        """Stand in for the fork and exec of ``Popen``, which makes the pipes before."""
        if sys.platform != "linux" or "TEST_INSTALLED_WHEEL" in os.environ:
            return super()._execute_child(*options)  # type: ignore[misc]
        (executable, *arguments), _, _, _, _, folder, environment, _, _, _, *pipes = options[:16]
        assert executable == sys.executable
        job = {
            "arguments": [os.fspath(argument) for argument in arguments],
            "folder": os.fspath(folder or os.getcwd()),
            "environment": dict(os.environ if environment is None else environment),
        }
        theirs = (pipes[0], pipes[3], pipes[5])
        files = [number if file == -1 else file for number, file in enumerate(theirs)]
        self.pid = fork_server().start(job, files)
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


class ForkServer:
    """The server of this process, and how to ask it."""

    def __init__(self) -> None:
        # The server orphans each child at once. The kernel then makes this process its parent,
        # which can wait for it like for any other.
        set_child_subreaper = 36
        if ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0):
            raise OSError("prctl: this process cannot adopt the children of its fork server")
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._one_at_a_time = threading.Lock()
        # Pipes, because Python remembers of its streams whether they can seek, and most children
        # get pipes.
        pipe = subprocess.PIPE
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs.fileno())],
                env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                text=True,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self.close)

    def start(self, job: dict[str, Any], files: list[int]) -> int:
        """Start a child with these files as its stdin, stdout and stderr; return its id."""
        with self._one_at_a_time:
            socket.send_fds(self._channel, [json.dumps(job).encode()], files)
            pid = self._channel.recv(16)
            adopted = self._channel.recv(16)
        assert adopted, self._process.communicate()
        return int(pid)

    def close(self) -> None:
        """End the server; children that live go on."""
        self._channel.close()
        self._process.communicate()


fork_server = cache(ForkServer)


def _serve(channel: socket.socket) -> dict[str, Any]:
    """Fork a child for each job; return the job, in the child."""
    while True:
        request, files, _, _ = socket.recv_fds(channel, MOST_BYTES, 3)
        if not request:
            sys.exit()
        if between := os.fork():
            for file in files:
                os.close(file)
            os.waitpid(between, 0)
            channel.send(b"adopted")
            continue
        between = os.getpid()
        if child := os.fork():
            channel.send(str(child).encode())
            os._exit(0)
        while os.getppid() == between:
            time.sleep(0.001)
        channel.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        return json.loads(request)


def _become(job: dict[str, Any]) -> None:
    """Make this process what a new one would be."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    time.tzset()
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())


def _run(arguments: list[str]) -> None:
    """Run what Python's arguments say, as ``__main__``."""
    sys.orig_argv = [sys.executable, *arguments]
    is_safe = False
    words = iter(arguments)
    for word in words:
        match word:
            case "-P":
                is_safe = True
            case "-W":
                action, _, category = next(words).split(":")
                warnings.simplefilter(action, getattr(builtins, category))
            case "-c":
                code = next(words)
                sys.argv = ["-c", *words]
                _set_path([] if is_safe else [""])
                main = sys.modules["__main__"] = types.ModuleType("__main__")
                exec(compile(code, "<string>", "exec"), vars(main))
            case "-m":
                name = next(words)
                sys.argv = [name, *words]
                _set_path([] if is_safe else [os.getcwd()])
                runpy.run_module(name, run_name="__main__", alter_sys=True)
            case _:
                sys.argv = [word, *words]
                _set_path([] if is_safe else [str(Path(word).resolve().parent)])
                runpy.run_path(word, run_name="__main__")


def _set_path(own: list[str]) -> None:
    given = os.environ.get("PYTHONPATH")
    entries = [os.path.abspath(entry) for entry in given.split(os.pathsep)] if given else []
    sys.path[:] = [*own, *dict.fromkeys([*entries, *sys.path])]
    importlib.invalidate_caches()


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a word
    for name in PRELOADED:
        importlib.import_module(name)
    # The HTTP client that its version is built on is imported by the first of these only.
    sys.modules["openai"].AsyncOpenAI(api_key="none")
    assert threading.active_count() == 1
    gc.freeze()  # else each child would copy what it collects
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        job = _serve(channel)
    _become(job)
    _run(job["arguments"])
