"""The README's picture of the playground: `guard serve` with the embedded model in a real Chromium.

`make screenshot`. The one rule: what it shows was judged; nothing is drawn in.
"""

from __future__ import annotations

import shutil

from playwright.sync_api import Browser, Playwright, expect, sync_playwright

from benchmarks.peers.setup import ROOT
from benchmarks.serving import serving

PICTURE = ROOT / "docs" / "pictures" / "playground.png"
SIZE = (1280, 900)
BEFORE, AFTER = "  - hard criticism of an idea, a team or a work\n", "  action: review\n"  # the edit that is shown


def chromium() -> str | None:
    """The Chromium of this machine, if it has one."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def launched(playwright: Playwright) -> Browser:
    """That Chromium, without a window. Its sandbox is off: root has none, and it is shown our own page alone."""
    return playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])


def main() -> None:
    width, height = SIZE
    with serving() as (url, _), sync_playwright() as playwright, launched(playwright) as browser:
        page = browser.new_page(
            viewport={"width": width, "height": height}, color_scheme="light", reduced_motion="reduce"
        )
        page.goto(url)
        page.get_by_role("button", name="Shut up").click()
        expect(page.locator("#decision")).to_have_text("flag")
        editor = page.locator("#yaml")
        policy = editor.input_value()
        assert BEFORE in policy
        editor.fill(policy.replace(BEFORE, BEFORE + AFTER, 1))
        expect(page.locator("#decision")).to_contain_text("it was flag")
        page.mouse.move(0, 0)
        editor.evaluate("editor => { editor.scrollTo(0, 0); editor.blur(); window.scrollTo(0, 0); }")
        page.screenshot(path=PICTURE)
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
