"""Belongings: the weights and LoRAs that an owner has registered, and what names mean to him.

Pure. The one place that finds owners' weights, for requests that are accepted and for those that
jobs' scripts make while they run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from deployments.types import GenerationRequest, LoraUse, ModelCard, PromptPart
from router.job import OwnWeights
from router.models import ModelStatus
from router.routing import admit, resolve


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A hosted model as a request may name it: by itself, or with personal weights.

    Attributes:
        weights: name of the weights, as of ``GenerationRequest``; None is the model by itself.
        own: what the owner registered under that name; None for weights of the configuration.
    """

    card: ModelCard
    weights: str | None = None
    own: OwnWeights | None = None

    @property
    def name(self) -> str:
        """The model's id, or the name of the owner's weights; weights of the configuration, whose
        names several models may have, are ``model/weights``."""
        if self.weights is None:
            return self.card.id
        return self.weights if self.own else self.long_name

    @property
    def long_name(self) -> str:
        """``model/weights``, which says both."""
        return self.card.id if self.weights is None else f"{self.card.id}/{self.weights}"

    @property
    def identity(self) -> str:
        """What changes with the weights themselves: the id of their source, where they have one."""
        return self.name if self.own is None else self.own.source.id


class Belongings:
    """What one owner has registered, as it stood at some moment.

    NOTE: weights and LoRAs are of use to the model that they were registered for alone.
    """

    def __init__(self, own: Iterable[OwnWeights] = ()) -> None:
        self._own = {one.name: one for one in own}

    def weights(self, name: str, card: ModelCard) -> OwnWeights | None:
        """His weights of this name for a model; None when there are none."""
        return self._find(name, card, is_lora=False)

    def lora(self, name: str, card: ModelCard) -> OwnWeights | None:
        """His LoRA of this name for a model; None when there is none."""
        return self._find(name, card, is_lora=True)

    def loras(self, card: ModelCard) -> tuple[str, ...]:
        """Names of the LoRAs that his requests to a model may use: the model's and his own."""
        own = (name for name in self._own if self.lora(name, card))
        return tuple(dict.fromkeys((*card.loras, *own)))

    def digests(self, card: ModelCard) -> dict[str, str]:
        """The digests of those LoRAs, where they are known; see ``ModelCard``."""
        own = {name: self._own[name].source for name in self._own if self.lora(name, card)}
        known = {name: source.digest for name, source in own.items() if source.digest}
        return {**dict(card.lora_digests), **known}

    def variants(self, cards: Sequence[ModelCard]) -> tuple[Variant, ...]:
        """Everything that draws under a name: the models, his weights, the configuration's."""
        found = [Variant(card=card) for card in cards]
        for name, own in self._own.items():
            cards_of = (card for card in cards if self.weights(name, card))
            found += [Variant(card=card, weights=name, own=own) for card in cards_of]
        found += [
            Variant(card=card, weights=name)
            for card in cards
            for name in card.weights
            if self.weights(name, card) is None
        ]
        return tuple(found)

    def find(self, cards: Sequence[ModelCard], name: str) -> Variant | None:
        """What a name stands for: a model's id or alias, else weights, by their own name (the
        configuration's where one model alone has them) or as ``model/weights``; None for none."""
        for card in cards:
            if card.has_name(name):
                return Variant(card=card)
        short = [found for card in cards if (found := self._variant(card, name))]
        if own := next((found for found in short if found.own), None):
            return own
        if long := self._find_long(cards, name):
            return long
        return short[0] if len(short) == 1 else None

    def resolve(self, statuses: Sequence[ModelStatus], name: str) -> Variant:
        """The same; raises as ``routing.resolve`` for a name that stands for nothing."""
        cards = [status.card for status in statuses if status.card is not None]
        return self.find(cards, name) or Variant(card=resolve(statuses, name))

    def meant(
        self, statuses: Sequence[ModelStatus], request: GenerationRequest
    ) -> GenerationRequest:
        """The request with the id of the model that it names, and with the weights, where it names
        those. Weights that it names beside a model stay. Raises as ``resolve``."""
        if request.model is None:
            return request
        variant = self.resolve(statuses, request.model)
        weights = variant.weights if request.weights is None else request.weights
        return replace(request, model=variant.card.id, weights=weights)

    def admit(self, card: ModelCard, request: GenerationRequest) -> GenerationRequest:
        """See ``routing.admit``; weights and LoRAs that are the owner's come with their source."""
        if request.weights is not None and (own := self.weights(request.weights, card)):
            request = replace(request, weights_source=own.source)
        if request.all_loras:
            request = self._with_loras(card, request)
        return admit(card, request)

    def among(self, names: Collection[str]) -> tuple[OwnWeights, ...]:
        """Those that have one of these names, also behind that of a model (``model/weights``)."""
        short = {name.rpartition("/")[2] for name in names}
        return tuple(own for name, own in self._own.items() if name in short)

    def _find(self, name: str, card: ModelCard, *, is_lora: bool) -> OwnWeights | None:
        own = self._own.get(name)
        if own is None or own.source.is_lora != is_lora or not card.has_name(own.base):
            return None
        return own

    def _find_long(self, cards: Sequence[ModelCard], name: str) -> Variant | None:
        for card in cards:
            for prefix in (f"{known}/" for known in (card.id, *card.aliases)):
                if not name.startswith(prefix):
                    continue
                if found := self._variant(card, name.removeprefix(prefix)):
                    return found
        return None

    def _variant(self, card: ModelCard, weights: str) -> Variant | None:
        """The model with the owner's weights of this name, or the configuration's."""
        own = self.weights(weights, card)
        if own is None and weights not in card.weights:
            return None
        return Variant(card=card, weights=weights, own=own)

    def _with_loras(self, card: ModelCard, request: GenerationRequest) -> GenerationRequest:
        def sourced(uses: tuple[LoraUse, ...]) -> tuple[LoraUse, ...]:
            return tuple(self._sourced(card, use) for use in uses)

        def parts(texts: tuple[PromptPart, ...]) -> tuple[PromptPart, ...]:
            return tuple(
                text if text.loras is None else replace(text, loras=sourced(text.loras))
                for text in texts
            )

        second = request.second_pass
        if second is not None and second.loras is not None:
            second = replace(second, loras=sourced(second.loras))
        return replace(
            request,
            loras=sourced(request.loras),
            parts=parts(request.parts),
            negative_parts=parts(request.negative_parts),
            second_pass=second,
        )

    def _sourced(self, card: ModelCard, use: LoraUse) -> LoraUse:
        own = self.lora(use.name, card)
        return use if own is None else replace(use, source=own.source)


def names_of(requests: Iterable[GenerationRequest]) -> frozenset[str]:
    """Every name in the requests that may be that of weights or of a LoRA; models' names may be."""
    named = (
        (request.model, request.weights, *(use.name for use in request.all_loras))
        for request in requests
    )
    return frozenset(name for names in named for name in names if name)
