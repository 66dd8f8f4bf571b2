"""What names mean to an owner: models, his weights, the configuration's; and his LoRAs."""

from __future__ import annotations

import pytest

from deployments.errors import InvalidRequest, UnknownModel
from deployments.types import GenerationRequest, LoraUse, PromptPart, SecondPass, WeightsSource
from router.belongings import Belongings, names_of
from router.fake_models import FakeModels, fake_card
from router.job import OwnWeights

SDXL = fake_card("sdxl", aliases=("xl",), loras=("ink",), lora_digests=(("ink", "0" * 12),))
SD15 = fake_card("sd15", aliases=("owner/sd15",), weights=("default", "eve"))
OTHER = fake_card("other", weights=("default",))
CARDS = (SDXL, SD15, OTHER)
STATUSES = FakeModels(*CARDS).statuses()


def own(name: str, base: str, **fields: object) -> OwnWeights:
    source = WeightsSource(id=f"pm_{name}", kind="path", location="/w", **fields)  # type: ignore[arg-type]
    return OwnWeights(name=name, base=base, source=source)


SKS = own("sks", "sd15")
WOOL = own("wool", "sdxl", is_lora=True, digest="f" * 12)
BELONGINGS = Belongings([SKS, WOOL])


def test_variants_are_models_then_the_owners_weights_then_the_configurations() -> None:
    assert [one.name for one in BELONGINGS.variants(CARDS)] == [
        *("sdxl", "sd15", "other", "sks"),
        *("sd15/default", "sd15/eve", "other/default"),
    ]


@pytest.mark.parametrize(
    ("name", "model", "weights"),
    [
        ("xl", "sdxl", None),
        ("owner/sd15", "sd15", None),
        ("sks", "sd15", "sks"),
        ("sd15/sks", "sd15", "sks"),
        ("owner/sd15/sks", "sd15", "sks"),
        ("eve", "sd15", "eve"),
        ("sd15/default", "sd15", "default"),
        ("other/default", "other", "default"),
    ],
)
def test_a_name_stands_for(name: str, model: str, weights: str | None) -> None:
    variant = BELONGINGS.resolve(STATUSES, name)
    assert (variant.card.id, variant.weights) == (model, weights)
    meant = BELONGINGS.meant(STATUSES, GenerationRequest(prompt="a", model=name))
    assert (meant.model, meant.weights) == (model, weights)


@pytest.mark.parametrize("name", ["default", "wool", "sdxl/sks", "nobody", ""])
def test_a_name_that_stands_for_nothing_is_unknown(name: str) -> None:
    with pytest.raises(UnknownModel, match="known: other, sd15, sdxl"):
        BELONGINGS.resolve(STATUSES, name)


def test_a_model_is_meant_before_weights_of_its_name() -> None:
    mine = Belongings([own("sdxl", "sd15")])
    assert mine.resolve(STATUSES, "sdxl").weights is None
    assert mine.resolve(STATUSES, "sd15/sdxl").weights == "sdxl"


def test_weights_that_a_request_names_beside_a_model_stay() -> None:
    request = GenerationRequest(prompt="a", model="sks", weights="eve")
    assert BELONGINGS.meant(STATUSES, request).weights == "eve"
    assert BELONGINGS.meant(STATUSES, GenerationRequest(prompt="a")).model is None


def test_what_is_registered_for_one_model_is_of_no_use_to_another() -> None:
    assert BELONGINGS.weights("sks", SD15) == SKS
    assert BELONGINGS.weights("sks", SDXL) is None
    assert BELONGINGS.lora("wool", SDXL) == WOOL
    assert BELONGINGS.lora("wool", SD15) is None
    assert BELONGINGS.lora("sks", SD15) is BELONGINGS.weights("wool", SDXL) is None
    assert (BELONGINGS.loras(SDXL), BELONGINGS.loras(SD15)) == (("ink", "wool"), ())
    assert BELONGINGS.digests(SDXL) == {"ink": "0" * 12, "wool": "f" * 12}


def test_admitted_requests_have_the_sources_of_whatever_names_them() -> None:
    wool, ink = LoraUse(name="wool", weight=0.5), LoraUse(name="ink")
    request = GenerationRequest(
        prompt="a",
        loras=(wool, ink),
        parts=(PromptPart(text="b", loras=(wool,)), PromptPart(text="c")),
        negative_parts=(PromptPart(text="d", loras=(ink,)),),
        second_pass=SecondPass(width=64, height=64, loras=(wool,)),
    )
    admitted = BELONGINGS.admit(SDXL, request)
    assert [use.source for use in admitted.all_loras] == [
        *(WOOL.source, None, WOOL.source, WOOL.source, None)
    ]
    assert admitted.loras[0].key == "pm_wool"
    assert (admitted.loras[0].weight, admitted.loras[1].key) == (0.5, "ink")
    assert admitted.parts[1].loras is None
    drawn = BELONGINGS.admit(SD15, GenerationRequest(prompt="a", weights="sks"))
    assert drawn.weights_source == SKS.source
    assert names_of([request, drawn]) == {"wool", "ink", "sd15", "sks"}


def test_others_cannot_use_them() -> None:
    for card, request in (
        (SDXL, GenerationRequest(prompt="a", loras=(LoraUse(name="wool"),))),
        (SD15, GenerationRequest(prompt="a", loras=(LoraUse(name="wool"),))),
        (SD15, GenerationRequest(prompt="a", weights="sks")),
    ):
        with pytest.raises(InvalidRequest, match="unknown"):
            Belongings().admit(card, request)
    with pytest.raises(InvalidRequest, match="unknown LoRA 'wool' for 'sd15'"):
        BELONGINGS.admit(SD15, GenerationRequest(prompt="a", loras=(LoraUse(name="wool"),)))


def test_among_finds_by_short_and_long_names() -> None:
    assert BELONGINGS.among(["sd15/sks", "ink"]) == (SKS,)
    assert BELONGINGS.among(["wool", "sks"]) == (SKS, WOOL)
    assert BELONGINGS.among([]) == ()
