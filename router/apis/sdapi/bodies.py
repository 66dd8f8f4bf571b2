"""The bodies of the requests. Unknown fields are ignored, as A1111 does."""

from __future__ import annotations

import json
from typing import Any, ClassVar, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.requests import Request

from deployments.errors import InvalidRequest
from router.apis.sdapi.errors import InvalidBody, complaints_of

B = TypeVar("B", bound="Body")

#: The longest side that a body may name, in pixels; the model's own limit is checked later.
MAX_SIDE: Final = 16_384

#: Fields of plain type in the original: null is no value of theirs.
PLAIN: Final = frozenset(
    {
        "sampler_index",
        "script_args",
        "send_images",
        "save_images",
        "alwayson_scripts",
        "include_init_images",
    }
)


class Body(BaseModel):
    """Numbers and truth values come as themselves, as each other, or as text."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    plain: ClassVar[frozenset[str]] = PLAIN

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {name: v for name, v in data.items() if v is not None or name in cls.plain}


class Generation(Body):
    """What txt2img and img2img share."""

    prompt: str = ""
    negative_prompt: str = ""
    styles: list[str] | None = None
    seed: int = -1
    subseed: int = -1
    subseed_strength: float = Field(0.0, ge=0, le=1)
    seed_resize_from_h: int = -1
    seed_resize_from_w: int = -1
    sampler_name: str | None = None
    sampler_index: str = "Euler"
    scheduler: str | None = None
    batch_size: int = 1
    n_iter: int = 1
    steps: int = 50
    cfg_scale: float = 7.0
    distilled_cfg_scale: float = 3.5
    width: int = Field(512, ge=0, le=MAX_SIDE)
    height: int = Field(512, ge=0, le=MAX_SIDE)
    restore_faces: bool | None = None
    tiling: bool | None = None
    do_not_save_samples: bool = False
    do_not_save_grid: bool = False
    eta: float | None = Field(None, ge=0, le=1)
    s_min_uncond: float | None = None
    s_churn: float | None = None
    s_tmax: float | None = None
    s_tmin: float | None = None
    s_noise: float | None = None
    denoising_strength: float | None = None
    override_settings: dict[str, Any] = Field(default_factory=dict)
    override_settings_restore_afterwards: bool = True
    refiner_checkpoint: str | None = None
    refiner_switch_at: float | None = None
    disable_extra_networks: bool = False
    firstpass_image: str | None = None
    comments: dict[str, Any] | None = None
    script_name: str | None = None
    script_args: list[Any] = Field(default_factory=list)
    alwayson_scripts: dict[str, Any] = Field(default_factory=dict)
    send_images: bool = True
    save_images: bool = False
    force_task_id: str | None = None
    infotext: str | None = None

    @property
    def sampler(self) -> str:
        """The sampler that is asked for; the legacy field is a name, too."""
        return self.sampler_name or self.sampler_index

    @property
    def names_sampler(self) -> bool:
        """Whether the caller named one."""
        return bool(self.sampler_name) or "sampler_index" in self.model_fields_set


class TextToImage(Generation):
    """``POST /sdapi/v1/txt2img``."""

    enable_hr: bool = False
    firstphase_width: int = Field(0, le=MAX_SIDE)
    firstphase_height: int = Field(0, le=MAX_SIDE)
    hr_scale: float = Field(2.0, ge=0, le=MAX_SIDE)
    hr_upscaler: str | None = None
    hr_second_pass_steps: int = 0
    hr_resize_x: int = Field(0, le=MAX_SIDE)
    hr_resize_y: int = Field(0, le=MAX_SIDE)
    hr_checkpoint_name: str | None = None
    hr_sampler_name: str | None = None
    hr_scheduler: str | None = None
    hr_prompt: str = ""
    hr_negative_prompt: str = ""
    hr_cfg: float = Field(1.0, ge=0, le=1000)
    hr_distilled_cfg: float = 3.5
    hr_additional_modules: list[Any] | None = None


class ImageToImage(Generation):
    """``POST /sdapi/v1/img2img``."""

    init_images: list[str] | None = None
    mask: str | None = None
    resize_mode: int = Field(0, ge=0, le=3)
    mask_blur: int | None = Field(None, ge=0, le=512)
    mask_blur_x: int = Field(4, ge=0, le=512)
    mask_blur_y: int = Field(4, ge=0, le=512)
    mask_round: bool = True
    inpainting_fill: int = Field(0, ge=0, le=3)
    inpaint_full_res: bool = True
    inpaint_full_res_padding: int = Field(0, ge=0, le=2048)
    inpainting_mask_invert: int = 0
    initial_noise_multiplier: float | None = None
    image_cfg_scale: float | None = None
    denoising_strength: float | None = 0.75
    include_init_images: bool = False

    @property
    def blur(self) -> tuple[int, int]:
        """The mask's blur in x and y."""
        if self.mask_blur is not None:
            return self.mask_blur, self.mask_blur
        return self.mask_blur_x, self.mask_blur_y


class Extras(Body):
    """What both upscaling routes share."""

    resize_mode: int = Field(0, ge=0, le=1)
    show_extras_results: bool = True
    gfpgan_visibility: float = Field(0, ge=0, le=1)
    codeformer_visibility: float = Field(0, ge=0, le=1)
    codeformer_weight: float = Field(0, ge=0, le=1)
    upscaling_resize: float = Field(2.0, gt=0, le=MAX_SIDE)
    upscaling_resize_w: int = Field(512, ge=1, le=4 * MAX_SIDE)
    upscaling_resize_h: int = Field(512, ge=1, le=4 * MAX_SIDE)
    upscaling_crop: bool = True
    upscaler_1: str = "None"
    upscaler_2: str = "None"
    extras_upscaler_2_visibility: float = Field(0, ge=0, le=1)
    upscale_first: bool = False


class ExtraSingleImage(Extras):
    """``POST /sdapi/v1/extra-single-image``."""

    image: str = ""


class NamedImage(Body):
    """One picture of a batch."""

    data: str
    name: str = ""


class ExtraBatchImages(Extras):
    """``POST /sdapi/v1/extra-batch-images``."""

    image_list: list[NamedImage] = Field(alias="imageList", min_length=1, max_length=64)


class PngInfo(Body):
    """``POST /sdapi/v1/png-info``."""

    image: str


class Interrogate(Body):
    """``POST /sdapi/v1/interrogate``."""

    image: str = ""
    model: str = "clip"


class TaskProgress(Body):
    """``POST /internal/progress``."""

    id_task: str = ""
    id_live_preview: int = -1
    live_preview: bool = True


async def read_body(request: Request, kind: type[B]) -> B:
    """The JSON body. Raises ``InvalidBody``, which FastAPI's own refusal of it would be."""
    return _validated(kind, await read_object(request))


def read_query(request: Request, kind: type[B]) -> B:
    """The same fields from the query. Raises ``InvalidBody``."""
    return _validated(kind, dict(request.query_params))


def _validated(kind: type[B], fields: dict[str, Any]) -> B:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise complaints_of(error) from None


async def read_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object; like FastAPI only where it says that it is JSON, or nothing."""
    content_type = request.headers.get("content-type", "application/json").partition(";")[0]
    is_json = content_type.strip().lower().endswith(("/json", "+json"))
    value = await _read_json(request) if is_json else None
    if not isinstance(value, dict):
        message = "Input should be a JSON object, sent as application/json"
        raise InvalidBody([{"type": "dict_type", "loc": ["body"], "msg": message, "input": None}])
    return value


async def _read_json(request: Request) -> Any:
    try:
        return await request.json()
    except InvalidRequest as error:
        try:
            json.loads(await request.body())
        except (ValueError, UnicodeDecodeError):
            raise InvalidBody(
                [{"type": "json_invalid", "loc": ["body"], "msg": error.message, "input": None}]
            ) from None
        except RecursionError:
            pass
        raise
