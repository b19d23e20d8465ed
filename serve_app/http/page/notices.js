// What the page tells besides results: that it is busy, what went wrong, and the same for ears.

import { ServiceError } from "./service.js";

const byId = (id) => document.getElementById(id);
const TIMEOUT = 408;
const TOO_MANY = 429;
const COPIED_MS = 2000;

let retry = null;

/** Says something to screen readers. */
export function announce(text) {
  byId("announcer").textContent = text;
}

/** Shows that the service is at work, or no longer. */
export function busy(is) {
  byId("busy").hidden = !is;
  byId("stage").setAttribute("aria-busy", is);
  if (is) announce("Looking at the picture");
}

/** Shows an error; `again` does once more what has failed. */
export function showError(error, again = null) {
  const known = error instanceof ServiceError;
  if (!known) console.error(error);
  announce(""); // the alert speaks for itself
  const wait = error.retryAfterS ? ` (in ${error.retryAfterS} s)` : "";
  byId("alert-message").textContent = known ? error.message : "This page has failed";
  byId("alert-hint").textContent = known ? error.hint + wait : String(error);
  byId("alert-code").textContent = [error.code, error.status ? `HTTP ${error.status}` : ""].filter(Boolean).join(" · ");
  // To send the same wrong picture once more helps nobody.
  const passes = !(error.status >= 400 && error.status < 500) || [TIMEOUT, TOO_MANY].includes(error.status) || error.needsKey;
  retry = passes ? again : null;
  byId("alert-retry").hidden = retry === null;
  byId("alert").dataset.needsKey = Boolean(error.needsKey);
  byId("alert").hidden = false;
}

export function closeError() {
  byId("alert").hidden = true;
}

/** Does once more what has failed for want of a key, if that is what is shown. */
export function retryWithKey() {
  if (!byId("alert").hidden && byId("alert").dataset.needsKey === "true") retry?.();
}

byId("alert-close").addEventListener("click", () => {
  closeError();
  byId("choose").focus();
});
byId("alert-retry").addEventListener("click", () => {
  byId("results").focus({ preventScroll: true }); // the button goes away
  retry();
});

for (const [button, source] of [["copy-curl", "curl"], ["copy-json", "record"]]) {
  byId(button).addEventListener("click", () => copy(byId(button).firstChild, byId(source)));
}

async function copy(word, source) {
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch { // pages that came over plain HTTP from another machine have no clipboard
    getSelection().selectAllChildren(source);
    document.execCommand("copy");
  }
  word.textContent = "Copied";
  announce("Copied");
  setTimeout(() => { word.textContent = "Copy"; }, COPIED_MS);
}
