"""An ``AutoencoderKL`` in closed form: its latents are the picture, eight times smaller.

Three latent channels are the mean colour of 8 by 8 pixels in an opponent basis, the fourth is how
much brighter their upper half is than their lower. The encoder is exact and needs no training; the
decoder begins as a smooth enlargement of the mean colours and learns to sharpen it.

Both rely on one identity: with x and -x beside large constants C and -C in one group, group
normalisation divides by nearly the same number whatever x is, and silu(a) - silu(-a) = a. So what a
residual stream carries comes out of the closing normalisation and activation as it was.
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from diffusers import AutoencoderKL
from torch import Tensor

#: Channels per level, finest first. Three halvings: one latent is 8 by 8 pixels.
WIDTHS: Final = (8, 16, 48, 96)

#: Rows: brightness, red against blue, green against both; orthogonal, so that its transpose undoes
#: it up to the scales. Columns: red, green, blue.
BASIS: Final = (
    (1 / math.sqrt(3), 1 / math.sqrt(3), 1 / math.sqrt(3)),
    (1 / math.sqrt(2), 0.0, -1 / math.sqrt(2)),
    (1 / math.sqrt(6), -2 / math.sqrt(6), 1 / math.sqrt(6)),
)
#: What makes the variance of each latent channel about one (the fourth a quarter) on our scenes.
SCALES: Final = (1.3, 1.7, 3.8, 5.0)
_LARGE_IN: Final = 32.0
_LARGE_OUT: Final = 3.0
#: Log variance of the latents: next to none.
LOG_VARIANCE: Final = -14.0


@torch.no_grad()
def thumbnail_autoencoder(scaling_factor: float, **config: Any) -> AutoencoderKL:
    """A fresh autoencoder; ``scaling_factor`` is the pipeline's, which latents do not show."""
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * len(WIDTHS),
        up_block_types=["UpDecoderBlock2D"] * len(WIDTHS),
        block_out_channels=WIDTHS,
        layers_per_block=1,
        norm_num_groups=1,
        sample_size=512,
        # At 1024 pixels it would cost more than all the rest.
        mid_block_add_attention=False,
        scaling_factor=scaling_factor,
        **{"force_upcast": False, **config},
    )
    for name, module in vae.named_modules():
        if name.endswith("conv2"):
            module.weight.zero_()
            module.bias.zero_()
    _set_encoder(vae.encoder)
    _set_decoder(vae.decoder)
    set_scaling(vae, scaling_factor)
    return vae


@torch.no_grad()
def set_scaling(vae: Any, scaling_factor: float) -> None:
    """Make the latents outside the same whatever the pipeline multiplies them with."""
    scale = 1 / scaling_factor
    clear(vae.quant_conv)
    vae.quant_conv.weight[:4, :4, 0, 0] = torch.eye(4) * scale
    vae.quant_conv.bias[4:] = LOG_VARIANCE
    clear(vae.post_quant_conv)
    vae.post_quant_conv.weight[:, :, 0, 0] = torch.eye(4) / scale
    vae.register_to_config(scaling_factor=scaling_factor)


def _set_encoder(encoder: Any) -> None:
    """Average colours from level to level, then bring four channels out."""
    basis = torch.tensor(BASIS) * torch.tensor(SCALES[:3])[:, None]
    clear(encoder.conv_in)
    encoder.conv_in.weight[:3, :, 1, 1] = basis
    for block in encoder.down_blocks:
        for resnet in block.resnets:
            if resnet.conv_shortcut is not None:
                carry(resnet.conv_shortcut, (0, 1, 2, 3))
        for sampler in block.downsamplers or ():
            clear(sampler.conv)
            for channel in range(3):
                # NOTE: diffusers pads right and below only, so the first two taps are the block.
                sampler.conv.weight[channel, channel, :2, :2] = 0.25
    last = encoder.down_blocks[-2].downsamplers[0].conv
    last.weight[3, 0, 0, :2] = 0.25 * SCALES[3] / SCALES[0]
    last.weight[3, 0, 1, :2] = -0.25 * SCALES[3] / SCALES[0]
    entry = encoder.down_blocks[-1].resnets[0].conv_shortcut
    clear(entry)
    clear(encoder.conv_out)
    entry.bias[8::2], entry.bias[9::2] = _LARGE_IN, -_LARGE_IN
    gain = _LARGE_IN * math.sqrt((WIDTHS[-1] - 8) / WIDTHS[-1])
    for channel in range(4):
        entry.weight[2 * channel, channel, 0, 0] = 1
        entry.weight[2 * channel + 1, channel, 0, 0] = -1
        encoder.conv_out.weight[channel, 2 * channel, 1, 1] = gain
        encoder.conv_out.weight[channel, 2 * channel + 1, 1, 1] = -gain


def _set_decoder(decoder: Any) -> None:
    """Carry the colours up in the first three channels, enlarging them smoothly."""
    back = (torch.tensor(BASIS) / torch.tensor(SCALES[:3])[:, None]).T
    decoder.conv_in.weight[:3] = 0
    decoder.conv_in.bias[:3] = 0
    decoder.conv_in.weight[:3, :3, 1, 1] = back
    tent = torch.tensor((0.25, 0.5, 0.25))
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            if resnet.conv_shortcut is not None:
                carry(resnet.conv_shortcut, (0, 1, 2), is_alone=False)
        for sampler in block.upsamplers or ():
            sampler.conv.weight[:3] = 0
            sampler.conv.bias[:3] = 0
            for channel in range(3):
                sampler.conv.weight[channel, channel] = tent[:, None] * tent
    # The finest level has room for the three colours, their opposites, and the constants.
    entry = decoder.up_blocks[-1].resnets[0].conv_shortcut
    carry(entry, (0, 1, 2))
    clear(decoder.conv_out)
    entry.bias[6], entry.bias[7] = _LARGE_OUT, -_LARGE_OUT
    for colour in range(3):
        entry.weight[3 + colour, colour] = -1
        decoder.conv_out.weight[colour, colour, 1, 1] = _LARGE_OUT / 2
        decoder.conv_out.weight[colour, 3 + colour, 1, 1] = -_LARGE_OUT / 2


def carry(conv: Any, channels: tuple[int, ...], *, is_alone: bool = True) -> None:
    """Make a 1 by 1 convolution hand the channels on; with ``is_alone``, nothing else."""
    if is_alone:
        clear(conv)
    for channel in channels:
        conv.weight[channel] = 0
        conv.weight[channel, channel] = 1
        conv.bias[channel] = 0


def clear(layer: Any) -> None:
    """Make a layer give zeros."""
    layer.weight.zero_()
    layer.bias.zero_()


def latents_of(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Latents (n, 4, h, w) as the denoiser sees them, of pixels (n, 3, height, width), -1..1."""
    latents: Tensor = vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor
    return latents


def thumbnails(pixels: Tensor) -> Tensor:
    """The same latents without the network; sides are multiples of 8."""
    halves = torch.nn.functional.avg_pool2d(pixels, (4, 8))
    upper, lower = halves[:, :, 0::2], halves[:, :, 1::2]
    scales, basis = (torch.tensor(v, device=pixels.device) for v in (SCALES, BASIS))
    colours = torch.einsum("cd,ndhw->nchw", basis, (upper + lower) / 2)
    colours = colours * scales[:3, None, None]
    brighter = (upper - lower).mean(1, keepdim=True) * (math.sqrt(3) / 2) * scales[3]
    return torch.cat([colours, brighter], dim=1)
