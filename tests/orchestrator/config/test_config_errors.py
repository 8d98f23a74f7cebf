"""For each mistake in a configuration one line says where, what, and what is permitted."""

from pathlib import Path

import pytest

from headway.config import ConfigError, load, parse_priority
from headway_scheduler.errors import CallerError

PRIORITIES = "permitted: interactive, high, normal, low, background"
QUOTA = "[quotas.q]\nconcurrency = 1\n"
LIMITS = (
    "requests_per_minute, tokens_per_minute, input_tokens_per_minute, output_tokens_per_minute, "
    "concurrency, requests_per_day, tokens_per_day, usd_per_day"
)
URL = "must be an http:// or https:// address without user, password, query or fragment"
HEADER = "must be the name of a header that is yours to set (A-Z, a-z, -)"
VARIABLE = "must be the name of an environment variable (A-Z, 0-9, _), never the key itself"
WORKFLOW = "must be module:factory or a component file (.json, .yaml, .yml), not"


def problem(folder: Path, text: str | bytes | None, **environ: str) -> str:
    if text is not None:
        data = text.encode() if isinstance(text, str) else text
        (folder / "headway.toml").write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        load(environ=environ, cwd=folder)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # syntax
        ("[quotas.q]\nconcurrency 1", ":2: is not valid TOML: Expected '=' after a key"),
        ("a = 1\na = 2\n", ":2: is not valid TOML: Cannot overwrite a value (column 6)"),
        ("[database", "headway.toml"),
        (b"\xff", ": is not UTF-8 text; save it as UTF-8"),
        # unknown
        ("\n[quota.q]", ":2: quota is unknown; did you mean quotas?"),
        (
            "zzz = 1",
            ":1: zzz is unknown; permitted: database, defaults, quotas, models, lanes, teams, "
            "tools, workflows",
        ),
        ('[defaults]\nprioritty = "low"', ":2: defaults.prioritty is unknown; did you mean pri"),
        (
            "[quotas.q]\nrpm = 5",
            f":2: quotas.q.rpm is unknown; permitted: {LIMITS}, day_starts, burst_seconds, "
            "window, window_seconds",
        ),
        ('[models.m]\nbase-url = ""', ":2: models.m.base-url is unknown; did you mean base_url?"),
        ("[models.m]\ncontext_window = 1", ":2: models.m.context_window is unknown; permitted: "),
        (
            '[models.gpt-5.4]\nname = "x"',
            'models.gpt-5.4 is unknown; a name with a dot needs quotes: [models."gpt-5.4"]',
        ),
        ('[quotas.""]', 'quotas."" must not be an empty name'),
        # shape
        ('database = "x.db"', ":1: database must be a table, not the text 'x.db'"),
        ("[[quotas]]", ":1: quotas must be a table, not a list"),
        (
            "[quotas]\nconcurrency = 3",
            ":2: quotas.concurrency must be a table, not 3",
        ),
        # numbers
        (
            '[quotas.q]\nconcurrency = "3"',
            ":2: quotas.q.concurrency must be a number, not the text '3'",
        ),
        ("[quotas.q]\nconcurrency = true", "quotas.q.concurrency must be a number, not true"),
        ("[quotas.q]\nconcurrency = 1.5", "quotas.q.concurrency must be a whole number, not 1.5"),
        (
            "[quotas.q]\nconcurrency = 0",
            "concurrency must be at least 1, not 0; without a limit, leave the key out",
        ),
        ("[quotas.q]\nrequests_per_minute = -5", "must be at least 1, not -5"),
        ("[quotas.q]\nrequests_per_minute = 0.5", "must be at least 1, not 0.5"),
        ("[quotas.q]\nrequests_per_minute = nan", "must be a finite number of at most 1e+15"),
        ("[quotas.q]\ntokens_per_minute = inf", "must be a finite number of at most 1e+15"),
        (f"[quotas.q]\ntokens_per_minute = 0x{'f' * 9999}", "must be a finite number of at most"),
        (f"[quotas.q]\ntokens_per_minute = {'9' * 9999}", "headway.toml: is not valid TOML"),
        ("[quotas.q]\ntokens_per_minute = 2026-01-01", "must be a number, not a date or time"),
        ("[quotas.q]\ntokens_per_minute = [1]", "must be a number, not a list"),
        (QUOTA + "burst_seconds = 0", ":3: quotas.q.burst_seconds must be above 0, not 0"),
        (
            QUOTA + "window = 5",
            ":3: quotas.q.window must be one of bucket, sliding, fixed, minute, not 5",
        ),
        (QUOTA + 'window = "hour"', "fixed, minute, not the text 'hour'"),
        (QUOTA + "window_seconds = 0", "window_seconds must be from 0.1 to 86400, not 0"),
        ("[models.m]\nmax_answer_mb = 0", "must be a whole number from 1 to 1024, not 0"),
        ("[models.m]\nmax_answer_mb = 1025", "must be a whole number from 1 to 1024, not 1025"),
        ("[models.m]\nmax_answer_mb = 1.5", "must be a whole number from 1 to 1024, not 1.5"),
        ("[models.m]\ncall_timeout = 0", "models.m.call_timeout must be above 0, not 0"),
        ("[models.m]\nidle_timeout = nan", "must be a finite number of at most 1e+15"),
        ('[models.m]\nconnect_timeout = "10s"', "must be a number, not the text '10s'"),
        ("[quotas.q]", f":1: quotas.q states no limit; set at least one of {LIMITS}"),
        # text
        ("[database]\npath = 5", ":2: database.path must be text in quotes, not 5"),
        ('[database]\npath = " "', "database.path must not be empty"),
        ('[database]\npath = "a\\u0000b"', "database.path must not hold control characters"),
        (
            '[defaults]\npriority = "urgent"',
            f":2: defaults.priority must be a priority: 'urgent' is not a priority; {PRIORITIES}",
        ),
        (
            "[defaults]\npriority = 1",
            "defaults.priority must be text in quotes, not 1",
        ),
        (
            '[models.m]\nprovider = "azur"',
            "models.m.provider must be one of openai, azure, anthropic, gemini, bedrock, groq, "
            "local, other, not 'azur'",
        ),
        # lists and names
        (
            QUOTA + '[models."gpt-5.4"]\nquotas = ["opnai"]',
            ":4: models.\"gpt-5.4\".quotas names 'opnai', which is not configured; configured: q",
        ),
        (
            '[models.m]\nquotas = "q"',
            "must be a list of names, as in [\"openai\"], not the text 'q'",
        ),
        ("[models.m]\nquotas = [1]", 'must be a list of names, as in ["openai"], not a list of ot'),
        ("[models.m]\nquotas = []", ":2: models.m.quotas must name at least one quota"),
        ('[models.m]\nquotas = ["q", "q"]', "models.m.quotas names a quota twice"),
        (
            '[defaults]\nmodel = "gpt"',
            ":2: defaults.model names 'gpt', which is not configured; configured: none",
        ),
        # addresses and keys
        ('[models.m]\nbase_url = "localhost:8000/v1"', f":2: models.m.base_url {URL}"),
        ('[models.m]\nbase_url = "ftp://host"', f"models.m.base_url {URL}"),
        ('[models.m]\nbase_url = "http://"', f"models.m.base_url {URL}"),
        ('[models.m]\nbase_url = "http://[::1"', f"models.m.base_url {URL}"),
        ('[models.m]\nbase_url = "http://host:x"', f"models.m.base_url {URL}"),
        ('[models.m]\nbase_url = "http://h/a b"', f"models.m.base_url {URL}"),
        ("[models.m]\nbase_url = 1", "models.m.base_url must be text in quotes, not 1"),
        ('[models.m]\napi_key_env = ""', f"models.m.api_key_env {VARIABLE}"),
        ('[models.m]\nidempotency_header = "Key 1"', f"models.m.idempotency_header {HEADER}"),
        (
            '[models.m]\nidempotency_header = "Authorization"',
            f"models.m.idempotency_header {HEADER}",
        ),
        ("[models.m]\nidempotency_header = true", f"models.m.idempotency_header {HEADER}"),
        (
            '[models.m]\napi_key = "sk-1"',
            ":2: models.m.api_key would put a secret into a file; set it in the environment, and "
            'name that variable: api_key_env = "OPENAI_API_KEY"',
        ),
        # workflows
        ('[workflows]\nw = "reports"', f":2: workflows.w {WORKFLOW} the text 'reports'"),
        ('[workflows]\nw = "a:b:c"', f"workflows.w {WORKFLOW} the text 'a:b:c'"),
        ('[workflows]\nw = "a/b.py:make"', f"workflows.w {WORKFLOW} the text 'a/b.py:make'"),
        ("[workflows.w]", f"workflows.w {WORKFLOW} a table"),
    ],
)
def test_a_file(tmp_path: Path, text: str | bytes, message: str) -> None:
    said = problem(tmp_path, text)
    assert said.startswith("headway.toml")
    assert message in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("HEADWAY_DATABSE", "x", "HEADWAY_DATABSE is unknown; did you mean HEADWAY_DATABASE?"),
        (
            "HEADWAY_QUOTAS__DEFAULT__REQUEST_PER_MINUTE",
            "1",
            "did you mean HEADWAY_QUOTAS__DEFAULT__REQUESTS_PER_MINUTE?",
        ),
        (
            "HEADWAY_QUOTAS__OTHER__CONCURRENCY",
            "1",
            "HEADWAY_QUOTAS__OTHER__CONCURRENCY is unknown",
        ),
        ("HEADWAY_", "1", "HEADWAY_ is unknown; "),
        ("HEADWAY_DATABASE", "", "HEADWAY_DATABASE must not be empty"),
        ("HEADWAY_PRIORITY", "urgent", "HEADWAY_PRIORITY must be a priority: 'urgent' is not a"),
        ("HEADWAY_CONFIG", "", "HEADWAY_CONFIG is empty: name a file, or leave it out for ./head"),
        (
            "HEADWAY_CONFIG",
            "gone.toml",
            "gone.toml (from HEADWAY_CONFIG): no such file; `headway init` writes one",
        ),
    ],
)
def test_a_variable(tmp_path: Path, name: str, value: str, message: str) -> None:
    assert message in problem(tmp_path, None, **{name: value})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("many", "must be a number, not the text 'many'"),
        ("true", "must be a number, not the text 'true'"),
        ("", "must be a number, not the text ''"),
        ("0", "must be at least 1, not 0; "),
        ("nan", "must be a finite number of at most 1e+15"),
        ("-inf", "must be a finite number of at most 1e+15"),
        ("9" * 9999, "must be a finite number of at most 1e+15"),
        ("2.5", "must be a whole number, not 2.5"),
    ],
)
def test_a_number_in_a_variable(tmp_path: Path, value: str, message: str) -> None:
    name = "HEADWAY_QUOTAS__DEFAULT__CONCURRENCY"
    assert problem(tmp_path, None, **{name: value}).startswith(f"{name} {message}")


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^my\.toml: no such file; `headway init` writes one"):
        load("my.toml", {}, tmp_path)
    with pytest.raises(ConfigError, match=r"^the path of the configuration is empty"):
        load("", {}, tmp_path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "headway.toml").mkdir()
    assert problem(tmp_path, None).startswith("headway.toml: cannot be read: ")


def test_a_dangling_link_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "headway.toml").symlink_to("gone.toml")
    assert "headway.toml: no such file" in problem(tmp_path, None)


def test_all_problems_of_a_file_at_once(tmp_path: Path) -> None:
    said = problem(tmp_path, "[defaults]\nx = 1\n[quotas.q]\nconcurrency = 0\nrpm = 5").splitlines()
    assert [line.split()[0] for line in said] == [
        "headway.toml:2:",
        "headway.toml:4:",
        "headway.toml:5:",
    ]


def test_quotas_that_share_a_variable(tmp_path: Path) -> None:
    said = problem(tmp_path, '[quotas.a-b]\nconcurrency = 1\n[quotas."a.b"]\nconcurrency = 1')
    assert said.splitlines()[0] == (
        'headway.toml:3: quotas."a.b" and quotas.a-b share HEADWAY_QUOTAS__A_B__'
        "REQUESTS_PER_MINUTE; rename one of them"
    )


@pytest.mark.parametrize(
    "text",
    [
        '[models.m]\napi_key = "SECRET"',
        'api_key = "SECRET"',
        '[models.m]\napi_key_env = "sk-SECRET"',
        '[models.m]\napi_key_env = "gsk_SECRET"',
        '[models.m]\nidempotency_header = "sk-SECRET0"',
        '[models.m]\nbase_url = "https://user:SECRET@host/v1"',
        '[models.m]\nbase_url = "https://host/v1?key=SECRET"',
        '[models.m]\nopenai_key = "SECRET"',
    ],
)
def test_a_secret_in_the_wrong_place_is_refused_and_not_repeated(tmp_path: Path, text: str) -> None:
    assert "SECRET" not in problem(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('quotas = {q = {concurrency = "1"}}', 1),
        ('\nquotas.q.concurrency = "1"', 2),
        ('# concurrency\n[ quotas . "q" ]\n  "concurrency"="1"', 3),
        ("[quotas.a]\nconcurrency = 1\n[quotas.q]\nburst_seconds = 1\nconcurrency = false", 5),
    ],
)
def test_the_line_of_a_key(tmp_path: Path, text: str, line: int) -> None:
    assert problem(tmp_path, text).startswith(f"headway.toml:{line}: quotas.q.concurrency must be")


def test_parse_priority_says_the_permitted_words() -> None:
    with pytest.raises(CallerError, match=f"^'urgent' is not a priority; {PRIORITIES}$"):
        parse_priority("urgent")
