"""What each action does: reads turn a tree into an answer, writes change it and say so.

Every function here is plain: the tree, the call and the settings go in, an answer comes out or `Refused` is raised.
Where public knowledge of NetStorage ends, the stricter of the likely behaviours was taken (docs/emulator.md: which).
"""

from __future__ import annotations

import posixpath
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import formatdate
from itertools import islice
from mimetypes import MimeTypes

from s3nsync.emulator.answers import Answer, Attribute, Encoding, done, element, xml_answer
from s3nsync.emulator.protocol import WRITES, Call, Personality, Refused
from s3nsync.emulator.store import IMPLICIT, Directory, File, Leaf, Node, Symlink, Tree, parent_of, past

_SYMLINK_HOPS = 8
_TYPES = MimeTypes()
_FILESTORE_DIR_OPTIONS = frozenset({"max_entries", "start", "end", "prefix", "slash"})


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings actions depend on; `page_cap` bounds entries a page, `seed` fixes FileStore's order of listing."""

    personality: Personality
    page_cap: int
    quick_delete: bool
    seed: int

    @property
    def objectstore(self) -> bool:
        """Whether this is an ObjectStore."""
        return self.personality is Personality.OBJECTSTORE


def check_path(call: Call, cpcodes: frozenset[bytes]) -> None:
    """Refuse with 403 a path that lies in none of the CP codes, with 404 to change the root of one."""
    if call.name.partition(b"/")[0] not in cpcodes:
        raise Refused(403, "Access denied: no authorisation for this path")
    if call.action in WRITES - {"mkdir", "quick-delete"} and _is_root(call.directory):
        raise Refused(404, "Not found")


# --- reads ---------------------------------------------------------------------------------------------------------


def stat(call: Call, tree: Tree, rules: Rules) -> Answer:
    """Describe the file, symlink or directory addressed."""
    encoding = _encoding(call)
    leaf = None if call.names_directory else tree.leaf(call.leaf)
    directory = _directory(call, tree)
    if directory is IMPLICIT and not call.flag("implicit", b"yes") and not _is_root(call.directory):
        directory = None
    both = call.flag("slash", b"both")
    found: list[tuple[bytes, Node]] = []
    if leaf is not None:
        found.append((_base(call.leaf), leaf))
    if directory is not None and (leaf is None or both):
        slash = b"/" if rules.objectstore and (both or call.names_directory) else b""
        found.append((_base(call.leaf) + slash, directory))
    if not found:
        raise Refused(404, "Not found")
    above = parent_of(call.leaf)
    where = b"/" + above.removesuffix(b"/")
    return xml_answer(
        "stat",
        [("directory", where)],
        [element("file", describe(name, node), encoding) for name, node in found],
        encoding,
    )


def dir_(call: Call, tree: Tree, rules: Rules) -> Answer:
    """List what lies directly in the directory addressed: everything, or pages when `max_entries` asks for them.

    rclone never asks and ignores `resume`, so the real one cannot cut short what was not asked to be.
    """
    encoding = _encoding(call)
    if _directory(call, tree) is None:
        missing = tree.leaf(call.leaf) is None
        raise Refused(404, "Not found") if missing else Refused(412, "Precondition failed: not a directory")
    if not rules.objectstore and _FILESTORE_DIR_OPTIONS & call.params.keys():
        raise Refused(400, "Bad request: option is not known here")
    entries = _dir_entries(call, tree)
    shown, resume = sorted(entries), None
    if call.whole_number("max_entries"):
        shown, resume = _page(call, rules, iter(shown))
    elif not rules.objectstore:
        random.Random(rules.seed).shuffle(shown)  # noqa: S311 -- repeatable on purpose
    children = [_dir_element(tree, display, entries[display], rules, encoding) for display in shown]
    if resume is not None:
        children.append(element("resume", [("start", resume)], encoding))
    return xml_answer("stat", [("directory", b"/" + call.leaf)], children, encoding)


def list_(call: Call, tree: Tree, rules: Rules) -> Answer:
    """List every stored name from the path on, in byte order, past the directory unless `end` bounds it."""
    if not rules.objectstore:
        raise Refused(412, "Precondition failed: list is not known here")
    encoding = _encoding(call)
    root_end = past(call.name.partition(b"/")[0] + b"/")
    start = max(call.name, call.params.get("start", b"").removeprefix(b"/"))
    end = min(root_end, call.params.get("end", root_end).removeprefix(b"/"))
    shown, resume = _page(call, rules, tree.names(start, end))
    if not shown:
        raise Refused(404, "Not found")
    all_mtimes = call.flag("mtime_all", b"yes")
    children = [element("file", _listed(name, tree.node(name), all_mtimes=all_mtimes), encoding) for name in shown]
    if resume is not None:
        children.append(element("resume", [("start", b"/" + resume)], encoding))
    return xml_answer("list", [], children, encoding)


def du(call: Call, tree: Tree, rules: Rules) -> Answer:  # noqa: ARG001 -- one shape for all reads
    """Sum up everything below the directory addressed."""
    if _directory(call, tree) is None:
        raise Refused(404, "Not found")
    files, size_bytes = tree.usage(call.directory)
    encoding = _encoding(call)
    info = element("du-info", [("files", files), ("bytes", size_bytes)], encoding)
    return xml_answer("du", [("directory", b"/" + call.leaf)], [info], encoding)


def download(call: Call, tree: Tree, rules: Rules, asked_range: str | None) -> Answer:
    """Hand out a file's bytes, or the range of them asked for; symlinks are followed."""
    if call.names_directory or tree.leaf(call.leaf) is None:
        filestore_directory = not rules.objectstore and _directory(call, tree) is not None
        raise Refused(412, "Precondition failed: a directory") if filestore_directory else Refused(404, "Not found")
    name, file = _resolve(tree, call.leaf)
    if not file.blob.kept:
        raise Refused(500, "The emulator was told not to keep the bytes of objects")
    content_type = _TYPES.guess_type(name.decode("utf-8", "replace"))[0] or "application/octet-stream"
    headers = (
        ("Content-Type", content_type),
        ("Last-Modified", formatdate(file.mtime_s, usegmt=True)),
        ("ETag", f'"{file.md5}:{file.mtime_s}.000000"' if rules.objectstore else f'W/"{file.md5}"'),
        *(() if rules.objectstore else (("Accept-Ranges", "bytes"),)),
    )
    wanted = _byte_range(asked_range, file.size_bytes)
    if wanted is None:
        return Answer(200, b"", headers, file.blob, 0, file.size_bytes)
    start, stop = wanted
    span = ("Content-Range", f"bytes {start}-{stop - 1}/{file.size_bytes}")
    return Answer(206, b"", (*headers, span), file.blob, start, stop)


def describe(name: bytes, node: Node) -> list[Attribute]:
    """Return the attributes of a stat or dir entry."""
    match node:
        case File():
            return [
                ("type", "file"),
                ("name", name),
                ("mtime", node.mtime_s),
                ("size", node.size_bytes),
                ("md5", node.md5),
            ]
        case Symlink():
            return [("type", "symlink"), ("name", name), ("mtime", node.mtime_s), ("target", node.target)]
        case Directory(None):
            return [("type", "dir"), ("name", name), ("implicit", "true")]
        case Directory(mtime_s):
            return [("type", "dir"), ("name", name), ("mtime", mtime_s or 0)]


def _listed(name: bytes, node: Node, *, all_mtimes: bool) -> list[Attribute]:
    attributes = describe(name, node)
    hidden = () if all_mtimes or isinstance(node, File) else ("mtime", "target")
    return [attribute for attribute in attributes if attribute[0] not in hidden]


def _dir_element(tree: Tree, display: bytes, name: bytes, rules: Rules, encoding: Encoding) -> bytes:
    if not name.endswith(b"/"):
        return element("file", describe(display, tree.node(name)), encoding)
    attributes = describe(display, tree.directory(name) or IMPLICIT)
    if rules.objectstore:
        files, size_bytes = tree.usage(name)
        attributes += [("bytes", size_bytes), ("files", files)]
    return element("file", attributes, encoding)


def _dir_entries(call: Call, tree: Tree) -> dict[bytes, bytes]:
    """Return display name → stored name; a directory hides behind a file of its name unless `slash=both` is given."""
    start, end, prefix = (call.params.get(name, b"") for name in ("start", "end", "prefix"))
    slash = b"/" if call.flag("slash", b"both") else b""
    entries: dict[bytes, bytes] = {}
    for name in tree.children(call.directory):
        base = _base(name.removesuffix(b"/"))
        display = base + slash if name.endswith(b"/") else base
        if display >= start and (not end or display < end) and display.startswith(prefix):
            entries.setdefault(display, name)
    return entries


def _page(call: Call, rules: Rules, names: Iterator[bytes]) -> tuple[list[bytes], bytes | None]:
    asked = call.whole_number("max_entries")
    size = rules.page_cap if not asked else min(asked, rules.page_cap)
    page = list(islice(names, size + 1))
    return page[:size], page[size] if len(page) > size else None


def _resolve(tree: Tree, name: bytes) -> tuple[bytes, File]:
    for _ in range(_SYMLINK_HOPS):
        node = tree.leaf(name)
        if isinstance(node, File):
            return name, node
        if node is None:
            break
        name = posixpath.normpath(posixpath.join(b"/" + parent_of(name), node.target)).lstrip(b"/")
    raise Refused(404, "Not found")


def _byte_range(asked: str | None, size_bytes: int) -> tuple[int, int] | None:
    """Return (start, stop) of a single byte range, None to send everything; refuse with 416 (RFC 9110, 14.1.2)."""
    unit, _, spec = (asked or "").partition("=")
    first, dash, last = spec.strip().partition("-")
    numbers_fit = all(not part or (part.isascii() and part.isdigit()) for part in (first, last))
    if unit != "bytes" or not dash or not numbers_fit or not (first or last):
        return None
    if not first:
        start, stop = max(0, size_bytes - int(last)), size_bytes
    else:
        start, stop = int(first), min(size_bytes, int(last) + 1 if last else size_bytes)
        if last and int(last) < start:
            return None
    if start >= size_bytes or start >= stop:
        raise Refused(416, "Range not satisfiable", (("Content-Range", f"bytes */{size_bytes}"),))
    return start, stop


# --- writes --------------------------------------------------------------------------------------------------------


def check_upload(call: Call, rules: Rules) -> None:
    """Refuse, before its body is read, an upload that cannot be stored whatever comes."""
    if call.names_directory:
        raise Refused(400, "Bad request: the name of a file does not end in a slash")
    kinds = (b"binary",) if rules.objectstore else (b"binary", b"form")
    if call.params.get("upload-type", b"binary") not in kinds:
        raise Refused(400, "Bad request: upload-type is not known")


def upload(call: Call, tree: Tree, rules: Rules, file: File, now_s: float) -> Answer:
    """Store `file`; FileStore makes the directories above it, and refuses with 409 a name taken by the other kind."""
    if not rules.objectstore:
        _make_parents(tree, call.leaf, now_s)
        if tree.directory(call.directory) is not None:
            raise Refused(409, "Conflict: a directory has this name")
    tree.put(call.leaf, file, now_s)
    return done(rules.personality, "")


def delete(call: Call, tree: Tree, rules: Rules, now_s: float) -> Answer:
    """Remove a file or symlink; on ObjectStore `path/` removes the directory's own entry, whatever lies in it."""
    if call.names_directory and rules.objectstore:
        if tree.directory(call.directory) in (None, IMPLICIT):
            raise Refused(404, "Not found")
        tree.remove(call.directory, now_s)
    else:
        _require_leaf(call, tree, rules)
        tree.remove(call.leaf, now_s)
    return done(rules.personality, "deleted")


def mkdir(call: Call, tree: Tree, rules: Rules, now_s: float) -> Answer:
    """Make a directory; FileStore wants its parent there and its name free."""
    if not rules.objectstore:
        if tree.leaf(call.leaf) is not None or _directory(call, tree) is not None:
            raise Refused(409, "Conflict: the name is taken")
        _require_parent(tree, call.leaf)
    if _directory(call, tree) in (None, IMPLICIT) and not _is_root(call.directory):
        tree.put(call.directory, Directory(int(now_s)), now_s)
    return done(rules.personality, "successful")


def rmdir(call: Call, tree: Tree, rules: Rules, now_s: float) -> Answer:
    """Remove an empty directory; one with content is refused with 409."""
    if tree.directory(call.directory) is None:
        raise Refused(404, "Not found")
    if tree.has_content(call.directory):
        raise Refused(409, "Conflict: the directory is not empty")
    tree.remove(call.directory, now_s)
    return done(rules.personality, "deleted")


def rename(call: Call, tree: Tree, rules: Rules, now_s: float) -> Answer:
    """Give a file or symlink another name in the same CP code; a name that is taken is refused with 409."""
    wanted = call.params.get("destination", b"")
    target = wanted[1:]
    if not wanted.startswith(b"/") or not target.startswith(call.name.partition(b"/")[0] + b"/"):
        raise Refused(400, "Bad request: destination is not a path in the same CP code")
    leaf = _require_leaf(call, tree, rules)
    if tree.leaf(target) is not None or (not rules.objectstore and tree.directory(target + b"/") is not None):
        raise Refused(409, "Conflict: the destination exists")
    if not rules.objectstore:
        _require_parent(tree, target)
    tree.remove(call.leaf, now_s)
    tree.put(target, leaf, now_s)
    return done(rules.personality, "renamed")


def symlink(call: Call, tree: Tree, rules: Rules, now_s: float) -> Answer:
    """Make a symlink; FileStore wants its name free and its target there."""
    target = call.params.get("target", b"")
    if not target:
        raise Refused(400, "Bad request: target is missing")
    if not rules.objectstore:
        resolved = posixpath.normpath(posixpath.join(b"/" + parent_of(call.leaf), target)).lstrip(b"/")
        taken = tree.leaf(call.leaf) is not None or tree.directory(call.directory) is not None
        if taken or (tree.leaf(resolved) is None and tree.directory(resolved + b"/") is None):
            raise Refused(409, "Conflict: the link exists or its target does not")
        _require_parent(tree, call.leaf)
    mtime_s = call.whole_number("mtime")
    tree.put(call.leaf, Symlink(target, int(now_s) if mtime_s is None else mtime_s), now_s)
    return done(rules.personality, "successful")


def mtime(call: Call, tree: Tree, rules: Rules, now_s: float) -> Answer:
    """Set a file's modification time."""
    mtime_s = call.whole_number("mtime")
    if mtime_s is None:
        raise Refused(400, "Bad request: mtime is missing")
    leaf = tree.leaf(call.leaf)
    if not isinstance(leaf, File):
        raise Refused(404, "Not found")
    tree.put(call.leaf, File(leaf.blob, leaf.md5, mtime_s), now_s)
    return done(rules.personality, "successful")


def quick_delete(call: Call, tree: Tree, rules: Rules, now_s: float) -> Answer:
    """Remove a directory with everything in it; refused with 403 unless enabled."""
    if not rules.quick_delete:
        raise Refused(403, "Access denied: quick-delete is not enabled")
    if call.params.get("quick-delete") != b"imreallyreallysure":
        raise Refused(400, "Bad request: quick-delete wants its confirmation")
    if tree.directory(call.directory) is None:
        raise Refused(404, "Not found")
    for name in list(tree.names(call.directory, past(call.directory))):
        tree.remove(name, now_s)
    return done(rules.personality, "deleted")


READ_ACTIONS: dict[str, Callable[[Call, Tree, Rules], Answer]] = {"stat": stat, "dir": dir_, "list": list_, "du": du}
WRITE_ACTIONS: dict[str, Callable[[Call, Tree, Rules, float], Answer]] = {
    "delete": delete,
    "mkdir": mkdir,
    "rmdir": rmdir,
    "rename": rename,
    "symlink": symlink,
    "mtime": mtime,
    "quick-delete": quick_delete,
}


# --- shared --------------------------------------------------------------------------------------------------------


def _encoding(call: Call) -> Encoding:
    return "utf-8" if call.params.get("encoding", b"").lower() == b"utf-8" else "iso-8859-1"


def _base(name: bytes) -> bytes:
    return name.rpartition(b"/")[2]


def _is_root(directory: bytes) -> bool:
    return directory.count(b"/") == 1


def _directory(call: Call, tree: Tree) -> Directory | None:
    """Return the directory addressed; a CP code's root is always there."""
    found = tree.directory(call.directory)
    return IMPLICIT if found is None and _is_root(call.directory) else found


def _require_leaf(call: Call, tree: Tree, rules: Rules) -> Leaf:
    leaf = None if call.names_directory else tree.leaf(call.leaf)
    if leaf is None:
        taken = not rules.objectstore and tree.directory(call.directory) is not None
        raise Refused(409, "Conflict: a directory") if taken else Refused(404, "Not found")
    return leaf


def _require_parent(tree: Tree, name: bytes) -> None:
    parent = parent_of(name)
    if not _is_root(parent) and tree.directory(parent) is None:
        raise Refused(404, "Not found")


def _make_parents(tree: Tree, name: bytes, now_s: float) -> None:
    """Make the directories above `name` as entries of their own; refuse with 409 when a file is in the way."""
    missing: list[bytes] = []
    parent = parent_of(name)
    while not _is_root(parent) and tree.directory(parent) in (None, IMPLICIT):
        if tree.leaf(parent[:-1]) is not None:
            raise Refused(409, "Conflict: a file has the name of a directory above")
        missing.append(parent)
        parent = parent_of(parent)
    for directory in reversed(missing):
        tree.put(directory, Directory(int(now_s)), now_s)
