"""The autoencoder of ``thumbnails`` once more, as an ``AutoencoderKLQwenImage``.

Its first four channels are those of ``thumbnails``, the other twelve are empty and never looked at.
The encoder is exact and needs no training, the decoder begins as a smooth enlargement. As there,
large constants beside the picture keep a normalisation, here of each place's channels by their root
mean square, from changing what it passes on.
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import Tensor

from deployments.sketch.thumbnails import BASIS, LOG_VARIANCE, SCALES, carry, clear

#: Latent channels that say something.
NUM_CHANNELS: Final = 4
_LARGE_IN: Final = 32.0
_LARGE_OUT: Final = 3.0


@torch.no_grad()
def set_thumbnails(vae: Any) -> None:
    """Change a fresh ``AutoencoderKLQwenImage`` of three halvings in place."""
    for name, module in vae.named_modules():
        if name.endswith(("conv2", "proj")):
            clear(module)
    for conv in (vae.quant_conv, vae.post_quant_conv):
        clear(conv)
        channels = range(conv.in_channels if conv is vae.post_quant_conv else vae.z_dim)
        for channel in channels:
            conv.weight[channel, channel] = 1
    vae.quant_conv.bias[vae.z_dim :] = LOG_VARIANCE
    _set_encoder(vae.encoder)
    _set_decoder(vae.decoder)


def _set_encoder(encoder: Any) -> None:
    """Average colours from level to level; the last halving writes what is to come out."""
    clear(encoder.conv_in)
    basis = torch.tensor(BASIS) * torch.tensor(SCALES[:3])[:, None]
    encoder.conv_in.weight[:3, :, -1, 1, 1] = basis
    samplers = [block.resample[1] for block in encoder.down_blocks if hasattr(block, "resample")]
    for block in encoder.down_blocks:
        if isinstance(getattr(block, "conv_shortcut", None), torch.nn.Conv3d):
            carry(block.conv_shortcut, (0, 1, 2, 3))
    for conv in samplers[:-1]:
        clear(conv)
        for channel in range(3):
            # NOTE: diffusers pads right and below only, so the first two taps are the block.
            conv.weight[channel, channel, :2, :2] = 0.25
    last = samplers[-1]
    clear(last)
    for channel, sign in ((c, s) for c in range(3) for s in (1, -1)):
        last.weight[2 * channel + (sign < 0), channel, :2, :2] = 0.25 * sign
    for row, sign in ((6, 1), (7, -1)):
        last.weight[row, 0, 0, :2] = 0.25 * sign * SCALES[3] / SCALES[0]
        last.weight[row, 0, 1, :2] = -0.25 * sign * SCALES[3] / SCALES[0]
    width = last.out_channels
    last.bias[8::2], last.bias[9::2] = _LARGE_IN, -_LARGE_IN
    clear(encoder.conv_out)
    gain = _LARGE_IN * math.sqrt((width - 8) / width)
    for channel in range(NUM_CHANNELS):
        encoder.conv_out.weight[channel, 2 * channel, -1, 1, 1] = gain
        encoder.conv_out.weight[channel, 2 * channel + 1, -1, 1, 1] = -gain


def _set_decoder(decoder: Any) -> None:
    """Carry the colours up in the first three channels, enlarging them smoothly."""
    back = (torch.tensor(BASIS) / torch.tensor(SCALES[:3])[:, None]).T
    decoder.conv_in.weight[:3] = 0
    decoder.conv_in.bias[:3] = 0
    decoder.conv_in.weight[:3, :3, -1, 1, 1] = back
    decoder.conv_in.weight[:, NUM_CHANNELS:] = 0
    tent = torch.tensor((0.25, 0.5, 0.25))
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            if isinstance(resnet.conv_shortcut, torch.nn.Conv3d):
                carry(resnet.conv_shortcut, (0, 1, 2), is_alone=False)
        for sampler in block.upsamplers or ():
            conv = sampler.resample[1]
            conv.weight[:3] = 0
            conv.bias[:3] = 0
            for channel in range(3):
                conv.weight[channel, channel] = tent[:, None] * tent
    # The last enlargement also writes the colours' opposites and the constants, which the finest
    # level's residual blocks hand on.
    conv = decoder.up_blocks[-2].upsamplers[0].resample[1]
    conv.weight[3:8] = 0
    conv.bias[3:8] = 0
    for channel in range(3):
        conv.weight[3 + channel, channel] = -tent[:, None] * tent
    conv.bias[6], conv.bias[7] = _LARGE_OUT, -_LARGE_OUT
    clear(decoder.conv_out)
    width = decoder.conv_out.in_channels
    gain = _LARGE_OUT * math.sqrt(2 / width)
    for colour in range(3):
        decoder.conv_out.weight[colour, colour, -1, 1, 1] = gain
        decoder.conv_out.weight[colour, 3 + colour, -1, 1, 1] = -gain


def qwen_latents(thumbnails: Tensor, z_dim: int = 16) -> Tensor:
    """(n, z_dim, h, w) as the denoiser sees them, of ``thumbnails`` (n, 4, h, w)."""
    empty = thumbnails.new_zeros(len(thumbnails), z_dim - NUM_CHANNELS, *thumbnails.shape[2:])
    return torch.cat([thumbnails, empty], dim=1)
