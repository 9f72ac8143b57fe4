"""Who may ask: the API key of a request."""

from starlette.requests import Request

from ingest.flow.api_keys import ApiKey, KeyRing, Scope
from ingest.web import request_log


class Access:
    """Checks the keys of requests. Without a key ring everybody may do everything, and no key is looked at."""

    def __init__(self, keys: KeyRing | None) -> None:
        self._keys = keys

    @property
    def is_restricted(self) -> bool:
        """Whether a key is required."""
        return self._keys is not None

    async def check(self, request: Request, scope: Scope) -> ApiKey | None:
        """The key of a request that may do this; None where none is required. The log tells its name.

        Raises as KeyRing.check.
        """
        if self._keys is None:
            return None
        key = await self._keys.check(_key_of(request), scope)
        request_log.entry_of(request).key = key.name
        return key

    async def confirm(self, key: ApiKey | None) -> None:
        """Checks again what `check` gave. Raises as KeyRing.confirm."""
        if self._keys is not None and key is not None:
            await self._keys.confirm(key)


def _key_of(request: Request) -> str | None:
    """`Authorization: Bearer KEY` (RFC 6750, section 2.1) or `X-API-Key: KEY`; the first, if both are there."""
    scheme, _, credentials = request.headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    return request.headers.get("x-api-key")
