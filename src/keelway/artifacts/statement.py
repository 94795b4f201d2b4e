"""What a signature of a version says, and what an operator demands of versions before they are loaded.

The statement binds the name of the model, the version and the model digest, which covers every file, the signature of
the model, and the members of a pipeline. It is made anew of what is about to be loaded, never read from anywhere: there
is nothing in it to parse, to misread or to believe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from keelway.access import SigningSettings
from keelway.artifacts.signing import Signature, SigningKey, TrustedKeys
from keelway.errors import FailedPrecondition, UntrustedArtifact

#: The kind of statement, as DSSE wants to know it. Another ``FORMAT`` is another statement.
PAYLOAD_TYPE: Final = "application/vnd.keelway.model-version+json"
FORMAT: Final = 1


def statement(name: str, version: str, model_digest: str) -> bytes:
    """The canonical bytes of a statement: JSON with sorted keys and without spaces, in UTF-8."""
    document = {"format": FORMAT, "model_digest": model_digest, "name": name, "version": version}
    return msgspec.json.encode(document, order="sorted")


def sign_version(key: SigningKey, name: str, version: str, model_digest: str) -> Signature:
    """The signature of ``key`` under the statement that ``version`` of ``name`` is what has ``model_digest``."""
    return key.sign(PAYLOAD_TYPE, statement(name, version, model_digest))


class SignaturePolicy:
    """Only versions with a signature of one of the ``trusted`` keys."""

    def __init__(self, trusted: TrustedKeys) -> None:
        self._trusted = trusted

    @classmethod
    def of(cls, settings: SigningSettings) -> SignaturePolicy | None:
        """What ``settings`` demand, ``None`` for nothing. ``FailedPrecondition`` if no key is trusted, so that nothing
        could ever be loaded, or one cannot be read."""
        if not settings.require_signature:
            return None
        if not settings.trusted_keys:
            raise FailedPrecondition(
                "signatures are required and no key is trusted",
                field="signing.trusted_keys",
                hint="set signing.trusted_keys to the public keys of those who sign",
            )
        return cls(TrustedKeys.of(settings.trusted_keys, "signing.trusted_keys"))

    def check(self, name: str, version: str, model_digest: str, signatures: Sequence[Signature]) -> str:
        """The id of the trusted key that vouches for this version with this digest. Signatures of other keys neither
        help nor harm. ``UntrustedArtifact``, saying why, if there is none."""
        reasons: list[str] = []
        for signature in signatures:
            try:
                self._trusted.verify(PAYLOAD_TYPE, statement(name, version, model_digest), signature)
            except UntrustedArtifact as error:
                reasons.append(error.message)
            else:
                return signature.key_id
        raise UntrustedArtifact(
            f"{name} {version} is not signed by a trusted key: {'; '.join(reasons) or 'it has no signature'}",
            field="signature",
            hint=f"if it is what it should be: keelway sign {name}@{version}",
        )

    def refuse_file(self, name: str) -> None:
        """Raise ``UntrustedArtifact``: a file that is served without a registry has no signature."""
        raise UntrustedArtifact(
            f"signatures are required, and {name} is a file without any",
            field="signature",
            hint="push it with --sign, and serve it from the registry",
        )
