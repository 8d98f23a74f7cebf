"""The file that ``headway init`` writes. Law of this file: it loads, and shows every key."""

TEMPLATE = """\
# Headway's configuration. Paths are relative to this file's folder.
# `headway config show` lists every value in force and where it came from.

[database]
path = ".headway/headway.db"    # on a local disk: SQLite's locks do not hold on a network drive

[defaults]
priority = "normal"             # of runs that do not say; or interactive, high, low, background
highest = "interactive"         # the most urgent class that anybody may ask for
bypass = "warn"                 # what code asks past the scheduler is counted; or refuse, or allow
waiting = 100_000               # calls that may wait before new ones are refused,
waiting_bytes = 1_073_741_824   # and the text that they may bring together
model = "gpt-5.4"               # models not listed below are reached and limited as this one is

[quotas.openai]                 # one limit scope of your provider; put in what your account grants:
requests_per_minute = 500       # https://platform.openai.com/settings/organization/limits
tokens_per_minute = 30_000      # no single call may be larger
concurrency = 32                # calls in flight at once
# burst_seconds = 60            # how long unused budget piles up; without: it is learned
# window = "sliding"            # how the provider counts, if you know: bucket, sliding, fixed,
# window_seconds = 60           # minute; without: it is learned
# learn = true                  # take these as a guess: what answers tell goes before them
# input_tokens_per_minute = 50_000         # where the two are counted apart
# output_tokens_per_minute = 10_000
# requests_per_day = 10_000
# tokens_per_day = 5_000_000
# usd_per_day = 20.0
# enqueued_tokens = 2_000_000   # input in batches at once: of a lane, [quotas."gpt-5.4/batch"]
# day_starts = "00:00"          # when the daily limits are full again, UTC

[models."gpt-5.4"]              # what workflows ask for: models("gpt-5.4")
# provider = "azure"            # what its limits count and its errors mean: docs/providers.md
# name = "gpt-5.4"              # the provider's name for it; without: the name above
# client = "openai"             # or azure, anthropic, ollama; another of AutoGen as module.Class
# arguments = { temperature = 0.2, max_tokens = 4096 }   # what that client is built with
quotas = ["openai"]             # a call waits until all of these have room
# base_url = "http://localhost:8000/v1"    # another server
api_key_env = "OPENAI_API_KEY"  # the variable that holds the key; the key never stands in here
# api_key_command = "pass show openai"     # prints the key instead; run once, when it is needed
# keyless = true                # its server needs none
# idempotency_header = "Idempotency-Key"   # if the server has one: a call sent again is known by it

# deployments = []              # models that are as good: the one with most room takes the call
# fallbacks = []                # models for while this one does not answer, or not in time
# lanes = ["flex", "batch"]     # cheaper: for background calls of runs with --lane flex, or batch
# priority_for = ["interactive"]           # dearer, and faster: for calls of these classes
# usd_per_million_input_tokens = 2.5       # else the list price, if there is one
# usd_per_million_output_tokens = 10
# usd_per_million_cached_input_tokens = 0.25   # of what the provider has in its cache
# usd_per_million_cache_write_tokens = 3       # of what it puts there
# usd_per_request = 0.01                       # of each answer, beside its tokens
# max_answer_mb = 32            # beyond it the call fails
# connect_timeout = 10          # seconds; what is over time goes again at its old place
# first_byte_timeout = 600      # until the answer begins
# idle_timeout = 300            # between two parts of it
# call_timeout = 1800           # for all of it; the second time the call fails
# patience = "2m"               # for a server that answers nobody; "forever" once it has answered

[lanes]
# flex_gives_up = "15m"         # a call waits so long for capacity, then goes the standard way
# flex_before = "30m"           # nor does it go by flex so near its run's deadline
# batch_before = "6h"           # nor by batch
# batch_wait = "5m"             # calls by batch are gathered so long
# batch_usd_factor = 0.5        # and cost as much of the standard price

[teams]                         # a run is of the team that its submitter names, else its workflow
# research = { weight = 2, quotas = ["openai"], highest = "normal" }   # twice as much as another
#                               # while both have calls waiting; these quotas count beside those of
#                               # the model; no class above normal
# nightly = { priority = "background" }       # the class of its runs that state none

[tools]                         # what becomes of a tool call that was cut off: pure and idempotent
# web_search = "pure"           # ones are made again, the others (once) wait for a person

[workflows]
# weekly-report = "reports:weekly_report"  # module:factory
# triage = "teams/triage.json"             # or a component file: .json, .yaml, .yml

[schedules]                     # runs that are queued again and again, by the process that leads
# nightly = { cron = "0 3 * * *", zone = "UTC", workflow = "weekly-report", task = "Go" }
#     overlap = "skip"          # if the run before has not ended; or buffer_one, allow_all
#     catchup_window = "365d"   # how old a missed time may be when it is caught up
#     priority = "background"   # these as for `headway submit`:
#     team = "research"
#     parameters = { days = 1 }
#     budget_usd = 0.50
#     deadline = "2h"
#     lane = "flex"

[notify]                        # what happens is told: by a POST,
# url = "https://example.com/headway"
# secret_env = "HOOK_SECRET"    # signed by the secret in this variable, as in "whsec_…";
# events = ["run.ended", "person.asked", "quota.stopped", "budget.low"]   # without: all of these
#     command = "notify"        # or a command gets it, as JSON on its standard input
"""
