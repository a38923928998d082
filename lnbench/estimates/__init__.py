"""What a command will need, before it starts: memory, disk and hours; what cannot fit is refused.

Sizes come from a model's configuration, so nothing is loaded to know them; hours come from a probe of a few tokens, and
only of a command that may take longer than a minute.
"""

from lnbench.estimates.room import OPTIONS, REMEDIES, Room, check, fit, gib
from lnbench.estimates.sizes import BACKWARD, LoadedAs, ModelSize, Work, size_of
from lnbench.estimates.speed import SHORT, Speed, announce, foretold, may_be_long, probe, probe_shape, sentence
from lnbench.estimates.texts import of_readings, read_of

__all__ = [
    "BACKWARD",
    "OPTIONS",
    "REMEDIES",
    "SHORT",
    "LoadedAs",
    "ModelSize",
    "Room",
    "Speed",
    "Work",
    "announce",
    "check",
    "fit",
    "foretold",
    "gib",
    "may_be_long",
    "of_readings",
    "probe",
    "probe_shape",
    "read_of",
    "sentence",
    "size_of",
]
