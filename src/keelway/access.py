"""The settings of who may come in, and how often, of TLS, and of whose models are trusted: sections of
``keelway.config``, which reads them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

PositiveInt = Annotated[int, Meta(ge=1)]
# TOML knows infinity, the timers of an event loop do not.
PositiveSeconds = Annotated[float, Meta(gt=0, le=1e9)]
# Of every section that may name a Redis.
RedisTimeout = Annotated[
    PositiveSeconds, Meta(description="Seconds that one question to Redis may take, connecting included.")
]
RedisFailures = Annotated[
    PositiveInt, Meta(description="Failures of Redis in a row after which it is not asked for a while.")
]
RedisPause = Annotated[
    PositiveSeconds, Meta(description="Seconds for which it is not asked then; afterwards one request tries.")
]
#: What a setting that is a secret, or may hold one, is marked by.
SECRET = {"secret": True}


class Discreet(msgspec.Struct, frozen=True):
    """A section whose secrets are not shown where it is printed."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> Any:
        for field in msgspec.structs.fields(type(self)):
            value = getattr(self, field.name)
            extra = getattr(msgspec.inspect.type_info(field.type), "extra", None) or {}
            yield field.name, "***" if value and extra.get("secret") else value


class TlsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    certificate: Annotated[
        str,
        Meta(
            description="PEM file of the server's certificate chain. With it, the HTTP port and gRPC's speak TLS only."
        ),
    ] = ""
    private_key: Annotated[str, Meta(description="PEM file of the certificate's private key, without passphrase.")] = ""
    client_ca: Annotated[
        str,
        Meta(
            description="PEM file of the authorities that sign the certificates of clients. Empty: none is asked for."
        ),
    ] = ""
    client_certificates: Annotated[
        str,
        Meta(
            description="With `client_ca`: `required`, only clients with a certificate of those authorities come in, "
            "or `optional`, those without any come in too. One of another authority never does.",
            pattern="^(optional|required)$",
        ),
    ] = "required"
    poll_interval: Annotated[
        PositiveSeconds,
        Meta(description="Seconds between two looks at the files. New connections get what has changed."),
    ] = 5.0


class SigningSettings(Discreet, frozen=True, forbid_unknown_fields=True, kw_only=True):
    require_signature: Annotated[
        bool,
        Meta(
            description="Load only versions with a signature of one of `trusted_keys`: when a server starts and later, "
            "when `predict` loads a model, and when one becomes a member of a pipeline."
        ),
    ] = False
    trusted_keys: Annotated[
        tuple[str, ...],
        Meta(
            description="Public keys (Ed25519) whose signatures count: PEM files, PEM text, or the line between the "
            "first and the last of it."
        ),
    ] = ()
    key: Annotated[
        str,
        Meta(
            description="Private key (Ed25519, PEM) that `push` and `sign` sign with. Never for servers.", extra=SECRET
        ),
    ] = ""
    key_file: Annotated[str, Meta(description="PEM file with that key, instead of the key itself.")] = ""
    passphrase: Annotated[str, Meta(description="Passphrase of that key, where it has one.", extra=SECRET)] = ""


class AuthSettings(Discreet, frozen=True, forbid_unknown_fields=True, kw_only=True):
    key_secret: Annotated[
        str,
        Meta(
            description="Secret of at least 32 bytes that API keys are hashed with; with it, callers may prove "
            "themselves by the keys of the registry. `keelway keys secret` makes one.",
            extra=SECRET,
        ),
    ] = ""
    key_secret_file: Annotated[str, Meta(description="File with that secret, instead of the secret itself.")] = ""
    require: Annotated[
        tuple[str, ...],
        Meta(
            description="What a caller has to show, all of it: `key`, `jwt`, `mtls`. The first says who asks and what "
            "is allowed. Empty: one of those that are configured, whichever."
        ),
    ] = ()
    public: Annotated[
        tuple[str, ...],
        Meta(
            description="What anybody may read without credentials: `metrics`; `docs`, which name the models and their "
            "features. Health probes always."
        ),
    ] = ()
    mtls: Annotated[
        tuple[str, ...],
        Meta(
            description="What a client certificate is worth: `IDENTITY -> SCOPE SCOPE`, such as "
            "`DNS:batch.internal -> predict:*`; the first that fits counts, `*` stands for anything. Identities are "
            "`CN=…`, `DNS:…`, `URI:…`, `email:…`; the case of hosts does not matter."
        ),
    ] = ()
    max_failures: Annotated[
        int,
        Meta(
            ge=1,
            description="Attempts a minute with credentials that do not hold, from one address (of IPv6: one /64); "
            "beyond it 429 for credentials that are not known to hold yet.",
        ),
    ] = 20

    @property
    def keys(self) -> bool:
        """Whether API keys are asked for."""
        return bool(self.key_secret or self.key_secret_file)

    @property
    def demanded(self) -> bool:
        """Whether this section asks callers for anything, be what that takes there or not."""
        return self.keys or bool(self.require or self.mtls)


class JwtSettings(Discreet, frozen=True, forbid_unknown_fields=True, kw_only=True):
    algorithms: Annotated[
        tuple[str, ...],
        Meta(
            description="Signatures that are accepted: `RS256`, `RS384`, `RS512`, `PS256`, `PS384`, `PS512`, `ES256`, "
            "`ES384`, `ES512`, `EdDSA`; `HS256`, `HS384`, `HS512` with `jwt.secret`."
        ),
    ] = ("RS256", "ES256", "EdDSA")
    issuer: Annotated[str, Meta(description="What the claim `iss` must be. Needed for tokens.")] = ""
    audience: Annotated[
        tuple[str, ...], Meta(description="One of these must be in the claim `aud`. Needed for tokens.")
    ] = ()
    secret: Annotated[str, Meta(description="Secret of at least 32 bytes of HS256, HS384 and HS512.", extra=SECRET)] = (
        ""
    )
    secret_file: Annotated[str, Meta(description="File with that secret, instead of the secret itself.")] = ""
    key_file: Annotated[str, Meta(description="PEM file of the public key that tokens are signed for.")] = ""
    jwks_url: Annotated[
        str,
        Meta(description="Where the issuer publishes its public keys: `https://…`, or `http://…` on loopback."),
    ] = ""
    jwks_timeout: Annotated[PositiveSeconds, Meta(description="Seconds that fetching the keys may take.")] = 5.0
    jwks_ttl: Annotated[
        PositiveSeconds,
        Meta(description="Seconds after which the keys are fetched again. Until that succeeds the old count."),
    ] = 300.0
    jwks_pause: Annotated[
        PositiveSeconds,
        Meta(description="Least seconds between two fetches, however many tokens name a key that is not known."),
    ] = 10.0
    leeway: Annotated[
        float, Meta(ge=0, le=300, description="Seconds by which the clocks of issuer and server may differ.")
    ] = 10.0
    scopes_claim: Annotated[str, Meta(description="Claim with the scopes: words in one string, or a list of them.")] = (
        "scope"
    )
    scopes_prefix: Annotated[
        str, Meta(description="What scopes for this server begin with, such as `keelway:`; others are not looked at.")
    ] = ""
    tenant_claim: Annotated[
        str,
        Meta(description="Claim with the tenant. Tenants never get each other's cached answers. Empty: no tenants."),
    ] = ""
    max_bytes: Annotated[int, Meta(ge=256, description="Longest token that is looked at, in bytes.")] = 8192

    @property
    def configured(self) -> bool:
        """Whether tokens are asked for: whether the section says anything."""
        return self != JwtSettings()


class AuditSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    file: Annotated[
        str,
        Meta(
            description="JSON Lines file for what matters later: who loaded and unloaded models, which keys came and "
            "went, failed attempts and refusals. Never a credential. Empty: not written."
        ),
    ] = ""


class RateLimitSettings(Discreet, frozen=True, forbid_unknown_fields=True, kw_only=True):
    rules: Annotated[
        tuple[str, ...],
        Meta(
            description="Sentences such as `1000 rows/minute per principal`: an amount of `requests` or `rows`, a time "
            "(`second`, `minute`, `hour`, `day`, or several: `10 seconds`), for whom it is counted (`principal`, "
            "`address`, `model`, or several joined by `and`), and `on` a model, if it is for one alone. Beyond it 429 "
            "with Retry-After. Without rules nothing is limited."
        ),
    ] = ()
    store: Annotated[
        str,
        Meta(
            description="Where use is counted. `redis://host:6379/0` (`rediss://` with TLS): in a Redis or Valkey that "
            "servers and workers share. `memory`: in each process by itself, so that several workers let through "
            "several times as much. Empty: in memory, and several workers are refused.",
            extra=SECRET,
        ),
    ] = ""
    on_failure: Annotated[
        str,
        Meta(
            description="While that store is away: `local`, each process counts for itself; `open`, nobody counts; "
            "`closed`, requests that a rule is for get 503.",
            pattern="^(local|open|closed)$",
        ),
    ] = "local"
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(
            description="Addresses or networks (`10.0.0.0/8`) of proxies whose word on the address of a caller is "
            "taken. Of the addresses that they report, the rightmost which is none of theirs counts."
        ),
    ] = ()
    proxy_header: Annotated[
        str,
        Meta(
            description="The header in which they report it: `x-forwarded-for` or `forwarded`. The other one is not "
            "looked at: a proxy may let through what a caller has written there.",
            pattern="^(x-forwarded-for|forwarded)$",
        ),
    ] = "x-forwarded-for"
    max_callers: Annotated[
        PositiveInt,
        Meta(
            description="Callers that each rule counts apart in memory in a window, as many again that it knows from "
            "the window before. Those who come later share counters."
        ),
    ] = 10_000
    redis_timeout: RedisTimeout = 0.025
    redis_failures: RedisFailures = 3
    redis_pause: RedisPause = 5.0
