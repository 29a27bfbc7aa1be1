// Pages work without this. It adds buttons that copy, local times, and keys.

function copier(label, read, select) {
  const button = document.createElement("button");
  button.type = "button";
  const say = (text) => {
    button.textContent = text;
    button.setAttribute("aria-label", text === "Copy" ? label : text);
  };
  say("Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(read());
      say("Copied");
    } catch {
      select();
      say("Press Ctrl-C");
    }
  });
  return button;
}

// A secret that is shown once.
for (const box of document.querySelectorAll("[data-copy]")) {
  const source = document.getElementById(box.dataset.copy);
  box.append(copier("Copy", () => source.value ?? source.textContent, () => {
    source.focus();
    source.select?.();
  }));
}

// Ids in lists.
for (const code of document.querySelectorAll("code.copy")) {
  const button = copier(`Copy ${code.textContent}`, () => code.textContent, () => {
    getSelection().selectAllChildren(code);
  });
  button.classList.add("quiet", "copier");
  (code.closest("a") ?? code).after(button);
}

// Times: the local one beside UTC.
const local = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
for (const time of document.querySelectorAll("time[datetime]")) {
  time.title = `${local.format(new Date(time.dateTime))}\n${time.title}`;
}

// A form that changes something is sent once, however fast its button is clicked.
const AGAIN_AFTER = 10_000; // milliseconds, for a form that leads to a file and not to a page
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post") return;
  if ("sent" in form.dataset) event.preventDefault();
  form.dataset.sent = "";
  setTimeout(() => delete form.dataset.sent, AGAIN_AFTER);
});
addEventListener("pageshow", () => { // also when Back shows a page that was kept
  for (const form of document.forms) delete form.dataset.sent;
});

// Keys. Each does what a link or field of the page does too.
const places = { d: "/admin", a: "/admin/accounts", p: "/admin/payments", k: "/admin/keys",
  s: "/admin/settings", l: "/admin/audit" };
const keys = [
  ["/", "search"], ["g d", "dashboard"], ["g a", "accounts"], ["g p", "payments"],
  ["g k", "API keys"], ["g s", "settings"], ["g l", "audit log"],
  ["j  k", "next and previous row of a list"], ["n  b", "next and previous page"],
  ["?", "these keys"],
];

const help = document.createElement("dialog");
help.className = "keys";
help.setAttribute("aria-labelledby", "keys-title");
const title = document.createElement("h2");
title.id = "keys-title";
title.className = "first";
title.textContent = "Keys";
const table = document.createElement("dl");
for (const [key, meaning] of keys) {
  const term = document.createElement("dt");
  const name = document.createElement("kbd");
  name.textContent = key;
  term.append(name);
  const what = document.createElement("dd");
  what.textContent = meaning;
  table.append(term, what);
}
const close = document.createElement("button");
close.textContent = "Close";
close.addEventListener("click", () => help.close());
help.append(title, table, close);
document.body.append(help);

function move(step) {
  const links = [...document.querySelectorAll("main table.stack tbody tr, main .hits li")]
    .map((row) => row.querySelector("a")).filter((link) => link?.offsetParent);
  const at = links.indexOf(document.activeElement);
  links[at < 0 ? (step > 0 ? 0 : links.length - 1) : at + step]?.focus();
}

let waiting = false;
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, textarea, [contenteditable]");
  if (typing || help.open || event.ctrlKey || event.metaKey || event.altKey) return;
  const place = waiting ? places[event.key] : undefined;
  waiting = event.key === "g" && !waiting;
  const actions = {
    "/": () => document.getElementById("find")?.focus(),
    "?": () => help.showModal(),
    j: () => move(1),
    k: () => move(-1),
    n: () => document.querySelector(".pager a[rel=next]")?.click(),
    b: () => document.querySelector(".pager a[rel=prev]")?.click(),
  };
  if (place) {
    event.preventDefault();
    location.assign(place);
  } else if (actions[event.key]) {
    event.preventDefault();
    actions[event.key]();
  }
});
