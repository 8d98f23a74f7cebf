"""The grammar of the command line. Law of this file: every command stands here, and only here.

``target`` names the function that carries a command out, as ``module:function``: ``--help``
imports none of them.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from headway_scheduler.model.states import RunState

from .. import __version__
from .grammar.words import Parser, count, duration, one_of, parameter, positive

FAILED, BAD_INPUT, BAD_DATABASE, WAITS, CHANGED, INTERRUPTED = 1, 2, 3, 4, 5, 130

EXIT_CODES = """\
exit codes:
  0    done
  1    the run failed, or doctor found something
  2    wrong usage, configuration or input
  3    the database cannot be used: busy, full, damaged, ...
  4    the run waits for a person (headway runs answer), or for its batch
  5    the workflow changed since the run began: nothing was asked or paid
  130  interrupted by Ctrl-C, or because the reader of the output has left
"""

_DESCRIPTION = """\
Runs teams of AutoGen agents that share one account with a model provider. Urgent calls go first,
no limit of the account is passed, and a run that was cut off goes on without paying again."""
_BARE = {
    **{"runs": "list", "queue": "list", "config": "show", "limits": "list"},
    "schedules": "list",
}
COST_KEYS = ("model", "team", "workflow", "run", "day")
"""``SPENT_BY`` of the scheduler, whose module takes longer to import than ``--help`` to print."""
RUN_LANES = ("standard", "flex", "batch")
"""``LANES`` of the configuration, whose module takes as long, and the one that every model has."""
_TEMPLATES = ("team", "person", "service")
_SHELLS = ("bash", "zsh", "fish", "tcsh")
_FORMATS = ("text", "json")
_OR_FILE = ": text, - (standard input) or @FILE"
_PRIORITIES = "interactive, high, normal, low or background"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments of one command. Exits with 2 if they are wrong."""
    given = list(argv) or ["--help"]
    if given[0] in _BARE and not _names_a_verb(given[1:]):
        given.insert(1, _BARE[given[0]])
    parser = new_parser()
    parser.refuse_typos(given)
    args, left = parser.parse_known_args(given)
    if left and "ids" in args and not any(word.startswith("-") for word in left):
        args.ids += left  # argparse takes no positional after an option that stands between them
    elif left:
        parser.error(f"there is no place for {' '.join(left)}")
    args.line = " ".join((parser.prog, *given))
    return args


def new_parser() -> Parser:
    """Make the parser of all commands."""
    parser = Parser(
        prog="headway",
        description=_DESCRIPTION,
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"headway {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")
    _add_starting(commands)
    _add_running(commands)
    _add_resume(commands)
    _add_looking(commands)
    return parser


def _names_a_verb(rest: Sequence[str]) -> bool:
    return bool(rest) and (not rest[0].startswith("-") or rest[0] in ("-h", "--help"))


def _add_starting(commands: Any) -> None:
    demo = _command(
        commands, "demo", "demo:run", "see it work on a simulated provider; no key needed"
    )
    _add_json(demo)
    init = _command(commands, "init", "init:write", "write headway.toml, the configuration")
    init.add_argument(
        "--template",
        type=one_of(_TEMPLATES),
        choices=_TEMPLATES,
        metavar="NAME",
        help="code to begin with as well: team, person (who is asked) or service (FastAPI)",
    )
    doctor = _command(
        commands, "doctor", "doctor:check", "check keys, limits, servers and the database"
    )
    doctor.add_argument(
        "--ping", action="store_true", help="also ask each server for its models, with its key"
    )
    config = commands.add_parser("config", help="show the settings in force")
    verbs = config.add_subparsers(metavar="VERB", required=True, title="verbs")
    show = _command(verbs, "show", "config:show", "every value and where it came from")
    _command(
        verbs, "schema", "config:schema_of_file", "the JSON Schema of headway.toml, for editors"
    )
    for command in (init, doctor, show):
        _add_common(command)


def _add_running(commands: Any) -> None:
    run = _command(commands, "run", "run:run", "run a team here, and watch it")
    submit = _command(
        commands, "submit", "submit:submit", "queue a run for a worker, and print its id"
    )
    for command in (run, submit):
        command.add_argument(
            "workflow",
            metavar="WORKFLOW",
            help="a name of [workflows], team.json, team.yaml, or module:function",
        )
        command.add_argument("task", metavar="TASK", help=f"what its team is to do{_OR_FILE}")
        command.add_argument("-p", "--priority", metavar="PRIORITY", help=_PRIORITIES)
        command.add_argument(
            "--key",
            help="names the run: if one has this key already, it is shown instead of a new one",
        )
        command.add_argument(
            "-P",
            "--parameter",
            action="append",
            default=[],
            type=parameter,
            metavar="NAME=VALUE",
            help="an argument of the workflow's function; VALUE is JSON, or text",
        )
        command.add_argument("--team", help="whose share of the limits it uses (default: WORKFLOW)")
        _add_options(command)
    run.add_argument("-o", "--output", metavar="FILE", help="write the final text there as well")
    run.add_argument("--last", action="store_true", help="print only the text of the last message")
    work = _command(commands, "work", "work:work", "execute queued runs, most urgent first")
    work.add_argument(
        "--slots", type=count, default=8, metavar="N", help="runs at the same time (default: 8)"
    )
    work.add_argument("--forever", action="store_true", help="wait for more runs when none is left")
    work.add_argument("--label", default="", metavar="NAME", help="its name in `headway top`")
    work.add_argument(
        "--drain-timeout",
        type=duration,
        metavar="TIME",
        help="how long after SIGTERM runs are interrupted, as in 25s (default: never)",
    )
    for command in (run, submit, work):
        _add_common(command)
        _add_log(command, has_time=command is work)


def _add_resume(commands: Any) -> None:
    resume = _command(commands, "resume", "resume:resume", "go on with runs that were interrupted")
    _add_selection(resume, asks=True)
    resume.add_argument("--all", action="store_true", help="every interrupted run, without asking")
    resume.add_argument("--check", action="store_true", help="only say what each would ask next")
    resume.add_argument(
        "--unknown",
        type=one_of(["send", "wait"]),
        choices=["send", "wait"],
        default="send",
        help="calls cut off in flight: send them again, or wait for a person (default: send)",
    )
    resume.add_argument(
        "--on-change",
        type=one_of(["abort", "fork", "accept"]),
        choices=["abort", "fork", "accept"],
        default="abort",
        help="if the workflow changed: do nothing, go on in a copy, or here (default: abort)",
    )
    _add_common(resume)
    _add_log(resume)


def _add_run_changes(verbs: Any) -> None:
    """Add the verbs of ``headway runs`` that change a run."""
    retry = _command(verbs, "retry", "resume:retry", "go on with a failed run from its failure")
    _add_options(retry)
    fork = _command(verbs, "fork", "resume:fork", "a copy that asks one call anew")
    fork.add_argument("--at", required=True, metavar="CALL", help="id or number of the call")
    fork.add_argument("--task", help="another task; earlier answers are given back in order")
    follow = _command(verbs, "continue", "resume:continue_run", "a completed run's next task")
    answer = _command(verbs, "answer", "resume:answer", "what a person says to a waiting run")
    cancel = _command(verbs, "cancel", "resume:cancel", "end a run for good")
    pause = _command(verbs, "pause", "resume:pause", "keep a run from being taken up")
    export = _command(verbs, "export", "export:export", "a run as one JSON object")
    _add_selection(follow, words="TASK", about=f"what the team is to do next{_OR_FILE}", asks=True)
    _add_selection(answer, words="WORDS", about="the answer", asks=True)
    for command in (retry, fork, cancel, pause):
        _add_selection(command, asks=True)
    _add_selection(export)
    for command in (retry, fork, follow, answer, cancel, pause, export):
        _add_common(command)
    for command in (retry, fork, follow, answer):
        _add_log(command)
    answer.add_argument("--done", metavar="RESULT", help="the step was done, with this result")
    answer.add_argument("--again", action="store_true", help="do the step again")
    answer.add_argument("--abort", action="store_true", help="cancel the run")
    export.add_argument("-o", "--output", metavar="FILE", help="instead of stdout")


def _add_looking(commands: Any) -> None:
    runs = commands.add_parser("runs", help="list runs, show them, change them")
    verbs = runs.add_subparsers(metavar="VERB", required=True, title="verbs")
    listed = _command(verbs, "list", "runs:show_list", "newest first (the default verb)")
    _add_filters(listed)
    show = _command(verbs, "show", "runs:show", "runs with their calls and last messages")
    logs = _command(verbs, "logs", "logs:logs", "what happened in a run, call by call")
    logs.add_argument("-f", "--follow", action="store_true", help="and what happens, until it ends")
    for command in (show, logs):
        _add_selection(command)
    _add_run_changes(verbs)
    queue = commands.add_parser("queue", help="show the calls that wait, and for what")
    verbs = queue.add_subparsers(metavar="VERB", required=True, title="verbs")
    head = _command(verbs, "list", "queue:show_list", "next one first (the default verb)")
    why = _command(verbs, "why", "queue:show_why", "what one call waits for")
    why.add_argument("id", metavar="CALL", help="id of the call; its start is enough")
    for command in (listed, head):
        command.add_argument("--limit", type=count, default=20, metavar="N", help="(default: 20)")
    for command in (listed, show, logs, head, why):
        _add_common(command)
    _add_queue_changes(verbs)
    _add_schedules(commands)
    top = _command(commands, "top", "top:top", "watch limits, queue, workers and runs")
    top.add_argument("--once", action="store_true", help="show it once, and end")
    top.add_argument("--limit", type=count, default=20, metavar="N", help="(default: 20)")
    _add_common(top)
    _add_database(commands)
    costs = _command(commands, "costs", "costs:show", "show what was spent")
    costs.add_argument(
        "--by", type=one_of(COST_KEYS), choices=COST_KEYS, default="model", help="(default: model)"
    )
    costs.add_argument("--since", type=duration, metavar="TIME", help="how long ago, as in 12h, 7d")
    _add_common(costs)
    limits = commands.add_parser("limits", help="show and change what may be sent")
    verbs = limits.add_subparsers(metavar="VERB", required=True, title="verbs")
    show = _command(verbs, "list", "limits:show", "limits that hold, and what is free")
    set_ = _command(verbs, "set", "limits:set", "change limits until they are reset")
    reset = _command(verbs, "reset", "limits:reset", "go back to the configured limits")
    resume = _command(verbs, "resume", "limits:resume", "let a stopped quota try again")
    weight = _command(verbs, "weight", "limits:weight", "change the share of a team")
    log = _command(verbs, "log", "limits:log", "what was changed, newest first")
    for command in (set_, reset, resume):
        command.add_argument("quota", metavar="QUOTA", help="as in headway.toml")
    set_.add_argument("settings", metavar="KEY=NUMBER", nargs="+", help="as in headway.toml")
    weight.add_argument("team", metavar="TEAM")
    weight.add_argument("weight", metavar="NUMBER", nargs="?", type=float, help="else configured")
    for command in (show, set_, reset, resume, weight, log):
        _add_common(command)
    completion = _command(
        commands, "completion", "completion:show", "print completions for a shell"
    )
    completion.add_argument(
        "shell", type=one_of(_SHELLS), choices=_SHELLS, metavar="SHELL", help=", ".join(_SHELLS)
    )


def _add_schedules(commands: Any) -> None:
    """Add the verbs of ``headway schedules``."""
    schedules = commands.add_parser("schedules", help="see and change runs that come again")
    verbs = schedules.add_subparsers(metavar="VERB", required=True, title="verbs")
    listed = _command(verbs, "list", "schedules:show", "when each comes next (the default verb)")
    pause = _command(verbs, "pause", "schedules:pause", "queue nothing until resumed")
    resume = _command(verbs, "resume", "schedules:resume", "go on with the next time that comes")
    run = _command(verbs, "run", "schedules:run", "queue its run now, and print its id")
    remove = _command(verbs, "remove", "schedules:remove", "delete one that a program named")
    for command in (pause, resume, run, remove):
        command.add_argument("name", metavar="NAME", help="as `headway schedules` shows it")
    for command in (listed, pause, resume, run, remove):
        _add_common(command)


def _add_database(commands: Any) -> None:
    """Add the verbs of ``headway db``."""
    database = commands.add_parser("db", help="check, copy and prune the database")
    verbs = database.add_subparsers(metavar="VERB", required=True, title="verbs")
    check = _command(verbs, "check", "db:check", "look through all of it")
    repair = _command(verbs, "repair", "db:repair", "set rows aside that cannot be read")
    backup = _command(verbs, "backup", "db:backup", "copy it, beside whoever writes it")
    prune = _command(verbs, "prune", "db:prune", "delete old runs and give their space back")
    migrate = _command(verbs, "migrate", "db:migrate", "bring it to the format of this version")
    repair.add_argument("--list", action="store_true", help="only show what was set aside")
    backup.add_argument("file", metavar="FILE", help="which must not exist")
    prune.add_argument("--older-than", type=duration, metavar="TIME", help="as 30d")
    prune.add_argument("--keep", type=count, metavar="N", help="the last N runs that ended")
    prune.add_argument("--dry-run", action="store_true", help="only say how many")
    for command in (check, repair, backup, prune, migrate):
        _add_common(command)


def _add_queue_changes(verbs: Any) -> None:
    """Add the verbs of ``headway queue`` that change it."""
    bump = _command(verbs, "bump", "queue:bump", "change the class of a run or a waiting call")
    bump.add_argument("id", metavar="ID", help="of the run, or of the call")
    bump.add_argument("-p", "--priority", required=True, metavar="CLASS", help=_PRIORITIES)
    pause = _command(verbs, "pause", "queue:pause", "send nothing until resumed")
    drain = _command(verbs, "drain", "queue:drain", "send what waits, hold what comes later")
    resume = _command(verbs, "resume", "queue:resume", "send again what was held")
    for command in (pause, drain, resume):
        command.add_argument(
            "of", metavar="OF", nargs="?", default="all", help="all, class:CLASS or model:MODEL"
        )
    for command in (bump, pause, drain, resume):
        _add_common(command)


def _command(commands: Any, name: str, target: str, text: str) -> Any:
    command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(target=target)
    return command


def _add_selection(command: Any, *, words: str = "", about: str = "", asks: bool = False) -> None:
    """Have a verb take ids or filters; after the ids, ``words``, which are ``about`` something.

    It ``asks`` before it changes runs that filters name.
    """
    ids = "of a run; its start is enough"
    command.add_argument(
        "ids",
        metavar=f"ID ... {words}".strip(),
        nargs="*",
        help=f"{ids}; and {about}" if words else ids,
    )
    _add_filters(command)
    if asks:
        command.add_argument("-y", "--yes", action="store_true", help="do not ask before")


def _add_filters(command: Any) -> None:
    states = [state.value for state in RunState]
    command.add_argument(
        "--state",
        type=one_of(states),
        choices=states,
        action="append",
        metavar="STATE",
        help=f"{', '.join(states)}; several: once for each",
    )
    command.add_argument("--team", metavar="NAME", help="of this team, or workflow")
    command.add_argument(
        "--since", type=duration, metavar="TIME", help="submitted no longer ago, as in 90m, 12h, 7d"
    )


def _add_common(command: Any) -> None:
    _add_json(command)
    command.add_argument(
        "--config", metavar="FILE", help="the configuration (default: ./headway.toml)"
    )


def _add_options(command: Any) -> None:
    command.add_argument(
        "--budget-usd", type=positive, metavar="USD", help="the most that all its calls may cost"
    )
    command.add_argument(
        "--deadline", type=duration, metavar="TIME", help="how long it may take, as in 90s, 30m, 2h"
    )
    command.add_argument(
        "--lane",
        type=one_of(RUN_LANES),
        choices=RUN_LANES,
        help="a cheaper lane of the provider, for background calls",
    )


def _add_log(command: Any, *, has_time: bool = False) -> None:
    """Add how the lines on stderr are written. They have a time and a level if it ``has_time``."""
    command.add_argument(
        "-v", "--verbose", action="store_true", help="show warnings of AutoGen as well"
    )
    command.add_argument(
        "--log-format",
        type=one_of(_FORMATS),
        choices=_FORMATS,
        default="text",
        help="of the lines on stderr",
    )
    command.add_argument("--log-file", metavar="FILE", help="write the lines there as well")
    command.set_defaults(has_time=has_time)


def _add_json(command: Any) -> None:
    command.add_argument("--json", action="store_true", help="print JSON, for programs")
