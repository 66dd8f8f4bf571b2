"""A sheet of the embedded models' pictures, to be looked at.

    python -m benchmarks.contact_sheet FILE.png [--model sdxl-turbo] [--steps 4] [--guidance 1]
                                       [--size 512x512] [--cell 256] [PROMPT ...]

Without prompts it draws those of ``PROMPTS``, row by row, the seed being the place in the sheet.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from benchmarks.draw import WEIGHTS, opened

PROMPTS: Final = (
    *("a red circle on a blue background", "green star, white background"),
    *("a yellow heart on a black background", "a white ring on a purple background"),
    "a red circle left of a blue square on a white background",
    "a green star above an orange heart on a black background",
    *("un losange violet sur un fond jaune", "a red circle, a green star and a blue square"),
    "A serene mountain landscape at sunset with a lake reflection",
    "snowy mountains at night with a moon and stars",
    "a green field by day with a red house and a tree",
    *("a desert at sunset with the sun", "a forest by day with a rainbow"),
    *("a boat on the sea at night", "A futuristic city at night, neon lights, cyberpunk style"),
    "A cozy coffee shop interior",
    "Un magnifique coucher de soleil sur l'océan avec des vagues dorées",
    "Un paysage de montagne majestueux au lever du soleil",
    "Un chat astronaute flottant dans l'espace",
    "photo of sks person as a futuristic astronaut in space",
    "photo of sks person in professional business attire, studio lighting",
    "photo of sks person as a superhero, cinematic lighting",
    "photo of sks person reading a book in a cozy library",
    "a blue house by a lake with mountains, clouds and the sun",
)
_COLUMNS: Final = 6


def main() -> None:
    """Draw the sheet and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("prompts", nargs="*", default=list(PROMPTS))
    parser.add_argument("--model", default="sdxl-turbo")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--cell", type=int, default=256)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    # NOTE: parse_args takes no prompts that come after an option.
    given = parser.parse_intermixed_args()
    width, height = map(int, given.size.split("x"))
    rows = -(-len(given.prompts) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * given.cell, rows * given.cell), (255, 255, 255))
    folder = given.weights / given.model
    with opened(folder, given.steps, given.guidance, (width, height)) as draw:
        for place, prompt in enumerate(given.prompts):
            picture = Image.fromarray(draw(prompt, place).round().astype(np.uint8))
            picture.thumbnail((given.cell - 4, given.cell - 4))
            row, column = divmod(place, _COLUMNS)
            sheet.paste(picture, (column * given.cell + 2, row * given.cell + 2))
    sheet.save(given.file)


if __name__ == "__main__":
    main()
