"""METEOR and SPICE, which only their authors' Java programs compute; absent, with the reason, where those are not."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tove_core.errors import DataError
from tove_core.evaluation.metrics.ptb import tokenize
from tove_core.evaluation.metrics.score import Candidates, References, Score, check_pairs, mean_score

_METEOR = Path("meteor/meteor-1.5.jar")
_SPICE = Path("spice/spice-1.0.jar")
# SPICE parses with CoreNLP 3.6.0, which pycocoevalcap fetches on first use and does not bring.
_SPICE_NEEDS = (Path("spice/lib/stanford-corenlp-3.6.0.jar"), Path("spice/lib/stanford-corenlp-3.6.0-models.jar"))


def java_scores(candidates: Candidates, references: References) -> tuple[list[Score], dict[str, str]]:
    """Return METEOR and SPICE as far as they can be computed, and why the others cannot, by name.

    Nothing is downloaded. The programs come with pycocoevalcap (`pip install tove-core[coco]`) and need Java. A program
    that stops, as SPICE does with a Java that is too new or with too little memory, takes no other score with it.

    Raises:
        DataError: the ids differ or there are none.
    """
    check_pairs(candidates, references)
    said = {name: " ".join(tokenize(candidates[name])) for name in references}
    right = {name: [" ".join(tokenize(text)) for text in texts] for name, texts in references.items()}
    scores, absent = [], {}
    for name, needs, run in (("METEOR", (_METEOR,), _meteor), ("SPICE", (_SPICE, *_SPICE_NEEDS), _spice)):
        reason = why_absent(needs)
        if reason is None:
            try:
                scores.append(run(said, right))
            except DataError as error:
                reason = str(error)
        if reason is not None:
            absent[name] = reason
    return scores, absent


def why_absent(files: Sequence[Path]) -> str | None:
    """Return why a program cannot run: what of pycocoevalcap's `files` or of Java is missing; None: nothing is."""
    folder = _package()
    if folder is None:
        return "pycocoevalcap is not installed (pip install tove-core[coco])"
    if shutil.which("java") is None:
        return "there is no java on the path"
    missing = [path for path in files if not (folder / path).is_file()]
    if not missing:
        return None
    names = ", ".join(path.name for path in missing)
    if set(missing) <= set(_SPICE_NEEDS):
        return f"CoreNLP 3.6.0 is not beside pycocoevalcap ({names}); put it into {folder / missing[0].parent}"
    return f"pycocoevalcap lacks {names}; install it again"


def _package() -> Path | None:
    spec = importlib.util.find_spec("pycocoevalcap")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None


def _place(path: Path) -> Path:
    folder = _package()
    if folder is None:
        raise DataError("pycocoevalcap is gone, whose program was to run; install it")
    return folder / path


def _meteor(said: Mapping[str, str], right: Mapping[str, Sequence[str]]) -> Score:
    """METEOR 1.5 (Denkowski and Lavie, 2014), English: the corpus score, which is not the mean of the samples."""
    command = ["java", "-Xmx2G", "-jar", str(_place(_METEOR)), "-", "-", "-stdio", "-l", "en", "-norm"]
    # A locale that writes decimals with a comma makes the program read its own numbers wrong.
    env = {**os.environ, "LC_ALL": "C"}
    with tempfile.TemporaryFile() as errors:
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, env=env, encoding="utf-8") as program:
            if program.stdin is None or program.stdout is None:
                raise DataError("METEOR could not be spoken to; try again")
            try:
                counts = []
                for name, text in said.items():
                    parts = [part.replace("|||", "") for part in (*right[name], text)]
                    print("SCORE", *parts, sep=" ||| ", file=program.stdin, flush=True)
                    counts.append(program.stdout.readline().strip())
                print("EVAL", *counts, sep=" ||| ", file=program.stdin, flush=True)
                values = [float(program.stdout.readline()) for _ in range(len(said) + 1)]
            except (OSError, ValueError) as error:
                program.kill()
                with suppress(OSError):  # what it did not take is still in the pipe
                    program.stdin.close()
                errors.seek(0)
                told = " ".join(errors.read().decode("utf-8", "replace").split())[:200]
                raise DataError(f"METEOR stopped ({told or error}); look at the java on the path") from error
            program.stdin.close()
            program.kill()
    return Score("METEOR", values[-1], dict(zip(said, values, strict=False)))


def _spice(said: Mapping[str, str], right: Mapping[str, Sequence[str]]) -> Score:
    """SPICE 1.0 (Anderson et al., ECCV 2016): the mean of the samples' F."""
    with tempfile.TemporaryDirectory() as name:
        given, found = Path(name, "in.json"), Path(name, "out.json")
        items = [{"image_id": key, "test": text, "refs": list(right[key])} for key, text in said.items()]
        given.write_text(json.dumps(items), encoding="utf-8")
        command = ["java", "-Xmx8G", "-jar", str(_place(_SPICE)), str(given), "-out", str(found), "-silent"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=_place(_SPICE).parent, check=False)
        if done.returncode or not found.is_file():
            told = " ".join(done.stderr.split())[:200]
            raise DataError(f"SPICE stopped with exit code {done.returncode} ({told}); look at the java on the path")
        return read_spice(found, list(said))


def read_spice(path: Path, names: Sequence[str]) -> Score:
    """Return the score that SPICE wrote; a caption without any relation to compare counts as 0.

    Raises:
        DataError: a sample is missing.
    """
    f = {str(item["image_id"]): item["scores"]["All"]["f"] for item in json.loads(path.read_text(encoding="utf-8"))}
    if lost := [name for name in names if name not in f]:
        raise DataError(f"SPICE left out {len(lost)} of {len(names)} samples (first: {lost[0]!r}); score them again")
    return mean_score("SPICE", {name: float(f[name] or 0) for name in names})
