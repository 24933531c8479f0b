"use strict";
// Verifying, which shows how far it is, and going back to a checkpoint, which asks first and wants the token.

const STORED = "esper-token";
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) { // kept for this tab alone, and out of the address, so that nobody shares it by accident
  sessionStorage.setItem(STORED, given);
  history.replaceState(null, "", location.pathname + location.search);
}

const asking = document.getElementById("ask");

async function ask(address) {
  asking.innerHTML = '<p class="none" id="asks">Reading the manifests.</p>';
  asking.showModal();
  await load(address, asking);
  const field = asking.querySelector("input");
  if (field && sessionStorage.getItem(STORED)) {
    field.required = false;
    field.closest("p").hidden = true;
  }
  if (!asking.querySelector("[data-close]")) { // an error, which has nothing to press
    asking.insertAdjacentHTML("beforeend", '<p class="tools"><button type="button" data-close>Close</button></p>');
  }
  asking.querySelector("[data-close]").focus(); // what deletes nothing is what Enter does
}

async function goBack(form) {
  const told = asking.querySelector(".told"), field = form.elements.token, buttons = form.querySelectorAll("button");
  const token = field.value || sessionStorage.getItem(STORED) || "";
  told.textContent = "Reading the checkpoint in full ...";
  for (const button of buttons) button.disabled = true;
  try {
    const answer = await fetch(form.dataset.do, { method: "POST", headers: { Authorization: "Bearer " + encodeURIComponent(token) } });
    const text = await answer.text();
    if (answer.ok) {
      if (field.value) sessionStorage.setItem(STORED, field.value);
      put(asking, text);
      asking.querySelector("[data-close]")?.focus();
      document.querySelectorAll("[data-load]:has([data-again])").forEach(again);
      return;
    }
    if (answer.status < 500) told.innerHTML = text;
    else told.textContent = "The server failed, and its terminal says why. Whether anything was changed, esper checkpoints says.";
    if (answer.status === 403) {
      sessionStorage.removeItem(STORED);
      field.closest("p").hidden = false;
      field.required = true;
      field.focus();
    }
  } catch (error) {
    told.textContent = "The server does not answer: " + error.message + ". Whether anything was changed, esper checkpoints says.";
  }
  for (const button of buttons) button.disabled = false;
}

// What was read of checkpoints is read again.
async function again(place) {
  const button = place.querySelector("[data-again]");
  if (button) button.disabled = true;
  await load(place.dataset.load, place);
}

async function verify(button) {
  const place = document.getElementById(button.dataset.into);
  place.innerHTML = '<label><progress></progress> <span>Reading every byte ...</span></label>';
  button.disabled = true;
  try {
    const answer = await fetch(button.dataset.verify, { method: "POST" });
    if (!answer.ok) {
      place.innerHTML = await answer.text();
    } else {
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "", ended = false;
      for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
        const lines = (text + piece.value).split("\n");
        text = lines.pop();
        for (const line of lines) ended = verified(place, JSON.parse(line));
      }
      if (!ended) place.textContent = "The server broke off before every byte was read. Nothing is known of the rest.";
    }
  } catch (error) {
    place.textContent = "The server does not answer: " + error.message + ".";
  }
  button.disabled = false;
}

function verified(place, told) {
  if (told.html) {
    place.innerHTML = told.html;
    return true;
  }
  const bar = place.querySelector("progress");
  bar.max = told.of;
  bar.value = told.done;
  place.querySelector("span").textContent = told.text;
  return false;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.ask) ask(button.dataset.ask);
  else if (button && "again" in button.dataset) again(button.closest("[data-load]"));
  else if (button?.dataset.verify) verify(button);
  else if (button && "close" in button.dataset) asking.close();
});

asking.addEventListener("submit", (event) => {
  event.preventDefault();
  goBack(event.target);
});
