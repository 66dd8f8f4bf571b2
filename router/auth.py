"""Auth: who is asking. One place for every API; each only dresses the refusal."""

from __future__ import annotations

import base64
import hmac
from dataclasses import dataclass

from deployments.errors import Unauthorized

#: Everybody's name where no key is configured, and that of bearer-token callers where one is.
DEFAULT_OWNER = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Authenticator:
    """Checks the ``Authorization`` header against the one key. An empty key turns auth off.

    Basic (any user name, the key as the password) and Bearer (the key) are accepted. The Basic
    user name is the owner of what the caller makes, so users who share a key keep apart.
    """

    api_key: str = ""

    def owner(self, authorization: str | None) -> str:
        """The caller's owner name. Raises ``Unauthorized``."""
        if not self.api_key:
            return DEFAULT_OWNER
        if not authorization:
            raise Unauthorized("Not authenticated")
        scheme, _, value = authorization.partition(" ")
        match scheme.lower():
            case "bearer":
                owner, key = DEFAULT_OWNER, value.strip()
            case "basic":
                owner, key = _parse_basic(value.strip())
            case _:
                raise Unauthorized("Not authenticated")
        if not hmac.compare_digest(key.encode(), self.api_key.encode()):
            raise Unauthorized("Invalid username or password")
        return owner or DEFAULT_OWNER


def _parse_basic(value: str) -> tuple[str, str]:
    """User name and password of a Basic credential (RFC 7617)."""
    try:
        decoded = base64.b64decode(value, validate=True).decode()
    except ValueError:  # not base64, not ASCII, or not UTF-8
        raise Unauthorized("Invalid username or password") from None
    user, _, password = decoded.partition(":")
    if not user.isprintable():
        raise Unauthorized("Invalid username or password")
    return user, password
