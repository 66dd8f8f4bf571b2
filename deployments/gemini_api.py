"""Gemini: one call of Google's API makes one picture; its refusals and faults in our words."""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

import httpx
from pydantic import Field
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from deployments.config import Limits, Strict
from deployments.errors import AtelierError, ContentRefused, ProviderFailure
from deployments.types import GenerationRequest

if TYPE_CHECKING:
    from google.genai import Client
    from google.genai.types import GenerateContentResponse

BAD_KEY: Final = "Clé API Google invalide ou expirée"
NO_MODEL: Final = "Modèle Gemini non disponible"

#: Shapes that the API accepts, as its documentation of ``imageConfig.aspectRatio`` lists them.
ASPECT_RATIOS: Final = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
#: Finish reasons that mean "I will not", not "I could not".
REFUSALS: Final = frozenset(
    {
        "SAFETY",
        "RECITATION",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
    }
)


class GeminiConfig(Strict):
    """Gemini's application.

    Attributes:
        model: name of the model at Google.
        api_key_env: the variable, of the environment or of ``.env``, that holds the key.
        base_url: where the API is; None is Google's own address.
        aliases: further names that requests may use.
        timeout_seconds: for one call.
        max_attempts: calls per picture; 429, 5xx and broken connections are tried again.
        retry_seconds: before the second try, doubling with each, unless ``Retry-After`` says.
        max_retry_seconds: the longest wait; a longer ``Retry-After`` ends the tries.
        max_concurrency: calls of one replica at once.
    """

    model: str = "gemini-2.5-flash-image"
    api_key_env: str = "GOOGLE_API_KEY"
    base_url: str | None = None
    aliases: tuple[str, ...] = ("gemini-2.0-flash-exp",)
    timeout_seconds: float = Field(90.0, gt=0)
    max_attempts: int = Field(4, ge=1)
    retry_seconds: float = Field(1.0, gt=0)
    max_retry_seconds: float = Field(30.0, gt=0)
    max_concurrency: int = Field(8, ge=1)
    width: int = Field(1024, ge=64)
    height: int = Field(1024, ge=64)
    limits: Limits = Limits(max_input_images=3, max_num_inference_steps=1)


@dataclass(frozen=True, slots=True)
class Drawing:
    """One answer of the API: an encoded picture and the prompt's tokens."""

    data: bytes
    prompt_tokens: int


class Gemini:
    """Google's API: one call, one picture. Safety refusals are told apart from faults."""

    def __init__(self, config: GeminiConfig, api_key: str) -> None:
        self._config = config
        self._api_key = api_key
        self._client: Client | None = None

    async def draw(
        self, request: GenerationRequest, index: int, inputs: Sequence[bytes]
    ) -> Drawing:
        """Picture ``index`` of the request; ``inputs`` are PNG.

        Raises ``ContentRefused``, or ``ProviderFailure`` once trying again is of no use.
        """
        from google.genai.errors import APIError

        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._config.max_attempts),
            retry=retry_if_exception(self._is_transient),
            wait=self._wait,
            reraise=True,
        )
        try:
            response: GenerateContentResponse = await retrying(self._call, request, index, inputs)
        except APIError as error:
            _raise_told(error)
        except TimeoutError:
            raise ProviderFailure("Gemini n'a pas répondu à temps") from None
        except httpx.HTTPError:
            raise ProviderFailure("Gemini est injoignable") from None
        usage = response.usage_metadata
        tokens = (usage.prompt_token_count or 0) if usage else 0
        return Drawing(picture_of(response), tokens)

    async def _call(
        self, request: GenerationRequest, index: int, inputs: Sequence[bytes]
    ) -> GenerateContentResponse:
        from google.genai.types import Part

        parts: list[Any] = [Part.from_bytes(data=data, mime_type="image/png") for data in inputs]
        async with asyncio.timeout(self._config.timeout_seconds):
            return await self._open().aio.models.generate_content(
                model=self._config.model,
                contents=[*parts, Part.from_text(text=text_of(request))],
                config=self._call_config(request, index),
            )

    def _call_config(self, request: GenerationRequest, index: int) -> Any:
        from google.genai.types import GenerateContentConfig, ImageConfig

        params = request.params
        ratio = nearest_ratio(params.width or 1, params.height or 1)
        # The 2.0 models have no imageConfig and refuse it.
        is_first = self._config.model.startswith("gemini-2.0")
        return GenerateContentConfig(
            response_modalities=["TEXT", "IMAGE"],
            # The wire's seed is a signed 32-bit integer.
            seed=((params.seed or 0) + index) % 2**31,
            image_config=None if is_first else ImageConfig(aspect_ratio=ratio),
        )

    def _open(self) -> Client:
        if self._client is None:
            from google.genai import Client
            from google.genai.types import HttpOptions

            # A client of ours keeps the SDK from retrying, or waiting, on its own.
            http = httpx.AsyncClient(timeout=self._config.timeout_seconds)
            options = HttpOptions(
                base_url=self._config.base_url, api_version="v1beta", httpx_async_client=http
            )
            self._client = Client(api_key=self._api_key, vertexai=False, http_options=options)
        return self._client

    def _is_transient(self, error: BaseException) -> bool:
        code = getattr(error, "code", None)
        if isinstance(code, int):
            asked = _retry_after(error)
            patient = asked is None or asked <= self._config.max_retry_seconds
            return patient and (code == 429 or code >= 500)
        is_late = isinstance(error, httpx.TimeoutException)
        return isinstance(error, httpx.TransportError) and not is_late

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = _retry_after(error) if error else None
        backoff = self._config.retry_seconds * 2.0 ** (state.attempt_number - 1)
        jittered = min(backoff, self._config.max_retry_seconds) * random.uniform(0.8, 1.2)
        return jittered if asked is None else asked


def text_of(request: GenerationRequest) -> str:
    """The prompt; what it must not show is said in words, as the API has no field for it."""
    if not request.negative_prompt:
        return request.prompt
    return f"{request.prompt}\n\nAvoid: {request.negative_prompt}"


def nearest_ratio(width: int, height: int) -> str:
    """The accepted shape nearest to the asked one."""

    def distance(ratio: str) -> float:
        across, up = ratio.split(":")
        return abs(math.log(int(across) / int(up) * height / width))

    return min(ASPECT_RATIOS, key=distance)


def picture_of(response: GenerateContentResponse) -> bytes:
    """The first picture of an answer. Raises ``ContentRefused`` or ``ProviderFailure``."""
    feedback = response.prompt_feedback
    if feedback and feedback.block_reason:
        raise ContentRefused(f"Contenu refusé par Gemini ({feedback.block_reason.value})")
    text = ""
    for candidate in response.candidates or ():
        for part in (candidate.content and candidate.content.parts) or ():
            if part.inline_data and part.inline_data.data and not part.thought:
                return part.inline_data.data
            text = text or part.text or ""
        reason = candidate.finish_reason.value if candidate.finish_reason else ""
        if reason in REFUSALS:
            raise ContentRefused(f"Contenu refusé par Gemini ({reason})")
    if text:
        raise ContentRefused(f"Gemini n'a pas dessiné et répond : {text[:500]}")
    raise ProviderFailure("Gemini n'a pas renvoyé d'image")


def _raise_told(error: Any) -> NoReturn:
    """An ``APIError`` as one of ours, in the words that the image jobs' document has for it.

    A wrong key is a 400 whose details hold ``API_KEY_INVALID``, an expired one a 400 that says so.
    """
    told: AtelierError
    if error.code in (401, 403) or (error.code == 400 and "api key" in _words(error)):
        told = ProviderFailure(BAD_KEY)
    elif error.code == 404:
        told = ProviderFailure(NO_MODEL)
    elif error.code == 429:
        told = ProviderFailure("Quota Gemini épuisé, réessayez plus tard")
    else:
        told = ProviderFailure(f"Gemini a échoué ({error.code})")
    raise told from error


def _words(error: Any) -> str:
    return f"{error.message} {error.details}".lower().replace("_", " ")


def _retry_after(error: Any) -> float | None:
    """Seconds that a refusal asks for: ``Retry-After``, else Google's ``RetryInfo`` (``"34s"``)."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    asked = headers.get("retry-after", "")
    body = getattr(error, "details", None)
    refusal = body.get("error") if isinstance(body, dict) else None
    for detail in (refusal.get("details") or ()) if isinstance(refusal, dict) else ():
        if str(detail.get("@type", "")).endswith("google.rpc.RetryInfo"):
            asked = asked or str(detail.get("retryDelay", "")).removesuffix("s")
    return float(asked) if re.fullmatch(r"\d+(\.\d+)?", asked) else None
