"use strict";

// Times are written in the reader's zone; UTC is shown on hover.
const forms = {
  time: { dateStyle: "medium", timeStyle: "medium" },
  date: { dateStyle: "medium" },
};
const units = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

function ago(at) {
  const seconds = (at - Date.now()) / 1000;
  const [unit, length] = units.find(([, each]) => Math.abs(seconds) >= each) || ["second", 1];
  return new Intl.RelativeTimeFormat("en", { numeric: "auto" }).format(Math.trunc(seconds / length), unit);
}

function writeTimes(within) {
  for (const element of within.querySelectorAll("time[data-form]")) {
    const at = new Date(element.dateTime);
    const form = element.dataset.form;
    element.textContent = form === "ago" ? ago(at) : new Intl.DateTimeFormat(undefined, forms[form]).format(at);
  }
}

// What is marked `data-live` is asked for again and again, as long as the page is looked at.
const stale = document.getElementById("stale");
const served = new Map();
let seenAt = new Date();

function live(within) {
  return within.querySelectorAll("[data-live][id]");
}

function replace(fresh) {
  for (const element of live(document)) {
    const other = fresh.getElementById(element.id);
    if (!other || served.get(element.id) === other.innerHTML) continue;
    served.set(element.id, other.innerHTML);
    const focused = element.contains(document.activeElement) ? document.activeElement.id : "";
    element.innerHTML = other.innerHTML;
    writeTimes(element);
    if (focused) document.getElementById(focused)?.focus();
  }
}

async function look() {
  setTimeout(look, 1000 * document.body.dataset.every);
  if (document.hidden || live(document).length === 0 || document.querySelector("[data-live] :focus[data-holds]")) return;
  try {
    const answer = await fetch(location.href, { headers: { "X-Live": "1" }, signal: AbortSignal.timeout(10000) });
    if (answer.status === 401) return location.reload();
    if (!answer.ok) throw new Error(answer.status);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.body.dataset.every = fresh.body.dataset.every;
    replace(fresh);
    seenAt = new Date();
    stale.hidden = true;
  } catch {
    const at = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" }).format(seenAt);
    stale.textContent = `There is no answer just now. What you see is of ${at}; it is asked for again.`;
    stale.hidden = false;
  }
}

// A form's preview: what it would come to, as it is written.
const proof = document.querySelector('meta[name="proof"]')?.content;

function preview(form) {
  const target = document.getElementById(form.dataset.into);
  let waiting, asked = 0;
  async function ask() {
    const number = ++asked;
    try {
      const answer = await fetch(form.dataset.preview, { method: "POST", body: new FormData(form), headers: { "X-Proof": proof } });
      const text = await answer.text();
      if (number !== asked || !answer.ok) return;
      target.innerHTML = text;
      writeTimes(target);
    } catch { /* the next key asks again */ }
  }
  form.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(ask, 250);
  });
  ask();
}

// A form is sent once, and what takes longer than a moment shows that it goes on.
function sending(event) {
  const form = event.target;
  if (form.dataset.confirm && !confirm(form.dataset.confirm)) return event.preventDefault();
  if (form.dataset.sent) return event.preventDefault();
  if (form.method === "post") form.dataset.sent = "1";
  setTimeout(() => document.getElementById("busy").hidden = false, 400);
}

// Fields that only one choice of a select needs: `data-when="name=value"`.
function choose(form) {
  for (const part of form.querySelectorAll("[data-when]")) {
    const [name, values] = part.dataset.when.split("=");
    part.hidden = !values.split("|").includes(form.elements[name]?.value);
  }
}

document.addEventListener("submit", sending);
addEventListener("pageshow", () => {
  document.getElementById("busy").hidden = true;
  for (const form of document.forms) delete form.dataset.sent;
});
for (const element of live(document)) served.set(element.id, element.innerHTML);
writeTimes(document);
document.querySelectorAll("form[data-preview]").forEach(preview);
for (const form of document.querySelectorAll("form:has([data-when])")) {
  form.addEventListener("change", () => choose(form));
  choose(form);
}
for (const field of document.querySelectorAll("select[data-go]")) {
  field.addEventListener("change", () => field.form.requestSubmit());
}
setTimeout(look, 1000 * document.body.dataset.every);
setInterval(() => writeTimes(document), 30000);
