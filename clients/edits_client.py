"""Edits of pictures by prompt: ``edit_images`` over ``POST /v1/images/edits``.

    edit_images(["photo1.jpg", "photo2.jpg"], "enhance colors", api_key="your-key-here")

``edit_images_async`` is the same in an event loop; ``build_request``, ``parse_answer`` and
``save_images`` are its parts.
"""

from __future__ import annotations

import asyncio
import base64
import mimetypes
import sys
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Final, TypeAlias

import httpx

DEFAULT_URL: Final = "http://localhost:8000"
#: The dialect's form fields; ``n`` counts variants of each input picture.
DEFAULT_FIELDS: Final[Mapping[str, Any]] = {
    "negative_prompt": "low quality, blurry",
    "num_inference_steps": 50,
    "n": 2,
}
#: Seconds for connecting, and for the pictures to be made.
TIMEOUT: Final = httpx.Timeout(600.0, connect=5.0)

ImagePath: TypeAlias = str | PathLike[str]


def edit_images(
    image_paths: Sequence[ImagePath],
    prompt: str,
    api_key: str | None = None,
    *,
    base_url: str = DEFAULT_URL,
    output_dir: ImagePath = ".",
    **fields: Any,
) -> dict[str, Any]:
    """Edit each picture, save ``output_0.png``, ... and return the answer.

    Args:
        fields: form fields over the defaults: ``n``, ``size``, ``negative_prompt``, ``seed``,
            ``num_inference_steps``, ``guidance_scale``, ``true_cfg_scale``, ...; None leaves out.

    Raises ``httpx.HTTPStatusError`` for a refusal, whose ``response`` holds the reason.
    """
    request = build_request(image_paths, prompt, **fields)
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    with httpx.Client(base_url=base_url, timeout=TIMEOUT, headers=headers) as client:
        answer = parse_answer(client.request(**request))
    return _keep(answer, output_dir)


async def edit_images_async(
    image_paths: Sequence[ImagePath],
    prompt: str,
    api_key: str | None = None,
    *,
    base_url: str = DEFAULT_URL,
    output_dir: ImagePath = ".",
    **fields: Any,
) -> dict[str, Any]:
    """``edit_images`` for event loops; files are read and written in a thread."""
    request = await asyncio.to_thread(build_request, image_paths, prompt, **fields)
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    async with httpx.AsyncClient(base_url=base_url, timeout=TIMEOUT, headers=headers) as client:
        answer = parse_answer(await client.request(**request))
    return await asyncio.to_thread(_keep, answer, output_dir)


def build_request(image_paths: Sequence[ImagePath], prompt: str, **fields: Any) -> dict[str, Any]:
    """The arguments of httpx's ``request``; reads the pictures."""
    texts = {"prompt": prompt, **DEFAULT_FIELDS, **fields}
    return {
        "method": "POST",
        "url": "/v1/images/edits",
        "data": {name: str(value) for name, value in texts.items() if value is not None},
        "files": [("images", _part(Path(path))) for path in image_paths],
    }


def parse_answer(response: httpx.Response) -> dict[str, Any]:
    """The answer's JSON. Raises ``httpx.HTTPStatusError``."""
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


def save_images(answer: Mapping[str, Any], output_dir: ImagePath = ".") -> list[Path]:
    """Write ``output_{idx}.png``, or ``.safetensors`` for what ``output_type="pt"`` gives."""
    paths = []
    for idx, item in enumerate(answer["data"]):
        data = base64.b64decode(item["b64_json"])
        suffix = "png" if data.startswith(b"\x89PNG") else "safetensors"
        path = Path(output_dir) / f"output_{idx}.{suffix}"
        path.write_bytes(data)
        paths.append(path)
    return paths


def report(usage: Mapping[str, Any]) -> str:
    """The three lines that the documented client prints."""
    return (
        f"输入: {usage['input_images']} 张\n"
        f"输出: {usage['generated_images']} 张\n"
        f"处理时间: {usage['processing_time_seconds']:.2f}s\n"
    )


def _part(path: Path) -> tuple[str, bytes, str]:
    content_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return path.name, path.read_bytes(), content_type


def _keep(answer: dict[str, Any], output_dir: ImagePath) -> dict[str, Any]:
    save_images(answer, output_dir)
    sys.stdout.write(report(answer["usage"]))
    return answer
