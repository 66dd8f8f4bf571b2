"""QwenAutoencoder: between pictures and latents, by a video autoencoder that sees one frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d
from torch import nn
from torch.nn.functional import conv2d

from deployments.families.autoencoder import Autoencoder

if TYPE_CHECKING:
    from torch import Tensor


class QwenAutoencoder(Autoencoder):
    """An ``AutoencoderKLQwenImage`` with its statistics; latents outside are float32 and scaled.

    Args:
        device: where it computes, which it need not be on before it is called.
        home: where latents come out.
    """

    def __init__(self, vae: Any, device: torch.device, home: torch.device) -> None:
        self.vae = vae
        self.factor = int(2 ** len(vae.config.temperal_downsample))
        self.channels = int(vae.config.z_dim)
        self._device, self._home = device, home
        self._mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1)
        self._std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1)

    @property
    def device(self) -> torch.device:
        """Where latents come out."""
        return self._home

    def encode(self, pixels: Tensor, *, is_tiling: bool = False) -> Any:
        """The distribution of the latents of (n, 3, height, width) pixels, -1..1."""
        assert not is_tiling
        return self.vae.encode(pixels[:, :, None].to(self._device, self.vae.dtype)).latent_dist

    def decode(self, latents: Tensor, *, is_tiling: bool = False) -> Tensor:
        """Pixels (n, 3, height, width), 0..1, float32, of scaled latents."""
        assert not is_tiling
        spread, shift = self._std.to(latents.device), self._mean.to(latents.device)
        frames = (latents * spread + shift)[:, :, None].to(self._device, self.vae.dtype)
        pixels: Tensor = self.vae.decode(frames, return_dict=False)[0][:, :, 0]
        return (pixels.float() * 0.5 + 0.5).clamp(0, 1)

    def _scaled(self, latents: Tensor) -> Tensor:
        spread, shift = self._std.to(self._home), self._mean.to(self._home)
        return (latents[:, :, 0].to(self._home) - shift) / spread


class StillConv(QwenImageCausalConv3d):  # type: ignore[misc]
    """A causal 3D convolution for a single first frame: of its kernel only the newest slice.

    The frames before the first are zeros, so the others add nothing.
    """

    def __init__(self, conv: Any) -> None:
        with torch.device("meta"):
            super().__init__(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride)
        self.weight = nn.Parameter(conv.weight.detach()[:, :, -1].clone(), requires_grad=False)
        self.bias = nn.Parameter(conv.bias.detach(), requires_grad=False)
        self._padding = conv._padding

    def forward(self, frames: Tensor, cache: Tensor | None = None) -> Tensor:
        """(n, channels, 1, height, width) to the same with its own channels."""
        assert cache is None
        assert frames.shape[2] == 1
        return see_still(self, self.weight, frames)


def see_still(conv: Any, weight: Tensor, frames: Tensor) -> Tensor:
    """What a causal convolution makes of a first frame, with the newest slice of its weight."""
    padding = conv._padding[2], conv._padding[0]
    # A processor takes three quarters of the time for channels that lie side by side.
    still = frames[:, :, 0].contiguous(memory_format=torch.channels_last)
    return conv2d(still, weight, conv.bias, conv.stride[1:], padding)[:, :, None]


def see_stills(vae: Any) -> None:
    """Let an ``AutoencoderKLQwenImage`` work on single frames alone, in a third of the time."""
    for module in list(vae.modules()):
        for name, child in list(module.named_children()):
            # NOTE: the convolutions over time alone never run for a first frame.
            if isinstance(child, QwenImageCausalConv3d) and name != "time_conv":
                setattr(module, name, StillConv(child))
