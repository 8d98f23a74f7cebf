"""An example or two of each command, for its help. Law of this file: each can be typed as it is."""

from collections.abc import Mapping

EXAMPLES: Mapping[str, str] = {
    "headway": """\
headway demo                                     see it work; no key needed
headway init --template team                     write headway.toml and teams.py
headway doctor --ping                            is everything in place?
headway run triage "The site is down"            run a team of teams.py
headway submit report "Week 47" -p background
headway work --forever                           execute what is submitted""",
    "headway demo": "headway demo",
    "headway init": """\
headway init
headway init --template team                     and teams.py beside it""",
    "headway doctor": """\
headway doctor
headway doctor --ping""",
    "headway config show": "headway config show --json",
    "headway config schema": "headway config schema > headway.schema.json",
    "headway run": """\
headway run triage "The site is down" -p interactive
headway run teams:triage @incident.txt --last -o reply.txt
git log -1 | headway run team.json - --budget-usd 0.50""",
    "headway submit": """\
headway submit weekly-report "Week 47" -p background --key w47
headway submit teams:report @task.md -P tone=dry --deadline 2h""",
    "headway work": """\
headway work                                     until no run is queued
headway work --forever --slots 4 --label night --log-file work.log""",
    "headway resume": """\
headway resume r-7f3k
headway resume r-7f3k --check                    what would it ask?
headway resume --all""",
    "headway runs list": """\
headway runs
headway runs --state failed --since 1d""",
    "headway runs show": "headway runs show r-7f3k",
    "headway runs logs": "headway runs logs r-7f3k --follow",
    "headway runs retry": """\
headway runs retry r-7f3k --budget-usd 2
headway runs retry --state failed --since 1d""",
    "headway runs fork": 'headway runs fork r-7f3k --at 2 --task "The same for next week"',
    "headway runs continue": 'headway runs continue r-7f3k "Now in one sentence"',
    "headway runs answer": """\
headway runs answer r-7f3k "Publish it"
headway runs answer r-7f3k --done "sent at 09:12"
headway runs answer r-7f3k --again""",
    "headway runs cancel": """\
headway runs cancel r-7f3k r-v7gh
headway runs cancel --state queued --since 1h""",
    "headway runs pause": "headway runs pause r-7f3k",
    "headway runs export": "headway runs export r-7f3k -o run.json",
    "headway queue list": "headway queue",
    "headway queue why": "headway queue why r-7f3k.2",
    "headway queue bump": "headway queue bump r-7f3k -p interactive",
    "headway queue pause": """\
headway queue pause
headway queue pause class:background""",
    "headway queue drain": "headway queue drain model:gpt-5.4",
    "headway queue resume": "headway queue resume class:background",
    "headway top": """\
headway top
headway top --once --json""",
    "headway db check": "headway db check",
    "headway db repair": "headway db repair --list",
    "headway db backup": "headway db backup monday.db",
    "headway db prune": "headway db prune --older-than 30d --keep 1000 --dry-run",
    "headway db migrate": "headway db migrate",
    "headway costs": "headway costs --by team --since 7d",
    "headway limits list": "headway limits",
    "headway limits set": "headway limits set openai requests_per_minute=200 concurrency=8",
    "headway limits reset": "headway limits reset openai",
    "headway limits resume": "headway limits resume openai",
    "headway limits weight": "headway limits weight research 2",
    "headway limits log": "headway limits log",
    "headway schedules list": "headway schedules list --json",
    "headway schedules pause": "headway schedules pause nightly",
    "headway schedules resume": "headway schedules resume nightly",
    "headway schedules run": "headway schedules run nightly",
    "headway schedules remove": "headway schedules remove weekly",
    "headway completion": """\
headway completion bash > ~/.local/share/bash-completion/completions/headway
headway completion zsh > ~/.zfunc/_headway       a folder of your fpath
headway completion fish > ~/.config/fish/completions/headway.fish""",
}
"""By the words of a command. Two spaces or more lead to a remark."""
