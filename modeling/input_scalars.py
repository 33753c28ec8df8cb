"""Values of a call's inputs that are read from their device together, since every read waits for an accelerator."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class InputScalars:
    """Scalars about the inputs of a call, unread until `read`.

    Args:
        is_audio: (rows, positions) bool, the positions that hold audio.
        last_positions: (rows,) the last position of each row that is not padding.
        features: the audio features by name, which must be finite.
        others: further scalars by name.

    Attributes:
        counts: (rows,) how many positions of each row hold audio.
        values: what was read, by name: "shortest" and "longest", the least and the greatest of `counts`, "earliest",
            the least of `last_positions`, and `others`; empty before `read`.
        checks: functions of `values` that `read` calls, which raise if something is not allowed.
    """

    def __init__(
        self,
        is_audio: Tensor,
        last_positions: Tensor,
        features: Mapping[str, Tensor],
        others: Mapping[str, Tensor],
    ):
        self.counts = is_audio.sum(-1)
        shortest, longest = self.counts.aminmax()
        self._features = features
        self._scalars = {"shortest": shortest, "longest": longest, "earliest": last_positions.min(), **others}
        self._scalars |= {name: (~value.isfinite()).sum() for name, value in features.items()}
        self.values: dict[str, int] = {}
        self.checks: list[Callable[[dict[str, int]], None]] = [self._check_features]

    def read(self, *further: Tensor) -> list[int]:
        """Fill `values`, and return those of further scalars, in one read.

        Raises:
            ValueError: for audio features that are not finite, and what `checks` raise.
        """
        wanted = [scalar.to(self.counts.device, self.counts.dtype) for scalar in (*self._scalars.values(), *further)]
        numbers = torch.stack(wanted).tolist()
        self.values = dict(zip(self._scalars, numbers))
        for check in self.checks:
            check(self.values)
        return numbers[len(self._scalars) :]

    def _check_features(self, values: dict[str, int]) -> None:
        for name, feature in self._features.items():
            if count := values[name]:
                raise ValueError(f"{name} must be finite, but {count} of its {feature.numel()} values are not.")


def audio_features(inputs: Mapping) -> dict[str, Tensor]:
    """The audio features among the inputs of a call."""
    return {
        key: value for key, value in inputs.items() if key.endswith("input_features") and isinstance(value, Tensor)
    }


def is_slow_to_read(device: torch.device) -> bool:
    """Whether reading values from the device waits until it has finished its work."""
    return device.type != "cpu" and not torch.compiler.is_compiling()
