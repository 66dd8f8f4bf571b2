"""What the denoiser of the embedded Qwen-Image-Edit can do before it is trained: look up.

An edit mostly copies. So the first layer begins with two attention heads that look from each place
of the picture to the same place of the first and of the second reference: with constant queries and
keys, rotary positions alone decide, and their energies are chosen so that the same place of the
right frame wins. The last layer begins as the flow towards what the first head found: what is
noisy less what is there. All else begins as next to nothing, and is learnt.
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import Tensor

from deployments.sketch.qwen_thumbnails import NUM_CHANNELS

#: Numbers of a token that say something: of its two by two latents, the channels that do.
NUM_SAYING: Final = 4 * NUM_CHANNELS
#: How queries and keys are scaled where positions turn fast, so that one place stands out.
_SHARP: Final = 3.4
#: Energy of a looking head per turning pair: of the frame, the row, the column. Frequencies fall
#: within each; the first turns by one radian per place.
_FRAME: Final = (15.0,)
_SIDE: Final = (5.0, 3.0, 0.5)
#: Constants in a token, beside which layer norms hardly change what it holds.
_NUM_CONSTANTS: Final = 16
_LARGE: Final = 4.0


@torch.no_grad()
def set_beginning(model: Any) -> None:
    """Change a fresh ``QwenImageTransformer2DModel`` in place."""
    width = model.inner_dim
    model.img_in.weight.zero_()
    model.img_in.bias.zero_()
    model.img_in.weight[:NUM_SAYING, :NUM_SAYING] = torch.eye(NUM_SAYING)
    constants = model.img_in.bias[-_NUM_CONSTANTS:]
    constants[0::2], constants[1::2] = _LARGE, -_LARGE
    spread = _LARGE * math.sqrt(_NUM_CONSTANTS / width)  # which a layer norm divides by
    model.proj_out.weight.zero_()
    model.proj_out.bias.zero_()
    same = spread * torch.eye(NUM_SAYING)
    model.proj_out.weight[:NUM_SAYING, : 2 * NUM_SAYING] = torch.cat([same, -same], dim=1)
    model.norm_out.linear.weight.mul_(0.1)
    model.norm_out.linear.bias.zero_()
    for block in model.transformer_blocks:
        for modulation in (block.img_mod[1], block.txt_mod[1]):
            modulation.weight.mul_(0.1)
            modulation.bias.zero_()
            for gate in (2, 5):
                modulation.bias[gate * width : (gate + 1) * width] = 1
        for mlp in (block.img_mlp, block.txt_mlp):
            mlp.net[2].weight.mul_(0.1)
        for out in (block.attn.to_out[0], block.attn.to_add_out):
            out.weight.mul_(0.1)
    _set_looking(model, spread)


def _set_looking(model: Any, spread: float) -> None:
    attention = model.transformer_blocks[0].attn
    size = model.config.attention_head_dim
    axes = model.config.axes_dims_rope
    fast = [*range(2), *range(axes[0], axes[0] + 4), *range(axes[0] + axes[1], size)[:4]]
    for norm in (attention.norm_q, attention.norm_k):
        norm.weight[fast] = _SHARP
    for head, frame in enumerate((1, 2)):
        rows = slice(head * size, (head + 1) * size)
        for linear, turn in ((attention.to_q, frame), (attention.to_k, 0)):
            linear.weight[rows] = 0
            linear.bias[rows] = _energies(size, axes, turn)
        attention.to_v.weight[rows] = 0
        attention.to_v.bias[rows] = 0
        attention.to_out[0].weight[:, rows] = 0
        attention.to_v.weight[rows][:NUM_SAYING, :NUM_SAYING] = spread * torch.eye(NUM_SAYING)
        target = slice((head + 1) * NUM_SAYING, (head + 2) * NUM_SAYING)
        attention.to_out[0].weight[target] = 0
        attention.to_out[0].bias[target] = 0
        attention.to_out[0].weight[target, head * size : head * size + NUM_SAYING] = torch.eye(
            NUM_SAYING
        )


def _energies(size: int, axes: Any, frame: int) -> Tensor:
    """A constant query or key, whose frame part is turned ahead by so many frames."""
    vector = torch.full((size,), 1e-3)
    vector[0] = math.sqrt(_FRAME[0]) * math.cos(frame)
    vector[1] = math.sqrt(_FRAME[0]) * math.sin(frame)
    for begin in (axes[0], axes[0] + axes[1]):
        for pair, energy in enumerate(_SIDE):
            vector[begin + 2 * pair] = math.sqrt(energy)
    return vector
