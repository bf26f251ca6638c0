"""Take the picture of a report for the documentation: ``python docs/screenshot.py demo-run/run docs/report.png``.

The page is opened from disk, with every host name made unknown: it needs no network.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    """Run the browser."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("picture", type=Path, help="PNG file to write")
    parser.add_argument("--size", type=int, nargs=2, default=(1100, 1500), help="width and height in pixels")
    options = parser.parse_args()
    page = (options.run / "report.html").resolve()
    if not page.exists():
        raise SystemExit(f"{page} is not there; give the folder of a finished run, such as that of `make demo`")
    browser = next((found for name in NAMES if (found := shutil.which(name))), None)
    if browser is None:
        raise SystemExit(f"no browser was found; install one of {', '.join(NAMES)}")
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser, "--headless", "--hide-scrollbars", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={profile}", "--virtual-time-budget=8000", "--blink-settings=preferredColorScheme=1",
            f"--window-size={options.size[0]},{options.size[1]}", f"--screenshot={options.picture.resolve()}",
        ]  # fmt: skip
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.append("--no-sandbox")  # root has no sandbox to use
        subprocess.run([*command, page.as_uri()], check=True, capture_output=True, timeout=120)


if __name__ == "__main__":
    main()
