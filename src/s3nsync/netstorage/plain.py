"""Finding the plain files of a listing by one regular expression, and leaving all else to expat.

Listings of millions are nearly nothing but `<file type="file" …/>`, worded alike. Such elements are found by one
pattern, which gives their values column by column, in a quarter of the time that expat takes for them; the document
without them goes to expat, in the same order, so that what is no listing is found out as before.

That is right only if the pattern sees what expat would see: whole elements, directly in the root, outside of comments
and CDATA sections. So it is used as long as everything so far was the root's start and elements without content. At
the first sign of anything else, the rest of the document is expat's alone.

In which order the attributes come is not documented, and differs between actions; it is read from the first file of
each chunk. Names that XML escapes or that are not ASCII are expat's business, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

LONGEST_ELEMENT = 8_192
"""Characters without the end of an element, after which expat gets them: a name may have some 3,000, escaped."""


class PlainFiles(NamedTuple):
    """Values of some files, a column each, as the document has them; None is a column that the files lack."""

    names: Sequence[str]
    sizes: Sequence[str] | None
    mtimes: Sequence[str] | None
    md5s: Sequence[str] | None


class PlainReader:
    """Parts a document that comes in chunks into plain files and, as bytes for expat, all else, both in its order."""

    def __init__(self) -> None:
        """Begin."""
        self._text = ""
        self._is_inside = False
        self._is_off = False

    def feed(self, chunk: bytes) -> Iterator[bytes | PlainFiles]:
        """Read on; the end of the chunk waits for the next one, if an element may be cut there."""
        if self._is_off:
            yield chunk
            return
        # Latin-1 has a character for each byte; only ASCII is ever looked at, and the rest goes on as it came.
        self._text += chunk.decode("latin-1")
        end = self._text.rfind("/>") + 2
        if end >= 2:
            yield from self._parted(self._text[:end], self._text[end:])
        elif len(self._text) > LONGEST_ELEMENT:
            yield self.rest()

    def rest(self) -> bytes:
        """Give what waits; from now on all goes to expat."""
        text, self._text, self._is_off = self._text, "", True
        return text.encode("latin-1")

    def _parted(self, text: str, rest: str) -> Iterator[bytes | PlainFiles]:
        head = None if self._is_inside else _HEAD.match(text)
        begin = 0 if head is None else head.end()
        pattern = _pattern_for(text)
        parts: list[str] = [text[begin:]] if pattern is None else pattern.split(text[begin:])
        step = 1 if pattern is None else pattern.groups + 1
        others = [at for at in range(0, len(parts), step) if parts[at]]
        if not (self._is_inside or head) or not all(_OTHERS.fullmatch(parts[at]) for at in others):
            yield self.rest()
            return
        self._text, self._is_inside = rest, True
        yield text[:begin].encode("latin-1")
        done = 0
        for at in others:
            yield from _files(parts[done:at], pattern)
            yield parts[at].encode("latin-1")
            done = at
        yield from _files(parts[done:], pattern)


def _files(parts: Sequence[str], pattern: re.Pattern[str] | None) -> Iterator[PlainFiles]:
    """Give the files in a slice of what `split` gave, if there are any."""
    if pattern is not None and len(parts) > 1:
        column = {name: parts[at :: pattern.groups + 1] for name, at in pattern.groupindex.items()}
        yield PlainFiles(column["name"], column.get("size"), column.get("mtime"), column.get("md5"))


_SPACE = "[ \\t\\r\\n]"  # XML's own: `\\s` knows more
_HEAD = re.compile(rf'(?:<\?xml [^<>?]*\?>)?{_SPACE}*<(?:stat|list)(?: [a-z_0-9]+="[^"<>]*")*>')
_OTHERS = re.compile(rf'(?:{_SPACE}*<[a-z-]+(?: [a-z_0-9]+="[^"<]*")*/>)*{_SPACE}*')
_FIRST = re.compile(r'<file(?=[^<>]* type="file")((?: [a-z0-9]+="[^"<&]*")+)/>')
_NAME = re.compile(" ([a-z0-9]+)=")
_VALUES = {
    "type": ' type="file"',
    "name": ' name="(?P<name>[ !#-%\'-;=?-~]+)"',  # printable ASCII without what XML gives a meaning
    "size": ' size="(?P<size>[0-9]{1,18})"',
    "mtime": ' mtime="(?P<mtime>[0-9]{1,18})"',
    "md5": ' md5="(?P<md5>[0-9A-Fa-f]{32})"',
}


def _pattern_for(text: str) -> re.Pattern[str] | None:
    """Give the pattern of files worded like the first one; None where that one is not plain."""
    first = _FIRST.search(text)
    return None if first is None else _pattern(first[1])


def _pattern(attributes: str) -> re.Pattern[str] | None:
    # The values are cut out first: a name may look like an attribute.
    return _compiled(tuple(_NAME.findall(re.sub(r'"[^"]*"', "", attributes))))


@lru_cache(maxsize=64)
def _compiled(order: tuple[str, ...]) -> re.Pattern[str] | None:
    if not {"type", "name"} <= set(order) <= set(_VALUES) or len(set(order)) < len(order):
        return None
    # Without a bound on the space, a long run of it would be gone through anew from each of its characters.
    return re.compile(f"{_SPACE}{{0,64}}<file" + "".join(map(_VALUES.__getitem__, order)) + "/>")
