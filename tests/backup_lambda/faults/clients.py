"""Clients of the emulator, and of the gate in front of it."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Clients:
    """Straight to the emulator, and through the gate. Those do not try again: each fault is met as it is."""

    s3: Any
    sns: Any
    sqs: Any
    secrets: Any
    gated_s3: Any
    gated_sns: Any
