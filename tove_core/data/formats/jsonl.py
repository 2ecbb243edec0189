"""JSON lines: one object per line with an image and a text, or an image, a question and its answers."""

from __future__ import annotations

from tove_core.config import SourceConfig
from tove_core.data.files import is_one_document, read_json_lines, required_path
from tove_core.data.formats.records import RecordOptions, Row, with_images
from tove_core.data.images import open_images
from tove_core.data.sample import Sample
from tove_core.errors import DataError


def read(config: SourceConfig, options: RecordOptions) -> list[Sample]:
    """Read one sample per line.

    A line has "image" (relative to `images`, a folder or tar archive, else to the file's folder; a list for several
    images) and one of "text" (a text or a list of texts: captions), "question" with "answer" or "answers" (a list of
    texts, or of objects with "answer"); for inference "question" alone, or nothing. "id" (else "line N") and "kind"
    are optional. Other names of these keys can be given as `columns`.

    Raises:
        DataError: a line is malformed (its number is given).
    """
    path = required_path(config)
    if "reader" not in config.model_fields_set and path.suffix in (".csv", ".tsv"):
        raise DataError(
            f"{path} is read as jsonl because no reader was given; set reader: {path.suffix[1:]} beside its path"
        )
    if is_one_document(path):
        raise DataError(
            f"{path} is one JSON list or object over its lines, and reader 'jsonl' wants an object on each line; write "
            "every sample on a line of its own, or set data.reader to the reader of this format"
        )
    rows = (Row(path, f"line {number}", record) for number, record in read_json_lines(path))
    return with_images(rows, options.columns, open_images(config.images or path.parent))
