"""A classification head that scores a task's choices in place of their likelihoods."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lnbench.errors import LnbenchError
from lnbench.files import file_sha256

FORMAT = "lnbench.head/1"


@dataclass(frozen=True)
class ClassificationHead:
    """A linear head on one position's final hidden state.

    Args:
        weight: ``[classes, hidden]``.
        bias: ``[classes]``.
        sha256: Of the file it came from.
    """

    weight: Tensor
    bias: Tensor
    sha256: str

    @classmethod
    def load(cls, path: str | Path) -> ClassificationHead:
        """Read a head: safetensors with ``weight``, optionally ``bias``, and the metadata ``format``.

        Args:
            path: The file, or the adapter folder that holds ``head.safetensors``.

        Raises:
            LnbenchError: missing, truncated or not a head.
        """
        path = Path(path)
        path = path / "head.safetensors" if path.is_dir() else path
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError as error:
            raise LnbenchError(f"no such classification head: {path}") from error
        except (SafetensorError, OSError) as error:
            raise LnbenchError(f"{path} cannot be read ({error}); it may be truncated") from error
        weight = tensors.get("weight")
        if metadata.get("format") != FORMAT or weight is None or weight.ndim != 2:
            raise LnbenchError(f"{path} is not a classification head of format {FORMAT}")
        bias = tensors.get("bias", torch.zeros(weight.shape[0]))
        if bias.shape != weight.shape[:1]:
            raise LnbenchError(f"{path}: bias of shape {tuple(bias.shape)} does not fit {weight.shape[0]} classes")
        return cls(weight, bias, file_sha256(path))

    def log_probabilities(self, hidden: Tensor) -> Tensor:
        """``[batch, classes]`` from hidden states ``[batch, hidden]``.

        Raises:
            LnbenchError: the head was made for a model of another hidden size.
        """
        if hidden.shape[-1] != self.weight.shape[1]:
            raise LnbenchError(
                f"the classification head reads {self.weight.shape[1]} hidden features, the model has "
                f"{hidden.shape[-1]}: the head belongs to another model"
            )
        weight, bias = self.weight.to(hidden.device), self.bias.to(hidden.device)
        return torch.nn.functional.linear(hidden.float(), weight, bias).log_softmax(-1)
