"""The plain values that cross a process: what is asked, what comes back, what a model is.

Everything here is frozen data of ``str``, ``int``, ``float``, ``bytes`` and tuples of these: no
tensors, no PIL images, no web objects; ``Latents`` alone may hold a reference to what another
process keeps. Field names are those of diffusers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

#: ``upscale`` enlarges a picture and ``describe`` tells what is on it; neither needs a prompt, and
#: such models are used only by name or by who looks for that very mode.
Mode: TypeAlias = Literal[
    "text-to-image", "image-to-image", "inpainting", "edit", "upscale", "describe"
]
MaskedContent: TypeAlias = Literal["original", "noise", "zeros"]
OutputFormat: TypeAlias = Literal["png", "jpeg", "webp", "safetensors"]
#: ``generate`` denoises; ``encode`` turns input pictures into latents, ``decode`` latents into
#: pictures, ``describe`` an input picture into words, and these need no prompt.
Task: TypeAlias = Literal["generate", "encode", "decode", "describe"]
#: How a prompt's notation weighs words: not at all, as A1111 reads it, or as ComfyUI does.
Weighting: TypeAlias = Literal["plain", "a1111", "comfyui"]

#: The most pixels that an input picture may have, by its header.
MAX_INPUT_PIXELS: Final = 64_000_000
#: What input pictures may be, as Pillow names it: formats that hold pixels and nothing to run.
INPUT_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
#: Largest seed plus one, as every API but ComfyUI bounds it.
SEED_RANGE: Final = 2**32
#: The range of a flow's shift; 1 leaves the times evenly spaced.
SHIFTS: Final = (0.01, 100.0)


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
        min_uncond_sigma: below this noise level every second forward pass leaves the negative
            prompt out, and its step is not guided (A1111's negative guidance minimum sigma).
        noise_multiplier: factor on the starting noise of image-to-image and of inpainting with a
            ``strength`` below 1.
        shift: how far flow-matching families move their steps to the noisy end (Esser et al. 2024,
            equation 23), in place of the model's own; other families refuse it.
        first_step, last_step: of the ``num_inference_steps`` of the schedule only those from the
            first (counted from 0) up to but without the last are walked; None is the schedule's
            end. Only requests that start from ``latents`` have them; they use no ``strength``.
            A first step that is not before the last leaves the latents as they are.
        adds_noise: whether those requests noise their latents for the first step.
        keeps_noise: whether latents that end before the schedule does keep the noise that the next
            step would expect; otherwise the last step goes to the clean picture.
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
    min_uncond_sigma: float = 0.0
    noise_multiplier: float = 1.0
    shift: float | None = None
    first_step: int = 0
    last_step: int | None = None
    adds_noise: bool = True
    keeps_noise: bool = False

    @property
    def num_walked_steps(self) -> int:
        """Steps from the first to the last, of the whole schedule when it is not cut; 0 or more."""
        steps = self.num_inference_steps or 0
        last = steps if self.last_step is None else min(self.last_step, steps)
        return max(0, last - self.first_step)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraUse:
    """A LoRA and how strongly it acts, -10..10; 0 is not at all.

    Attributes:
        name: in ``ModelCard.loras``, or of its owner's own.
        weight: on the denoiser.
        text_weight: on the text encoders; None is ``weight``.
        source: where the owner's own is; None when it is one of the card's.
    """

    name: str
    weight: float = 1.0
    text_weight: float | None = None
    source: WeightsSource | None = None

    @property
    def key(self) -> str:
        """What tells the LoRA from all others of its model."""
        return self.name if self.source is None else self.source.id

    @property
    def text_encoder_weight(self) -> float:
        """How strongly it acts on the text encoders."""
        return self.weight if self.text_weight is None else self.text_weight


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptPart:
    """One of several texts that condition a generation together.

    Attributes:
        weight: its share. The guided prediction is ``n + scale * sum(weight * (c - n))`` over the
            parts' predictions c, with n the weighted sum of the negative parts' predictions.
        clip_skip: as of ``SamplingParams``; None is what that says.
        is_zeroed: whether its embedding is replaced by zeros.
        loras: those that act on the text encoders while they read it; None is the request's.
    """

    text: str
    weight: float = 1.0
    clip_skip: int | None = None
    is_zeroed: bool = False
    loras: tuple[LoraUse, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Latents:
    """What a model's denoiser works on, of one or several pictures of equal size.

    Attributes:
        num_images: pictures, the first axis.
        width, height: pixels of a picture once decoded.
        value: a float32 array (num_images, channels, height / f, width / f) in the scale in which
            the family denoises, a reference by which its host finds that array, or None for zeros.
            Noised ones are ``clean + sigma * noise`` in the families that predict noise, whatever
            their scheduler, so that another scheduler may go on; in those that predict flow they
            are ``(1 - sigma) * clean + sigma * noise``.
        family: name of the family that made the array; "" for zeros, which fit every family.
        num_bytes: size of the array; 0 for zeros.
    """

    num_images: int
    width: int
    height: int
    value: Any = None
    family: str = ""
    num_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondPass:
    """A second, larger drawing over the first one. ``None`` means as in the first pass.

    It follows text-to-image only. The picture's generator draws its noise where the first pass
    left it; a variation, another seed size and churn's knobs stay as they were. Where the first
    pass has a ``true_cfg_scale``, ``guidance_scale`` is that of the second.

    Attributes:
        width, height: pixels of the final picture, multiples of ``size_multiple``. The first one
            is enlarged to cover them and cut equally on both sides.
        upscaler: how the first becomes the start of the second: a name from ``UPSCALERS``; the
            ``latent`` ones interpolate latents, the others pixels.
        strength: 0..1, how much is re-drawn.
        num_inference_steps: steps of the schedule that ``strength`` shortens; 0 is as None.
        prompt, negative_prompt: the text of the second pass; "" is none, not the first's.
        loras: those of the second pass; () is none, not the first's.
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
    loras: tuple[LoraUse, ...] | None = None


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
class WeightsSource:
    """Where weights that no configuration names are read from.

    Attributes:
        id: unique; whatever is read under it is the same for ever.
        kind: how ``location`` is meant: a safetensors file or a diffusers folder on the host's disk
            (``path``), a Hugging Face id (``hub``), or the URL of an uploaded safetensors file
            (``upload``: ``file://``, ``s3://`` and its like, without credentials).
        key: where the gateway's store keeps an upload; "" for other kinds.
        is_lora: whether it is a LoRA, which is added to a model's weights, rather than weights in
            place of them.
        digest: of a LoRA, see ``ModelCard.lora_digests``.
        num_values: of a LoRA, how many numbers its factors have.
    """

    id: str
    kind: Literal["path", "hub", "upload"]
    location: str
    key: str = ""
    is_lora: bool = False
    digest: str = ""
    num_values: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedWeights:
    """What a host found in a source that fits its model.

    Attributes:
        location: the source's, pinned to what was looked at (a hub id to its commit).
        parts: names of the model's modules that the source replaces, or as a LoRA adapts, such as
            ``unet``.
        num_bytes: of the files that hold them.
        is_lora, digest, num_values: see ``WeightsSource``.
    """

    location: str
    parts: tuple[str, ...]
    num_bytes: int
    is_lora: bool = False
    digest: str = ""
    num_values: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """What a user asks of one model: the same value for every API.

    Attributes:
        prompt, negative_prompt: text; an empty negative prompt is none.
        model: the model's id (the service resolves aliases and absent names before it queues).
        weights: name of personal weights in ``ModelCard.weights``, or of its owner's own; None is
            the model's own.
        weights_source: where the owner's own are; None when ``weights`` is none of them.
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
        task: what is to be done; see ``Task``.
        latents: where ``generate`` starts (zeros for a drawing from noise alone), or what is to be
            decoded. ``images`` beside it are references for families that edit, and a ``mask``
            says, in any size, where they are re-drawn. There is one picture per latents.
        gives_latents: whether the result is latents rather than pictures; always for ``encode``.
        parts, negative_parts: when not empty, in place of ``prompt`` and ``negative_prompt``.
        weighting: the notation of prompts and parts when ``is_weighted``; ``plain`` is as not
            weighted. In A1111's, ``AND`` makes parts of a prompt, and words may change from step
            to step.
        texts: for each picture, (keyword, text) pairs kept in its file's metadata; jpeg and webp
            keep that of ``parameters`` alone.
        loras: what is added to the model for this request alone.
    """

    prompt: str
    negative_prompt: str = ""
    model: str | None = None
    weights: str | None = None
    weights_source: WeightsSource | None = None
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
    task: Task = "generate"
    latents: Latents | None = None
    gives_latents: bool = False
    parts: tuple[PromptPart, ...] = ()
    negative_parts: tuple[PromptPart, ...] = ()
    weighting: Weighting = "a1111"
    loras: tuple[LoraUse, ...] = ()

    @property
    def mode(self) -> Mode:
        """What kind of work the task and the inputs ask for."""
        if self.task == "describe":
            return "describe"
        if not self.images and (self.latents is None or self.latents.value is None):
            return "text-to-image"
        return "image-to-image" if self.mask is None else "inpainting"

    @property
    def all_loras(self) -> tuple[LoraUse, ...]:
        """Those of the request, of its parts and of its second pass."""
        second = self.second_pass.loras if self.second_pass else None
        own = (part.loras for part in (*self.parts, *self.negative_parts))
        return (*self.loras, *(use for uses in (second, *own) for use in uses or ()))

    @property
    def notation(self) -> Weighting:
        """How the prompts are to be read."""
        return self.weighting if self.is_weighted else "plain"

    @property
    def ends_in_latents(self) -> bool:
        """Whether latents are the result, not pictures."""
        return self.gives_latents or self.task == "encode"


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
        latents: what a request that ``gives_latents`` asked for; ``images`` is empty then.
        text: what a model that describes pictures says of them.
    """

    images: tuple[GeneratedImage, ...]
    model: str
    seconds: float
    prompt_tokens: int = 0
    max_batch_rows: int = 0
    latents: Latents | None = None
    text: str = ""


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
        weights_digests: (name, digest) of those weights; the digest is another when the name comes
            to stand for weights from elsewhere.
        takes_weights: whether owners' own weights can draw in its place, see ``WeightsSource``.
        device, dtype: where it runs, as torch names them.
        max_ongoing_requests: requests that one replica takes at once.
        created: Unix time, whole seconds.
        has_latents: whether it encodes, decodes and denoises ``Latents``.
        loras: names of the LoRAs that requests may use.
        takes_loras: whether owners' own LoRAs can be used, too.
        lora_digests: (name, digest) of those LoRAs whose digest is known: the first 12 hexadecimal
            digits of the SHA-256 of what follows the file's header, by which A1111 knows them.
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
    weights_digests: tuple[tuple[str, str], ...] = ()
    takes_weights: bool = False
    device: str = "cpu"
    dtype: str = "float32"
    max_ongoing_requests: int = 16
    created: int = 0
    has_latents: bool = False
    loras: tuple[str, ...] = ()
    takes_loras: bool = False
    lora_digests: tuple[tuple[str, str], ...] = ()
    unavailable: str = ""

    def has_name(self, name: str) -> bool:
        """Whether ``name`` is this model's id or one of its aliases."""
        return name == self.id or name in self.aliases


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Memory that deployments share: a GPU's, or a node's own for what runs on its CPU.

    Attributes:
        node: the host's name.
        id: unique on its node: ``cpu``, or a GPU's UUID.
        name: for people: ``CPU``, or what the maker calls the GPU.
        total_bytes: all of its memory (on a node with a limit for its processes, that); None is
            not known.
    """

    node: str
    id: str
    name: str
    total_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """One thing that a replica has in its device's memory.

    Attributes:
        name: as requests name it; "" is the base model's own weights.
        is_used: whether a request under way needs it; else it is idle, and leaves when its room is
            wanted, unless it is the base's own.
    """

    name: str
    kind: Literal["base", "personal", "lora"]
    num_bytes: int
    is_used: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How busy one replica of a model is, and how full.

    Attributes:
        num_running, num_waiting: requests in the engine, and those not yet encoded.
        work: image tokens times rows times steps still to run, the unit of expected work.
        resident_weights: names of the weights in memory.
        weight_bytes, lora_bytes: bytes that weights, and LoRAs, take of the device.
        work_bytes: what is set aside for the activations of the work under way.
        picture_bytes: what those of one picture of the model's default size take.
        host_bytes: what is kept for a GPU in the memory of its node.
        memory_bytes: the replica's share of its device's memory; None is not reserved.
        holdings: weights and LoRAs, one by one.
        device: where they are; None for a model that is elsewhere.
    """

    num_running: int
    num_waiting: int
    work: float
    resident_weights: tuple[str, ...] = ()
    weight_bytes: int = 0
    lora_bytes: int = 0
    work_bytes: int = 0
    picture_bytes: int = 0
    host_bytes: int = 0
    memory_bytes: int | None = None
    holdings: tuple[Holding, ...] = ()
    device: Device | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evicted:
    """Weights that one host dropped: their names and the bytes freed."""

    weights: tuple[str, ...]
    num_bytes: int
