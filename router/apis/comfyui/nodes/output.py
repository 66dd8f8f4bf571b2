"""Nodes that leave pictures behind: as files, or on the socket of who asked."""

from __future__ import annotations

from typing import Final

from router.apis.comfyui.drawing import Drawing
from router.apis.comfyui.node import Input, Node
from router.apis.comfyui.values import Images, Shown
from router.apis.comfyui.widgets import image

PREFIX: Final = "ComfyUI"


async def save_images(drawing: Drawing, *, images: Images, filename_prefix: str = PREFIX) -> Shown:
    """Keep them for good."""
    saved = await drawing.save(images, kind="output", prefix=filename_prefix)
    return Shown(output={"images": saved})


async def preview_images(drawing: Drawing, *, images: Images) -> Shown:
    """Keep them for a look."""
    saved = await drawing.save(images, kind="temp", prefix=PREFIX)
    return Shown(output={"images": saved})


async def send_images(drawing: Drawing, *, images: Images) -> Shown:
    """Send them whole to the socket; nothing of them is in the history."""
    await drawing.show(images)
    return Shown()


_HIDDEN: Final = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}

NODES: Final = (
    Node(
        class_type="SaveImage",
        run=save_images,
        inputs=(
            image("images"),
            Input(name="filename_prefix", type="STRING", options={"default": PREFIX}),
        ),
        category="image",
        display_name="Save Image",
        description="Keeps pictures in the folder of outputs.",
        is_output=True,
        hidden=_HIDDEN,
    ),
    Node(
        class_type="PreviewImage",
        run=preview_images,
        inputs=(image("images"),),
        category="image",
        display_name="Preview Image",
        description="Keeps pictures in the folder of temporary files.",
        is_output=True,
        hidden=_HIDDEN,
    ),
    Node(
        class_type="SaveImageWebsocket",
        run=send_images,
        inputs=(image("images"),),
        category="api/image",
        display_name="SaveImageWebsocket",
        is_output=True,
        is_cached=False,
        module="custom_nodes.websocket_image_save",
    ),
)
