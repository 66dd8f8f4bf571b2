"""The plain values that cross a process: what is asked, what comes back, what a model is.

Everything here is frozen data of ``str``, ``int``, ``float``, ``bytes`` and tuples of these: no
tensors, no PIL images, no web objects. Field names are those of diffusers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

#: ``upscale`` enlarges a picture and needs no prompt; such a model is used only by name.
Mode: TypeAlias = Literal["text-to-image", "image-to-image", "inpainting", "edit", "upscale"]
MaskedContent: TypeAlias = Literal["original", "noise", "zeros"]
OutputFormat: TypeAlias = Literal["png", "jpeg", "webp", "safetensors"]

#: The most pixels that an input picture may have, by its header.
MAX_INPUT_PIXELS: Final = 64_000_000
#: What input pictures may be, as Pillow names it: formats that hold pixels and nothing to run.
INPUT_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
#: Largest seed plus one, as every API but ComfyUI bounds it.
SEED_RANGE: Final = 2**32


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """The numeric knobs of one generation. ``None`` means the model's own default.

    Attributes:
        width, height: pixels of the picture; multiples of the model's ``size_multiple``.
        num_images: pictures to make, at least 1. Picture k uses ``seed + k``; with a
            ``variation_strength`` it uses ``seed`` and ``variation_seed + k``.
        num_inference_steps: denoising steps, at least 1.
        guidance_scale: classifier-free guidance; 1.0 or less runs no negative branch.
        true_cfg_scale: the same for families whose ``guidance_scale`` is a distilled input (Qwen).
        strength: 0..1, how much of an input picture is re-drawn (image-to-image, inpainting).
        seed: 0 to 2**64 - 1; drawn by the service when the caller gave none.
        scheduler: a name from ``ModelCard.schedulers``.
        sigmas: how the noise levels are spaced, from ``ModelCard.sigmas``.
        eta: DDIM's noise, 0..1; other schedulers ignore it, as in diffusers.
        max_sequence_length: tokens of the text encoder, for families that have the knob.
        variation_seed, variation_strength: the starting noise is turned from the seed's towards
            the variation seed's by this share, 0..1 (spherical interpolation). A None seed with a
            strength above 0 counts from ``seed``.
        seed_width, seed_height: pixels for which the starting noise is drawn before it is centred
            in the picture's own (cut where it is larger, more noise around where it is smaller);
            None is the picture's own size.
        clip_skip: which of the text encoder's layers, counted from its end, is used, its final
            norm after it; 1 is the last. SDXL uses the last but one without norm for 1 and 2.
        tiling: whether the picture's opposite edges shall meet.
        s_churn, s_tmin, s_tmax, s_noise: stochasticity of the schedulers that have it (Karras et
            al. 2022, algorithm 2; Euler all four, DPM++ SDE the last); ``s_tmax`` None is infinity.
        noise_multiplier: factor on the starting noise of image-to-image and of inpainting with a
            ``strength`` below 1.
    """

    width: int | None = None
    height: int | None = None
    num_images: int = 1
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    true_cfg_scale: float | None = None
    strength: float | None = None
    seed: int | None = None
    scheduler: str | None = None
    sigmas: str | None = None
    eta: float = 0.0
    max_sequence_length: int | None = None
    variation_seed: int | None = None
    variation_strength: float = 0.0
    seed_width: int | None = None
    seed_height: int | None = None
    clip_skip: int = 1
    tiling: bool = False
    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float | None = None
    s_noise: float = 1.0
    noise_multiplier: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondPass:
    """A second, larger drawing over the first one. ``None`` means as in the first pass.

    It follows text-to-image only. The picture's generator draws its noise where the first pass
    left it; a variation, another seed size and churn's knobs stay as they were.

    Attributes:
        width, height: pixels of the final picture, multiples of ``size_multiple``. The first one
            is enlarged to cover them and cut equally on both sides.
        upscaler: how the first becomes the start of the second: a name from ``UPSCALERS``; the
            ``latent`` ones interpolate latents, the others pixels.
        strength: 0..1, how much is re-drawn.
        num_inference_steps: steps of the schedule that ``strength`` shortens; 0 is as None.
        prompt, negative_prompt: the text of the second pass; "" is none, not the first's.
    """

    width: int
    height: int
    upscaler: str = "latent"
    strength: float = 0.7
    num_inference_steps: int | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    guidance_scale: float | None = None
    scheduler: str | None = None
    sigmas: str | None = None


#: Names of ``SecondPass.upscaler``.
UPSCALERS: Final = (
    "latent",
    "latent-antialiased",
    "latent-bicubic",
    "latent-bicubic-antialiased",
    "latent-nearest",
    "latent-nearest-exact",
    "nearest",
    "lanczos",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """What a user asks of one model: the same value for every API.

    Attributes:
        prompt, negative_prompt: text; an empty negative prompt is none.
        model: the model's id (the service resolves aliases and absent names before it queues).
        weights: name of personal weights in ``ModelCard.weights``; None is the model's own.
        images: encoded input pictures (PNG, JPEG, WebP, ...), all feeding one generation.
        mask: an encoded picture of the same size as the first input. White is re-drawn, black is
            kept: the APIs translate their own conventions (OpenAI's is alpha 0) to this.
        params: the numeric knobs.
        output_format, output_quality: how pictures are encoded; quality 1..100 for jpeg and webp.
        num_previews: how many intermediate pictures ``Progress`` should carry at most.
        is_weighted: whether the prompts are in the notation that weighs words, ``(word:1.3)``, cuts
            at ``BREAK`` and has no limit of length; otherwise they are plain, cut at the encoder's.
        masked_content: what lies under a mask before it is re-drawn: the input picture, noise, or
            zeros (in latent space); without effect at strength 1, where all begins as noise.
        mask_padding: when set beside a mask, only the mask's bounding box, widened by so many
            pixels of the input and to the shape asked for, is drawn, at the full size asked for,
            and pasted back: the result has the input's own size.
        is_latent_resize: whether an input of another size is resized in latent space (bilinearly)
            rather than in pixels (Lanczos); no effect beside ``mask_padding``.
        second_pass: a larger drawing over the first, or None.
        texts: for each picture, (keyword, text) pairs kept in its file's metadata; jpeg and webp
            keep that of ``parameters`` alone.
    """

    prompt: str
    negative_prompt: str = ""
    model: str | None = None
    weights: str | None = None
    images: tuple[bytes, ...] = ()
    mask: bytes | None = None
    params: SamplingParams = field(default_factory=SamplingParams)
    output_format: OutputFormat = "png"
    output_quality: int = 95
    num_previews: int = 0
    is_weighted: bool = False
    masked_content: MaskedContent = "original"
    mask_padding: int | None = None
    is_latent_resize: bool = False
    second_pass: SecondPass | None = None
    texts: tuple[tuple[tuple[str, str], ...], ...] = ()

    @property
    def mode(self) -> Mode:
        """What kind of work the inputs ask for."""
        if not self.images:
            return "text-to-image"
        return "image-to-image" if self.mask is None else "inpainting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """News of a request under way.

    Attributes:
        step, num_steps: denoising steps done and to do, summed over the request's pictures.
        preview: an encoded JPEG of the picture so far, or None.
        preview_index: which picture of the request the preview shows.
    """

    step: int
    num_steps: int
    preview: bytes | None = None
    preview_index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedImage:
    """One finished picture: encoded bytes, the seed that made it, its true size in pixels."""

    data: bytes
    seed: int
    width: int
    height: int
    format: OutputFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationResult:
    """All pictures of one request, in order, and where the time went.

    Attributes:
        images: in order; each tells the seed that it was drawn from.
        model: id of the model that drew them.
        seconds: wall time inside the model's host, queueing in its engine included.
        prompt_tokens: tokens the text encoder saw (before padding).
        max_batch_rows: the most rows any of this request's forward passes held.
    """

    images: tuple[GeneratedImage, ...]
    model: str
    seconds: float
    prompt_tokens: int = 0
    max_batch_rows: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a hosted model is and accepts.

    Attributes:
        id: the Serve application's name; aliases resolve to it.
        family: name in the table of families.
        modes: what it can do.
        defaults: values for the knobs a request leaves open (width, height, steps, guidance,
            strength, scheduler, sigmas are never None here).
        min_size, max_size: bounds of width and height in pixels.
        max_pixels: bound of width times height.
        size_multiple: sizes are rounded to the nearest multiple of this.
        max_input_images: how many pictures one request may feed.
        max_num_inference_steps: the most steps a request may ask for.
        schedulers, sigmas: accepted names.
        weights: names of personal weights; the entry ``default`` serves users without their own.
        device, dtype: where it runs, as torch names them.
        max_ongoing_requests: requests that one replica takes at once.
        created: Unix time, whole seconds.
        unavailable: why the model cannot serve now (a remote one without its key), as a sentence
            for the caller; empty when it can. ``modes`` is empty then.
    """

    id: str
    family: str
    modes: tuple[Mode, ...]
    defaults: SamplingParams
    aliases: tuple[str, ...] = ()
    min_size: int = 64
    max_size: int = 2048
    max_pixels: int = 2048 * 2048
    size_multiple: int = 8
    max_input_images: int = 1
    max_num_inference_steps: int = 150
    schedulers: tuple[str, ...] = ()
    sigmas: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    device: str = "cpu"
    dtype: str = "float32"
    max_ongoing_requests: int = 16
    created: int = 0
    unavailable: str = ""

    def has_name(self, name: str) -> bool:
        """Whether ``name`` is this model's id or one of its aliases."""
        return name == self.id or name in self.aliases


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How busy one replica of a model is.

    Attributes:
        num_running, num_waiting: requests in the engine, and those not yet encoded.
        work: image tokens times rows times steps still to run, the unit of expected work.
        resident_weights: names of the weights in memory.
        weight_bytes: bytes they take.
    """

    num_running: int
    num_waiting: int
    work: float
    resident_weights: tuple[str, ...] = ()
    weight_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evicted:
    """Weights that one host dropped: their names and the bytes freed."""

    weights: tuple[str, ...]
    num_bytes: int
