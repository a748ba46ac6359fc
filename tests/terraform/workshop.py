"""What the Terraform tests share: a copy of what ships, and terraform set up to find its provider.

The tests work on a copy, so that they find what a fresh clone has and leave nothing in the tree.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SHIPPED = ("terraform", "src", "requirements", "pyproject.toml", "README.md", "LICENSE", "Dockerfile", ".dockerignore")


def copy_sources(scratch: Path) -> Path:
    """Copy what a fresh clone holds, give the copy's Terraform root."""
    clone = scratch / "clone"
    clone.mkdir()
    made = shutil.ignore_patterns(".terraform*", "build", "__pycache__", "*.tfstate*")
    for name in SHIPPED:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, clone / name, ignore=made)
        elif source.exists():
            shutil.copy(source, clone / name)
    return clone / "terraform"


def find_mirror(env: Mapping[str, str]) -> Path | None:
    """Give a folder that holds terraform's providers as registry.terraform.io/…, or None: then the registry serves."""
    if named := env.get("S3NSYNC_TF_MIRROR"):
        return Path(named)
    usual = ("/opt", "/srv", "/usr/share", "/usr/local/share", str(Path.home() / ".terraform.d"))
    found = [each for place in usual for each in Path(place).glob("*/registry.terraform.io/hashicorp/aws")]
    return found[0].parents[2] if found else None


def terraform_settings(scratch: Path, mirror: Path | None) -> dict[str, str]:
    """Write terraform's own settings; give the variables that make it use them."""
    lines = ["disable_checkpoint = true"]
    if mirror:
        lines.append(
            f"provider_installation {{\n  filesystem_mirror {{\n    path = {json.dumps(str(mirror))}\n  }}\n}}"
        )
    else:  # fetch the provider once for all the folders that want it
        (cache := scratch / "plugins").mkdir()
        lines.append(f"plugin_cache_dir = {json.dumps(str(cache))}")
    path = scratch / "terraform.rc"
    path.write_text("\n".join(lines) + "\n")
    return {"TF_CLI_CONFIG_FILE": str(path), "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1"}
