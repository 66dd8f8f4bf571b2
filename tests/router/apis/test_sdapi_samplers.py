"""A1111's sampler and schedule names: what each is here, and what the lists say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployments.errors import InvalidRequest
from router.apis.sdapi.samplers import (
    SAMPLERS,
    SCHEDULES,
    find_sampling,
    render_samplers,
    render_schedules,
)
from tests.router.apis.sdapi_gateway import SDXL

CARD = replace(SDXL, schedulers=tuple(sampler.scheduler for sampler in SAMPLERS))
#: A1111's and Forge's names and aliases, under the scheduler that is used for them.
USED = {
    "DPM++ 2M": ("DPM++ 2M", "k_dpmpp_2m"),
    "DPM++ SDE": ("DPM++ SDE", "k_dpmpp_sde"),
    "DPM++ 2M SDE": ("DPM++ 2M SDE", "k_dpmpp_2m_sde"),
    "DPM++ 2M SDE Heun": ("DPM++ 2M SDE Heun", "k_dpmpp_2m_sde_heun"),
    "DPM++ 2S": ("DPM++ 2S a", "k_dpmpp_2s_a", "DPM fast", "k_dpm_fast"),
    "DPM++ 3M SDE": ("DPM++ 3M SDE", "k_dpmpp_3m_sde"),
    "Euler a": ("Euler a", "k_euler_a", "k_euler_ancestral"),
    "Euler": ("Euler", "k_euler"),
    "LMS": ("LMS", "k_lms", "IPNDM", "IPNDM_V"),
    "Heun": ("Heun", "k_heun", "HeunPP2", "Restart"),
    "DPM2": ("DPM2", "k_dpm_2", "DPM adaptive", "k_dpm_ad"),
    "DPM2 a": ("DPM2 a", "k_dpm_2_a", "k_dpm_2_ancestral"),
    "DDIM": ("DDIM", "DDIM CFG++", "ddim_cfgpp"),
    "PNDM": ("PLMS",),
    "UniPC": ("UniPC",),
    "LCM": ("LCM", "k_lcm"),
    "DEIS": ("DEIS",),
    "DDPM": ("DDPM",),
}
NAMES = {name: scheduler for scheduler, names in USED.items() for name in names}


@pytest.mark.parametrize(("name", "scheduler"), NAMES.items(), ids=NAMES)
def test_find_sampling_knows_every_name(name: str, scheduler: str) -> None:
    for written in (name, name.lower(), f" {name.upper()} "):
        assert find_sampling(written, None, CARD).scheduler == scheduler


@pytest.mark.parametrize(
    ("name", "scheduler", "label", "sigmas"),
    [
        ("k_dpmpp_2m_ka", "DPM++ 2M", "Karras", "karras"),
        ("k_dpmpp_2m_sde_exp", "DPM++ 2M SDE", "Exponential", "exponential"),
        ("k_dpmpp_2m_sde_heun_ka", "DPM++ 2M SDE Heun", "Karras", "karras"),
        ("k_dpmpp_3m_sde_exp", "DPM++ 3M SDE", "Exponential", "exponential"),
        ("k_dpmpp_2s_a_ka", "DPM++ 2S", "Karras", "karras"),
        ("k_dpm_2_a_ka", "DPM2 a", "Karras", "karras"),
        ("DPM2 a Karras", "DPM2 a", "Karras", "karras"),
        ("DPM++ 2M SDE Heun Exponential", "DPM++ 2M SDE Heun", "Exponential", "exponential"),
        ("DPM++ 2M Polyexponential", "DPM++ 2M", "Polyexponential", "exponential"),
        ("DPM++ 2M SGM Uniform", "DPM++ 2M", "SGM Uniform", "sgm_uniform"),
        ("DPM++ 2M SGMUniform", "DPM++ 2M", "SGM Uniform", "sgm_uniform"),
        ("DPM++ 2M sgm_uniform", "DPM++ 2M", "SGM Uniform", "sgm_uniform"),
        ("Euler DDIM", "Euler", "DDIM", "normal"),
        ("DPM++ 2M Align Your Steps", "DPM++ 2M", "Automatic", "karras"),
        ("DPM++ 2M SDE kl_optimal", "DPM++ 2M SDE", "Automatic", "exponential"),
        ("Euler align_your_steps_gits", "Euler", "Automatic", "trailing"),
        ("Euler a Karras", "Euler a", "Automatic", "trailing"),
        ("DPM fast Exponential", "DPM++ 2S", "Automatic", "karras"),
    ],
)
def test_find_sampling_splits_joined_names(
    name: str, scheduler: str, label: str, sigmas: str
) -> None:
    sampling = find_sampling(name, None, CARD)
    assert (sampling.scheduler, sampling.label, sampling.sigmas) == (scheduler, label, sigmas)


def test_find_sampling_takes_every_sampler_joined_with_every_schedule() -> None:
    for sampler in SAMPLERS:
        for schedule in SCHEDULES:
            for label in schedule.names:
                sampling = find_sampling(f"{sampler.name} {label}", None, CARD)
                assert sampling.name == sampler.name
                assert sampling.label in (schedule.label, "Automatic")
                assert sampling.sigmas in sampler.sigmas


@pytest.mark.parametrize("name", ["Foo", "Foo Karras", "k_foo_ka", "Karras", "DPM++ 2M Foo"])
def test_find_sampling_lists_the_known_when_the_sampler_is_unknown(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"Sampler not found: .* has: DPM\+\+ 2M, .*DPM2 a"):
        find_sampling(name, None, CARD)


def test_a_relative_is_answered_by_its_own_name() -> None:
    assert find_sampling("Restart", "Karras", CARD).name == "Heun"
    assert find_sampling("DPM++ 2S a Karras", None, CARD).name == "DPM++ 2S"


def test_no_two_samplers_or_schedules_share_a_name() -> None:
    for entries in (SAMPLERS, SCHEDULES):
        names = [name for entry in entries for name in set(entry.names)]
        assert len(names) == len(set(names))


def test_render_samplers_lists_every_name() -> None:
    listed = {
        name.lower()
        for item in render_samplers([CARD])
        for name in (item["name"], *item["aliases"])
    }
    assert {name.lower() for name in NAMES} <= listed


def test_render_samplers_leaves_out_what_no_model_has() -> None:
    few = replace(SDXL, schedulers=("Euler", "DPM2"))
    assert [item["name"] for item in render_samplers([few])] == ["Euler", "DPM2"]


def test_render_schedules_lists_the_twelve_and_forges() -> None:
    names = [item["name"] for item in render_schedules()]
    twelve = "automatic, uniform, karras, exponential, polyexponential, sgm_uniform, kl_optimal, "
    twelve += "align_your_steps, simple, normal, ddim, beta"
    assert ", ".join(names[:12]) == twelve
    assert len(names) == 16
