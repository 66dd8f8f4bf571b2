"""The handlers that make pictures, and those that look at them: parse, submit, render."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final, Protocol

from fastapi import Request
from pydantic import ValidationError

from deployments.errors import InvalidRequest, NotFound
from deployments.types import GenerationRequest
from router.apis.idempotency import idempotency_of
from router.apis.route import owner_of
from router.apis.sdapi import extras
from router.apis.sdapi.bodies import (
    ExtraBatchImages,
    Extras,
    ExtraSingleImage,
    Generation,
    ImageToImage,
    Interrogate,
    PngInfo,
    TextToImage,
    read_body,
)
from router.apis.sdapi.checkpoints import checkpoints
from router.apis.sdapi.describers import find_describer
from router.apis.sdapi.infotext import fields_of, parse_infotext, read_infotext
from router.apis.sdapi.inputs import (
    check_picture,
    check_pixels,
    check_size,
    decode_picture,
    encode_base64,
)
from router.apis.sdapi.options import (
    DEFAULT_MODEL,
    checkpoint_of,
    override,
    parse_overrides,
)
from router.apis.sdapi.parse import Setting, round_size, sampling_of, settle
from router.apis.sdapi.prompts import Styles
from router.apis.sdapi.render import render_images
from router.apis.sdapi.scripts import (
    Call,
    make_plan,
)
from router.apis.sdapi.second_pass import check_side
from router.apis.sdapi.upscalers import find_learned, find_upscaler
from router.belongings import Variant
from router.job import Job
from router.service import GenerationService
from router.store.options import OptionStore

API: Final = "sdapi"
#: Input pictures of one call.
MAX_INPUT_IMAGES: Final = 64


class Fetch(Protocol):
    """Gets a picture from the web."""

    def __call__(self, url: str, *, param: str) -> Awaitable[bytes]:
        """The bytes behind the URL."""


class Drawing:
    """What makes pictures: parse, submit, render."""

    def __init__(
        self,
        service: GenerationService,
        options: OptionStore,
        fetch: Fetch | None,
        styles: Styles,
    ) -> None:
        self._service = service
        self._options = options
        self._fetch = fetch
        self._styles = styles

    async def txt2img(self, request: Request) -> Any:
        """Pictures from a prompt."""
        body = _with_infotext(await read_body(request, TextToImage))
        return await self._draw(request, body, (), None)

    async def img2img(self, request: Request) -> Any:
        """Pictures over others."""
        body = _with_infotext(await read_body(request, ImageToImage))
        if not body.init_images:
            raise NotFound("Init image not found", param="init_images")
        if len(body.init_images) > min(MAX_INPUT_IMAGES, max(1, body.batch_size)):
            raise InvalidRequest(
                f"bad number of images passed: {len(body.init_images)}; "
                f"expecting {body.batch_size} or less",
                param="init_images",
            )
        images = [await self._load(text, "init_images") for text in body.init_images]
        mask = await self._load(body.mask, "mask") if body.mask else None
        check_pixels([*images, mask] if mask else images)
        if len(images) > 1:
            body = body.model_copy(update={"batch_size": len(images)})
        return await self._draw(request, body, tuple(images), mask)

    async def extra_single_image(self, request: Request) -> Any:
        """A picture enlarged."""
        body = await read_body(request, ExtraSingleImage)
        images = await self._upscale(request, body, [body.image])
        return {"html_info": extras.html_info(body), "image": images[0]}

    async def extra_batch_images(self, request: Request) -> Any:
        """Pictures enlarged."""
        body = await read_body(request, ExtraBatchImages)
        images = await self._upscale(request, body, [image.data for image in body.image_list])
        return {"html_info": extras.html_info(body), "images": images}

    async def png_info(self, request: Request) -> Any:
        """What a picture's file says of how it was made."""
        body = await read_body(request, PngInfo)
        data = decode_picture(body.image, param="image")
        info, items = await asyncio.to_thread(read_infotext, data)
        return {"info": info, "items": items, "parameters": parse_infotext(info)}

    async def interrogate(self, request: Request) -> Any:
        """Words for a picture, from a hosted model that describes."""
        body = await read_body(request, Interrogate)
        if not body.image:
            raise NotFound("Image not found", param="image")
        data = await self._load(body.image, "image")
        model = find_describer(body.model, self._service.cards())
        job = await self._service.run(
            GenerationRequest(prompt="", model=model, images=(data,), task="describe"),
            api=API,
            owner=owner_of(request),
            idempotency=await idempotency_of(request),
            is_disconnected=request.is_disconnected,
        )
        return {"caption": job.result.get("text", "")}

    async def _draw(
        self, request: Request, body: Generation, images: tuple[bytes, ...], mask: bytes | None
    ) -> Any:
        owner = owner_of(request)
        setting = await self._setting(owner, body, images)
        if isinstance(body, ImageToImage):
            _check_drawn(body, setting)
        call = Call(body=settle(body), asked=body, setting=setting, images=images, mask=mask)
        plan = await asyncio.to_thread(make_plan, call)
        if not body.override_settings_restore_afterwards:
            kept = parse_overrides(body.override_settings, setting.checkpoints)
            await self._options.update(kept, owner=owner, api=API)
        details = {
            "task_id": body.force_task_id,
            "script": plan.script,
            "script_args": dict(plan.script_args),
        }
        job = await self._service.run(
            *plan.requests,
            api=API,
            owner=owner,
            details=details,
            idempotency=await idempotency_of(request),
            is_disconnected=request.is_disconnected,
        )
        return await asyncio.to_thread(
            render_images,
            job,
            await self._service.images(job),
            body=body,
            sampling=sampling_of(body, setting),
            layout=plan.layout,
            checkpoint=_drawn_by(job, setting),
        )

    async def _setting(self, owner: str, body: Generation, images: tuple[bytes, ...]) -> Setting:
        """The options in force, and the model that they name for what is asked."""
        kept = await self._options.get(owner=owner, api=API)
        own = await self._service.belongings(owner=owner)
        known = checkpoints(own.variants(self._service.cards()))
        options = override(kept, body.override_settings, known)
        named = checkpoint_of(options, known)
        draft = GenerationRequest(
            prompt=body.prompt,
            model=named.card.id if named else None,
            images=images[:1],
            mask=images[0] if images and isinstance(body, ImageToImage) and body.mask else None,
        )
        card = self._service.choose(draft, prefer=(DEFAULT_MODEL,))
        return Setting(
            checkpoint=named or Variant(card=card),
            options=options,
            styles=self._styles,
            checkpoints=known,
            own=own,
        )

    async def _upscale(self, request: Request, body: Extras, texts: list[str]) -> list[str]:
        options = override(await self._options.get(owner=owner_of(request), api=API), {}, ())
        images = []
        for text in texts:
            data = await self._load(text, "image")
            learned = await self._learned(request, body, data)
            enlarged = await asyncio.to_thread(extras.upscale, data, body, options, learned)
            images.append(encode_base64(enlarged))
        return images

    async def _learned(self, request: Request, body: Extras, data: bytes) -> dict[str, bytes]:
        """What hosted upscalers make of a picture, for those that the body names; jobs all."""
        cards, made = self._service.cards(), {}
        for name in dict.fromkeys((body.upscaler_1, body.upscaler_2)):
            if (card := find_learned(name, cards)) is None:
                find_upscaler(name, cards)
                continue
            job = await self._service.run(
                GenerationRequest(prompt="", model=card.id, images=(data,)),
                api=API,
                owner=owner_of(request),
                is_disconnected=request.is_disconnected,
            )
            made[name] = await self._service.image(job, 0)
        return made

    async def _load(self, text: str, param: str) -> bytes:
        """A picture of a body: base64, or a URL."""
        if not text.lower().startswith(("http://", "https://")):
            return decode_picture(text, param=param)
        if self._fetch is None:
            raise InvalidRequest("Requests not allowed", param=param)
        data = await self._fetch(text, param=param)
        check_picture(data, param=param)
        return data


def _drawn_by(job: Job, setting: Setting) -> Variant:
    """The checkpoint of the first picture: those of a plot may have others."""
    first = job.requests[0].request
    drawn = (one for one in setting.checkpoints if one.card.id == first.model)
    return next((one for one in drawn if one.weights == first.weights), setting.checkpoint)


def _check_drawn(body: ImageToImage, setting: Setting) -> None:
    """Judge the size by the model's limits before any picture is opened for it."""
    size = round_size(setting.card, body.width, body.height)
    for param, side in zip(("width", "height"), size, strict=True):
        check_side(setting.card, param, side, lowest=setting.card.min_size)
    check_size(size)


def _with_infotext(body: Any) -> Any:
    """The body with the fields of its ``infotext`` that it does not name itself; those that no
    body may have are left out. Raises ``InvalidRequest`` for a text that is too long."""
    if not body.infotext:
        return body
    told = fields_of(body.infotext)
    overrides = {**told.pop("override_settings"), **body.override_settings}
    named = body.model_dump(include=body.model_fields_set, by_alias=True)
    named["override_settings"] = overrides
    try:
        return type(body).model_validate({**told, **named})
    except ValidationError as error:
        wrong = {complaint["loc"][0] for complaint in error.errors() if complaint["loc"]}
        kept = {name: value for name, value in told.items() if name not in wrong}
        return type(body).model_validate({**kept, **named})
