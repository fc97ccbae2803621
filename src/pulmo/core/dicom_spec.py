"""Which DICOM files suit a task: part of the configuration and of every bundle."""

from pydantic import BaseModel, ConfigDict


class DicomSpec(BaseModel):
    """Which DICOM files suit a task, in DICOM's own words; an empty list allows everything.

    A file that names no body part is taken, one that names another body part is refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    modalities: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()
