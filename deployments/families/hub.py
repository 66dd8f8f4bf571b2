"""Hub: what asking Hugging Face's hub may raise, in one kind; and the parts of its ids."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hub_asked() -> Iterator[None]:
    """Turns whatever the hub's client raises into ``OSError``."""
    try:
        yield
    except Exception as error:  # its HTTP client's, too, whichever that is
        raise OSError(f"the hub cannot be asked: {type(error).__name__}") from error


def parse_hub_id(location: str) -> tuple[str, str, str | None]:
    """``owner/name[/file][@revision]`` as repository, file ("" for none) and revision."""
    place, _, revision = location.partition("@")
    owner, _, rest = place.partition("/")
    name, _, file = rest.partition("/")
    return f"{owner}/{name}", file, revision or None
