"""The table of nodes: what a graph may be made of. Adding one is a function and its row."""

from __future__ import annotations

from typing import Final

from router.apis.comfyui.node import Node
from router.apis.comfyui.nodes import (
    composite,
    conditioning,
    filters,
    image,
    latent,
    load,
    loaders,
    mask,
    output,
    primitive,
    qwen,
    resize,
    sampling,
    vae,
)

#: Every kind of node by its name.
NODES: Final[dict[str, Node]] = {
    node.class_type: node
    for module in (
        loaders,
        conditioning,
        latent,
        vae,
        sampling,
        qwen,
        load,
        output,
        image,
        resize,
        filters,
        composite,
        mask,
        primitive,
    )
    for node in module.NODES
}
