"""Settings: one TOML file and the environment, parsed once at the edge into frozen structs.

Every field says what it does in its ``description``, which is also the text of ``docs/reference/settings.md``. The
environment variable of a field is ``KEELWAY_<SECTION>_<FIELD>`` in capitals (``KEELWAY_HTTP_MAX_BODY_BYTES``), lists
separated by commas; it outranks the file, and a command-line option outranks both. An unknown key is an error: a
misspelt limit must not be silently absent.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from keelway.access import (
    SECRET,
    AuditSettings,
    AuthSettings,
    Discreet,
    JwtSettings,
    PositiveInt,
    PositiveSeconds,
    RateLimitSettings,
    RedisFailures,
    RedisPause,
    RedisTimeout,
    SigningSettings,
    TlsSettings,
)
from keelway.errors import FailedPrecondition, InvalidInput

DEFAULT_HOME = Path(".keelway")


class RegistrySettings(Discreet, frozen=True, forbid_unknown_fields=True, kw_only=True):
    store: Annotated[
        str, Meta(description="Database URL of the registry. Empty: SQLite in `.keelway/registry.db`.", extra=SECRET)
    ] = ""
    artifacts: Annotated[
        str, Meta(description="Where model files are kept: a folder or an fsspec URL. Empty: `.keelway/artifacts`.")
    ] = ""
    poll_interval: Annotated[
        PositiveSeconds, Meta(description="Seconds between two looks at the registry for changed aliases.")
    ] = 1.0

    @property
    def store_url(self) -> str:
        return self.store or f"sqlite:///{DEFAULT_HOME / 'registry.db'}"

    @property
    def artifacts_url(self) -> str:
        return self.artifacts or str(DEFAULT_HOME / "artifacts")


class HttpSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    address: Annotated[
        str, Meta(description="Host and port to listen on; port 0 takes a free one. IPv6 as `[::1]:8080`.")
    ] = "127.0.0.1:8080"
    insecure: Annotated[
        bool, Meta(description="Allow listening beyond loopback although no credentials are configured.")
    ] = False
    allowed_hosts: Annotated[
        tuple[str, ...],
        Meta(description="Host names accepted in the Host header, besides loopback names and the listening address."),
    ] = ()
    allowed_origins: Annotated[
        tuple[str, ...],
        Meta(description="Origins (`https://app.example.com`) whose pages may call the server, besides its own."),
    ] = ()
    max_body_bytes: Annotated[PositiveInt, Meta(description="Largest request body, in bytes; beyond it 413.")] = (
        16 * 1024 * 1024
    )
    max_header_bytes: Annotated[
        PositiveInt, Meta(description="Largest request head (request line and headers), in bytes; beyond it 431.")
    ] = 32 * 1024
    header_timeout: Annotated[
        PositiveSeconds, Meta(description="Seconds a client may take to send a request head before it is cut off.")
    ] = 10.0
    body_timeout: Annotated[
        PositiveSeconds, Meta(description="Seconds a client may take to send a body; beyond it 408.")
    ] = 30.0
    keep_alive_timeout: Annotated[PositiveSeconds, Meta(description="Seconds an idle connection is kept open.")] = 75.0
    busy_poll_us: Annotated[
        float,
        Meta(
            ge=0,
            le=1000,
            description="Microseconds to look for the next request behind an answer that came alone, before the "
            "process sleeps: awakening takes longer than a request. It is done while it pays, and not by workers "
            "that share a CPU. 0: sleep at once.",
        ),
    ] = 100.0
    max_connections: Annotated[
        PositiveInt, Meta(description="Open connections accepted at once; more are closed at once.")
    ] = 4096


class GrpcSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    address: Annotated[
        str,
        Meta(
            description="Host and port to serve gRPC on besides the HTTP port, such as `127.0.0.1:9090`; port 0 takes "
            "a free one. Empty: on the HTTP port alone. Sizes, times and connections are limited as in `http`."
        ),
    ] = ""


class LimitSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    max_rows: Annotated[PositiveInt, Meta(description="Rows in one request; beyond it 413.")] = 100_000
    max_nesting: Annotated[PositiveInt, Meta(description="Depth of nested JSON arrays and objects; beyond it 400.")] = (
        32
    )
    max_in_flight: Annotated[
        PositiveInt, Meta(description="Requests being answered at once; beyond it 503 with Retry-After.")
    ] = 1024
    max_in_flight_per_principal: Annotated[
        int,
        Meta(
            ge=0,
            description="Requests of one principal being answered at once, by each worker; beyond it 429 with "
            "Retry-After. 0: as many as there may be of all.",
        ),
    ] = 0
    adaptive_concurrency: Annotated[
        bool,
        Meta(
            description="Let fewer requests in at once, never fewer than 32, while more than a tenth of the answers "
            "take over 80 % of the time that their callers give. `max_in_flight` holds in any case."
        ),
    ] = True
    request_timeout: Annotated[
        PositiveSeconds,
        Meta(description="Longest time for one request in seconds; a caller's X-Request-Timeout may only shorten it."),
    ] = 60.0


class RuntimeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    threads: Annotated[
        int,
        Meta(
            ge=0,
            description="Compute threads of one model run. 0: the CPUs the server may use, divided by its workers.",
        ),
    ] = 1
    share_weights: Annotated[
        bool,
        Meta(
            description="Keep the large weights of ONNX models in a file that all workers map into their memory, once, "
            "instead of a copy in each. ONNX Runtime then cannot arrange them for speed; what that costs is measured "
            "when a model is loaded, and logged."
        ),
    ] = False
    slots: Annotated[
        PositiveInt, Meta(description="Runs at once of a model that is too slow to run on the event loop.")
    ] = 2
    inline_below_ms: Annotated[
        float,
        Meta(
            ge=0,
            description="A model whose one-row run takes less (milliseconds, measured at warm-up) is run "
            "directly on the event loop: a thread hand-off would cost more.",
        ),
    ] = 1.0
    micro_batch_rows: Annotated[
        PositiveInt,
        Meta(
            description="Most rows of requests read in one turn of the event loop that are given to a model in one "
            "run, where it runs on the event loop. 1: every request by itself."
        ),
    ] = 64
    providers: Annotated[tuple[str, ...], Meta(description="ONNX Runtime execution providers, most wanted first.")] = (
        "CPUExecutionProvider",
    )
    allowed_python: Annotated[
        tuple[str, ...], Meta(description="Digests of the `python` models whose code this server may run.")
    ] = ()
    trusted_types: Annotated[
        tuple[str, ...], Meta(description="Type names a skops file may contain beyond those skops trusts itself.")
    ] = ()


class BatchingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    max_batch_size: Annotated[
        PositiveInt,
        Meta(
            description="Most rows that a model in worker threads is given in one run. Each model gets as many as "
            "bring it throughput, measured at warm-up, and at most these. 1: every request by itself."
        ),
    ] = 64
    max_queue_delay: Annotated[
        float,
        Meta(
            ge=0,
            le=60,
            description="Seconds a free slot may wait for company. 0: a lone request starts at once, which is best for "
            "all but very uneven traffic.",
        ),
    ] = 0.0
    max_queue_rows: Annotated[
        PositiveInt,
        Meta(
            description="Rows that may wait for one model; beyond it 503 with Retry-After. A request larger than a run "
            "counts as one run."
        ),
    ] = 8192
    warm_up_seconds: Annotated[
        float,
        Meta(ge=0, le=600, description="Longest time for measuring one model with more rows than one, at warm-up."),
    ] = 1.0


class ServingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    models: Annotated[
        tuple[str, ...],
        Meta(description="What to serve: `name` (its champion), `name@version`, `name@alias` or a range: `name@^2`."),
    ] = ()
    workers: Annotated[
        PositiveInt,
        Meta(
            description="Processes that serve on the same port. More than one are started, watched and replaced by a "
            "supervisor. Limits and caches count for each."
        ),
    ] = 1
    allow_model_control: Annotated[
        bool, Meta(description="Allow load and unload of models over the network (repository API). Off by default.")
    ] = False
    drain_timeout: Annotated[
        PositiveSeconds, Meta(description="Seconds in-flight work may take to finish after SIGTERM.")
    ] = 30.0
    drain_delay: Annotated[
        float,
        Meta(
            ge=0,
            le=1e9,
            description="Seconds between readiness falling and the listener closing, so that a load balancer "
            "stops sending first.",
        ),
    ] = 1.0


class CacheSettings(Discreet, frozen=True, forbid_unknown_fields=True, kw_only=True):
    enabled: Annotated[
        bool, Meta(description="Answer a request that was answered before without running the model again.")
    ] = False
    exclude: Annotated[
        tuple[str, ...],
        Meta(description="Models whose answers are never kept: those that may answer the same request differently."),
    ] = ()
    max_bytes: Annotated[
        PositiveInt, Meta(description="Memory for answers, in bytes; beyond it the least recently used go.")
    ] = 64 * 1024 * 1024
    max_value_bytes: Annotated[
        PositiveInt, Meta(description="Largest answer that is kept, in bytes, in memory or in Redis.")
    ] = 1024 * 1024
    ttl: Annotated[PositiveSeconds, Meta(description="Longest time in seconds that an answer is kept.")] = 300.0
    jitter: Annotated[
        float,
        Meta(
            ge=0,
            lt=1,
            description="Share of the time that each answer's is shortened by at random, at most, so that what was "
            "answered together does not expire together.",
        ),
    ] = 0.1
    early_refresh: Annotated[
        float,
        Meta(
            ge=0,
            le=1e6,
            description="How early an answer is made anew before it expires, in times that making it took, on average. "
            "0: not before.",
        ),
    ] = 1.0
    negative_ttl: Annotated[
        float,
        Meta(
            ge=0,
            le=1e9,
            description="Seconds that an error is kept which the same request will meet again. 0: no error is kept.",
        ),
    ] = 10.0
    redis_url: Annotated[
        str,
        Meta(
            description="Redis or Valkey where servers share answers: `redis://host:6379/0`, `rediss://` with TLS. "
            "Empty: answers stay in this process.",
            extra=SECRET,
        ),
    ] = ""
    redis_timeout: RedisTimeout = 0.025
    redis_failures: RedisFailures = 3
    redis_pause: RedisPause = 5.0
    lease: Annotated[
        PositiveSeconds,
        Meta(description="Longest time in seconds that one server may work on an answer while others wait for it."),
    ] = 5.0
    lease_wait: Annotated[
        float,
        Meta(
            ge=0,
            le=1e9,
            description="Seconds that a request waits for the answer that another server is working on, before it "
            "runs the model itself.",
        ),
    ] = 0.5


class RecordSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    file: Annotated[
        str, Meta(description="JSON Lines file that inference records are appended to. Empty: not written.")
    ] = ""
    ring_size: Annotated[
        PositiveInt,
        Meta(description="Records held in memory between two flushes; beyond it they are dropped and counted."),
    ] = 65_536
    flush_interval: Annotated[PositiveSeconds, Meta(description="Seconds between two flushes of the records.")] = 0.5


class PublishSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    keras_python: Annotated[
        str,
        Meta(
            description="Python of an environment that has TensorFlow, in which `push` opens Keras models. "
            "Empty: its own."
        ),
    ] = ""


class LogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    level: Annotated[
        str,
        Meta(
            description="Least severe level logged: debug, info, warning or error.",
            pattern="^(?i:debug|info|warning|error)$",
        ),
    ] = "info"
    format: Annotated[
        str,
        Meta(
            description="`json`, one object a line, `text`, or `auto`: text on a terminal, else JSON.",
            pattern="^(auto|json|text)$",
        ),
    ] = "auto"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    registry: RegistrySettings = RegistrySettings()
    http: HttpSettings = HttpSettings()
    grpc: GrpcSettings = GrpcSettings()
    tls: TlsSettings = TlsSettings()
    auth: AuthSettings = AuthSettings()
    jwt: JwtSettings = JwtSettings()
    audit: AuditSettings = AuditSettings()
    limits: LimitSettings = LimitSettings()
    rate_limits: RateLimitSettings = RateLimitSettings()
    runtime: RuntimeSettings = RuntimeSettings()
    batching: BatchingSettings = BatchingSettings()
    serving: ServingSettings = ServingSettings()
    cache: CacheSettings = CacheSettings()
    records: RecordSettings = RecordSettings()
    publish: PublishSettings = PublishSettings()
    signing: SigningSettings = SigningSettings()
    logs: LogSettings = LogSettings()

    @property
    def demands_credentials(self) -> bool:
        """Whether anything says that callers have to prove who they are. Without what that takes no server starts."""
        return self.auth.demanded or self.jwt.configured

    @property
    def anywhere(self) -> bool:
        """Whether the server may listen beyond loopback."""
        return self.demands_credentials or self.http.insecure


def load_settings(
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> Settings:
    """Settings from ``file`` (TOML), then ``environment``, then ``overrides`` (section -> field -> value).

    A ``None`` in ``overrides`` means "not given". Raises ``FailedPrecondition`` when the file cannot be read and
    ``InvalidInput`` naming the setting when a value does not fit.
    """
    tables = _read(file) if file is not None else {}
    for section, field, variable in variables():
        text = (os.environ if environment is None else environment).get(variable)
        if text is not None:
            _check_not_blank(section, field, variable, text)
            _table(tables, section)[field] = _from_text(section, field, text)
    for section, values in (overrides or {}).items():
        given = {field: value for field, value in values.items() if value is not None}
        if given:
            _table(tables, section).update(given)
    try:
        return msgspec.convert(tables, Settings)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"settings: {error}", hint="see docs/reference/settings.md") from None


def variables() -> Iterator[tuple[str, str, str]]:
    """(section, field, environment variable) of every setting, in the order of the reference."""
    for section in Settings.__struct_fields__:
        for field in getattr(Settings(), section).__struct_fields__:
            yield section, field, f"KEELWAY_{section}_{field}".upper()


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise FailedPrecondition(f"cannot read the settings file {file.name}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FailedPrecondition(f"the settings file {file.name} is not valid TOML: {error}") from None


def _table(tables: dict[str, Any], section: str) -> dict[str, Any]:
    table = tables.setdefault(section, {})
    if not isinstance(table, dict):
        raise InvalidInput(f"settings: {section} is not a table", hint=f"write its settings below [{section}]")
    return table


def _check_not_blank(section: str, field: str, variable: str, text: str) -> None:
    """A variable that was to bring a secret and is blank must not open the door."""
    if section in ("auth", "jwt") and not text.strip():
        raise InvalidInput(
            f"settings: {section}.{field} from the environment is empty",
            field=f"{section}.{field}",
            hint=f"give {variable} its value, or unset it",
        )


def _from_text(section: str, field: str, text: str) -> Any:
    default = getattr(getattr(Settings(), section), field)
    if isinstance(default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        return msgspec.convert(text, type(default), strict=False)
    except msgspec.ValidationError:
        raise InvalidInput(
            f"settings: {section}.{field} from the environment is not a valid {type(default).__name__}"
        ) from None
