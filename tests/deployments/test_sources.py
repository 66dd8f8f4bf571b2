"""Where personal weights are read from: names of the configuration, and what tells them apart."""

from __future__ import annotations

from deployments.sources import Sources


def test_digests_change_with_the_place_and_tell_nothing_of_it() -> None:
    sources = Sources({"ann": "/models/ann", "bob": "owner/bob"})
    before = dict(sources.digests)
    sources.configure({"ann": "/models/other", "bob": "owner/bob"})
    after = dict(sources.digests)
    assert set(before) == set(after) == {"ann", "bob"}
    assert before["ann"] != after["ann"]
    assert before["bob"] == after["bob"]
    assert not any("models" in digest or "owner" in digest for digest in after.values())
