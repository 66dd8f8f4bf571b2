"""The Qwen dialect: the graphs of its documentation as they are written there."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from deployments.errors import InvalidRequest
from deployments.types import GenerationRequest, PromptPart
from router.apis.comfyui.nodes.conditioning import encode_edit
from router.apis.comfyui.nodes.qwen import soften
from router.apis.comfyui.values import Clip, Conditioning, Images
from tests.router.apis.comfyui.easel import Easel, execution

TEXT_TO_IMAGE = json.loads("""
{
  "1": {
    "class_type": "QwenVLCLIPLoader",
    "inputs": {"model_path": "Qwen-Image-Edit-2509-FP8"}
  },
  "2": {
    "class_type": "TextEncodeQwenImageEdit",
    "inputs": {
      "text": "A beautiful mountain landscape at sunset, highly detailed, 8k",
      "clip": ["1", 0]
    }
  },
  "3": {
    "class_type": "TextEncodeQwenImageEdit",
    "inputs": {
      "text": "blurry, low quality, watermark",
      "clip": ["1", 0]
    }
  },
  "4": {
    "class_type": "QwenVLEmptyLatent",
    "inputs": {"width": 512, "height": 512, "batch_size": 1}
  },
  "5": {
    "class_type": "QwenImageSamplerNode",
    "inputs": {
      "seed": 42,
      "steps": 20,
      "cfg": 7.0,
      "sampler_name": "euler_ancestral",
      "scheduler": "normal",
      "transformer": ["1", 1],
      "positive": ["2", 0],
      "negative": ["3", 0],
      "latent_image": ["4", 0]
    }
  },
  "6": {
    "class_type": "VAEDecode",
    "inputs": {
      "samples": ["5", 0],
      "vae": ["1", 2]
    }
  },
  "7": {
    "class_type": "SaveImage",
    "inputs": {
      "filename_prefix": "Qwen_T2I",
      "images": ["6", 0]
    }
  }
}
""")
EDIT = json.loads("""
{
  "1": {"class_type": "LoadImage", "inputs": {"image": "source.png"}},
  "2": {"class_type": "QwenVLCLIPLoader", "inputs": {"model_path": "Qwen-Image-Edit-2509-FP8"}},
  "3": {"class_type": "QwenVLImageToLatent", "inputs": {"image": ["1", 0], "vae": ["2", 2]}},
  "4": {"class_type": "TextEncodeQwenImageEdit", "inputs": {"text": "Change sky to sunset", "clip": ["2", 0]}},
  "5": {"class_type": "TextEncodeQwenImageEdit", "inputs": {"text": "blurry, distorted", "clip": ["2", 0]}},
  "6": {
    "class_type": "QwenImageSamplerWithEdit",
    "inputs": {
      "seed": 42,
      "steps": 25,
      "cfg": 7.5,
      "denoise": 0.6,
      "edit_strength": 0.75,
      "transformer": ["2", 1],
      "positive": ["4", 0],
      "negative": ["5", 0],
      "image": ["3", 0]
    }
  },
  "7": {"class_type": "VAEDecode", "inputs": {"samples": ["6", 0], "vae": ["2", 2]}},
  "8": {"class_type": "SaveImage", "inputs": {"filename_prefix": "Qwen_I2I", "images": ["7", 0]}}
}
""")  # noqa: E501 - as it is written
SOURCE = Images(pixels=[np.full((96, 128, 3), 120, np.uint8)]).encoded[0]


async def drawn(graph: dict[str, Any], **more: Any) -> tuple[GenerationRequest, Easel]:
    """What the model was asked to denoise, and the canvas."""
    easel = Easel()
    await execution(easel, graph, **more).run()
    calls: list[GenerationRequest] = easel.models.calls  # type: ignore[attr-defined]
    (call,) = [call for call in calls if call.task == "generate"]
    return call, easel


async def test_text_to_image_runs_as_written() -> None:
    call, easel = await drawn(TEXT_TO_IMAGE)
    params = call.params
    assert call.model == "qwen-image-edit"
    assert (params.width, params.height, params.seed) == (512, 512, 42)
    assert (params.num_inference_steps, params.guidance_scale) == (20, 7.0)
    assert call.parts[0].text.startswith("A beautiful mountain landscape")
    assert call.negative_parts[0].text == "blurry, low quality, watermark"
    assert call.images == ()
    assert easel.result["outputs"]["7"]["images"] == [
        {"filename": "Qwen_T2I_00001_.png", "subfolder": "", "type": "output"}
    ]
    (picture,) = easel.pictures.values()
    assert (picture.width, picture.height) == (512, 512)


async def test_edit_runs_as_written() -> None:
    call, easel = await drawn(EDIT, inputs={"source.png": SOURCE})
    params = call.params
    assert (params.num_inference_steps, params.first_step) == (41, 16)
    assert (params.seed, params.guidance_scale) == (42, 7.5)
    weights = [(part.text, part.weight) for part in call.parts]
    assert weights == [("Change sky to sunset", 0.75), ("", 0.25)]
    (reference,) = call.images
    assert np.array_equal(Images(encoded=[reference]).pixels[0], Images(encoded=[SOURCE]).pixels[0])
    (picture,) = easel.pictures.values()
    assert (picture.width, picture.height) == (128, 96)


async def test_edit_of_no_denoise_is_the_picture() -> None:
    graph = json.loads(json.dumps(EDIT))
    graph["6"]["inputs"]["denoise"] = 0.0
    easel = Easel()
    await execution(easel, graph, inputs={"source.png": SOURCE}).run()
    calls: list[GenerationRequest] = easel.models.calls  # type: ignore[attr-defined]
    assert {call.task for call in calls} == {"encode", "decode"}


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.0, [("", 1.0)]),
        (0.5, [("a", 0.25), ("b", 0.25), ("", 0.5)]),
        (1.0, [("a", 0.5), ("b", 0.5)]),
    ],
)
def test_edit_strength_is_the_instructions_share(
    share: float, expected: list[tuple[str, float]]
) -> None:
    both = Conditioning(model="m", parts=(PromptPart(text="a"), PromptPart(text="b")))
    assert [(part.text, part.weight) for part in soften(both, share).parts] == expected


def test_instruction_has_either_dialects_name() -> None:
    clip = Clip(model="m")
    (ours,) = encode_edit(clip=clip, text="a")
    (theirs,) = encode_edit(clip=clip, prompt="a")
    assert ours.parts == theirs.parts == (PromptPart(text="a"),)


def test_instruction_is_needed() -> None:
    with pytest.raises(InvalidRequest, match="there is no instruction"):
        encode_edit(clip=Clip(model="m"))


async def test_seed_of_any_value_is_the_same_at_every_attempt() -> None:
    graph = json.loads(json.dumps(TEXT_TO_IMAGE))
    graph["5"]["inputs"]["seed"] = -1
    seeds = [(await drawn(graph, attempts=k))[0].params.seed for k in (1, 2)]
    other, _ = await drawn(graph, id="img_2")
    assert seeds[0] == seeds[1] != other.params.seed
    assert 0 <= (seeds[0] or 0) < 2**32
