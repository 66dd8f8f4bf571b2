"""From a job to the answer of txt2img and img2img."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from router.apis.sdapi.bodies import Generation, ImageToImage
from router.apis.sdapi.checkpoints import hash_of
from router.apis.sdapi.grid import draw_grids, encode
from router.apis.sdapi.infotext import KEYWORD, VERSION
from router.apis.sdapi.inputs import encode_base64
from router.apis.sdapi.plan import Layout
from router.apis.sdapi.samplers import Sampling
from router.belongings import Variant
from router.job import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What the answer says of one picture."""

    prompt: str
    negative_prompt: str
    seed: int
    subseed: int
    infotext: str


def render_images(
    job: Job,
    files: Sequence[bytes],
    *,
    body: Generation,
    sampling: Sampling,
    layout: Layout,
    checkpoint: Variant,
) -> dict[str, Any]:
    """The answer: grids first, then pictures; ``info`` is JSON as text. Draws: call in a thread."""
    planned = _planned(job)
    pictures = {image.place: file for image, file in zip(job.images, files, strict=True)}
    shown = [planned[place] for place in pictures] or planned[:1]
    request = job.requests[0].request
    grids = [
        encode(grid, request.output_format, request.output_quality, planned[0].infotext)
        for grid in draw_grids(layout, pictures)
    ]
    singles = list(pictures.values()) if layout.shows_pictures or not grids else []
    told = [planned[place].infotext for place in pictures] if singles else []
    infotexts = [planned[0].infotext] * len(grids) + told
    info = _info(job, shown, body=body, sampling=sampling, checkpoint=checkpoint)
    info |= {"infotexts": infotexts, "index_of_first_image": len(grids)}
    images = [encode_base64(file) for file in (*grids, *singles)] if body.send_images else []
    return {"images": images, "parameters": _echo(body), "info": json.dumps(info)}


def _planned(job: Job) -> list[Shown]:
    """Every picture that the job was to make, by place."""
    return [
        Shown(
            prompt=stored.request.prompt,
            negative_prompt=stored.request.negative_prompt,
            seed=(stored.request.params.seed or 0) + offset,
            subseed=(stored.request.params.variation_seed or 0) + offset,
            infotext=dict(stored.request.texts[offset])[KEYWORD],
        )
        for stored in job.requests
        for offset in range(stored.request.params.num_images)
    ]


def _info(
    job: Job,
    shown: Sequence[Shown],
    *,
    body: Generation,
    sampling: Sampling,
    checkpoint: Variant,
) -> dict[str, Any]:
    """What ``info`` tells; the numbers are the first picture's, as in A1111."""
    params = job.requests[0].request.params
    first, guidance = shown[0], params.true_cfg_scale
    return {
        "prompt": first.prompt,
        "all_prompts": [picture.prompt for picture in shown],
        "negative_prompt": first.negative_prompt,
        "all_negative_prompts": [picture.negative_prompt for picture in shown],
        "seed": first.seed,
        "all_seeds": [picture.seed for picture in shown],
        "subseed": first.subseed,
        "all_subseeds": [picture.subseed for picture in shown],
        "subseed_strength": params.variation_strength,
        "width": job.images[0].width if job.images else params.width,
        "height": job.images[0].height if job.images else params.height,
        "sampler_name": sampling.name,
        "cfg_scale": params.guidance_scale if guidance is None else guidance,
        "steps": params.num_inference_steps,
        "batch_size": body.batch_size,
        "restore_faces": bool(body.restore_faces),
        "face_restoration_model": None,
        "sd_model_name": checkpoint.name,
        "sd_model_hash": hash_of(checkpoint),
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": body.seed_resize_from_w,
        "seed_resize_from_h": body.seed_resize_from_h,
        "denoising_strength": body.denoising_strength,
        "extra_generation_params": {"Schedule type": sampling.label},
        "styles": body.styles or [],
        "job_timestamp": time.strftime("%Y%m%d%H%M%S", time.localtime(job.created_at)),
        "clip_skip": params.clip_skip,
        "is_using_inpainting_conditioning": False,
        "version": VERSION,
    }


def _echo(body: Generation) -> dict[str, Any]:
    """The body with its defaults; input pictures only where they are asked for."""
    echo = body.model_dump()
    if isinstance(body, ImageToImage) and not body.include_init_images:
        echo |= {"init_images": None, "mask": None}
    return echo
