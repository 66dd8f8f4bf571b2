"""The denoiser's architecture: most of it works far below the latents' resolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from diffusers import UNet2DConditionModel

#: Channels per level, finest first. Five levels: the coarsest of a 256 pixel picture is 2 by 2, so
#: that a network of few layers sees where in the picture it is.
WIDTHS: Final = (32, 64, 96, 128, 160)


def unet(
    cross_attention_dim: int, *, widths: Sequence[int] = WIDTHS, in_channels: int = 4, **config: Any
) -> UNet2DConditionModel:
    """A fresh one; text is attended to at all levels but the two finest, which cost most."""
    num_plain = min(2, len(widths) - 1)
    num_attending = len(widths) - num_plain
    return UNet2DConditionModel(
        sample_size=64,
        in_channels=in_channels,
        down_block_types=[
            *["DownBlock2D"] * num_plain,
            *["CrossAttnDownBlock2D"] * num_attending,
        ],
        up_block_types=[*["CrossAttnUpBlock2D"] * num_attending, *["UpBlock2D"] * num_plain],
        block_out_channels=tuple(widths),
        layers_per_block=1,
        attention_head_dim=4,
        use_linear_projection=True,
        norm_num_groups=8,
        cross_attention_dim=cross_attention_dim,
        **config,
    )
