"""Writes the tables of terraform/README.md: inputs and outputs from the root's files, permissions from policies.json.

It also checks what ties the root to the module.

    tables.py           write the tables anew
    tables.py --check   exit status 1 if they are not what they would be written as, or root and module differ

Root and module declare most variables twice, because Terraform has no other way to pass one on. What is said twice must
be said alike: type, default and description. The exceptions are named in `DIFFERENT`.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2] / "terraform"
README = ROOT / "README.md"
DIFFERENT = {
    "routes": "untyped in the root, to refuse unknown keys, and with the simple variables as its default",
    "operations": "untyped in the root, to refuse unknown keys",
}
RENAMED = {"natgwrtid": "nat_route_table_id"}
MOST_VARIABLES = 30

_BLOCK = re.compile(r'^(variable|output) "(\w+)" \{\n(.*?)^\}$', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One variable or output, by the words in its file; `default` is None where there is none."""

    kind: str
    name: str
    description: str
    type: str
    default: str | None


def blocks(path: Path) -> dict[str, Block]:
    """Read a file's variables or outputs, in their order."""
    return {each[2]: _block(*each.groups()) for each in _BLOCK.finditer(path.read_text())}


def _block(kind: str, name: str, body: str) -> Block:
    def value(argument: str) -> str | None:
        found = re.search(rf"^  {argument}\s+= (.+?)(?: #.*)?$", body, re.MULTILINE)
        return found[1] if found else None

    description = (value("description") or '""')[1:-1].replace('\\"', '"')
    return Block(kind, name, description, value("type") or "", value("default"))


def inputs(variables: dict[str, Block]) -> str:
    """Write the table of inputs."""
    lines = ["| name | type | default | what it is |", "|---|---|---|---|"]
    for each in variables.values():
        default = "required" if each.default is None else f"`{each.default}`"
        lines.append(f"| `{each.name}` | `{each.type}` | {default} | {each.description} |")
    return "\n".join(lines)


def outputs(found: dict[str, Block]) -> str:
    """Write the table of outputs."""
    lines = ["| name | what it is |", "|---|---|"]
    return "\n".join(lines + [f"| `{each.name}` | {each.description} |" for each in found.values()])


def permissions() -> dict[str, str]:
    """Write the tables on permissions, by name."""
    from terraform import roles  # noqa: PLC0415 - its package is found only after the last lines here

    return {"roles": roles.roles(), "services": roles.doors()}


def written(text: str, name: str, table: str) -> str:
    """Put a table between its two marks."""
    begin, end = f"<!-- {name}: written by tests/terraform/tables.py -->\n", f"<!-- end of {name} -->"
    before, _, rest = text.partition(begin)
    return f"{before}{begin}{table}\n{end}{rest.partition(end)[2]}"


def differences() -> list[str]:
    """Say where root and module do not say the same."""
    found = []
    for kind in ("variables", "outputs"):
        root, module = blocks(ROOT / f"{kind}.tf"), blocks(ROOT / "modules" / "s3nsync" / f"{kind}.tf")
        for name, mine in root.items():
            theirs = module.get(RENAMED.get(name, name))
            if theirs and name not in DIFFERENT and _said(mine) != _said(theirs):
                found.append(f"{kind}: {name} differs between root and module: {_said(mine)} and {_said(theirs)}")
        found += [f"{kind}: {name} of the module is not passed on" for name in sorted(_missing(root, module))]
    if (count := len(blocks(ROOT / "variables.tf"))) > MOST_VARIABLES:
        found.append(f"variables: {count} of them; more than {MOST_VARIABLES} are hard to read")
    return found


def _said(block: Block) -> tuple[str, str, str | None]:
    return block.description, block.type, block.default


def _missing(root: dict[str, Block], module: dict[str, Block]) -> set[str]:
    return set(module) - {RENAMED.get(name, name) for name in root}


def main(arguments: list[str]) -> int:
    """Write or check; see the module's text."""
    now = README.read_text()
    wanted = written(now, "inputs", inputs(blocks(ROOT / "variables.tf")))
    wanted = written(wanted, "outputs", outputs(blocks(ROOT / "outputs.tf")))
    for name, table in permissions().items():
        wanted = written(wanted, name, table)
    faults = differences()
    if arguments != ["--check"]:
        README.write_text(wanted)
    elif now != wanted:
        faults.append("README.md: the tables are old; run tests/terraform/tables.py")
    for fault in faults:
        sys.stderr.write(f"terraform/{fault}\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[1]))
    raise SystemExit(main(sys.argv[1:]))
