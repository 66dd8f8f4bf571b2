"""What the denoiser of the embedded Qwen-Image-Edit can do before it is trained: mostly copy.

An edit mostly copies. The denoiser begins as one that copies the first reference exactly, down to
little noise, and draws nothing where there is none; what a lesson adds is what differs.
Three things make it so, and no lesson changes them (``hold``):

- The first layer has two attention heads that look from each place of the picture to the same place
  of the first and of the second reference: queries and keys are constant, so rotary positions alone
  decide, and their energies are chosen so that the same place of the right frame wins. Where there
  is none, the text's tokens win, which say nothing.
- Large constants stand beside what a token holds, so that layer norms hardly change it, and with
  each number of its own the negative, so that the mean they take away is nothing before the heads
  look; at the end it cancels, as one number is taken from another.
- The last layer is the flow away from what the first head found: what is noisy less what is there,
  by the noise level. For x = (1 - s) x0 + s e the flow e - x0 is (x - x0) / s.

Two things more are there from the beginning, since with rotary positions alone it takes long to
learn where in a picture something is and what lies beside it: four more of the first layer's heads
tell how far a place is from each side of the picture, and are held, too, since lessons on edits, in
which the picture itself shows where things are, blur what they tell; and the second layer's heads
look at the places around, for a lesson to use and to change.
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import Tensor

from deployments.sketch.qwen_places import NUM_TELLING, Offset, look, silence, tell_places
from deployments.sketch.qwen_thumbnails import NUM_CHANNELS

#: Numbers of a token that say something: of its two by two latents, the channels that do.
NUM_SAYING: Final = 4 * NUM_CHANNELS
#: What a token holds in its first dimensions: its own numbers, what lies at the same place of both
#: references, its own numbers' negatives, and whether there is a first and a second reference.
OWN, FIRST, SECOND, NEGATIVE = (slice(k * NUM_SAYING, (k + 1) * NUM_SAYING) for k in range(4))
PRESENT: Final = (4 * NUM_SAYING, 4 * NUM_SAYING + 1)
#: Dimensions that no lesson writes to, besides the constants in the last ones.
NUM_HELD: Final = 4 * NUM_SAYING + 2
NUM_CONSTANTS: Final = 16
_LARGE: Final = 24.0
#: Heads of the first layer that look at references.
_NUM_COPYING: Final = 2
#: What the second layer's heads look at: in the same frame, one row or column away.
_BESIDE: Final[tuple[Offset, ...]] = ((0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))
#: Noise level below which the flow is no longer divided by less.
_LEAST: Final = 0.08
#: Of the 128 frequencies that a noise level is told in, those that turn too fast to be of use, and
#: how loud the embedding's two layers are: so a sum of its numbers is any smooth function.
_TOO_FAST: Final = 40
_LOUDNESS: Final = (4.0, 2.0)
_RIDGE: Final = 1e-4


@torch.no_grad()
def set_beginning(model: Any) -> None:
    """Change a fresh ``QwenImageTransformer2DModel`` in place."""
    width = model.inner_dim
    model.img_in.weight.zero_()
    model.img_in.bias.zero_()
    model.img_in.weight[OWN, :NUM_SAYING] = torch.eye(NUM_SAYING)
    model.img_in.weight[NEGATIVE, :NUM_SAYING] = -torch.eye(NUM_SAYING)
    constants = model.img_in.bias[-NUM_CONSTANTS:]
    constants[0::2], constants[1::2] = _LARGE, -_LARGE
    spread = _LARGE * math.sqrt(NUM_CONSTANTS / width)  # which a layer norm divides by
    for block in model.transformer_blocks:
        _set_block(block, width, spread)
    first, second, *_ = model.transformer_blocks
    _set_copying(first.attn, model.config)
    tell_places(first.attn, model.config, begin=_NUM_COPYING)
    first.img_mod[1].weight[_looked_at(width)] = 0
    _set_neighbours(second, model.config)
    _set_flow(model, spread)


def _set_block(block: Any, width: int, spread: float) -> None:
    """Numbers are read as they are, constants are not, and little is written."""
    for modulation in (block.img_mod[1], block.txt_mod[1]):
        modulation.weight.mul_(0.1)
        modulation.bias.zero_()
        for gate in (2, 5):
            modulation.bias[gate * width : (gate + 1) * width] = 1
    for scale in (1, 4):
        block.img_mod[1].bias[scale * width : (scale + 1) * width] = spread - 1
    attention = block.attn
    for reading in (attention.to_q, attention.to_k, attention.to_v, block.img_mlp.net[0].proj):
        reading.weight[:, -NUM_CONSTANTS:] = 0
    for writing in (attention.to_out[0], block.img_mlp.net[2]):
        writing.weight.mul_(0.1)
        for part in (writing.weight, writing.bias):
            part[:NUM_HELD] = 0
            part[-NUM_CONSTANTS:] = 0
    for writing in (attention.to_add_out, block.txt_mlp.net[2]):
        writing.weight.mul_(0.1)


def _set_copying(attention: Any, config: Any) -> None:
    """The first heads look from each place to the same place of the references."""
    size = config.attention_head_dim
    look(attention, config, [(1, 0, 0), (2, 0, 0)])
    silence(attention, slice(_NUM_COPYING * size))
    for head, found in enumerate((FIRST, SECOND)):
        values = slice(head * size, head * size + NUM_SAYING)
        attention.to_v.weight[values, OWN] = torch.eye(NUM_SAYING)
        attention.to_v.bias[values.stop] = 1
        attention.to_out[0].weight[found, values] = torch.eye(NUM_SAYING)
        attention.to_out[0].weight[PRESENT[head], values.stop] = 1


def _set_neighbours(block: Any, config: Any) -> None:
    """The first heads see what the first reference holds above, below, left and right of a place.

    At a border it is what lies nearest. The layer writes nothing to the picture yet, so that what
    copies stays exact; what its heads find shows a lesson the way.
    """
    attention, size = block.attn, config.attention_head_dim
    look(attention, config, _BESIDE)
    for head in range(len(_BESIDE)):
        saying = slice(head * size, head * size + NUM_SAYING)
        silence(attention, saying)
        attention.to_v.weight[saying, FIRST] = torch.eye(NUM_SAYING)
    for writing in (attention.to_out[0], block.img_mlp.net[2]):
        writing.weight.zero_()
        writing.bias.zero_()


def _set_flow(model: Any, spread: float) -> None:
    """The last layer: by the noise level, what a token holds of its own less what it found."""
    embedder = model.time_text_embed.timestep_embedder
    for layer, loudness in zip((embedder.linear_1, embedder.linear_2), _LOUDNESS, strict=True):
        layer.weight.mul_(loudness)
    embedder.linear_1.weight.view(layer.out_features, 2, -1)[:, :, :_TOO_FAST] = 0
    levels = torch.cat([torch.linspace(0.004, 1, 997), torch.linspace(0.02, 0.25, 500)])
    told = torch.nn.functional.silu(model.time_text_embed(levels, levels[:, None])).double()
    wanted = (spread / levels.clamp(min=_LEAST) - 1).double()
    told = told / wanted[:, None]  # relative errors shall be small
    ridge = _RIDGE * torch.eye(told.shape[1], dtype=torch.float64)
    factors = torch.linalg.solve(told.T @ told + ridge, told.sum(dim=0))
    scales, shifts = model.norm_out.linear.weight.chunk(2)
    scales.copy_(factors.float().expand_as(scales))
    shifts.zero_()
    model.norm_out.linear.bias.zero_()
    model.proj_out.weight.zero_()
    model.proj_out.bias.zero_()
    model.proj_out.weight[:NUM_SAYING, OWN] = torch.eye(NUM_SAYING)
    model.proj_out.weight[:NUM_SAYING, FIRST] = -torch.eye(NUM_SAYING)


def hold(model: Any) -> None:
    """From now on no gradient reaches what the copying rests on, nor the heads that tell places, in
    a model that ``set_beginning`` has begun."""
    width = model.inner_dim
    kept = _kept(width)
    for module in (model.img_in, model.time_text_embed):
        module.requires_grad_(False)
    for block in model.transformer_blocks:
        attention = block.attn
        for reading in (attention.to_q, attention.to_k, attention.to_v, block.img_mlp.net[0].proj):
            _let_be(reading.weight, columns=kept[NUM_HELD:])
        for writing in (attention.to_out[0], block.img_mlp.net[2]):
            _let_be(writing.weight, rows=kept)
            _let_be(writing.bias, rows=kept)
    first = model.transformer_blocks[0]
    attention = first.attn
    size = model.config.attention_head_dim
    constant = list(range((_NUM_COPYING + NUM_TELLING) * size))
    copying = list(range(_NUM_COPYING * size))
    for norm in (attention.norm_q, attention.norm_k, attention.norm_added_k):
        norm.requires_grad_(False)
    keys, values = (attention.to_k, attention.add_k_proj), (attention.to_v, attention.add_v_proj)
    for linear in (attention.to_q, *keys, *values):
        _let_be(linear.weight, rows=constant)
        _let_be(linear.bias, rows=constant)
    _let_be(attention.to_out[0].weight, columns=copying)
    for part in (first.img_mod[1].weight, first.img_mod[1].bias):
        _let_be(part, rows=_looked_at(width))
    scaling = [part * width + place for part in range(2) for place in kept]
    _let_be(model.norm_out.linear.weight, rows=scaling)
    _let_be(model.norm_out.linear.bias, rows=scaling)
    _let_be(model.proj_out.weight, columns=kept)


def _kept(width: int) -> list[int]:
    """The dimensions that no lesson writes to."""
    return [*range(NUM_HELD), *range(width - NUM_CONSTANTS, width)]


def _looked_at(width: int) -> list[int]:
    """Of the first layer's modulations those of what its looking heads read and write."""
    return [part * width + place for part in range(3) for place in _kept(width)]


def _let_be(
    parameter: Tensor, *, rows: list[int] | None = None, columns: list[int] | None = None
) -> None:
    """Leave these rows or columns out of every gradient."""
    taken = torch.ones_like(parameter)
    if rows is not None:
        taken[rows] = 0
    if columns is not None:
        taken[:, columns] = 0
    parameter.register_hook(lambda gradient: gradient * taken)  # type: ignore[no-untyped-call]
