"""What a hub is asked for, and how each way in which it fails is told."""

import logging
from dataclasses import dataclass
from typing import Any

from yangtuo.config.words import with_signs
from yangtuo.errors import ModelError, one_line
from yangtuo.i18n import Message

logger = logging.getLogger(__name__)

_MIRROR = Message("the mirror HF_ENDPOINT=https://hf-mirror.com with HF_HUB_DISABLE_XET=1")
MOST_TOLD = 200  # characters of what a client says


@dataclass(frozen=True)
class HubRequest:
    """What is asked, and how it is told.

    Attributes:
        about: the option and its value.
        asked: the hub and its address.
        other: how the other hub is asked.
        how: keywords that both clients have.
    """

    name: str
    about: str
    asked: str
    other: str
    how: dict[str, Any]

    def has_none(self, error: Exception) -> ModelError:
        """Of a hub that has answered."""
        return self._refused(
            Message("{asked} has no such model, or not for this user", asked=self.asked),
            error,
            Message("elsewhere: {other}", other=self.other),
        )

    def came_to_nothing(self, error: BaseException) -> ModelError:
        """Of a hub that has not, or not to the end."""
        way_out = Message(
            "the same command goes on with what has come; elsewhere: {other}, or {mirror}",
            other=self.other,
            mirror=_MIRROR,
        )
        return self._refused(Message("the model could not be fetched from {asked}", asked=self.asked), error, way_out)

    def is_offline(self, error: Exception) -> ModelError:
        """Of a hub that was not asked."""
        told = Message("{asked} is not asked, since HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set", asked=self.asked)
        return self._refused(
            told,
            error,
            Message(
                "where there is a network, unset it; elsewhere: {other}, or {mirror}", other=self.other, mirror=_MIRROR
            ),
        )

    def tell_kept(self, error: Exception) -> None:
        """Say that the hub was of no help and was not needed."""
        logger.warning(
            "%s: taken as it was fetched before, since %s does not answer (%s)",
            self.about,
            self.asked,
            one_line(error, MOST_TOLD),
        )

    def is_another(self, file: str, why: str) -> ModelError:
        """Of a file that is not the listed one."""
        return ModelError(
            "{about}: {file} of {asked} {why}; deleted, give the same command again",
            about=self.about,
            file=file,
            asked=self.asked,
            why=why,
        )

    def _refused(self, what: str, error: BaseException, way_out: str) -> ModelError:
        told = one_line(error, MOST_TOLD)
        text = Message(
            "{about}: no such folder, and {what} ({told}); {way_out}",
            about=self.about,
            what=what,
            told=told,
            way_out=way_out,
        )
        return ModelError(with_signs(text, self.name))
