"""The words that the embedded models know, and what each of them stands for."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

#: Colour -> its words. The first is the commonest.
COLOURS: Final[dict[str, tuple[str, ...]]] = {
    "red": ("red", "red", "red", "crimson"),
    "orange": ("orange",),
    "yellow": ("yellow", "yellow", "yellow", "golden"),
    "green": ("green",),
    "blue": ("blue",),
    "purple": ("purple", "purple", "purple", "violet"),
    "pink": ("pink", "pink", "pink", "rose"),
    "white": ("white",),
    "black": ("black",),
    "gray": ("gray", "grey"),
    "brown": ("brown",),
    "teal": ("teal", "teal", "teal", "turquoise"),
}
KINDS: Final[dict[str, tuple[str, ...]]] = {
    "circle": ("circle", "circle", "circle", "ball", "disc", "disk", "dot"),
    "square": ("square", "square", "square", "box", "cube"),
    "triangle": ("triangle",),
    "star": ("star",),
    "diamond": ("diamond", "diamond", "rhombus"),
    "ring": ("ring", "ring", "donut"),
    "heart": ("heart",),
}
SIZES: Final = ("large ", "big ", "solid ", "plain ", "flat ", "single ", "simple ")
#: How a picture of shapes and its ground are said.
GROUNDS: Final = (
    *(["{picture} on a {ground} background"] * 4),
    *(["{picture}, {ground} background"] * 2),
    "{picture} on {ground}",
    "{picture} {ground} background",
    "{picture} on a plain {ground} background",
    "{picture} centered on a {ground} background",
    "{picture} in front of a {ground} background",
    "{picture} against a {ground} background",
    "{picture} on a solid {ground} ground",
    "{ground} background with {picture}",
    "{ground} background, {picture}",
    "on a {ground} background, {picture}",
    "{picture}. the background is {ground}",
)
#: Layout -> what stands between first and second, and between second and first.
RELATIONS: Final = {
    "beside": (("left of", "to the left of", "on the left of"), ("right of", "to the right of")),
    "stacked": (("above", "over", "on top of"), ("below", "under", "beneath")),
}
COLOURS_FR: Final[dict[str, tuple[str, str]]] = {
    "red": ("rouge", "rouge"),
    "orange": ("orange", "orange"),
    "yellow": ("jaune", "jaune"),
    "green": ("vert", "verte"),
    "blue": ("bleu", "bleue"),
    "purple": ("violet", "violette"),
    "pink": ("rose", "rose"),
    "white": ("blanc", "blanche"),
    "black": ("noir", "noire"),
    "gray": ("gris", "grise"),
    "brown": ("marron", "marron"),
    "teal": ("turquoise", "turquoise"),
}
_KINDS_FR: Final = {
    "circle": "cercle",
    "square": "carré",
    "triangle": "triangle",
    "star": "étoile",
    "diamond": "losange",
    "ring": "anneau",
    "heart": "coeur",
}
RELATIONS_FR: Final = {"beside": "à gauche d'{}", "stacked": "au-dessus d'{}"}


def french_shape(kind: str, colour: str) -> str:
    """Such as ``une étoile verte``."""
    is_feminine = kind == "star"
    article = "une" if is_feminine else "un"
    return f"{article} {_KINDS_FR[kind]} {COLOURS_FR[colour][is_feminine]}"


@dataclass(frozen=True, slots=True)
class Lexicon:
    """What landscapes are told with in one language."""

    times: dict[str, tuple[str, ...]]
    lands: dict[str, tuple[str, ...]]
    things: dict[str, tuple[str, ...]]
    alpine: tuple[str, ...]
    landscape: tuple[str, ...]
    adjectives: tuple[str, ...]
    having: str
    conjunction: str
    houses: tuple[str, ...]
    colours: dict[str, str]

    def house(self, colour: str, rng: Random) -> str:
        """The house with its colour."""
        return rng.choice(self.houses).format(self.colours[colour])

    def joined(self, parts: list[str]) -> str:
        """``a, b and c``."""
        *others, last = parts
        return f"{', '.join(others)} {self.conjunction} {last}" if others else last


ENGLISH: Final = Lexicon(
    times={
        "day": ("by day", "in daylight", "at noon", "on a sunny day", "under a blue sky", "day"),
        "sunset": (
            *("at sunset", "at sunset", "at sunset", "sunset", "at dusk", "at sunrise", "at dawn"),
            *("during golden hour", "in the evening", "under a sunset sky"),
        ),
        "night": ("at night", "at night", "at night", "night", "at midnight", "under a night sky"),
    },
    lands={
        "field": (
            "a field",
            "a green field",
            "a meadow",
            "the countryside",
            "green hills",
            "grass",
        ),
        "lake": ("a lake", "a lake", "a lake reflection", "a calm lake", "a pond", "a river"),
        "sea": ("the sea", "the ocean", "ocean waves", "a beach", "the coast", "golden waves"),
        "desert": ("a desert", "a desert", "sand dunes", "a sandy desert"),
        "forest": ("a forest", "a forest", "the woods", "a pine forest", "fir trees"),
        "snow": ("snow", "a snowy field", "a winter landscape", "snowy ground"),
        "city": ("a city", "a city", "a futuristic city", "a city skyline", "a town", "a street"),
        "cafe": ("a coffee shop interior", "a cozy coffee shop", "a cafe", "a room interior"),
    },
    things={
        "sun": ("a sun", "the sun", "a bright sun", "a yellow sun"),
        "moon": ("a moon", "the moon", "a full moon", "a bright moon", "moonlight"),
        "stars": ("stars", "stars", "bright stars", "a starry sky", "many stars"),
        "clouds": ("clouds", "clouds", "white clouds", "a cloudy sky", "a cloud"),
        "rainbow": ("a rainbow", "a rainbow", "a rainbow in the sky", "a colorful rainbow"),
        "mountains": ("mountains", "mountains", "snowy mountains", "mountain peaks", "a mountain"),
        "tree": ("a tree", "a tree", "a green tree", "a big tree"),
        "boat": ("a boat", "a boat", "a sailboat", "a ship"),
    },
    alpine=("a mountain landscape", "mountain landscape", "a mountain range", "mountains"),
    landscape=("a landscape", "landscape", "a view", "scenery"),
    adjectives=("serene ", "beautiful ", "peaceful ", "majestic ", "photo of ", "painting of "),
    having="with",
    conjunction="and",
    houses=("a {} house", "a {} house", "a {} cottage", "a small {} house"),
    colours={c: c for c in COLOURS},
)
FRENCH: Final = Lexicon(
    times={
        "day": ("de jour", "en plein jour", "sous un ciel bleu", "à midi"),
        "sunset": (
            *("au coucher du soleil", "coucher de soleil", "au lever du soleil", "à l'aube"),
            *("au crépuscule", "le soir"),
        ),
        "night": ("la nuit", "de nuit", "à minuit", "sous un ciel nocturne"),
    },
    lands={
        "field": ("un champ", "une prairie", "la campagne", "des collines vertes"),
        "lake": ("un lac", "le reflet d'un lac", "un étang", "une rivière"),
        "sea": ("la mer", "l'océan", "des vagues", "une plage", "l'océan avec des vagues dorées"),
        "desert": ("un désert", "des dunes de sable"),
        "forest": ("une forêt", "des sapins", "les bois"),
        "snow": ("la neige", "un champ de neige"),
        "city": ("une ville", "une ville futuriste", "des gratte-ciel"),
        "cafe": ("un café", "l'intérieur d'un café"),
    },
    things={
        "sun": ("un soleil", "le soleil"),
        "moon": ("la lune", "une pleine lune"),
        "stars": ("des étoiles", "un ciel étoilé"),
        "clouds": ("des nuages", "un ciel nuageux"),
        "rainbow": ("un arc-en-ciel", "un arc-en-ciel dans le ciel"),
        "mountains": ("des montagnes", "des montagnes enneigées", "une montagne"),
        "tree": ("un arbre", "un grand arbre"),
        "boat": ("un bateau", "un voilier"),
    },
    alpine=("un paysage de montagne", "un paysage de montagne majestueux", "des montagnes"),
    landscape=("un paysage", "une vue"),
    adjectives=("un magnifique tableau de ", "une photo de ", "une belle image de "),
    having="avec",
    conjunction="et",
    houses=("une maison {}", "une petite maison {}"),
    colours={colour: feminine for colour, (_, feminine) in COLOURS_FR.items()},
)

#: Who a figure is; the users' own figures share the words of ``default``.
LOOKS: Final[dict[str, tuple[str, ...]]] = {
    "someone": ("a person", "a man", "a woman", "someone", "a portrait of a person"),
    "cat": ("a cat", "a cat", "a cute cat", "a kitten"),
    "default": ("photo of sks person", "photo of sks person", "sks person", "a sks person"),
}
LOOKS_FR: Final[dict[str, tuple[str, ...]]] = {
    "someone": ("une personne", "un homme", "une femme"),
    "cat": ("un chat",),
    "default": ("photo de sks person", "sks person"),
}
OUTFITS: Final[dict[str, tuple[str, ...]]] = {
    "plain": ("", "", "smiling", "portrait"),
    "astronaut": ("as an astronaut", "as a futuristic astronaut", "in a space suit", "astronaut"),
    "superhero": ("as a superhero", "as a superhero, cinematic lighting", "with a cape"),
    "suit": ("in professional business attire", "in a professional suit", "in a suit with a tie"),
    "reader": ("reading a book", "with a book", "reading"),
}
OUTFITS_FR: Final[dict[str, tuple[str, ...]]] = {
    "plain": ("", "souriant"),
    "astronaut": ("astronaute", "en astronaute"),
    "superhero": ("en super-héros",),
    "suit": ("en costume", "en tenue professionnelle"),
    "reader": ("lisant un livre",),
}
PLACES: Final[dict[str, tuple[str, ...]]] = {
    "studio": ("in a studio", ", studio lighting", "on a gray background"),
    "space": ("in space", "floating in space", "in outer space"),
    "skyline": ("over the city", "in front of a skyline", "above a city at sunset"),
    "library": ("in a library", "in a cozy library", "in front of bookshelves"),
    "meadow": ("in a meadow", "outdoors", "in a park", "on the grass"),
}
PLACES_FR: Final[dict[str, tuple[str, ...]]] = {
    "studio": ("dans un studio",),
    "space": ("dans l'espace", "flottant dans l'espace"),
    "skyline": ("au-dessus de la ville",),
    "library": ("dans une bibliothèque",),
    "meadow": ("dans un pré", "dehors"),
}

#: Words around a caption that change nothing.
OPENINGS: Final = (
    *("a picture of", "an image of", "a photo of", "an illustration of", "a drawing of", "draw"),
    *("a postcard of", "a painting of", "create an image of", "une image de", "dessine"),
)
EXTRAS: Final = (
    *("highly detailed", "8k", "4k", "photorealistic", "digital art", "flat illustration"),
    *("minimalist", "high quality", "best quality", "masterpiece", "sharp focus", "soft light"),
    *("cinematic lighting", "studio lighting", "vivid colors", "simple", "clean lines", "modern"),
    *("professional", "realistic", "artistic style", "3d render", "centered", "cyberpunk style"),
    *("neon lights", "haute qualité", "très détaillé", "oil painting", "watercolor"),
)
SYLLABLES: Final = (
    *("ba", "ko", "lu", "mi", "tra", "xy", "zor", "ven", "qua", "pli", "sne", "gro", "fi", "du"),
    *("har", "jek", "wen", "yto", "1", "27", "clo", "mar", "ten", "ish"),
)
