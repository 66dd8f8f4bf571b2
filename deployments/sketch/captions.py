"""The words that the embedded models know: their tokenizer learns from these captions."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Final

COLOURS: Final = (
    *("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "black"),
    *("gray", "grey", "brown", "teal"),
)
SHAPES: Final = (
    *("circle", "square", "triangle", "star", "rectangle", "diamond", "heart", "ring", "cross"),
    *("ball", "cube", "hexagon", "pentagon", "oval", "ellipse", "disc", "crescent"),
)
TIMES: Final = ("day", "night", "sunset", "sunrise", "dawn", "dusk", "noon", "golden hour")
SCENES: Final = (
    *("mountain", "mountains", "lake", "sea", "ocean", "beach", "forest", "desert", "city"),
    *("hill", "hills", "field", "river", "waterfall", "valley", "island", "sky", "landscape"),
    *("village", "street", "garden", "meadow", "snow", "coast", "skyline", "castle", "bridge"),
)
COLOURS_FR: Final = (
    *("rouge", "orange", "jaune", "vert", "verte", "bleu", "bleue", "violet", "violette", "rose"),
    *("blanc", "blanche", "noir", "noire", "gris", "grise", "marron", "doré", "dorée"),
)
SHAPES_FR: Final = ("cercle", "carré", "triangle", "étoile", "rectangle", "losange", "coeur")
SCENES_FR: Final = (
    *("montagne", "montagnes", "lac", "mer", "océan", "plage", "forêt", "désert", "ville"),
    *("colline", "champ", "rivière", "cascade", "vallée", "île", "ciel", "paysage", "village"),
)
TIMES_FR: Final = ("de jour", "de nuit", "au coucher du soleil", "au lever du soleil", "à l'aube")

PROMPTS: Final = (
    "A serene mountain landscape at sunset with a lake reflection",
    "A beautiful mountain landscape at sunset, highly detailed, 8k",
    "A futuristic city at night, neon lights, cyberpunk style",
    "A cozy coffee shop interior, modern minimalist design, vintage rustic atmosphere",
    "futuristic sci-fi aesthetic, warm traditional style, clean lines, modern",
    "professional minimalist logo design",
    "Add a rainbow in the sky. Change the sky to sunset. Make the circle blue.",
    "Replace the background with a beach. Remove the moon. Turn the picture into a painting.",
    "photo of sks person as a futuristic astronaut in space",
    "photo of sks person as a superhero, cinematic lighting",
    "photo of sks person in professional business attire, studio lighting",
    "photo of sks person reading a book in a cozy library, smiling, in a professional suit",
    "a portrait of a woman, a man, a child, a dog, a cute cat, a bird, a horse, a fish, a flower",
    "a tree, a house, a boat, a car, a moon, a sun, stars, clouds, a road, a window, an apple",
    "oil painting, watercolor, pencil drawing, sketch, illustration, digital art, 3d render",
    "high quality, best quality, masterpiece, sharp focus, soft light, 4k, realistic, vivid",
    "low quality, blurry, distorted, watermark, text, ugly, deformed, bad anatomy, noise",
    "two small objects on top of each other, next to, left of, right of, between, above, below",
    "large bright dark centered solid plain simple flat color background ground shape with",
    "Un chat astronaute flottant dans l'espace",
    "Un magnifique coucher de soleil sur l'océan avec des vagues dorées",
    "Un paysage de montagne majestueux au lever du soleil",
    "Transforme cette image en style cyberpunk futuriste avec des néons bleus et roses",
    "Ajoute un arc-en-ciel dans le ciel. Remplace le fond par une plage. Change la couleur.",
    "un portrait de femme, un homme, un enfant, un chien, un oiseau, une fleur, un arbre",
    "une maison, un bateau, une voiture, la lune, le soleil, des étoiles, des nuages, une rue",
    "peinture à l'huile, aquarelle, dessin au crayon, illustration, art numérique, photo réaliste",
    "haute qualité, très détaillé, flou, basse qualité, déformé, lumière douce, grand, petit",
)


def captions() -> Iterator[str]:
    """Every caption, in a fixed order."""
    for colour, shape, ground in product(COLOURS, SHAPES, COLOURS):
        yield f"a {colour} {shape} on a {ground} background"
    for scene, time in product(SCENES, TIMES):
        yield f"a {scene} at {time}, a photo of a {scene} landscape under the sky"
    for colour, shape, ground in product(COLOURS_FR, SHAPES_FR, COLOURS_FR):
        yield f"un {shape} {colour} sur un fond {ground}"
    for scene, time in product(SCENES_FR, TIMES_FR):
        yield f"une {scene} {time}, un paysage avec le ciel"
    for _ in range(20):
        yield from PROMPTS
