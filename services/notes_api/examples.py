"""Examples of answers: each is put together of what its fields are called, so that all are of the same few things."""

from typing import Any

_NOTE = "019ab1c2-7d3e-7f00-8a00-3f9a2c1b5d6e"
_ATTACHMENT = "019ab1c3-0b51-7c44-9d1e-6c3b1f0e2a77"
_CURSOR = "Zm9sbG93IG1lIQEyMDI2LTExLTIyVDA5OjMwOjAwWg"
_URL = "https://notes.example.com/v1"
_BUCKET = "https://holdfast-attachments.s3.eu-central-1.amazonaws.com"
ETAG = '"3-64436af8a8c40"'
_EARLIER, _AT, _LATER = "2026-11-22T09:30:00Z", "2026-11-23T10:15:42.123456Z", "2026-12-23T10:15:42.123456Z"

# By the name of the field; where a name means several things, with that of its model before it.
_VALUES: dict[str, Any] = {
    "AttachmentOut.id": _ATTACHMENT,
    "AttachmentPage.has_more": False,
    "AttachmentShown.id": _ATTACHMENT,
    "DownloadLink.url": f"{_BUCKET}/{_ATTACHMENT}?X-Amz-Signature=...",
    "Hits.next": f"{_URL}/search?q=bread&cursor={_CURSOR}",
    "RevisionDiff.content": "@@ -1,2 +1,2 @@\n-- bread\n+- two breads\n - tea\n",
    "RevisionDiff.fields": {"title": {"before": "Shopping", "after": "Shopping on Friday"}},
    "RevisionListed.current": True,
    "TagList.next": f"{_URL}/tags?cursor={_CURSOR}",
    "TokenListed.name": "nightly sync",
    "TokenOut.name": "nightly sync",
    "UploadForm.fields": {
        "Content-Type": "application/pdf",
        "key": _ATTACHMENT,
        "policy": "...",
        "x-amz-signature": "...",
    },
    "UploadForm.url": _BUCKET,
    "archived": False,
    "at": _AT,
    "attachment_count": 1,
    "changed_fields": ["title"],
    "confirmed_at": _AT,
    "content": "- bread\n- tea\n",
    "content_type": "application/pdf",
    "count": None,
    "created_at": _EARLIER,
    "deleted_at": None,
    "dry_run": False,
    "etag": ETAG,
    "expires_at": _LATER,
    "from": 2,
    "has_more": True,
    "hint": None,
    "id": _NOTE,
    "index": 0,
    "last_used_at": _AT,
    "line_by_line": True,
    "metadata": {"color": "green"},
    "name": "receipt.pdf",
    "next": f"{_URL}/notes?cursor={_CURSOR}",
    "next_cursor": _CURSOR,
    "note_id": _NOTE,
    "notes": 12,
    "pinned": False,
    "problem": None,
    "purge_at": None,
    "rank": 0.61,
    "ranked_all": True,
    "replaced_at": None,
    "revision": 3,
    "scopes": ["notes:read"],
    "seq": 41,
    "sha256": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
    "size_bytes": 48213,
    "snippet_html": "- <mark>bread</mark>\n- tea\n",
    "status": 200,
    "tag": "home",
    "tags": ["home"],
    "title": "Shopping",
    "title_html": "Shopping",
    "to": 3,
    "token": "hf_" + 43 * "x",
    "type": "note.updated",
    "updated_at": _AT,
}
TRASHED = {"deleted_at": _AT, "purge_at": _LATER}
EXPORTED = (
    f'{{"id":"{_NOTE}","title":"Shopping","content":"- bread\\n","tags":["home"],"pinned":false,"archived":false,'
    f'"metadata":{{}},"revision":3,"created_at":"{_EARLIER}","updated_at":"{_AT}","deleted_at":null,"purge_at":null}}\n'
)
TO_IMPORT = '{"title":"Shopping","content":"- bread\\n"}\n'
IMPORTED = (
    f'{{"line":1,"status":"created","id":"{_NOTE}"}}\n'
    '{"summary":{"lines":1,"created":1,"unchanged":0,"exists":0,"replaced":0,"failed":0}}\n'
)
STREAMED = (
    f"id: {_CURSOR}\nevent: note.updated\n"
    f'data: {{"seq":41,"type":"note.updated","note_id":"{_NOTE}","revision":3,"changed_fields":["title"],'
    f'"at":"{_AT}"}}\n\n'
)


def of(schema: dict[str, Any], schemas: dict[str, dict[str, Any]]) -> Any:
    """An example of an answer with this schema. Raises KeyError when a field has a name that is not known here."""
    if "$ref" in schema:
        return of(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    if "anyOf" in schema:  # or null
        return of(schema["anyOf"][0], schemas)
    if schema.get("type") == "array":
        return [of(schema["items"], schemas)]
    return {name: _field(schema["title"], name, field, schemas) for name, field in schema["properties"].items()}


def _field(model: str, name: str, field: dict[str, Any], schemas: dict[str, dict[str, Any]]) -> Any:
    if field.get("type") == "null":
        return None
    for known in (f"{model}.{name}", name):
        if known in _VALUES:
            return _VALUES[known]
    return of(field, schemas)
