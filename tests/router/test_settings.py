"""Settings: arguments, environment, ``.env``."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from router.settings import REPLACED, Settings, answer_replaced


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_defaults_need_nothing() -> None:
    settings = Settings.from_args({})
    assert settings.api_key == ""
    assert settings.database_url == "sqlite:///atelier.db"


def test_the_variables_of_the_documents_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "k")
    monkeypatch.setenv("WEBHOOK_URL", "http://localhost:3000/api/webhooks/image-completion")
    monkeypatch.setenv("WEBHOOK_SECRET", "s")
    monkeypatch.setenv("WEBHOOK_ENABLED", "true")
    monkeypatch.setenv("LOG_LEVEL", "debug")
    monkeypatch.setenv("ATELIER_FETCH_ALLOW", "10.0.0.0/8, 127.0.0.1/32")
    monkeypatch.setenv("ATELIER_DATABASE_URL", "postgresql://db")
    settings = Settings.from_args({})
    assert (settings.api_key, settings.webhook_secret, settings.webhook_enabled) == ("k", "s", True)
    assert settings.fetch_allow == ("10.0.0.0/8", "127.0.0.1/32")
    assert (settings.database_url, settings.log_level) == ("postgresql://db", "debug")


def test_a_dotenv_file_is_read_and_may_hold_other_things(elsewhere: Path) -> None:
    (elsewhere / ".env").write_text("API_KEY=from-file\nGOOGLE_API_KEY=g\nOTHER=1\n")
    assert Settings.from_args({}).api_key == "from-file"


def test_arguments_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "environment")
    assert Settings.from_args({"api_key": "args"}).api_key == "args"


def test_an_unknown_argument_fails_naming_the_known() -> None:
    with pytest.raises(
        ValueError, match=r"unknown key 'apikey'; known: api_key, checkpoint_folders"
    ):
        Settings.from_args({"apikey": "x"})


@pytest.mark.parametrize("name", sorted(REPLACED))
def test_a_replaced_variable_is_answered(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for other in REPLACED:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "1")
    with caplog.at_level(logging.WARNING):
        answer_replaced()
    assert [record.args for record in caplog.records] == [(name, REPLACED[name])]
