"""The form of a note: what people type, and the note that it comes to."""

import json
from typing import Any

from pydantic import ValidationError
from starlette.datastructures import FormData

from notes_api.console.parts import Wrong, wrong_fields
from notes_api.db import Row
from notes_api.schemas import NoteIn, etag


class FormError(Exception):
    def __init__(self, wrong: Wrong) -> None:
        super().__init__(str(wrong))
        self.wrong = wrong


def read(form: FormData) -> NoteIn:
    """Raises FormError, by field."""
    try:
        metadata = json.loads(str(form.get("metadata", "")).strip() or "{}")
    except (ValueError, RecursionError) as error:
        raise FormError({"metadata": f"This is no JSON: {error}."}) from None
    try:
        return NoteIn.model_validate(
            {
                "title": str(form.get("title", "")).strip(),
                "content": str(form.get("content", "")).replace("\r\n", "\n"),  # forms send every line end so
                "tags": [each.strip() for each in str(form.get("tags", "")).split(",") if each.strip()],
                "pinned": "pinned" in form,
                "archived": "archived" in form,
                "metadata": metadata,
            }
        )
    except ValidationError as error:
        raise FormError(wrong_fields(error)) from None


def written(note: Row) -> dict[str, Any]:
    """The values of the form for it, and the version that they are of."""
    metadata = json.dumps(note["metadata"], ensure_ascii=False, indent=2) if note["metadata"] else ""
    kept = {name: note[name] for name in ("title", "content", "pinned", "archived")}
    return kept | {"tags": ", ".join(note["tags"]), "metadata": metadata, "version": etag(note)}
