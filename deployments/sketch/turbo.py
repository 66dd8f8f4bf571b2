"""Makes a Stable Diffusion XL of the trained Stable Diffusion 1, with the same pictures at first.

SDXL steers its UNet with two text encoders' states before the last layer and without the closing
norm, with the second one's pooled text, and with sizes. Here the first encoder is narrow and says
nothing, which keeps the folder small. The second is the first model's with two layers more: one
whose residual block is exactly the closing norm, and one that adds nothing.
"""

from __future__ import annotations

import copy
from typing import Any, Final

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from deployments.sketch.train_text_encoder import NUM_LAYERS, WIDTH, text_config
from deployments.sketch.unet import unet

#: Width of the encoder that says nothing.
SILENT_WIDTH: Final = 8
#: Width of each of the six numbers of ``time_ids`` in the UNet.
_SIZE_WIDTH: Final = 32
#: The residual stream is made this small, so that it vanishes beside the norm that is added to it.
_SMALL: Final = 1 / 64
#: What is added is this much larger than the norm; the UNet's first look at it is as much smaller.
LOUD: Final = 16.0


@torch.no_grad()
def turbo_encoders(tokenizer: Any, trained: Any) -> tuple[Any, Any]:
    """SDXL's two text encoders, from Stable Diffusion 1's."""
    num_layers = NUM_LAYERS + 2  # of both, as a request that skips some skips them of both
    first = CLIPTextModel(text_config(tokenizer, width=SILENT_WIDTH, num_layers=num_layers))
    for parameter in first.parameters():
        parameter.zero_()
    config = text_config(tokenizer, num_layers=num_layers)
    # NOTE: a norm of small numbers is the same only if what guards it from zero is as small.
    config.layer_norm_eps = trained.config.layer_norm_eps * _SMALL**2
    second = CLIPTextModelWithProjection(config)
    _grow(second.text_model, getattr(trained, "text_model", trained))
    second.text_projection.weight.copy_(torch.eye(WIDTH))
    return first, second


def beside_silence(hidden: torch.Tensor) -> torch.Tensor:
    """What both encoders say (..., width), or what hears it, of the second one's alone."""
    return torch.nn.functional.pad(hidden, (SILENT_WIDTH, 0))


def _grow(model: Any, trained: Any) -> None:
    state = {name: tensor for name, tensor in trained.state_dict().items() if "final" not in name}
    for name in state:
        if "embedding" in name or "out_proj" in name or "fc2" in name:
            state[name] = state[name] * _SMALL
    model.load_state_dict(state, strict=False)
    norming, idle = model.encoder.layers[-2:]
    for layer in (norming, idle):
        for linear in (layer.self_attn.out_proj, layer.mlp.fc1, layer.mlp.fc2):
            linear.weight.zero_()
            linear.bias.zero_()
    norming.layer_norm2.load_state_dict(trained.final_layer_norm.state_dict())
    # act(x) - act(-x) = x for CLIP's activation, x sigmoid(1.702 x): the block hands the norm on.
    eye = torch.eye(WIDTH)
    norming.mlp.fc1.weight[: 2 * WIDTH] = torch.cat([eye, -eye])
    norming.mlp.fc2.weight[:, : 2 * WIDTH] = torch.cat([eye, -eye], dim=1) * LOUD


@torch.no_grad()
def turbo_unet(trained: Any) -> UNet2DConditionModel:
    """SDXL's UNet, from Stable Diffusion 1's; pooled text and sizes add nothing yet."""
    model = unet(
        SILENT_WIDTH + WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=_SIZE_WIDTH,
        projection_class_embeddings_input_dim=6 * _SIZE_WIDTH + WIDTH,
    )
    state = copy.copy(trained.state_dict())
    for name, tensor in state.items():
        if "attn2.to_k" in name or "attn2.to_v" in name:
            state[name] = beside_silence(tensor) / LOUD
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected or not all(name.startswith("add_embedding") for name in missing):
        raise ValueError(f"these UNets do not fit: {missing} {unexpected}")
    model.add_embedding.linear_2.weight.zero_()
    model.add_embedding.linear_2.bias.zero_()
    return model


@torch.no_grad()
def amplify(model: Any, factor: float) -> Any:
    """Multiply the layers that look at the text first; the same model, changed in place."""
    for name, parameter in model.named_parameters():
        if "attn2.to_k" in name or "attn2.to_v" in name:
            parameter.mul_(factor)
    return model


@torch.no_grad()
def plain_unet(trained: Any) -> UNet2DConditionModel:
    """Stable Diffusion 1's UNet, from SDXL's: what that draws without pooled text and sizes."""
    model = unet(WIDTH)
    state = {k: v for k, v in trained.state_dict().items() if not k.startswith("add_embedding")}
    for name, tensor in state.items():
        if "attn2.to_k" in name or "attn2.to_v" in name:
            state[name] = tensor[:, SILENT_WIDTH:] * LOUD
    model.load_state_dict(state)
    return model
