"""Client of the A1111 / Forge API: pictures from few-step models, and variations of an idea."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import httpx
from PIL import Image

#: A user name and the key; None where the server asks for none.
Auth: TypeAlias = tuple[str, str] | None

DEFAULT_URL = "http://localhost:8000"
#: A picture of many steps on a CPU takes minutes.
DEFAULT_TIMEOUT = 600.0


class ForgeError(Exception):
    """The server refused or failed; ``status`` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def build_body(
    prompt: str,
    negative_prompt: str = "",
    steps: int = 4,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The JSON body of ``POST /sdapi/v1/txt2img``, as suits few-step models; options win."""
    return {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "steps": steps,
        "width": 1024,
        "height": 1024,
        "cfg_scale": 2.0,
        "sampler_name": "Euler",
        "scheduler": "simple",
        **(options or {}),
    }


def build_prompts(base_prompt: str, variations: Iterable[str]) -> list[tuple[str, str]]:
    """Each variation and the prompt that it makes."""
    return [(variation, f"{base_prompt}, {variation}") for variation in variations]


def parse_image(response: httpx.Response) -> Image.Image:
    """The first picture of an answer. Raises ``ForgeError`` with the server's own words."""
    if not response.is_success:
        raise ForgeError(response.status_code, _message(response))
    images = response.json()["images"]
    if not images:
        raise ForgeError(response.status_code, "the call was interrupted before a picture was done")
    image = Image.open(io.BytesIO(base64.b64decode(images[0])))
    image.load()
    return image


def generate_image_turbo(
    prompt: str,
    negative_prompt: str = "",
    steps: int = 4,
    *,
    base_url: str = DEFAULT_URL,
    auth: Auth = None,
    timeout: float = DEFAULT_TIMEOUT,
    **options: Any,
) -> Image.Image:
    """A picture, fast. Further options are fields of txt2img (width, seed, ...).

    >>> generate_image_turbo("a red circle", steps=6, seed=42).save("circle.png")

    Raises ``ForgeError``.
    """
    with httpx.Client(base_url=base_url, auth=auth, timeout=timeout) as http:
        body = build_body(prompt, negative_prompt, steps, options)
        return parse_image(http.post("/sdapi/v1/txt2img", json=body))


def generate_variations(
    base_prompt: str,
    variations: Iterable[str],
    steps: int = 4,
    *,
    base_url: str = DEFAULT_URL,
    auth: Auth = None,
    timeout: float = DEFAULT_TIMEOUT,
    **options: Any,
) -> list[tuple[str, Image.Image]]:
    """Each variation with its picture of ``base_prompt``. Raises ``ForgeError``."""
    results = []
    with httpx.Client(base_url=base_url, auth=auth, timeout=timeout) as http:
        for variation, prompt in build_prompts(base_prompt, variations):
            body = build_body(prompt, steps=steps, options=options)
            results.append((variation, parse_image(http.post("/sdapi/v1/txt2img", json=body))))
    return results


async def agenerate_image_turbo(
    prompt: str,
    negative_prompt: str = "",
    steps: int = 4,
    *,
    base_url: str = DEFAULT_URL,
    auth: Auth = None,
    timeout: float = DEFAULT_TIMEOUT,  # noqa: ASYNC109 - httpx keeps it
    **options: Any,
) -> Image.Image:
    """``generate_image_turbo``, asynchronous."""
    async with httpx.AsyncClient(base_url=base_url, auth=auth, timeout=timeout) as http:
        body = build_body(prompt, negative_prompt, steps, options)
        return parse_image(await http.post("/sdapi/v1/txt2img", json=body))


async def agenerate_variations(
    base_prompt: str,
    variations: Iterable[str],
    steps: int = 4,
    *,
    base_url: str = DEFAULT_URL,
    auth: Auth = None,
    timeout: float = DEFAULT_TIMEOUT,  # noqa: ASYNC109 - httpx keeps it
    **options: Any,
) -> list[tuple[str, Image.Image]]:
    """``generate_variations``, asynchronous."""
    results = []
    async with httpx.AsyncClient(base_url=base_url, auth=auth, timeout=timeout) as http:
        for variation, prompt in build_prompts(base_prompt, variations):
            body = build_body(prompt, steps=steps, options=options)
            response = await http.post("/sdapi/v1/txt2img", json=body)
            results.append((variation, parse_image(response)))
    return results


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return response.text or response.reason_phrase
