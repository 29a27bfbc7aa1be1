// The page reads whole without this. It adds a filter, buttons that copy and fold, and forms that
// try a call against this server. A key that is typed in stays in this page's memory alone.
"use strict";

const $ = (selector, within = document) => [...within.querySelectorAll(selector)];

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick" || name === "oninput") made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// Copy buttons.
for (const block of $("main pre")) {
  const button = element("button", { type: "button", class: "copy", onclick: copy }, "Copy");
  button.setAttribute("aria-label", `Copy: ${block.getAttribute("aria-label")}`);
  block.before(element("div", { class: "code" }));
  block.previousSibling.append(button, block);
  async function copy() {
    try {
      await navigator.clipboard.writeText(block.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(block);
      button.textContent = "Press Ctrl-C";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  }
}

// The filter: by audience and by words, over the contents and the operations.
const shown = { audience: "", words: [] };
const audiences = $("section[data-audience] > h2").map((heading) => ({
  key: heading.parentElement.dataset.audience,
  name: heading.textContent,
}));
const count = element("p", { class: "hint", role: "status" });

function matches(text) {
  const lower = text.toLowerCase();
  return shown.words.every((word) => lower.includes(word));
}

function show() {
  let left = 0;
  for (const operation of $("article.operation, ul.short > li")) {
    const names = $("h4, .address, a, code", operation).map((part) => part.textContent).join(" ");
    operation.hidden = !matches(names);
    const section = operation.closest("[data-audience]");
    if (!operation.hidden && (!shown.audience || section.dataset.audience === shown.audience)) left += 1;
    for (const link of $(`.contents a[href="#${operation.querySelector("[id]")?.id ?? operation.id}"]`)) {
      link.parentElement.hidden = operation.hidden;
    }
  }
  for (const group of $("section.group")) group.hidden = !$("article.operation:not([hidden])", group).length;
  for (const section of $("[data-audience]")) {
    section.hidden = shown.audience !== "" && section.dataset.audience !== shown.audience;
  }
  for (const name of $(".contents .group-name")) {
    name.hidden = !$("li:not([hidden])", name.nextElementSibling).length;
  }
  const filters = shown.audience || shown.words.length;
  count.textContent = filters ? `${left} call${left === 1 ? "" : "s"} match${left === 1 ? "es" : ""}` : "";
}

const search = element("input", {
  type: "search", id: "filter", autocomplete: "off", placeholder: "charge, /credits, POST ...",
  oninput: () => { shown.words = search.value.toLowerCase().split(/\s+/).filter(Boolean); show(); },
});
const choices = [{ key: "", name: "All" }, ...audiences].map(({ key, name }) =>
  element("button", {
    type: "button", "aria-pressed": String(key === ""), "data-key": key,
    onclick: () => {
      shown.audience = key;
      for (const choice of choices) choice.setAttribute("aria-pressed", String(choice.dataset.key === key));
      show();
    },
  }, name));
const fold = (open) => { for (const part of $("article.operation details")) part.open = open; };
document.querySelector("main h1").after(element("div", { class: "filter", role: "search" },
  element("label", { for: "filter" }, "Filter the calls"), search,
  element("div", { class: "choices", role: "group", "aria-label": "Audience" },
    ...(audiences.length > 1 ? choices : [])),
  element("div", { class: "choices" },
    element("button", { type: "button", onclick: () => fold(false) }, "Fold all"),
    element("button", { type: "button", onclick: () => fold(true) }, "Unfold all")),
  count));
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.target.closest("input, textarea")) { event.preventDefault(); search.focus(); }
});
// A narrow screen begins with the words and folds the rest.
if (matchMedia("(max-width: 40rem)").matches) {
  fold(false);
  const contents = document.querySelector(".contents");
  const button = element("button", {
    type: "button", class: "toggle", "aria-expanded": "false",
    onclick: () => {
      contents.hidden = !contents.hidden;
      button.setAttribute("aria-expanded", String(!contents.hidden));
    },
  }, "Contents");
  contents.hidden = true;
  contents.before(button);
}

// Trying a call: the curl line tells what to send.
const keys = { "X-API-Key": "", Authorization: "" };

function parsed(curl) {
  const body = /^\s*-d '([\s\S]*)'$/m.exec(curl);
  return {
    method: /-X (\w+)/.exec(curl)?.[1] ?? (body ? "POST" : "GET"),
    target: /"\$BILLING_URL([^"]*)"/.exec(curl)[1],
    headers: [...curl.matchAll(/-H (?:"([^"]*)"|'([^']*)')/g)].map((found) => (found[1] ?? found[2]).split(": ")),
    body: body && body[1].replaceAll("'\"'\"'", "'"),
  };
}

function tryForm(call) {
  const target = element("input", { value: call.target, "aria-label": "Path", autocomplete: "off" });
  const body = call.body && element("textarea", { "aria-label": "Body", rows: Math.min(14, call.body.split("\n").length) });
  if (body) body.value = call.body;
  const secret = call.headers.find(([name]) => name in keys)?.[0];
  const key = secret && element("input", {
    type: "password", autocomplete: "off", "aria-label": secret === "Authorization" ? "Token" : "API key",
    placeholder: secret === "Authorization" ? "token of a staff member" : "API key, cbk_...",
    oninput: () => { keys[secret] = key.value; },
  });
  if (key) key.value = keys[secret];
  const answer = element("pre", { tabindex: "0", role: "region", "aria-label": "What this server answered" });
  answer.hidden = true;
  const send = element("button", { type: "button", onclick: run }, `Send ${call.method} to this server`);
  async function run() {
    const headers = Object.fromEntries(call.headers.filter(([name]) => !(name in keys)));
    if (secret) headers[secret] = secret === "Authorization" ? `Bearer ${key.value}` : key.value;
    answer.hidden = false;
    answer.textContent = "...";
    if (!target.value.startsWith("/") || target.value.startsWith("//")) {
      answer.textContent = "A path begins with one slash.";
      return;
    }
    try {
      const got = await fetch(target.value, {
        method: call.method, headers, body: body ? body.value : undefined, credentials: "omit", redirect: "manual",
      });
      const text = await got.text();
      let told = text;
      try { told = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON: shown as it is */ }
      const more = [...got.headers].filter(([name]) => /^(x-request-id|retry-after|idempotent-replayed)$/.test(name));
      answer.textContent = [`${got.status} ${got.statusText}`, ...more.map((pair) => pair.join(": ")), "", told.slice(0, 20000)].join("\n");
    } catch (error) {
      answer.textContent = String(error);
    }
  }
  const note = call.method === "GET" ? [] : [element("p", { class: "hint" }, "This is no rehearsal: the server does it.")];
  return element("div", { class: "try" }, target, ...(key ? [key] : []), ...(body ? [body] : []), ...note, send, answer);
}

for (const examples of $(".examples")) {
  const curl = $("pre", examples).map((block) => block.textContent).find((text) => text.startsWith("curl "));
  if (!curl) continue;
  const part = element("details", {}, element("summary", {}, "Try it"));
  part.addEventListener("toggle", () => {
    if (part.open && part.children.length === 1) part.append(tryForm(parsed(curl)));
  });
  examples.append(part);
}

// What an address leads to is open, whatever was folded.
function openTarget() {
  const found = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (const part of found ? $("details", found.closest("article") ?? found) : []) {
    if (part.querySelector("summary").textContent !== "Try it") part.open = true;
  }
}
addEventListener("hashchange", openTarget);
openTarget();
