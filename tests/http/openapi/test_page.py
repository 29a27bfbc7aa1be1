"""The page that shows the API's description, and the static files."""

from __future__ import annotations

import http.client
import json
import re
import shlex
from html.parser import HTMLParser
from itertools import pairwise
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.http.descriptions import (
    CODES,
    DOCUMENT,
    EVERY_OPERATION,
)
from tests.http.openapi.helpers import (
    OPERATIONS,
    example_account,
    known_card,
    known_charge,
    known_hold,
    known_payment,
)
from tests.stripe_double import WEBHOOK_PATH
from tests.support import (
    Service,
)

AUDIENCES = ("/docs/agents", "/docs/webhooks", "/docs/staff", "/docs/admins")
PURCHASES = "/v1/billing/purchases"


# The page


class Page(HTMLParser):
    """The parts of a page that the tests check."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: set[str] = set()
        self.sheets: set[str] = set()
        self.scripts: list[str] = []
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.blocks: list[str] = []
        self._in_block = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.attributes |= values.keys()
        self.ids += [values["id"]] if "id" in values else []
        if tag == "a":
            self.links.add(values["href"])
        if tag == "script":
            self.scripts.append(values.get("src", ""))
        if tag == "link":
            self.sheets.add(values["href"])
        if tag == "pre":
            self.blocks.append("")
            self._in_block = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre":
            self._in_block = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_block:
            self.blocks[-1] += data


@pytest.fixture(scope="module")
def page(service: Service) -> Page:
    """The page at /docs."""
    return Page(httpx2.get(f"{service.base_url}/docs", verify=False).text)


def test_the_page_forbids_scripts_and_foreign_content(service: Service) -> None:
    answer = httpx2.get(f"{service.base_url}/docs", verify=False)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "style-src 'self'", "frame-ancestors 'none'"} <= set(policy)
    assert "unsafe-inline" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_page_obeys_its_own_policy(page: Page) -> None:
    assert not {"script", "style", "img", "iframe", "form"} & set(page.tags)
    assert "style" not in page.attributes
    assert not [name for name in page.attributes if name.startswith("on")]


def test_the_page_shows_every_path_and_every_error_code(page: Page) -> None:
    for path in DOCUMENT["paths"]:
        assert path in page.text
    for code in CODES:
        assert f"error-{code}" in page.ids
        assert code in page.text
    for name in EVERY_OPERATION:
        assert name in page.ids


def test_the_page_is_a_well_ordered_document(page: Page) -> None:
    assert page.tags.count("h1") == page.tags.count("main") == 1
    levels = [int(tag[1]) for tag in page.tags if tag in ("h1", "h2", "h3", "h4", "h5")]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(page.ids) == len(set(page.ids))


def test_every_link_of_the_page_leads_somewhere(service: Service, page: Page) -> None:
    anchors = {link.removeprefix("#") for link in page.links if link.startswith("#")}
    assert len(anchors) > len(OPERATIONS)
    assert anchors <= set(page.ids)
    others = {link for link in page.links if not link.startswith("#")}
    ours = {"/openapi.json", "/llms.txt", *AUDIENCES}
    assert {link.partition("#")[0] for link in others} == ours
    for link in ours | page.sheets:
        assert httpx2.get(service.base_url + link, verify=False).status_code == 200


def test_every_curl_line_of_the_page_works_as_it_stands(service: Service, page: Page) -> None:
    lines = [
        block.replace("$BILLING_URL", service.base_url).replace("$BILLING_KEY", service.key.secret)
        for block in page.blocks
        if block.startswith("curl ") and "/admin/" not in block
    ]
    # Only Stripe can make a webhook's signature.
    assert len(lines) == len(OPERATIONS) - 1
    assert not [line for line in lines if WEBHOOK_PATH in line]
    assert len([line for line in lines if PURCHASES in line]) == 3
    example_account(service)
    for shown in lines:
        line = known_card(service, shown) if "top-up" in shown else known_payment(service, shown)
        line = known_hold(service, known_charge(service, line))
        words = shlex.split(line.replace("\\\n", " "))
        assert words[:2] == ["curl", "-sS"]
        method = None
        if words[2] == "-X":
            _, method = words.pop(2), words.pop(2)
        url, options = words[2], words[3:]
        headers, data = {}, None
        for option, value in zip(options[::2], options[1::2], strict=True):
            assert option in ("-H", "-d")
            if option == "-H":
                name, _, content = value.partition(": ")
                headers[name] = content
            else:
                data = value
        answer = httpx2.request(
            method or ("POST" if data else "GET"), url, headers=headers, content=data, verify=False
        )
        assert answer.status_code in (200, 201), line


def _body(service: Service, path: str) -> str:
    answer = httpx2.get(service.base_url + path, verify=False)
    assert answer.status_code == 200
    return answer.text


def test_a_page_with_its_style_and_script_is_smaller_than_300_kb(service: Service) -> None:
    files = ("/static/base.css", "/static/docs.css", "/static/docs.js")
    beside = sum(len(_body(service, file).encode()) for file in files)
    for path in ("/docs", *AUDIENCES):
        assert len(_body(service, path).encode()) + beside < 300_000, path


def test_the_page_of_an_audience_has_one_script_of_ours_and_reads_whole_without_it(
    service: Service,
) -> None:
    for path in AUDIENCES:
        answer = httpx2.get(service.base_url + path, verify=False)
        page = Page(answer.text)
        assert page.scripts == ["/static/docs.js"]
        unused = {"style", "img", "iframe", "form", "button", "input", "textarea"}
        assert not unused & set(page.tags)
        assert not [name for name in page.attributes if name.startswith("on")]
        policy = set(answer.headers["content-security-policy"].split("; "))
        assert policy == {
            "default-src 'none'", "style-src 'self'", "script-src 'self'", "connect-src 'self'",
            "img-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
        }  # fmt: skip
        assert '<link rel="icon" href="/static/favicon.svg"' in answer.text
    assert httpx2.get(f"{service.base_url}/docs/nobody", verify=False).status_code == 404


def test_the_staffs_pages_describe_each_of_their_calls_and_lead_to_the_error_codes(
    service: Service, page: Page
) -> None:
    pages = [Page(_body(service, path)) for path in ("/docs/staff", "/docs/admins")]
    theirs = [
        operation["operationId"]
        for methods in DOCUMENT["paths"].values()
        for operation in methods.values()
        if operation["tags"][0].startswith("Staff: ")
    ]
    assert theirs
    assert all(sum(name in one.ids for one in pages) == 1 for name in theirs)
    curls = [block for one in pages for block in one.blocks if block.startswith("curl ")]
    assert len(curls) == len(theirs)
    for one in pages:
        assert len(one.ids) == len(set(one.ids))
        anchors = {link.partition("#")[2] for link in one.links if link.startswith("/docs#")}
        assert len(anchors) > 10
        assert anchors <= set(page.ids)
        assert {link[1:] for link in one.links if link.startswith("#")} <= set(one.ids)


def test_every_example_in_python_is_the_curl_line_beside_it(service: Service) -> None:
    for path in ("/docs", *AUDIENCES):
        blocks = Page(_body(service, path)).blocks
        made = [block for block in blocks if block.startswith("import os")]
        sent: list[httpx2.Request] = []

        def keep(request: httpx2.Request, sent: list[httpx2.Request] = sent) -> httpx2.Response:
            sent.append(request)
            return httpx2.Response(200, json={})

        client = httpx2.Client(base_url=service.base_url, transport=httpx2.MockTransport(keep))
        checked = 0
        for curl, python in pairwise(blocks):
            if not curl.startswith("curl "):
                continue
            checked += 1
            exec(python, {"billing": client, "staff": client})
            request = sent[-1]
            words = shlex.split(curl.replace("\\\n", " "))
            url = next(word for word in words if word.startswith("$BILLING_URL"))
            assert str(request.url) == url.replace("$BILLING_URL", service.base_url), curl
            data = words[words.index("-d") + 1] if "-d" in words else "null"
            assert json.loads(request.content or b"null") == json.loads(data), curl
            how = words[words.index("-X") + 1] if "-X" in words else None
            assert request.method == (how or ("GET" if data == "null" else "POST")), curl
            for key in (word for word in words if word.startswith("Idempotency-Key: ")):
                assert request.headers["idempotency-key"] == key.partition(": ")[2]
        assert checked == len(sent)
        assert checked > 10 or path == "/docs/webhooks"
        for client_made in made:
            compile(client_made, "example", "exec")


def test_the_short_description_names_every_call_once_and_leads_to_its_place(
    service: Service, page: Page
) -> None:
    answer = httpx2.get(f"{service.base_url}/llms.txt", verify=False)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text.startswith("# CIRIS Billing API\n\n> ")
    places = re.findall(
        r"^- \[\w+ [^]]+\]\((/docs(?:/[a-z]+)?)#(\w+)\): ", answer.text, re.MULTILINE
    )
    assert sorted(name for _, name in places) == sorted(EVERY_OPERATION)
    assert {name for _, name in places} <= set(page.ids)
    for page_of in AUDIENCES:
        ids = set(Page(_body(service, page_of)).ids)
        assert {name for path, name in places if path == page_of} <= ids


# Static files


@pytest.mark.parametrize("name", ["base.css", "docs.css"])
def test_a_style_sheet_has_its_type_and_may_be_kept(
    service: Service, page: Page, name: str
) -> None:
    answer = httpx2.get(f"{service.base_url}/static/{name}", verify=False)
    assert f"/static/{name}" in page.sheets
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/css"
    assert answer.headers["cache-control"] == "public, max-age=3600"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "{" in answer.text
    kept = {"If-None-Match": answer.headers["etag"]}
    assert (
        httpx2.get(f"{service.base_url}/static/{name}", headers=kept, verify=False).status_code
        == 304
    )


@pytest.mark.parametrize(
    "path",
    [
        "/static/nothing.css",
        "/static/.",
        "/static/..",
        "/static/../setup.cfg",
        "/static/%2e%2e/setup.cfg",
        "/static/%2e%2e%2fsetup.cfg",
        "/static/..%2fsetup.cfg",
        "/static/..%5csetup.cfg",
        "/static/%252e%252e%252fsetup.cfg",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/base.css%00",
        "/static/docs.css/../../setup.cfg",
    ],
)
def test_nothing_but_the_style_sheets_can_be_had_by_way_of_static(
    service: Service, path: str
) -> None:
    # Not by httpx2, which would normalize the path before sending it.
    connection = http.client.HTTPConnection(urlsplit(service.base_url).netloc, timeout=30)
    connection.putrequest("GET", path, skip_host=False)
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 404
    assert b'"code":"not_found"' in answer.read()
    connection.close()
