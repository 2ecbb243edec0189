"""Tokens of a caption as the COCO caption evaluation counts them.

COCO runs Stanford's Java PTBTokenizer (CoreNLP 3.4.1, "-lowerCase") and then drops punctuation. This is that behaviour
written as rules; the tests compare it with the Java program where there is one.
"""

from __future__ import annotations

import re

PUNCTUATION = frozenset({"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"})
"""Tokens that are dropped. COCO's list also has -LRB- and its kin in upper case, which never meet the lower-cased
tokens: brackets stay, as -lrb- and so on."""

_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("“”„«»", '"'),
        **dict.fromkeys("‘‛‹›", "'"),
        **dict.fromkeys("–—", " -- "),
        **dict.fromkeys("\u00a0\u2009\u202f", " "),
        "…": "...",
        "½": "1/2",
        "¼": "1/4",
        "¾": "3/4",
        "\u00ad": "",
    }
)
_APOSTROPHE = re.compile(r"(?i)(?<!\b[doln])’|’(?![^\W\d_]{2})")  # o’clock keeps its own
_ENTITIES = (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&apos;", "'"), ("&nbsp;", " "), ("&amp;", "&"))

_SPELLING = {
    **{"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"},
    **{"£": "#", "€": "$", "¢": "cents"},
}

# Shortened words that keep their full stop wherever they stand.
_ABBREVIATIONS = (
    r"mr|mrs|ms|messrs|mme|dr|drs|prof|gen|sen|rep|gov|sgt|capt|lt|col|maj|cmdr|adm|rev|hon|pres|jr|sr|st|"
    r"ave|blvd|rd|mt|ft|sq|dept|est|ext|tel|etc|vs|al|inc|co|cos|corp|ltd|bros|univ|assn|intl|jan|feb|mar|"
    r"apr|jun|jul|aug|sep|sept|oct|nov|dec|mon|tue|tues|wed|thu|thurs|fri|calif|fla|ariz|va|md|minn|mich|"
    r"conn|ga|ky|mo|tenn|wis|ind|okla|colo|penn|ph\.d"
)
# These only with a capital: "Mass." is a state, "mass." ends a sentence.
_CAPITALISED = "Mass|Tex|Pa|Ill|Wash|Ore|Miss|Del|La"
_BEFORE_NUMBERS = "nos?|pp?|fig|art|ca"
# After these a single letter with a full stop ends the sentence before ("plan a. The end") and is no initial.
_STARTS = (
    r"A|About|According|Additionally|After|An|As|At|But|Earlier|He|Her|Here|However|If|In|It|Last|Many|"
    r"More|Now|Once|One|Other|Our|She|Since|So|Some|Such|That|The|Their|Then|There|These|They|This|We|"
    r"What|When|While|Yet|You"
)

_L = r"[^\W\d_]"  # a letter of any script
_A = r"[^\W_]"  # a letter or digit
# Part of a word; what d'oeuvres, o'clock, l'oreal and ne'er begin with belongs to it.
_PART = rf"(?:(?:[doln]|qu|ne)['’](?={_L}{{2}}))?(?:{_A}|_)+"

_WORD = rf"(?:\d+(?:[.,:]\d+)+|{_PART})(?:-{_PART})*"  # and 26,000-year, 10-year-old

# In order: the first rule that matches takes the token.
_RULES = (
    r"</?[a-z!][^<>]*>",  # markup
    r"(?:https?://|www\.)[^\s\"<>]*[^\s\"<>.,;:!?')\]]",
    r"[\w.+-]+@\w[\w-]*(?:\.\w[\w-]*)+",  # mail
    rf"(?<!{_A})[#@]{_L}\w*",  # hash tags and names
    r"[:;]-?[()]",  # faces
    # Shortened at the front: 'n', 'em, '57, '80s, 'tis.
    r"'n'|'(?:em|til|cause|n)\b|(?<!\w)'\d\ds?\b(?!')|'t(?=is\b|was\b)",
    # Two words written as one: the first here, the second as a word of its own.
    r"can(?=not\b)|(?:gon|wan)(?=na\b)|got(?=ta\b)|(?:lem|gim)(?=me\b)|y'(?=all|know)|more(?='n\b)",
    rf"{_L}+(?=n't\b)|n't\b",
    r"ma'am\b|c'mon\b|s'mores\b|e'er\b|ol'|d'(?:ye|you|ya)\b",
    r"'(?:s|m|d|re|ve|ll)\b",
    rf"(?:{_L}\.){{2,}}{_L}?(?:-{_A}+)*(?!{_L})",  # u.s.a., p.m., u.s.-based
    rf"(?:{_ABBREVIATIONS})\.(?!{_L})",
    rf"(?-i:{_CAPITALISED})\.(?!{_L})",
    rf"(?:{_BEFORE_NUMBERS})\.(?=\s*\d)",
    rf"(?<![\w'-]){_L}\.(?!{_L}|\s*$|\s+(?-i:{_STARTS})\b)",  # initials
    rf"{_L}+(?:\.{_L}+)+",  # sentences run together: "dog.The"
    rf"(?-i:[A-Z]+(?:&[A-Z]+)+)(?!{_A})",  # AT&T, but not r&b
    r"\d+:\d+(?=[ap]m\b)",  # 3:30 pm
    r"us\$|[+-]?(?:\d+(?:[.,:]\d+)+|\.\d+)(?:(?:st|nd|rd|th|s)\b)?(?!\d|-\w)|[+-]\d+",  # numbers with a point or a sign
    rf"{_WORD}(?:/{_WORD}){{0,2}}",
    r"[!?]{2,}|\.{2,}|-{2,4}(?!-)|-{5,}|\*+|_+|<+|>+|``|''",
    r"\S",
)
_TOKEN = re.compile("|".join(_RULES), re.IGNORECASE)


def tokenize(caption: str) -> list[str]:
    """Return the lower-case tokens of a caption, without punctuation.

    An initial that ends the caption loses its full stop: the Java program decides by the caption on the next line, and
    most begin with "A". Known to differ from the Java program: telephone numbers, fractions after a number ("1 1/2"),
    rare emoticons; quotes and dashes of Windows-1252 that were read as Latin-1 (\\x93, \\x97), which it drops;
    the curly apostrophe of ’70s, ’em and Ze’ev, which it keeps; Δλ/λ, which it cuts at the slash; hyphenated initials
    (it makes "y.-h" of Y.-H.); and sites without www in curly quotes, the first of which it keeps (“wiredtourist.com).
    """
    text = _APOSTROPHE.sub("'", caption.translate(_CHARACTERS))
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    tokens = []
    for found in _TOKEN.findall(text.replace('"', " '' ")):
        token = _spell(found.lower())
        if token not in PUNCTUATION and not _is_dropped(token):
            tokens.append(token)
    return tokens


def _spell(token: str) -> str:
    """Return a token as the Java program writes it."""
    if token[0] in ":;" and token[-1] in "()":
        return token[:-1] + _SPELLING[token[-1]]
    return _SPELLING.get(token, token)


def _is_dropped(token: str) -> bool:
    """Tell whether it is an ellipsis or dash of unusual length, or a character the program does not know (emoji)."""
    return not token.strip(".") or token in ("---", "----") or ord(token[0]) > 0xFFFF
