"""Who is asking."""

from __future__ import annotations

import base64

import pytest

from deployments.errors import Unauthorized
from router.auth import DEFAULT_OWNER, Authenticator

LOCKED = Authenticator(api_key="secret")


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize("header", [None, "", "Bearer junk", "Basic junk", "Basic", "Nonsense"])
def test_without_a_key_everyone_is_welcome(header: str | None) -> None:
    assert Authenticator().owner(header) == DEFAULT_OWNER


@pytest.mark.parametrize(
    ("header", "owner"),
    [
        ("Bearer secret", DEFAULT_OWNER),
        ("bearer secret", DEFAULT_OWNER),
        (basic("ann:secret"), "ann"),
        (basic(":secret"), DEFAULT_OWNER),
    ],
)
def test_with_a_key_the_right_one_opens(header: str, owner: str) -> None:
    assert LOCKED.owner(header) == owner


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer wrong",
        "Bearer ",
        basic("ann:wrong"),
        basic("ann"),
        "Basic %%%",
        "Digest x",
    ],
)
def test_with_a_key_anything_else_is_refused(header: str | None) -> None:
    with pytest.raises(Unauthorized):
        LOCKED.owner(header)


def test_a_password_may_hold_colons_and_letters_of_any_script() -> None:
    assert Authenticator(api_key="a:clé").owner(basic("ann:a:clé")) == "ann"
