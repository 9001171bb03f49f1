"""The playground in a real Chromium, over a real socket: judged by single words, answered by a scripted assistant.

After every test: no request has left the service, the security policy was not broken, and no script has failed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from guard.errors import EngineError
from guard.keys import KeyBook
from guard.moderator import Moderator
from guard.service.app import create_app
from guard.settings import Settings
from guard.tokenizer import Tokenizer
from tests.service.scripted import BAD, Judge, Scripted, scripted
from tests.service.support import listening, until

IMAGE = "<img src=x onerror=\"document.title='owned'\"><b>bold</b>"
TABS = ("Text", "Answer", "Thread", "Chat")

# Text on its background, for every element that has text of its own: the worst contrast, and whose it is.
CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const parsed = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (color) => {
    const [r, g, b] = color.map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const background = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const color = parsed(getComputedStyle(each).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255, 255];
  };
  let worst = [21, ""];
  for (const element of document.body.querySelectorAll("*")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || element.value;
    if (!own || !element.checkVisibility() || element.disabled) continue;
    const [a, b] = [light(parsed(getComputedStyle(element).color)), light(background(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < worst[0]) worst = [contrast, element.outerHTML.slice(0, 120)];
  }
  return worst;
}"""


class Playground:
    """A service with a judge of single words, and pages of it that are watched."""

    def __init__(self, stack: ExitStack, browser: Browser, tokenizer: Tokenizer, **changed: Any) -> None:
        settings = Settings(**changed)
        self.judge = Judge(tokenizer)
        self.moderator = Moderator(self.judge, tokenizer, settings=settings)
        app = create_app(self.moderator, settings)
        self.url = stack.enter_context(listening(app))
        stack.callback(self.judge.go)
        until(lambda: len(self.judge.seen) > 0)
        self._stack, self._browser = stack, browser
        self.requests: list[str] = []
        self.aborted: list[str] = []
        self.faults: list[str] = []

    def page(self, **context: Any) -> Page:
        """A page, once it has its policies, or asks for a key."""
        opened = self._stack.enter_context(self._browser.new_context(**context))
        opened.set_default_timeout(20_000)
        page = opened.new_page()
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("requestfailed", lambda request: self.aborted.append(request.url))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda message: self._heard(message.type, message.text))
        page.goto(self.url)
        expect(page.locator("#policy option, #failure .alert")).not_to_have_count(0)
        return page

    def _heard(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and "the server responded with a status of" not in text:
            self.faults.append(text)

    def check(self) -> None:
        assert [url for url in self.requests if not url.startswith((f"{self.url}/", "data:"))] == []
        assert self.faults == []


Open = Callable[..., Playground]


@pytest.fixture
def opened(browser: Browser, tokenizer: Tokenizer) -> Iterator[Open]:
    with ExitStack() as stack:
        found: list[Playground] = []

        def start(**changed: Any) -> Playground:
            found.append(Playground(stack, browser, tokenizer, **changed))
            return found[-1]

        yield start
        for playground in found:
            playground.check()


@pytest.fixture
def assistant() -> Iterator[Scripted]:
    with scripted() as server:
        yield server


def field(page: Page) -> Locator:
    """Where a text is written."""
    return page.get_by_role("textbox", name="Text", exact=True)


def decides(page: Page, decision: str) -> None:
    expect(page.locator("#decision strong")).to_have_text(decision)


def say(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send").click()


def test_a_text_is_judged_while_it_is_written(opened: Open) -> None:
    playground = opened()
    page = playground.page()
    assert not [url for url in playground.requests if url.endswith("/v1/guard")], "there is nothing yet"
    field(page).press_sequentially(f"There goes a {BAD}", delay=5)
    decides(page, "flag")
    verdict = playground.moderator.judge(f"There goes a {BAD}", policy="moderation-13")
    summary = page.locator("#summary")
    expect(summary).to_have_text("Flag. Score 0.990, at or over the threshold of 0.500. Named: harassment.")
    assert summary.get_attribute("role") == "status", "it is read aloud"
    meters = page.get_by_role("meter")
    assert [m.get_attribute("aria-label") for m in meters.all()] == ["Not acceptable", *verdict.category_scores]
    assert meters.nth(1).get_attribute("aria-valuetext") == "0.880, threshold 0.500, uncalibrated"
    facts = page.locator(".facts")
    for fact in ("Passage 1 of 1", verdict.policy_hash, verdict.model, "moderation-13, version 1", "ms in the browser"):
        expect(facts).to_contain_text(fact)
    field(page).fill("There goes a horse")
    decides(page, "allow")
    expect(page.locator(".named")).to_have_count(0)
    field(page).fill("  ")
    expect(page.locator("#decision")).to_be_empty()


def test_only_policies_that_fit_are_offered(opened: Open) -> None:
    playground = opened()
    page = playground.page()

    def offered() -> set[str]:
        return {option.get_attribute("value") or "" for option in page.locator("#policy option").all()}

    def fitting(*kinds: str) -> set[str]:
        return {policy.id for policy in playground.moderator.policies if {*kinds} <= {*policy.kinds}}

    assert offered() == fitting("prompt") and page.locator("#policy").input_value() == "moderation-13"
    page.get_by_label("A document").check()
    assert offered() == fitting("document") == {"injection"}
    page.get_by_role("tab", name="Answer").click()
    assert offered() == fitting("answer")
    page.get_by_role("tab", name="Thread").click()
    assert offered() == fitting("comment") and page.locator("#policy").input_value() == "forum-comments"
    page.locator("#policy").select_option("moderation-13")
    page.get_by_role("tab", name="Chat").click()
    assert offered() == fitting("prompt", "answer")
    page.get_by_role("tab", name="Thread").click()
    assert page.locator("#policy").input_value() == "moderation-13", "a choice is remembered"


def test_an_answer_and_a_comment_are_judged_in_their_context(opened: Open) -> None:
    playground = opened()
    page = playground.page()
    with page.expect_request("**/v1/guard") as asked:
        page.get_by_role("tab", name="Answer").click()
        page.get_by_label("The user’s prompt").fill("Who are you?")
        page.get_by_label("The assistant’s answer").fill(f"A {BAD}")
    assert asked.value.post_data_json == {
        "input": f"A {BAD}", "kind": "answer", "prompt": "Who are you?", "policy": "moderation-13",
    }  # fmt: skip
    decides(page, "flag")
    with page.expect_request("**/v1/guard") as asked:
        page.get_by_role("tab", name="Thread").click()
        page.get_by_label("Title of the thread").fill("Animals")
        page.get_by_label("Comment", exact=True).fill("I like horses")
    assert asked.value.post_data_json == {
        "input": "I like horses", "kind": "comment", "title": "Animals", "policy": "forum-comments",
    }  # fmt: skip
    decides(page, "allow")


def test_an_edit_of_the_policy_shows_what_it_changes(opened: Open) -> None:
    page = opened().page()
    field(page).fill(f"A {BAD}")
    decides(page, "flag")
    editor = page.locator("#yaml")
    original = editor.input_value()
    first = "categories:\n- id: animals\n  description: is about animals\n  action: block\n"
    editor.fill(original.replace("categories:\n", first, 1))
    decides(page, "block")
    expect(page.locator("#decision")).to_contain_text("Changed by the edit: it was flag.")
    expect(page.locator("#summary")).to_contain_text("Before the edit: flag, 0.990.")
    animals, harassment = (
        page.locator(".score").filter(has_text=re.compile(rf"^{n}\*?0")) for n in ("animals", "harassment")
    )
    expect(animals).to_contain_text("New with the edit")
    expect(animals).to_contain_text("Named: block")
    expect(harassment).to_contain_text(re.compile("▼ 0.86., was 0.880"))
    expect(page.locator(".score.changed")).to_have_count(2)
    page.get_by_role("button", name="Undo the edit").click()
    decides(page, "flag")
    expect(page.locator("#decision")).to_have_text("flag")
    assert editor.input_value() == original and page.locator(".changed").count() == 0


def test_a_policy_that_is_none_is_told_beside_the_editor(opened: Open) -> None:
    page = opened().page()
    field(page).fill(f"A {BAD}")
    editor = page.locator("#yaml")
    editor.fill("id: [")
    expect(page.locator("#yaml-note .alert")).to_contain_text("invalid_request")
    assert editor.get_attribute("aria-invalid") == "true"
    decides(page, "flag")
    expect(page.locator("#verdict")).to_contain_text("The edited policy cannot be used")
    page.get_by_role("tab", name="Answer").click()
    page.get_by_role("tab", name="Text").click()
    assert editor.input_value() == "id: [", "an edit outlasts a look elsewhere"


def test_what_is_outdated_is_aborted(opened: Open) -> None:
    playground = opened()
    page = playground.page()
    playground.judge.hold()
    text = field(page)
    with page.expect_request("**/v1/guard"):
        text.fill(f"A {BAD}")
    assert page.locator("#verdict").get_attribute("aria-busy") == "true"
    with page.expect_request("**/v1/guard"):
        text.fill("A horse")
    playground.judge.go()
    decides(page, "allow")
    assert playground.aborted == [f"{playground.url}/v1/guard"]


def test_errors_are_told_in_words(opened: Open) -> None:
    playground = opened()
    page = playground.page()
    playground.judge.broken = EngineError("The engine is out of order.")
    field(page).fill("A horse")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("The engine is out of order.")
    expect(alert).to_contain_text("engine_error")
    expect(page.locator("#decision")).to_be_empty()
    playground.judge.broken = None
    page.get_by_role("button", name="Judge").click()
    decides(page, "allow")
    expect(alert).to_be_empty()


def test_the_tabs_need_no_mouse(opened: Open) -> None:
    page = opened().page()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the verdict")).to_be_focused()
    while not page.evaluate("document.activeElement.role === 'tab'"):
        page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert float(outline.removesuffix("px")) >= 2, "focus is to be seen"
    for key, name in (
        ("ArrowRight", "Answer"), ("End", "Chat"), ("ArrowRight", "Text"), ("ArrowLeft", "Chat"), ("Home", "Text"),
        ("ArrowRight", "Answer"), ("ArrowRight", "Thread"),
    ):  # fmt: skip
        page.keyboard.press(key)
        tab = page.get_by_role("tab", name=name)
        expect(tab).to_be_focused()
        assert [t.get_attribute("aria-selected") for t in page.get_by_role("tab").all()].count("true") == 1
        assert tab.get_attribute("aria-selected") == "true" and tab.get_attribute("tabindex") == "0"
        panel = page.get_by_role("tabpanel")
        expect(panel).to_have_count(1)
        assert panel.get_attribute("id") == tab.get_attribute("aria-controls")
    page.keyboard.press("Tab")
    page.keyboard.type("Animals")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.type(f"You {BAD}")
    page.keyboard.press("Control+Enter")
    decides(page, "flag")


def test_texts_are_never_markup(opened: Open, assistant: Scripted) -> None:
    assistant.script = [IMAGE]
    page = opened(assistant=assistant.url).page()
    field(page).fill(IMAGE)
    expect(page.locator("blockquote")).to_have_text(IMAGE)
    page.locator("#yaml").fill(page.locator("#yaml").input_value() + f"  {IMAGE}\n")
    expect(page.locator("#yaml-note .alert")).to_be_visible()
    page.get_by_role("tab", name="Chat").click()
    say(page, IMAGE)
    expect(page.locator(".of-assistant .said")).to_have_text(IMAGE)
    expect(page.locator(".of-user .said")).to_have_text(IMAGE)
    assert page.locator("img, b").count() == 0 and page.title() == "guard: playground"


def test_the_browser_keeps_the_page_to_its_rules(opened: Open) -> None:
    playground = opened()
    page = playground.page()
    for forbidden in (
        "document.body.innerHTML = '<b>bold</b>'",
        "const s = document.createElement('script'); s.textContent = 'document.title = 1'; document.body.append(s)",
        "await fetch('http://127.0.0.1:9/')",
        "document.body.setAttribute('style', 'display: none')",
    ):
        page.evaluate(f"async () => {{ try {{ {forbidden}; }} catch (error) {{ return error.name; }} }}")
        until(lambda: bool(playground.faults) or page.wait_for_timeout(10))
        assert "Content Security Policy" in playground.faults[0] or "Trusted" in playground.faults[0], forbidden
        playground.faults.clear()
    assert page.title() == "guard: playground" and page.locator("h1").is_visible()


def test_the_chat_shows_what_is_released_as_it_comes(opened: Open, assistant: Scripted) -> None:
    assistant.pause = 0.1
    assistant.script = ["one two three four five six seven eight nine ten"]
    page = opened(assistant=assistant.url).page()
    page.get_by_role("tab", name="Chat").click()
    page.get_by_label(re.compile("safe_prompt")).check()
    say(page, "Count")
    said = page.locator(".of-assistant .said")
    expect(said).to_contain_text("one two")
    assert "ten" not in (said.text_content() or "") and page.get_by_role("button", name="Send").is_disabled()
    expect(said).to_have_text(assistant.script[0])
    expect(page.get_by_role("button", name="Send")).to_be_enabled()
    for who in ("user", "assistant"):
        expect(page.locator(f".of-{who} .marks")).to_have_text(re.compile(r"^allow 0\.\d{3}$"))
    decides(page, "allow")
    assert [m["role"] for m in assistant.bodies[0]["messages"]] == ["system", "user"], "the guardrail prompt"
    say(page, "Go on")
    until(lambda: len(assistant.bodies) == 2)
    assert [m["content"] for m in assistant.bodies[1]["messages"][1:]] == ["Count", assistant.script[0], "Go on"]
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#log")).to_contain_text("Ended by you")


def test_an_answer_is_stopped_where_it_is_not_acceptable(opened: Open, assistant: Scripted) -> None:
    assistant.script = [["Well,", " one", " two", " three", f" {BAD}", " four", " five"]]
    page = opened(assistant=assistant.url).page()
    page.get_by_role("tab", name="Chat").click()
    say(page, "Count")
    turn = page.locator(".of-assistant")
    expect(turn).to_contain_text("Stopped here")
    expect(turn.locator(".marks")).to_contain_text("flag 0.990")
    expect(turn.locator(".said")).to_have_text("Well, one two three")
    decides(page, "flag")
    assert BAD not in page.locator("#log").inner_text()


def test_a_prompt_that_is_not_acceptable_reaches_no_assistant(opened: Open, assistant: Scripted) -> None:
    page = opened(assistant=assistant.url).page()
    page.get_by_role("tab", name="Chat").click()
    say(page, f"You {BAD}")
    expect(page.locator(".of-user .marks")).to_contain_text("the assistant was not asked")
    decides(page, "flag")
    assert assistant.bodies == [] and page.locator(".of-assistant").count() == 0


def test_without_an_assistant_the_conversation_is_judged(opened: Open) -> None:
    page = opened().page()
    page.get_by_role("tab", name="Chat").click()
    say(page, "Hello you")
    expect(page.get_by_text("No assistant stands behind this service")).to_be_visible()
    decides(page, "allow")
    page.get_by_label("Who says it").select_option("assistant")
    say(page, f"I am a {BAD}")
    decides(page, "flag")
    expect(page.get_by_label("All that was judged").locator("li")).to_have_count(2)
    page.get_by_role("button", name="Start again").click()
    expect(page.locator("#decision")).to_be_empty()
    expect(page.locator(".turn")).to_have_count(0)


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(opened: Open, tmp_path: Path) -> None:
    with KeyBook(tmp_path / "keys.sqlite") as book:
        secret = book.create("a person")[1]
    page = opened(keys=tmp_path / "keys.sqlite").page()
    expect(page.get_by_role("alert")).to_contain_text("invalid_api_key")
    key = page.get_by_label("API key")
    expect(key).to_be_focused()
    key.fill("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#key-why")).to_contain_text("not known")
    expect(key).to_be_focused()
    key.fill(secret)
    page.keyboard.press("Enter")
    expect(page.locator("#key-card")).to_be_hidden()
    field(page).fill(f"A {BAD}")
    decides(page, "flag")
    stored = page.evaluate("[Object.values(sessionStorage), Object.values(localStorage), document.cookie]")
    assert stored == [[secret], [], ""]
    page.get_by_role("button", name="Forget the key").click()
    expect(key).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_colour_schemes_can_be_read(opened: Open, scheme: Any) -> None:
    page = opened().page(color_scheme=scheme, reduced_motion="reduce")
    toggle = page.get_by_role("button", name="Dark")
    assert toggle.get_attribute("aria-pressed") == str(scheme == "dark").lower()

    def look() -> None:
        for text, decision in ((f"A {BAD}", "block"), ("A horse", "allow")):
            field(page).fill(text)
            decides(page, decision)
            worst, whose = page.evaluate(CONTRAST)
            assert worst >= 4.5, whose

    page.locator("#yaml").fill(
        page.locator("#yaml").input_value().replace("- id: harassment\n", "- id: harassment\n  action: block\n")
    )
    look()
    assert page.evaluate("getComputedStyle(document.querySelector('#judge')).transitionDuration") == "0s"
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    toggle.click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    assert toggle.get_attribute("aria-pressed") == str(scheme == "light").lower()
    look()


def test_it_fits_a_narrow_screen(opened: Open) -> None:
    page = opened().page(viewport={"width": 360, "height": 700})
    field(page).fill(f"A {BAD} " + "x" * 300)
    decides(page, "flag")
    for name in TABS:
        page.get_by_role("tab", name=name).click()
        page.locator("#examples button").first.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, name


def test_every_control_has_a_name(opened: Open) -> None:
    page = opened().page()
    for name in TABS:
        page.get_by_role("tab", name=name).click()
        page.locator("#examples button").nth(1).click()
        told = page.locator("body").aria_snapshot()
        roles = re.findall(r"- (button|textbox|combobox|radio|checkbox|tab|tabpanel|meter|link)\b( \")?", told)
        assert {role for role, _ in roles} >= {"button", "textbox", "combobox", "tab", "tabpanel", "link"}
        assert [role for role, named in roles if not named] == [], told
    assert page.locator("html").get_attribute("lang") == "en" and page.locator("h1").count() == 1
