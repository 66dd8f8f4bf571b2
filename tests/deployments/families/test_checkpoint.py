"""Bytes of modules as they are, quantized ones with all that they are made of."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from deployments.families.checkpoint import num_bytes, tensor_bytes
from deployments.families.offload import device_bytes


def test_parameters_and_buffers_count() -> None:
    module = torch.nn.BatchNorm1d(8).half()
    assert num_bytes([module]) == 4 * 8 * 2 + 8


def test_a_four_bit_weight_counts_with_its_scales() -> None:
    """As bitsandbytes keeps them beside it; they may be quantized, too."""
    packed, scales = torch.zeros(512, dtype=torch.uint8), torch.zeros(16)
    packed.quant_state = SimpleNamespace(absmax=scales, code=torch.zeros(16))  # type: ignore[attr-defined]
    assert tensor_bytes(packed) == 512 + 64 + 64
    packed.quant_state.state2 = SimpleNamespace(  # type: ignore[attr-defined]
        absmax=torch.zeros(1), code=torch.zeros(256), state2=None
    )
    assert tensor_bytes(packed) == 512 + 64 + 64 + 4 + 1024


@pytest.mark.filterwarnings("ignore")
def test_layers_of_eight_bits_count_as_such_where_they_wait() -> None:
    quantization = pytest.importorskip("torchao.quantization")
    layer = torch.nn.Linear(64, 64, bias=False).bfloat16()
    quantization.quantize_(layer, quantization.Int8WeightOnlyConfig())
    assert 64 * 64 <= num_bytes([layer]) < 64 * 64 * 2
    assert device_bytes([torch.nn.Sequential(layer)], "group") == 2 * num_bytes([layer])
