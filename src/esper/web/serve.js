"use strict";
// Everything on a page is there without this script; it keeps the page up to date and saves typing.

const live = document.getElementById("live");

function say(words) {
  if (live && live.textContent !== words) live.textContent = words;
}

// Puts new content into a place and leaves what people have done there: scrolled, opened, chosen, focused.
function put(place, html) {
  const inner = place.querySelectorAll(".tall, .scroll");
  const scrolled = [...inner].map((box) => [box.scrollLeft, box.scrollTop]);
  const opened = [...place.querySelectorAll("details")].map((box) => box.open);
  const fields = [...place.querySelectorAll("input")];
  const chosen = new Set(fields.filter((field) => field.checked).map((field) => field.value));
  const typed = new Map(fields.filter((field) => field.id).map((field) => [field.id, field.value]));
  const focus = place.contains(document.activeElement) ? mark(document.activeElement) : null;
  place.innerHTML = html;
  [...place.querySelectorAll(".tall, .scroll")].forEach((box, n) => {
    if (scrolled[n]) [box.scrollLeft, box.scrollTop] = scrolled[n];
  });
  [...place.querySelectorAll("details")].forEach((box, n) => { box.open = Boolean(opened[n]); });
  for (const field of place.querySelectorAll("input")) {
    if (field.type === "checkbox") field.checked = chosen.has(field.value);
    else if (typed.has(field.id)) field.value = typed.get(field.id);
  }
  if (focus) [...place.querySelectorAll("a, button, input, summary, [tabindex]")].find((one) => mark(one) === focus)?.focus();
  ready(place);
}

function mark(one) {
  return [one.tagName, one.id, one.getAttribute("href"), one.getAttribute("value"), one.getAttribute("aria-label"),
    one.dataset.copy].join("|");
}

// Rows that do not hold the words of the filter are hidden.
function filter(field) {
  const words = field.value.toLowerCase();
  for (const row of document.querySelectorAll("#" + field.dataset.filter + " tbody tr")) {
    row.hidden = !row.textContent.toLowerCase().includes(words);
  }
}

function ago(seconds) {
  if (seconds < 60) return Math.max(0, Math.round(seconds)) + " s ago";
  if (seconds < 3600) return Math.round(seconds / 60) + " min ago";
  if (seconds < 172800) return Math.round(seconds / 3600) + " h ago";
  return Math.round(seconds / 86400) + " days ago";
}

function tick(place) {
  for (const time of place.querySelectorAll("time")) {
    time.dataset.at ??= time.textContent;
    time.title = time.dataset.at;
    const said = ago((Date.now() - Date.parse(time.dateTime)) / 1000);
    if (time.textContent !== said) time.textContent = said;
  }
}

async function load(address, place) {
  place.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(address);
    put(place, await answer.text());
  } catch (error) {
    place.textContent = "The server does not answer: " + error.message;
  }
  place.removeAttribute("aria-busy");
}

function ready(place) {
  tick(place);
  place.querySelectorAll(".units canvas").forEach(readyUnits);
  for (const field of place.querySelectorAll("[data-filter]")) {
    field.addEventListener("input", () => filter(field));
    if (field.value) filter(field);
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.copy) {
    navigator.clipboard?.writeText(button.dataset.copy).then(() => say("Copied."), () => say("Copying is not allowed here."));
  }
});

for (const box of document.querySelectorAll("details[data-picture]")) {
  box.addEventListener("toggle", () => {
    if (!box.open || box.dataset.loaded) return;
    box.dataset.loaded = "yes";
    const picture = document.createElement("object");
    picture.type = "image/svg+xml";
    picture.data = box.dataset.picture;
    picture.textContent = "The network of this run cannot be drawn; the link above says why.";
    box.querySelector(".picture").append(picture);
  });
}

ready(document);
setInterval(() => tick(document), 1000);

// What is far down is asked for when somebody comes near it: reading keys and manifests takes the server seconds.
const near = new IntersectionObserver((seen) => {
  for (const one of seen) {
    if (!one.isIntersecting) continue;
    near.unobserve(one.target);
    load(one.target.dataset.load, one.target);
  }
}, { rootMargin: "400px" });
for (const place of document.querySelectorAll("[data-load]")) near.observe(place);

const query = document.body.dataset.query;
if (query) {
  const page = new URL(query, location.href);
  page.searchParams.set("page", page.pathname);
  const parts = [...document.querySelectorAll("[data-digest]")];
  page.searchParams.set("seen", parts.map((part) => part.id.slice(5) + ":" + part.dataset.digest).join(","));
  const source = new EventSource("/events?" + page.searchParams);
  source.onopen = () => say("Live");
  source.onerror = () => say("The server does not answer; trying again.");
  source.onmessage = (event) => {
    const main = document.getElementById("main");
    let before = null;
    for (const [name, html] of Object.entries(JSON.parse(event.data))) {
      let place = document.getElementById("part-" + name);
      if (!place) { // a part that was not there when the page was made, such as the first decision
        place = document.createElement("div");
        place.id = "part-" + name;
        place.className = "part";
        if (before) before.after(place); else main.prepend(place);
      }
      if (place.dataset.html !== html) put(place, html);
      place.dataset.html = html;
      before = place;
    }
  };
  addEventListener("pagehide", () => source.close());
}
