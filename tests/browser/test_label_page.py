"""The labelling page in a browser, by keyboard alone."""

import threading

import numpy as np
import pytest

from bdal.errors import LabelError
from bdal.labelling import server as server_module
from bdal.labelling.exchange import Item, Measured, State
from bdal.labelling.questions import picture
from bdal.labelling.server import make_server
from bdal.pool import ABSTAIN

pytestmark = pytest.mark.browser

BACKSPACE, TAB, ENTER, ESCAPE, LEFT, RIGHT, F1 = "\ue003\ue004\ue007\ue00c\ue012\ue014\ue031"  # WebDriver's keys
DIGITS = tuple("0123456789")
IMAGES = np.random.default_rng(0).random((200, 8, 8))


class Fake:
    """Two queries of ten points, and training that ends when the test says so."""

    def __init__(self, class_names=DIGITS, inputs=IMAGES):
        self.class_names, self.inputs = class_names, inputs
        self.queries = [list(range(10, 20)), list(range(30, 40))]
        self.round, self.phase, self.told, self.history = 0, "label", [], [(2, 0.5)]
        self.answers = dict.fromkeys(self.queries[0])
        self.fail = None

    def state(self):
        items = tuple(Item(index, f"point {index}", answer) for index, answer in self.answers.items())
        items = items if self.phase == "label" else ()
        paid = len({index for index, _ in self.told})
        known, history = self.training(), tuple(self.history)
        return State(self.round + 1, 2, self.phase, items, self.class_names, history, paid, 20, known)

    def training(self):
        """How many labels are trained on; those of points 10 and 11 are for validation."""
        given = {index for index, label in dict(self.told).items() if label != ABSTAIN}
        return len(given - {10, 11})

    def image(self, pool_index):
        found = picture(pool_index, self.inputs)
        return None if found is None else found.content

    def tell(self, pool_index, label):
        if self.fail is not None:
            raise self.fail
        self.told.append((pool_index, label))
        self.answers[pool_index] = label
        if None not in self.answers.values():
            self.phase = "training"

    def trained(self):
        self.round += 1
        self.history.append((self.training(), self.history[-1][1] + 0.2))
        if self.round == len(self.queries):
            self.phase = "finished"
        else:
            self.answers, self.phase = dict.fromkeys(self.queries[self.round]), "label"


class Page:
    """What a person does at the page and sees on it."""

    def __init__(self, browser, server):
        self.browser, self.server = browser, server

    def open(self):
        self.browser.get(self.server.url)

    def wait(self, condition):
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.browser, 30, poll_frequency=0.02).until(lambda _: condition())

    def find(self, selector):
        return self.find_all(selector)[0]

    def find_all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def text(self, selector):
        return self.find(selector).text

    def press(self, key):
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser).send_keys(key).perform()

    def shows(self, pool_index):
        self.wait(lambda: self.find("#item").get_attribute("data-shown") == str(pool_index))

    def answer(self, pool_index, key):
        self.shows(pool_index)
        self.press(key)

    def pressed(self):
        return [button.text.split()[-1] for button in self.find_all("[aria-pressed=true]")]


@pytest.fixture
def session():
    return Fake()


@pytest.fixture
def page(browser, session):
    server = make_server(session)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Page(browser, server)
    browser.get("about:blank")
    server.shutdown()
    server.server_close()
    thread.join()


def test_two_queries_by_keyboard_alone(page, session):
    page.open()
    for pool_index in range(10, 15):
        page.answer(pool_index, str(pool_index - 10))
    page.shows(15)
    page.press(BACKSPACE)
    page.shows(14)
    assert page.pressed() == ["4"]
    page.press("9")  # a correction: 4 was wrong
    page.answer(15, " ")  # cannot tell
    page.shows(16)
    assert page.text("#in-query") == "6 of 10 in this query"
    page.wait(lambda: session.told[5:] == [(14, 9), (15, ABSTAIN)])
    page.wait(lambda: page.text("#in-all") == "6 of 20 answers")

    page.press(LEFT)
    page.shows(15)
    assert page.pressed() == ["tell"]
    page.press(RIGHT)
    for pool_index in range(16, 20):
        page.answer(pool_index, "7")
    page.wait(lambda: page.text("#what") == "Training on 7 labels …")
    assert page.browser.title == "Training … · bdal label"

    session.trained()
    page.shows(30)  # by itself
    assert page.text("#round") == "round 2 of 2"
    assert page.text("#curve-caption") == "Accuracy 0.700 with 7 training labels"
    assert len(page.find_all("#curve circle")) == 2
    for pool_index in range(30, 40):
        page.answer(pool_index, "3")
    page.wait(lambda: page.text("#what") == "Training on 17 labels …")
    session.trained()
    page.wait(lambda: page.text("#what") == "Finished")
    assert page.text("#detail") == "20 answers. Accuracy 0.900 with 17 training labels."
    assert session.told == (
        [(10 + digit, digit) for digit in range(5)]
        + [(14, 9), (15, ABSTAIN)]
        + [(index, 7) for index in range(16, 20)]
        + [(index, 3) for index in range(30, 40)]
    )


def test_one_label_is_one_and_no_new_label_draws_a_curve_all_the_same(page, session):
    session.history = [(1, 0.5)]
    page.open()
    for pool_index in range(10, 13):
        page.answer(pool_index, "1")
    for pool_index in range(13, 20):
        page.answer(pool_index, "?")
    page.wait(lambda: page.text("#what") == "Training on 1 label …")
    assert page.text("#in-all") == "10 of 20 answers"
    session.trained()
    page.shows(30)
    assert page.text("#curve-caption") == "Accuracy 0.700 with 1 training label"
    assert [mark.text for mark in page.find_all("#curve text")][-2:] == ["1", "training labels"]
    places = {(mark.get_attribute("cx"), mark.get_attribute("cy")) for mark in page.find_all("#curve circle")}
    assert len({x for x, _ in places}) == 1
    assert len(places) == 2


def test_closed_and_opened_again(page, session):
    page.open()
    page.answer(10, "4")
    page.answer(11, "?")
    page.wait(lambda: len(session.told) == 2)
    here = page.browser.current_window_handle
    page.browser.switch_to.new_window("window")
    there = page.browser.current_window_handle
    page.browser.switch_to.window(here)
    page.browser.close()
    page.browser.switch_to.window(there)
    page.open()
    page.shows(12)  # the first without an answer
    assert [mark.text for mark in page.find_all("#query button")][:3] == ["4", "?", "·"]
    page.press(LEFT)
    page.shows(11)
    assert page.pressed() == ["tell"]


def test_no_answer_is_lost_with_the_connection(page, session):
    page.open()
    page.shows(10)
    session.fail = OSError(28, "No space left on device")
    page.press("5")
    page.wait(lambda: "No space left on device" in page.text("#alert"))
    assert "this page keeps the answer until then" in page.text("#alert")
    page.answer(11, "6")
    page.shows(12)
    assert session.told == []
    assert page.text("#in-query") == "2 of 10 in this query"
    asks = "const event = new Event('beforeunload', {cancelable: true}); return !dispatchEvent(event)"
    assert page.browser.execute_script(asks)  # before it is closed over them
    page.browser.execute_cdp_cmd("Network.enable", {})
    offline = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.browser.execute_cdp_cmd("Network.emulateNetworkConditions", offline | {"offline": True})
    page.wait(lambda: "No connection to bdal label" in page.text("#alert"))
    assert "the 2 answers" in page.text("#alert")
    session.fail = None
    page.browser.execute_cdp_cmd("Network.emulateNetworkConditions", offline | {"offline": False})
    page.wait(lambda: session.told == [(10, 5), (11, 6)])
    page.wait(lambda: not page.find("#alert").is_displayed())
    page.wait(lambda: page.text("#saved") == "All answers saved")
    assert not page.browser.execute_script(asks)


def test_a_refused_answer_is_shown_and_can_be_given_again(page, session):
    page.open()
    page.shows(10)
    session.fail = LabelError("pool point 10 is no five")
    page.press("5")
    page.wait(lambda: page.text("#alert") == "Not saved: pool point 10 is no five")
    page.shows(10)
    assert page.pressed() == []
    session.fail = None
    page.press("6")
    page.wait(lambda: session.told == [(10, 6)])
    assert not page.find("#alert").is_displayed()


def test_nothing_is_answered_that_was_not_seen(page, session):
    loading, go_on = threading.Event(), threading.Event()
    image = session.image

    def slowly(pool_index):
        if pool_index == 12:
            loading.set()
            go_on.wait(30)
        return image(pool_index)

    session.image = slowly
    page.open()
    page.answer(10, "1")
    page.answer(11, "2")  # 12 is on its way
    assert loading.wait(30)
    page.press("3")
    page.press("3")
    page.wait(lambda: "“3” is not taken: the point was not there yet." in page.text("#hint"))
    go_on.set()
    page.answer(12, "4")
    page.shows(13)
    page.wait(lambda: session.told == [(10, 1), (11, 2), (12, 4)])


def test_a_key_that_is_held_down_answers_once(page, session):
    page.open()
    page.shows(10)
    page.browser.execute_script(
        "for (const repeat of [false, true, true]) document.dispatchEvent("
        "new KeyboardEvent('keydown', {key: '5', code: 'Digit5', repeat, bubbles: true}))"
    )
    page.shows(11)
    page.browser.execute_script(
        "document.dispatchEvent(new KeyboardEvent('keydown', {key: '5', code: 'Digit5', repeat: true, bubbles: true}));"
        "document.dispatchEvent(new KeyboardEvent('keydown', {key: '5', code: 'Digit5', ctrlKey: true, bubbles: true}))"
    )
    page.answer(11, "6")
    page.wait(lambda: session.told == [(10, 5), (11, 6)])


def test_stopping_takes_the_key_twice(page, session):
    page.open()
    page.shows(10)
    page.press("q")
    page.wait(lambda: page.text("#stop-text") == "Once more to stop")
    page.press("5")  # any other key: go on
    page.shows(11)
    assert page.text("#stop-text") == "Stop"
    page.press("q")
    assert not page.server.stopping.is_set()
    page.press("q")
    page.wait(lambda: page.text("#what") == "Stopped")
    assert page.server.stopping.is_set()
    assert session.told == [(10, 5)]


def test_buttons_by_tab_and_help(page, session):
    page.open()
    page.shows(10)
    page.press(TAB)
    for _ in range(3):
        page.press(TAB)
    assert page.browser.switch_to.active_element.text == "3"
    page.press(" ")  # on a button, the button's own
    page.shows(11)
    page.wait(lambda: session.told == [(10, 3)])
    page.press(" ")  # and the next one not
    page.wait(lambda: session.told == [(10, 3), (11, ABSTAIN)])
    page.press("h")
    assert "cannot tell: the point is passed over" in page.text("#keys")
    page.press("5")
    page.press(ESCAPE)
    assert not page.find("#keys").is_displayed()
    page.answer(12, "5")
    page.wait(lambda: session.told[2:] == [(12, 5)])
    assert page.find("#live").get_attribute("textContent") == "5. Point 4 of 10."


def test_a_wrong_key_shows_and_answers_nothing(page, session):
    page.open()
    page.shows(10)
    page.press("x")
    page.wait(lambda: page.text("#hint") == "No class has the key “x”.")
    page.press("5")
    page.shows(11)
    assert not page.find("#hint").is_displayed()
    page.press("ü")
    page.wait(lambda: page.text("#hint") == "No class has the key “ü”.")
    page.press("h")
    assert not page.find("#hint").is_displayed()
    page.wait(lambda: session.told == [(10, 5)])


def test_fast_keys_answer_one_point_each(page, session):
    page.open()
    page.shows(10)
    page.wait(
        lambda: page.browser.execute_script("return ready.size === AHEAD && [...ready.values()].every(i => i.complete)")
    )
    shown = page.browser.execute_script(  # at once: no other program runs in between
        "return ['3', '4', '5'].map(key => {"
        " document.dispatchEvent(new KeyboardEvent('keydown', {key, code: `Digit${key}`, bubbles: true}));"
        " return [document.querySelector('#item').dataset.shown, document.querySelector('#picture').naturalWidth > 0]})"
    )
    assert shown == [["11", True], ["12", True], ["13", True]]
    page.wait(lambda: session.told == [(10, 3), (11, 4), (12, 5)])


def test_one_line_says_what_the_task_is(page, session):
    state = session.state
    session.state = lambda: state()._replace(instruction="<b>Is there a cat</b> in the picture?")
    page.open()
    page.shows(10)
    assert page.text("#instruction") == "<b>Is there a cat</b> in the picture?"


def test_accuracy_of_few_labels_has_its_interval(page, session):
    session.history = [Measured(8, 0.5, 0.2, 0.8), Measured(18, 0.75, 0.41, 0.93)]
    page.open()
    page.shows(10)
    said = "Accuracy 0.750 with 18 training labels (95 % interval 0.41 to 0.93)"
    assert page.text("#curve-caption") == said
    lines = page.find_all("#curve .range")
    assert len(lines) == len(page.find_all("#curve circle")) == 2
    for line, dot in zip(lines, page.find_all("#curve circle"), strict=True):
        low, high = (float(line.get_attribute(name)) for name in ("y1", "y2"))
        assert 0 < high < float(dot.get_attribute("cy")) < low < 120


@pytest.mark.parametrize("session", [Fake(tuple("ABCDEFGHIQ"))], ids=["letters"])
def test_letters_are_their_own_keys_and_help_and_stop_move(page, session):
    page.open()
    page.answer(10, "h")
    page.answer(11, "Q")
    page.wait(lambda: session.told == [(10, 7), (11, 9)])
    page.press(F1)
    assert page.find("#keys").is_displayed()
    page.press(ESCAPE)
    assert page.text("#stop-key") == "Esc Esc"


@pytest.mark.parametrize("session", [Fake(tuple(f"class {index}" for index in range(60)))], ids=["many"])
def test_many_classes_are_found_by_name(page, session):
    page.open()
    page.shows(10)
    page.press("/")
    for key in ("class 47", ENTER):
        page.press(key)
    page.answer(11, "b")
    page.wait(lambda: session.told == [(10, 47), (11, 11)])


@pytest.mark.parametrize("session", [Fake((*DIGITS, "other"))], ids=["digits"])
def test_a_class_of_one_character_is_its_own_key_beside_longer_names(page, session):
    page.open()
    page.answer(10, "3")
    page.answer(11, "0")
    page.answer(12, "a")
    page.shows(13)
    assert [button.text.split() for button in page.find_all("#choices button")][9:] == [["9", "9"], ["a", "other"]]
    page.wait(lambda: session.told == [(10, 3), (11, 0), (12, 10)])


@pytest.mark.parametrize("session", [Fake(("猫", "?", "b"))], ids=["no-keys"])
def test_a_class_of_one_character_that_is_not_its_own_key_shows_which_is(page, session):
    page.open()
    page.answer(10, "2")
    page.answer(11, "b")
    page.answer(12, "?")
    page.shows(13)
    assert [button.text.split() for button in page.find_all("#choices button")] == [["1", "猫"], ["2", "?"], ["b", "b"]]
    page.wait(lambda: session.told == [(10, 1), (11, 2), (12, ABSTAIN)])


def test_a_point_that_cannot_be_shown_holds_nobody_up(page, session):
    image, bad = session.image, {}

    def sometimes(pool_index):
        found = bad.get(pool_index, image(pool_index))
        if isinstance(found, Exception):
            raise found
        return found

    session.image = sometimes
    bad[10] = FileNotFoundError(2, "No such file or directory", "/photos/cat.png")
    bad[11] = ValueError("dog.tif: expected an image")
    bad[12] = b"\x89PNG\r\n\x1a\n and nothing else"
    page.open()
    page.wait(lambda: page.text("#why") == "point 10: cannot be read: No such file or directory")
    page.press("5")  # nobody saw it
    assert "only “Cannot tell” answers it" in page.text("#hint")
    assert all(not button.is_enabled() for button in page.find_all("#choices button"))
    page.press(" ")
    page.wait(lambda: page.text("#why") == "dog.tif: expected an image")
    page.press(RIGHT)
    page.wait(lambda: page.text("#why") == "The browser cannot decode it.")
    page.press("?")
    page.answer(13, "5")
    page.shows(14)
    page.wait(lambda: session.told == [(10, ABSTAIN), (12, ABSTAIN), (13, 5)])
    page.press(LEFT)
    page.shows(13)
    page.press(LEFT)
    page.wait(lambda: page.text("#why") == "The browser cannot decode it.")
    page.press(LEFT)
    page.wait(lambda: page.text("#why") == "dog.tif: expected an image")
    del bad[11]
    page.find("#again").click()
    page.answer(11, "6")
    page.wait(lambda: session.told[3:] == [(11, 6)])


def test_the_file_that_leads_a_browser_to_the_page(page, tmp_path):
    with server_module._door(page.server.url, tmp_path) as address:
        page.browser.get(address)
        page.shows(10)
        assert page.browser.current_url == page.server.url


@pytest.mark.parametrize("session", [Fake(("<b>x</b>", "é & ü"), np.zeros((200, 7)))], ids=["embeddings"])
def test_points_without_an_image_show_their_name_and_names_are_text(page, session):
    page.open()
    page.shows(10)
    assert page.text("#words") == "point 10"
    buttons = page.find_all("#choices button span")
    assert [button.text for button in buttons] == ["<b>x</b>", "é & ü"]
    assert page.find_all("#choices b") == []
    page.press("2")
    page.wait(lambda: session.told == [(10, 1)])


def test_the_browser_has_nothing_to_complain_about(page):
    page.browser.get_log("browser")
    page.open()
    for pool_index in range(10, 20):
        page.answer(pool_index, "1")
    page.wait(lambda: page.text("#what").startswith("Training"))
    assert page.browser.get_log("browser") == []


@pytest.mark.parametrize("width", [320, 400, 1200])
def test_it_fits_every_width(page, width):
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        page.open()
        page.shows(10)
        assert page.browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        picture_width, natural = page.browser.execute_script(
            "const p = document.getElementById('picture'); return [p.clientWidth, p.naturalWidth]"
        )
        assert natural == 8
        assert picture_width % 8 == 0
        assert picture_width >= 160
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
