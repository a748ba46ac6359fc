"""Loading the settings: three sources, every mistake at once, no secret ever shown."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3nsync.config import load, parse_secret, with_secret
from s3nsync.errors import ConfigError
from s3nsync.model import Route
from s3nsync.settings import AccountSettings, Settings, describe

CANARY = "cAnArY-5up3r-s3cr3t"


def secret(**changes: object) -> str:
    """Give the proof of concept's secret as JSON, with parts replaced or (None) left out."""
    parts: dict[str, object] = {"NS_HOSTNAME": "example-nsu.akamaihd.net", "NS_USER": "upload", "NS_KEY": CANARY}
    return json.dumps({name: value for name, value in {**parts, **changes}.items() if value is not None})


ENV = {
    "REGION": "eu-central-1",
    "QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/123456789012/live.fifo",
    "S3NSYNC_CHECK_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/123456789012/check.fifo",
    "S3NSYNC_DEAD_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/123456789012/dead.fifo",
    "BUCKET": "media",
    "CPCODE": "123456",
    "NS_SECRET": secret(),
}

TOML = """
region = "eu-west-1"

[queues]
live = "https://sqs.eu-west-1.amazonaws.com/1/live.fifo"
check = "https://sqs.eu-west-1.amazonaws.com/1/check.fifo"
dead = "https://sqs.eu-west-1.amazonaws.com/1/dead.fifo"
bulk = "https://sqs.eu-west-1.amazonaws.com/1/bulk.fifo"

[accounts.default]
host = "example-nsu.akamaihd.net"
user = "upload"
key = "cAnArY-5up3r-s3cr3t"

[accounts.video]
secret_arn = "arn:aws:secretsmanager:eu-west-1:1:secret:video"

[[routes]]
bucket = "media"
cpcode = 123456

[[routes]]
bucket = "video"
cpcode = "654321"
directory = "vod"
account = "video"

[worker]
max_in_flight = 128
"""

WriteFile = Callable[[str], Path]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in a folder of its own, so that no s3nsync.toml of the developer's is found."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write(tmp_path: Path) -> WriteFile:
    """Give a function that writes a configuration file and gives its path."""

    def write_file(text: str) -> Path:
        path = tmp_path / "given.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def without(*names: str, **more: str) -> dict[str, str]:
    """Give the good environment with some names left out and some set."""
    return {name: value for name, value in ENV.items() if name not in names} | more


def mistakes(env: dict[str, str], path: Path | None = None) -> str:
    """Load what cannot be used and give the error's text."""
    with pytest.raises(ConfigError) as caught:
        load(path, env)
    assert CANARY not in str(caught.value)
    assert CANARY not in repr(caught.value)
    return caught.value.message


# --- sources ---------------------------------------------------------------------------------------------------


def test_the_proof_of_concepts_variables_make_a_whole_configuration() -> None:
    """The old names need only the two new queues beside them."""
    settings = load(None, ENV)
    account = settings.accounts["default"]
    assert settings.region == "eu-central-1"
    assert settings.routes == (Route(bucket="media", cpcode="123456"),)
    assert (account.host, account.user) == ("example-nsu.akamaihd.net", "upload")
    assert account.key is not None
    assert account.key.get_secret_value() == CANARY
    assert settings.queues is not None
    assert settings.queues.bulk is None
    assert settings.worker.max_in_flight == 64


def test_a_file_makes_a_whole_configuration(write: WriteFile) -> None:
    """Everything can be said in TOML alone."""
    settings = load(write(TOML), {})
    assert settings.worker.max_in_flight == 128
    assert [route.account for route in settings.routes] == ["default", "video"]
    assert settings.accounts["video"].secret_arn == "arn:aws:secretsmanager:eu-west-1:1:secret:video"


def test_the_environment_beats_the_file_and_the_platform_does_not(write: WriteFile) -> None:
    """Our own variables win; AWS_* ones, which the platform sets by itself, only fill gaps."""
    path = write(TOML)
    assert load(path, {"REGION": "us-east-2"}).region == "us-east-2"
    assert load(path, {"AWS_REGION": "us-east-2"}).region == "eu-west-1"
    assert load(path, {"S3NSYNC_WORKER_MAX_IN_FLIGHT": "7"}).worker.max_in_flight == 7
    assert load(None, without("REGION", AWS_DEFAULT_REGION="us-east-2")).region == "us-east-2"
    assert load(None, without(AWS_ENDPOINT_URL="http://127.0.0.1:4566")).aws.endpoint_url == "http://127.0.0.1:4566"


def test_s3_and_sqs_may_have_endpoints_of_their_own() -> None:
    """A service's own endpoint beats the one for all; the names that AWS's tools read only fill gaps."""
    ours, s3, sqs = "http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3"
    nothing = load(None, ENV).aws
    assert (nothing.s3, nothing.sqs) == (None, None)
    both = load(None, without(AWS_ENDPOINT_URL=ours, AWS_ENDPOINT_URL_S3=s3, AWS_ENDPOINT_URL_SQS=sqs)).aws
    assert (both.endpoint_url, both.s3, both.sqs) == (ours, s3, sqs)
    one = load(None, without(S3NSYNC_AWS_ENDPOINT_URL=ours, AWS_ENDPOINT_URL_SQS=sqs)).aws
    assert (one.s3, one.sqs) == (ours, sqs)
    named = load(None, without(AWS_ENDPOINT_URL_S3=ours, S3NSYNC_AWS_S3_ENDPOINT_URL=s3)).aws
    assert (named.s3, named.sqs) == (s3, None)


def test_the_file_is_found_by_option_then_variable_then_working_directory(write: WriteFile, tmp_path: Path) -> None:
    """--config beats S3NSYNC_CONFIG, which beats ./s3nsync.toml."""
    Path("s3nsync.toml").write_text(TOML.replace("eu-west-1", "here-1"))
    named = tmp_path / "named.toml"
    named.write_text(TOML.replace("eu-west-1", "named-1"))
    assert load(None, {}).region == "here-1"
    assert load(None, {"S3NSYNC_CONFIG": str(named)}).region == "named-1"
    assert load(write(TOML), {"S3NSYNC_CONFIG": str(named)}).region == "eu-west-1"


def test_an_empty_variable_counts_as_unset() -> None:
    """Templates write empty values for what is not used."""
    assert load(None, without(S3NSYNC_BULK_QUEUE_URL="", S3NSYNC_WORKER_LEASE_S=" ")).worker.lease_s == 300


def test_routes_come_as_json_too() -> None:
    """S3NSYNC_ROUTES has the schema of the file and of the Lambda."""
    env = without("BUCKET", "CPCODE", S3NSYNC_ROUTES='[{"bucket": "a", "cpcode": "1", "deletes": "ignore"}]')
    assert load(None, env).routes == (Route(bucket="a", cpcode="1", deletes="ignore"),)


def test_further_accounts_come_from_suffixed_secrets() -> None:
    """NS_SECRET_<NAME> is the account <name>; the plain parts make the default one."""
    env = without("NS_SECRET", NS_SECRET_VIDEO=secret(NS_USER="v"), NS_HOSTNAME="127.0.0.1:8080", NS_USER="u")
    settings = load(None, env | {"NS_KEY": CANARY, "NS_INSECURE_HTTP": "1"})
    assert settings.accounts["video"].user == "v"
    assert settings.accounts["default"].host == "127.0.0.1:8080"
    assert settings.accounts["default"].insecure_http


def test_before_they_are_made_no_queue_need_be_named(write: WriteFile) -> None:
    """Region, bucket, CP code and account are enough for who says so; queues that are named must be right."""
    bare = without("QUEUE_URL", "S3NSYNC_CHECK_QUEUE_URL", "S3NSYNC_DEAD_QUEUE_URL")
    assert load(None, bare, queues=False).queues is None
    assert load(write("[queues]"), bare, queues=False).queues is None
    assert load(None, ENV, queues=False) == load(None, ENV)
    for env, queues in ((bare, True), (bare | {"QUEUE_URL": ENV["QUEUE_URL"]}, False)):
        with pytest.raises(ConfigError, match=r"queues\.check: is required"):
            load(None, env, queues=queues)


def test_limits_of_further_accounts_come_from_suffixed_variables(write: WriteFile) -> None:
    """NS_MAX_IN_FLIGHT_<NAME> and its like are the account <name>'s, wherever it comes from, and nobody else's."""
    limits = {"NS_MAX_IN_FLIGHT_VIDEO": "7", "NS_REQUESTS_PER_S_VIDEO": "2.5", "NS_BYTES_PER_S_VIDEO": "65536"}
    for settings in (
        load(None, without(NS_SECRET_VIDEO=secret(), NS_MAX_IN_FLIGHT="9", **limits)),
        load(write(TOML), {"NS_MAX_IN_FLIGHT": "9", **limits}),
    ):
        video, default = settings.accounts["video"], settings.accounts["default"]
        assert (video.max_in_flight, video.requests_per_s, video.bytes_per_s) == (7, 2.5, 65536)
        assert (default.max_in_flight, default.requests_per_s, default.bytes_per_s) == (9, None, None)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"NS_MAX_IN_FLIGHT_VIDOE": "7"}, "NS_MAX_IN_FLIGHT_VIDOE: there is no account 'vidoe'; did you mean video?"),
        ({"NS_BYTES_PER_S_VIDEO": "fast"}, "accounts.video.bytes_per_s (environment variable NS_BYTES_PER_S_VIDEO)"),
        ({"NS_MAX_IN_FLIGHT": "7", "NS_MAX_IN_FLIGHT_DEFAULT": "8"}, "say different things"),
    ],
)
def test_a_limit_of_no_account_or_no_number_is_a_mistake(more: dict[str, str], says: str) -> None:
    """A limit that reached nobody would be found out by the throttling that it should have spared."""
    with pytest.raises(ConfigError, match=re.escape(says)):
        load(None, without(NS_SECRET_VIDEO=secret(), **more))


def test_a_secret_from_the_environment_replaces_the_files(write: WriteFile) -> None:
    """NS_SECRET takes the place of host, user, key and secret_arn; the rest of the account stays."""
    text = TOML.replace('key = "', 'ca_file = "ca.pem"\nkey = "')
    account = load(write(text), {"NS_SECRET": secret(NS_USER="env")}).accounts["default"]
    assert (account.user, account.ca_file) == ("env", "ca.pem")
    text = TOML.replace("[accounts.default]", "[accounts.other]").replace("[accounts.video]", "[accounts.default]")
    account = load(write(text.replace('account = "video"', "")), {"NS_SECRET": secret()}).accounts["default"]
    assert (account.user, account.secret_arn) == ("upload", None)


# --- mistakes --------------------------------------------------------------------------------------------------


def test_nothing_at_all_names_everything_that_is_needed() -> None:
    """No queue is a mistake, never a silent default; each missing thing says how to set it."""
    text = mistakes({})
    for wanted in ("region", "QUEUE_URL", "S3NSYNC_CHECK_QUEUE_URL", "S3NSYNC_DEAD_QUEUE_URL", "NS_SECRET", "BUCKET"):
        assert wanted in text
    assert text.count("\n") == 6


def test_who_has_set_nothing_yet_is_told_where_to_begin() -> None:
    """All that is needed at once, without the queues where they are not; one setting of one's own is another case."""
    for env in ({}, {"AWS_REGION": "eu-central-1"}):
        with pytest.raises(ConfigError, match="nothing is set up yet") as caught:
            load(None, env, queues=False)
        assert "routes" in caught.value.message
        assert "accounts" in caught.value.message
        assert "queues" not in caught.value.message
        assert "s3nsync.toml" in caught.value.hint
    for env in ({"BUCKET": "b"}, {"QUEUE_URL": "https://sqs/1/a.fifo"}, {"S3NSYNC_ROUTES": "{"}, {"NS_SECRET": "{"}):
        assert "nothing is set up" not in mistakes(env)


def test_an_old_setup_with_one_queue_is_told_which_queues_it_lacks() -> None:
    """Without check and dead queue the guarantees cannot be kept."""
    text = mistakes(without("S3NSYNC_CHECK_QUEUE_URL", "S3NSYNC_DEAD_QUEUE_URL"))
    assert "S3NSYNC_CHECK_QUEUE_URL" in text
    assert "S3NSYNC_DEAD_QUEUE_URL" in text


def test_all_mistakes_of_all_sources_are_told_at_once(write: WriteFile) -> None:
    """File, environment, routes, accounts, bounds: one error, each with its place and value."""
    path = write(
        TOML.replace("max_in_flight = 128", "max_in_flight = 0\nlease = 3\npoll_wait_s = true").replace(
            'account = "video"', 'account = "vidoe"\ndelete = "no"'
        )
    )
    text = mistakes({"S3NSYNC_LOG_FORMAT": "xml", "S3NSYNC_WORKER_GRACE": "9", "S3NSYNC_METRICS_EMF": "perhaps"}, path)
    assert f"worker.max_in_flight = 0 ({path}): must be at least 4" in text
    assert f"worker.lease ({path}): there is no such setting; did you mean lease_s?" in text
    assert f"worker.poll_wait_s = true ({path}): must be a number" in text
    assert "did you mean deletes?" in text
    assert 'log.format = "xml" (environment variable S3NSYNC_LOG_FORMAT): must be one of' in text
    assert "S3NSYNC_WORKER_GRACE: there is no such setting; did you mean S3NSYNC_WORKER_GRACE_S?" in text
    assert "metrics.emf" in text
    assert "must be true or false" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"S3NSYNC_WORKER_LEASE_S": "269"}, "lease_s (269) must be at least one and a half times grace_s (180)"),
        (
            {"S3NSYNC_WORKER_LEASE_S": "29", "S3NSYNC_WORKER_GRACE_S": "5"},
            "lease_s (29) must be at least 10 more than poll_wait_s (20)",
        ),
        ({"S3NSYNC_WORKER_DRAIN_S": "106"}, "must be at most 105"),
        ({"S3NSYNC_WORKER_LEASE_S": "soon"}, "must be a whole number"),
        ({"S3NSYNC_WORKER_LEASE_S": "300.5"}, "must be a whole number"),
        ({"S3NSYNC_METRICS_FLUSH_S": "0"}, "must be more than 0"),
        ({"S3NSYNC_METRICS_FLUSH_S": "nan"}, "metrics.flush_s"),
        ({"S3NSYNC_METRICS_FLUSH_S": "often"}, "must be a number"),
        ({"S3NSYNC_METRICS_NAMESPACE": "a b"}, "must match"),
        ({"S3NSYNC_WORKER_BUFFER_BYTES": "70000000"}, "must fit memory_budget_bytes"),
        ({"S3NSYNC_WORKER_RANGED_READS": "5"}, "ranged_reads (5) needs memory_budget_bytes of at least 83886080"),
        ({"QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/1/standard"}, "standard queues are not supported"),
        ({"QUEUE_URL": "sqs.eu-central-1.amazonaws.com/1/a.fifo"}, "must be a URL"),
        ({"QUEUE_URL": "https://[/a.fifo"}, "must be a URL"),
        ({"QUEUE_URL": ENV["S3NSYNC_DEAD_QUEUE_URL"]}, "must be different queues"),
        ({"QUEUE_URL": f"https://me:{CANARY}@x/a.fifo"}, "must not hold a user name or password"),
        ({"S3NSYNC_LIVE_QUEUE_URL": "https://x/a.fifo"}, "S3NSYNC_LIVE_QUEUE_URL and QUEUE_URL: say different things"),
        ({"S3NSYNC_ROUTES": "[]"}, "given by S3NSYNC_ROUTES and by BUCKET and CPCODE; keep one"),
        ({"CPCODE": "12x"}, "BUCKET and CPCODE: routes[0].cpcode"),
        ({"CPCODE": ""}, "BUCKET is set, but CPCODE is not"),
        ({"BUCKET": ""}, "CPCODE is set, but BUCKET is not"),
        ({"NS_SECRET": secret(NS_USER=None, NS_KEY=None)}, "lacks NS_USER, NS_KEY"),
        ({"NS_SECRET": secret(NS_HOSTNAME="  ")}, "lacks NS_HOSTNAME"),
        ({"NS_SECRET": CANARY}, "must be a JSON object with NS_HOSTNAME, NS_USER and NS_KEY"),
        ({"NS_SECRET": secret(NS_HOSTNAME=f"https://{CANARY}/")}, "must be a bare host name"),
        ({"NS_SECRET": secret(NS_HOSTNAME=f"{CANARY}:99999999")}, "must be a host name"),
        ({"NS_KEY": CANARY}, "NS_SECRET and NS_KEY: are both set"),
        ({"NS_INSECURE_HTTP": "1"}, "insecure_http is for loopback hosts only"),
        ({f"S3NSYNC_{'X' * 9}": CANARY}, "there is no such setting"),
    ],
)
def test_each_mistake_is_said_in_plain_words(change: dict[str, str], said: str) -> None:
    """One wrong variable, one line that says what is allowed."""
    text = mistakes(without() | change)
    assert said in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("a = [", "is not TOML"),
        ("a = 1\nb = ?\n", "line 2"),
        ("queues = 3", "queues ({path}): must be a table"),
        ("accounts = 3", "must be a table"),
        ("accounts.default = 3", "accounts.default ({path}): must be a table"),
        ("routes = 3", "must be a list of tables"),
        ("routes = [3]", "routes[0]"),
        ("region = 5", "region = 5 ({path}): must be a text"),
        ("reigon = 'x'", "reigon ({path}): there is no such setting; did you mean region?"),
        ("[accounts.default]\nhost='a'\nuser='b'", "accounts.default ({path}): lacks key"),
        (f"[accounts.default]\nkey='{CANARY}'\nsecret_arn='a'", "has secret_arn and key"),
        (f"[accounts.default]\nkye='{CANARY}'", "did you mean key?"),
        (f"[accounts.default]\nkey=['{CANARY}']", "accounts.default.key ({path}): must be"),
        (f"[accounts.default]\nhost='{CANARY}/'", "accounts.default.host ({path}): must be a bare host name"),
        (f"accounts.default = '{CANARY}'", "accounts.default"),
        (f"accounts = '{CANARY}'", "accounts"),
        ("[accounts.defualt]\nhost='a'\n[[routes]]\nbucket='b'\ncpcode='1'", "did you mean defualt?"),
    ],
)
def test_each_mistake_in_a_file_names_file_and_place(write: WriteFile, toml: str, said: str) -> None:
    """What is wrong in the file is said with the file's name; a secret in the wrong place stays unsaid."""
    path = write(toml)
    assert said.format(path=path) in mistakes({}, path)
    assert str(path) in mistakes({}, path)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    """A missing file, a folder and a file that is not text each say so."""
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"a = \xff")
    assert "No such file" in mistakes({}, tmp_path / "absent.toml")
    assert "cannot be read" in mistakes({}, tmp_path)
    assert "UTF-8" in mistakes({}, binary)
    assert "absent" in mistakes({"S3NSYNC_CONFIG": "absent.toml"})


def test_the_error_leaves_with_the_exit_code_for_usage() -> None:
    """Exit code 2 and a hint: the shell's word for wrong usage."""
    with pytest.raises(ConfigError) as caught:
        load(None, {})
    assert caught.value.exit_code == 2
    assert "docs/configuration.md" in caught.value.hint
    assert caught.value.__cause__ is None


# --- secrets ---------------------------------------------------------------------------------------------------


def test_no_rendering_shows_a_secret(write: WriteFile) -> None:
    """Repr, str, the masked tree and JSON hide keys; `secrets` alone gives them, for redaction."""
    settings = load(write(TOML), {"NS_SECRET_MORE": secret()})
    shown = [repr(settings), str(settings), json.dumps(settings.masked()), settings.model_dump_json()]
    assert all(CANARY not in text and "upload" in text for text in shown)
    assert settings.secrets() == (CANARY, CANARY)


@given(
    where=st.sampled_from(["host", "user", "key", "secret_arn", "ca_file", "insecure_http", "other"]), data=st.data()
)
def test_a_secret_in_any_place_of_an_account_stays_unsaid(where: str, data: st.DataObject) -> None:
    """Whatever is wrong with an account, and wherever the key was pasted, no message quotes it."""
    parts = {"host": "x y", "user": "u", "key": "k", where: f"{CANARY} /"}
    kept = data.draw(st.sets(st.sampled_from(sorted(parts))))
    text = "\n".join(f'{name} = "{parts[name]}"' for name in sorted(kept | {where}))
    path = Path("property.toml")
    path.write_text(f"[accounts.default]\n{text}\n")
    mistakes({}, path)


def test_a_fetched_secret_completes_its_account() -> None:
    """What Secrets Manager gives has the same form and the same mistakes as NS_SECRET."""
    account = AccountSettings(secret_arn="arn:x", ca_file="ca.pem", requests_per_s=2.5, max_in_flight=7)
    whole = with_secret(account, secret())
    assert (whole.requests_per_s, whole.bytes_per_s, whole.max_in_flight) == (2.5, None, 7)
    assert (whole.user, whole.ca_file, whole.secret_arn) == ("upload", "ca.pem", None)
    with pytest.raises(ConfigError, match="arn:x: lacks NS_KEY"):
        with_secret(account, secret(NS_KEY=""))
    with pytest.raises(ConfigError, match="arn:x: host: must be a bare host name") as caught:
        with_secret(account, secret(NS_HOSTNAME=f"http://{CANARY}"))
    assert CANARY not in str(caught.value)


@given(st.text() | st.dictionaries(st.sampled_from(["NS_KEY", "NS_USER", "x"]), st.text() | st.none()).map(json.dumps))
def test_no_text_breaks_the_reading_of_a_secret(text: str) -> None:
    """Anything that is not a whole secret is a ConfigError."""
    with pytest.raises(ConfigError):
        parse_secret(text, where="here")


# --- the tree as data ------------------------------------------------------------------------------------------


def test_every_setting_has_a_reason_and_a_name_of_its_own() -> None:
    """The generated page is complete: a sentence for each setting, and no variable that means two things."""
    settings = describe()
    assert all(setting.reason.endswith((".", ":", "-")) for setting in settings)
    names = [name for setting in settings for name in setting.env]
    assert len(names) == len(set(names))
    assert {"worker.lease_s", "queues.live", "accounts.<name>.key", "log.format"} <= {each.name for each in settings}


def test_every_described_default_is_the_one_in_force() -> None:
    """Page and code cannot differ."""
    tree = load(None, ENV).masked()
    for setting in describe():
        section, _, name = setting.name.partition(".")
        if setting.default and section != "accounts":
            values = tree[section]
            assert isinstance(values, dict)
            assert setting.name == "queues.bulk" or json.loads(setting.default) == values[name]


def test_the_tree_is_frozen() -> None:
    """Nobody changes settings after loading."""
    settings = load(None, ENV)
    with pytest.raises(ValueError, match="frozen"):
        settings.region = "x"
    assert isinstance(settings, Settings)


# --- without NetStorage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [{}, {"NS_SECRET": "not JSON"}, {"NS_KEY": CANARY}, {"S3NSYNC_SECRET_ARN": "arn"}])
def test_who_never_speaks_to_netstorage_needs_no_account(said: dict[str, str]) -> None:
    """Whatever is said of accounts, wrong or right, is passed over; all else is checked as ever."""
    without = {name: value for name, value in ENV.items() if not name.startswith("NS_")}
    assert load(None, {**without, **said}, accounts=False).accounts == {}
    with pytest.raises(ConfigError, match="accounts: there is none"):
        load(None, without)
    with pytest.raises(ConfigError, match="region"):
        load(None, {name: value for name, value in without.items() if "REGION" not in name}, accounts=False)
