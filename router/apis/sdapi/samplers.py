"""A1111's samplers and schedule types, by every name, and what they are here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from deployments.errors import InvalidRequest
from deployments.types import ModelCard

#: Spacings of schedulers that keep to the training's timesteps; A1111 has them ignore the others.
_SPACED: Final = ("normal", "sgm_uniform", "simple", "trailing")
_CURVED: Final = (*_SPACED, "karras", "exponential", "beta")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """One sampler: A1111's name, our scheduler, and the spacing that "Automatic" means."""

    name: str
    scheduler: str
    aliases: tuple[str, ...]
    sigmas: tuple[str, ...] = _CURVED
    automatic: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Every name in lower case."""
        return tuple(name.lower() for name in (self.name, self.scheduler, *self.aliases))


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """One schedule type: A1111's name, label and aliases, and our spacing; None is Automatic."""

    name: str
    label: str
    sigmas: str | None
    aliases: tuple[str, ...] = ()
    rho: float = -1
    needs_model: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Every name in lower case."""
        return tuple(name.lower() for name in (self.name, self.label, *self.aliases))


#: In A1111's order. Names that no scheduler here implements are aliases of the nearest relative,
#: whose own name the answer gives: DPM++ 2S lacks the ancestral noise of "DPM++ 2S a"; DPM fast is
#: of single steps, too; DPM adaptive solves the same equation with steps of its own choice;
#: Restart and HeunPP2 are built on Heun's step, IPNDM on linear multisteps; CFG++ is DDIM's step
#: under another guidance.
SAMPLERS: Final = (
    Sampler(name="DPM++ 2M", scheduler="DPM++ 2M", aliases=("k_dpmpp_2m",), automatic="karras"),
    Sampler(name="DPM++ SDE", scheduler="DPM++ SDE", aliases=("k_dpmpp_sde",), automatic="karras"),
    Sampler(
        name="DPM++ 2M SDE",
        scheduler="DPM++ 2M SDE",
        aliases=("k_dpmpp_2m_sde",),
        automatic="exponential",
    ),
    Sampler(
        name="DPM++ 2M SDE Heun",
        scheduler="DPM++ 2M SDE Heun",
        aliases=("k_dpmpp_2m_sde_heun",),
        automatic="exponential",
    ),
    Sampler(
        name="DPM++ 2S",
        scheduler="DPM++ 2S",
        aliases=("k_dpmpp_2s", "DPM++ 2S a", "k_dpmpp_2s_a", "DPM fast", "k_dpm_fast"),
        sigmas=("normal", "karras"),
        automatic="karras",
    ),
    Sampler(
        name="DPM++ 3M SDE",
        scheduler="DPM++ 3M SDE",
        aliases=("k_dpmpp_3m_sde",),
        automatic="exponential",
    ),
    Sampler(
        name="Euler a",
        scheduler="Euler a",
        aliases=("k_euler_a", "k_euler_ancestral"),
        sigmas=_SPACED,
    ),
    Sampler(name="Euler", scheduler="Euler", aliases=("k_euler",)),
    Sampler(name="LMS", scheduler="LMS", aliases=("k_lms", "IPNDM", "IPNDM_V")),
    Sampler(name="Heun", scheduler="Heun", aliases=("k_heun", "HeunPP2", "Restart")),
    Sampler(
        name="DPM2",
        scheduler="DPM2",
        aliases=("k_dpm_2", "DPM adaptive", "k_dpm_ad", "k_dpm_adaptive"),
        automatic="karras",
    ),
    Sampler(
        name="DPM2 a",
        scheduler="DPM2 a",
        aliases=("k_dpm_2_a", "k_dpm_2_ancestral"),
        automatic="karras",
    ),
    Sampler(
        name="DDIM", scheduler="DDIM", aliases=("ddim", "DDIM CFG++", "ddim_cfgpp"), sigmas=_SPACED
    ),
    Sampler(name="PLMS", scheduler="PNDM", aliases=("plms",), sigmas=_SPACED),
    Sampler(name="UniPC", scheduler="UniPC", aliases=("unipc",)),
    Sampler(name="LCM", scheduler="LCM", aliases=("k_lcm",), sigmas=("normal",)),
    Sampler(name="DEIS", scheduler="DEIS", aliases=("k_deis",)),
    Sampler(name="DDPM", scheduler="DDPM", aliases=("ddpm",), sigmas=_SPACED),
    Sampler(name="TCD", scheduler="TCD", aliases=("tcd",), sigmas=("normal",)),
)

#: A1111's twelve in its order, then Forge's own. No spacing here is KL Optimal, Align Your Steps
#: or Turbo. Polyexponential at its default rho of 1 is Exponential; DDIM's are the checkpoint's.
SCHEDULES: Final = (
    Schedule(name="automatic", label="Automatic", sigmas=None),
    Schedule(name="uniform", label="Uniform", sigmas="normal", needs_model=True),
    Schedule(name="karras", label="Karras", sigmas="karras", rho=7.0),
    Schedule(name="exponential", label="Exponential", sigmas="exponential"),
    Schedule(name="polyexponential", label="Polyexponential", sigmas="exponential", rho=1.0),
    Schedule(
        name="sgm_uniform",
        label="SGM Uniform",
        sigmas="sgm_uniform",
        aliases=("SGMUniform",),
        needs_model=True,
    ),
    Schedule(name="kl_optimal", label="KL Optimal", sigmas=None),
    Schedule(name="align_your_steps", label="Align Your Steps", sigmas=None),
    Schedule(name="simple", label="Simple", sigmas="simple", needs_model=True),
    Schedule(name="normal", label="Normal", sigmas="normal", needs_model=True),
    Schedule(name="ddim", label="DDIM", sigmas="normal", needs_model=True),
    Schedule(name="beta", label="Beta", sigmas="beta", needs_model=True),
    Schedule(name="turbo", label="Turbo", sigmas=None, needs_model=True),
    Schedule(name="align_your_steps_GITS", label="Align Your Steps GITS", sigmas=None),
    Schedule(name="align_your_steps_11", label="Align Your Steps 11", sigmas=None),
    Schedule(name="align_your_steps_32", label="Align Your Steps 32", sigmas=None),
)
#: What a scheduler is that adds no noise: its step at an eta of 0 is the other's.
PLAIN: Final[Mapping[str, str]] = {
    "Euler a": "Euler",
    "DPM2 a": "DPM2",
    "DPM++ 2M SDE": "DPM++ 2M",
}
#: How the oldest joined names end, such as k_dpmpp_2m_sde_exp.
_ENDINGS: Final = (("_ka", " karras"), ("_exp", " exponential"))
AUTOMATIC: Final = SCHEDULES[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """A sampler and a schedule type as the answer names them, and what they are here.

    Attributes:
        is_plain: whether it is to add no noise, and so is another scheduler than its name says.
    """

    name: str
    label: str
    scheduler: str | None
    sigmas: str | None
    is_plain: bool = False

    def plain(self, card: ModelCard) -> Sampling:
        """This one at an eta of 0, for those that are then another one here."""
        scheduler = PLAIN.get(self.scheduler or "")
        if scheduler is None or scheduler not in (card.schedulers or (scheduler,)):
            return self
        return replace(self, scheduler=scheduler, is_plain=True)


def find_sampling(
    name: str, schedule: str | None, card: ModelCard, *, is_named: bool = True
) -> Sampling:
    """The sampler for a model. "DPM++ 2M Karras" and "k_dpmpp_2m_ka" name a schedule type, too.

    A schedule type that is unknown, or that the sampler cannot follow, is Automatic, as in A1111;
    the answer says so. Raises ``InvalidRequest`` for a sampler that is unknown, or, unless it was
    not ``is_named``, not the model's.
    """
    sampler, joined = _split(name)
    asked = _find_schedule(schedule) or joined or AUTOMATIC
    if sampler is None or sampler.scheduler not in (card.schedulers or (sampler.scheduler,)):
        if is_named and name.lower() != "automatic":
            raise _unknown(name, card)
        return Sampling(
            name=_name_of(card.defaults.scheduler or ""),
            label=AUTOMATIC.label,
            scheduler=card.defaults.scheduler,
            sigmas=card.defaults.sigmas,
        )
    if asked.sigmas not in _sigmas(sampler, card):
        asked = AUTOMATIC
    sigmas = asked.sigmas or _automatic(sampler, card)
    return Sampling(
        name=sampler.name, label=asked.label, scheduler=sampler.scheduler, sigmas=sigmas
    )


def render_samplers(cards: Iterable[ModelCard]) -> list[dict[str, Any]]:
    """``GET samplers``: those of any hosted model."""
    known = {scheduler for card in cards for scheduler in card.schedulers}
    return [
        {
            "name": sampler.name,
            "aliases": list(sampler.aliases),
            "options": {"scheduler": sampler.automatic} if sampler.automatic else {},
        }
        for sampler in SAMPLERS
        if sampler.scheduler in known or not known
    ]


def render_schedules() -> list[dict[str, Any]]:
    """``GET schedulers``."""
    return [
        {
            "name": schedule.name,
            "label": schedule.label,
            "aliases": list(schedule.aliases) or None,
            "default_rho": schedule.rho,
            "need_inner_model": schedule.needs_model,
        }
        for schedule in SCHEDULES
    ]


def _split(name: str) -> tuple[Sampler | None, Schedule | None]:
    lowered = name.strip().lower()
    if sampler := _find_sampler(lowered):
        return sampler, None
    for ending, label in _ENDINGS:
        if lowered.endswith(ending):
            lowered = lowered.removesuffix(ending) + label
    for schedule in SCHEDULES:
        for label in schedule.names:
            # NOTE: "DPM++ 2M SGM Uniform" ends in " Uniform", too.
            head = lowered.removesuffix(f" {label}")
            if head != lowered and (sampler := _find_sampler(head.strip())):
                return sampler, schedule
    return None, None


def _find_sampler(lowered: str) -> Sampler | None:
    return next((sampler for sampler in SAMPLERS if lowered in sampler.names), None)


def _find_schedule(name: str | None) -> Schedule | None:
    lowered = (name or "").strip().lower()
    found = next((schedule for schedule in SCHEDULES if lowered in schedule.names), None)
    return None if found is AUTOMATIC else found


def _sigmas(sampler: Sampler, card: ModelCard) -> frozenset[str]:
    return frozenset(sampler.sigmas).intersection(card.sigmas or sampler.sigmas)


def _automatic(sampler: Sampler, card: ModelCard) -> str | None:
    for sigmas in (sampler.automatic, card.defaults.sigmas):
        if sigmas in _sigmas(sampler, card):
            return sigmas
    return "normal"


def _name_of(scheduler: str) -> str:
    return next((s.name for s in SAMPLERS if s.scheduler == scheduler), scheduler)


def _unknown(name: str, card: ModelCard) -> InvalidRequest:
    known = ", ".join(_name_of(scheduler) for scheduler in card.schedulers)
    return InvalidRequest(
        f"Sampler not found: {name!r:.200}; {card.id} has: {known}", param="sampler_name"
    )
