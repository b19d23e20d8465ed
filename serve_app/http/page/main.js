// The page: a picture comes in by one of five ways, the service is asked, the answer is shown.

import { Camera } from "./camera.js";
import { Overlay } from "./overlay.js";
import { Results } from "./results.js";
import { ServiceError, curlCommand, detect, models, preview, samplePicture, stagesOf } from "./service.js";
import { showTimings } from "./timings.js";

const byId = (id) => document.getElementById(id);
const KEY = "detection-appliance-key";
const LIVE_TABLE_MS = 300;
const ANNOUNCE_MS = 6000;
const UNAUTHORIZED = 401;
const PASSING = [UNAUTHORIZED, 408, 429];

let key = "";
let needsKey = false;
let picture = null; // a File
let isSample = false;
let request = null; // an AbortController while the service is asked
let retry = () => {};
let tableMs = 0;
let announcedMs = 0;

const results = new Results({ onMark: mark, onChange: showChoice });
const overlay = new Overlay(byId("overlay"), { onMark: mark, onPick: (index) => results.focus(index) });
const camera = new Camera(byId("video"), { onAnswer: showLive, onEnd: endLive });

// --- the five ways in ---

byId("choose").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", (event) => {
  take(event.target.files[0]);
  event.target.value = ""; // the same file may be chosen again
});

byId("sample").addEventListener("click", takeSample);

async function takeSample() {
  try {
    await take(await samplePicture(), { sample: true });
  } catch (error) {
    showError(error, takeSample);
  }
}

document.addEventListener("paste", (event) => {
  if (event.target.matches("input")) return;
  const file = event.clipboardData.files[0];
  if (file) take(file);
  else showError(new ServiceError({ message: "There is no picture on the clipboard", hint: "Copy a picture, not its address", code: "no_picture" }));
});

let depth = 0; // dragging from one element into another leaves one of them
const drags = (event) => event.dataTransfer.types.includes("Files");
const dropping = (change) => {
  depth = change === 0 ? 0 : Math.max(depth + change, 0);
  document.body.classList.toggle("dropping", depth > 0);
};
document.addEventListener("dragenter", (event) => drags(event) && dropping(1));
document.addEventListener("dragleave", (event) => drags(event) && dropping(-1));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  dropping(0);
  const file = event.dataTransfer.files[0];
  if (file) take(file);
  else showError(new ServiceError({ message: "That is no file", hint: "Drop the picture itself", code: "no_picture" }));
});

byId("camera").addEventListener("click", () => camera.running ? camera.stop() : startLive());

// --- one picture ---

async function take(file, { sample = false } = {}) {
  if (!file) return;
  camera.stop({ keepsLast: false });
  picture = file;
  isSample = sample;
  await showPicture(file);
  await ask();
}

async function ask() {
  request?.abort();
  const own = new AbortController();
  request = own;
  closeError();
  results.clear();
  overlay.show([], 1, 1);
  busy(true);
  showCurl();
  try {
    const { record, roundTripMs, stages } = await detect(picture, { key, model: model(), signal: own.signal });
    if (own !== request) return;
    await showRecord(record);
    showTimings(stages, roundTripMs);
    byId("live-line").hidden = true;
  } catch (error) {
    if (own === request) showError(error, ask);
    if (own === request && byId("frame").classList.contains("blank")) welcome();
  } finally {
    if (own === request) busy(false);
  }
}

async function showRecord(record) {
  const { width_px: widthPx, height_px: heightPx } = record;
  if (byId("frame").classList.contains("blank")) await showPreview();
  sizeFrame(widthPx, heightPx);
  byId("facts").textContent = `${picture.name} · ${widthPx} × ${heightPx} px · ${bytes(picture.size)}`;
  results.show(record);
  showChoice();
  byId("picture").alt = `${picture.name}, with ${results.sentence}`;
  byId("record").textContent = JSON.stringify(record, null, 2);
  byId("json").hidden = false;
  announce(results.sentence);
}

async function showPicture(file) {
  const image = byId("picture");
  URL.revokeObjectURL(image.src);
  byId("facts").textContent = `${file.name} · ${bytes(file.size)}`;
  byId("json").hidden = true;
  byId("timings").hidden = true;
  reveal("picture");
  image.alt = file.name;
  await display(URL.createObjectURL(file));
}

/** Shows what lies at an address; a blank plate where the browser cannot. */
async function display(url) {
  const image = byId("picture");
  image.src = url;
  const shown = await image.decode().then(() => true, () => image.naturalWidth > 0);
  byId("frame").classList.toggle("blank", !shown);
  if (shown) sizeFrame(image.naturalWidth, image.naturalHeight);
  else sizeFrame(800, 600);
}

/** A format that browsers do not know, such as TIFF, is shown as the service sees it. */
async function showPreview() {
  const blob = await preview(picture, { key, model: model(), signal: request.signal }).catch(() => null);
  if (blob) await display(URL.createObjectURL(blob));
}

const bytes = (count) => count < 1e6 ? `${Math.ceil(count / 1e3)} KB` : `${(count / 1e6).toFixed(1)} MB`;

function welcome() {
  byId("stage").classList.remove("has-picture");
  byId("welcome").hidden = false;
  byId("frame").hidden = true;
}

function reveal(what) {
  byId("stage").classList.add("has-picture");
  byId("welcome").hidden = true;
  byId("frame").hidden = false;
  byId("picture").hidden = what !== "picture";
  byId("video").hidden = what !== "video";
}

function sizeFrame(width, height) {
  byId("frame").style.setProperty("--w", width);
  byId("frame").style.setProperty("--h", height);
}

// --- the camera ---

async function startLive() {
  request?.abort();
  request = null;
  closeError();
  if (key && !needsKey) { // a service without keys expects no key as the first message
    needsKey = await models("").then(() => false, (error) => error.status === UNAUTHORIZED);
  }
  try {
    if (needsKey && !key) throw new ServiceError({ message: "This service asks for an API key", code: "unauthorized" });
    byId("camera-text").textContent = "Stop camera";
    await camera.start({ key: needsKey ? key : "", model: model() });
  } catch (error) {
    byId("camera-text").textContent = "Use camera";
    showError(error, startLive);
    return;
  }
  if (!camera.running) return;
  picture = null;
  isSample = false;
  results.clear();
  overlay.show([], 1, 1);
  byId("frame").classList.remove("blank");
  byId("json").hidden = true;
  reveal("video");
  const { videoWidth, videoHeight } = byId("video");
  sizeFrame(videoWidth, videoHeight);
  byId("facts").textContent = `Camera · ${videoWidth} × ${videoHeight} px`;
  busy(true);
  announce("The camera runs");
}

function showLive({ answer, rate, latencyMs }) {
  busy(false);
  if (answer.detections === undefined || answer.error) return;
  const nowMs = performance.now();
  const quietly = nowMs - tableMs < LIVE_TABLE_MS;
  results.show(answer, { quietly });
  overlay.show(results.shown, answer.width_px, answer.height_px);
  if (quietly) return;
  tableMs = nowMs;
  showTimings(stagesOf(answer.timings_ms), latencyMs);
  const line = byId("live-line");
  line.hidden = false;
  line.textContent = `Frame ${answer.frame}, ${answer.dropped} left out because a newer one came`
    + (rate === null ? "" : `; ${rate.toFixed(1)} answers a second`);
  if (nowMs - announcedMs > ANNOUNCE_MS) announce(results.sentence);
}

async function endLive(last, error) {
  byId("camera-text").textContent = "Use camera";
  busy(false);
  if (last) {
    const { frame, dropped, timings_ms: _, ...record } = last.answer;
    picture = last.file;
    await showPicture(picture);
    byId("timings").hidden = false;
    await showRecord(record);
  } else {
    welcome();
  }
  if (error) showError(error, startLive);
}

// --- what is shown of an answer ---

function showChoice() {
  const { record, shown } = results;
  if (record) overlay.show(shown, record.width_px, record.height_px);
  showCurl();
}

function mark(index) {
  overlay.mark(index);
  results.mark(index);
}

function showCurl() {
  byId("curl").textContent = curlCommand({
    picture, isSample, model: model(), needsKey: needsKey || key !== "", threshold: results.threshold, labels: results.labels,
  });
}

function busy(is) {
  byId("busy").hidden = !is;
  byId("stage").setAttribute("aria-busy", is);
  if (is) announce("Looking at the picture");
}

function announce(text) {
  announcedMs = performance.now();
  byId("announcer").textContent = text;
}

function showError(error, again = null) {
  if (error.name === "AbortError") return;
  const known = error instanceof ServiceError;
  if (!known) console.error(error);
  byId("announcer").textContent = ""; // the alert speaks for itself
  byId("alert-message").textContent = known ? error.message : "This page has failed";
  byId("alert-hint").textContent = (known ? error.hint : String(error)) + (error.retryAfterS ? ` (in ${error.retryAfterS} s)` : "");
  byId("alert-code").textContent = [error.code, error.status ? `HTTP ${error.status}` : ""].filter(Boolean).join(" · ");
  // To send the same wrong picture again helps nobody.
  byId("alert-retry").hidden = again === null || (error.status >= 400 && error.status < 500 && !PASSING.includes(error.status));
  byId("alert").hidden = false;
  retry = again ?? retry;
  if (error.status === UNAUTHORIZED || error.code === "unauthorized") askForKey();
}

function closeError() {
  byId("alert").hidden = true;
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
  setTimeout(() => { word.textContent = "Copy"; }, 2000);
}

// --- the key and the models ---

function askForKey() {
  needsKey = true;
  byId("key-dot").hidden = false;
  byId("key-panel").showPopover();
  byId("key").focus();
}

byId("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  useKey(byId("key").value.trim());
  byId("key-panel").hidePopover();
  await showModels();
  if (!byId("alert").hidden && byId("alert-code").textContent.includes("unauthorized")) retry();
});

byId("key-forget").addEventListener("click", () => {
  byId("key").value = "";
  useKey("");
});

function useKey(text) {
  key = text;
  byId("key-set").hidden = key === "";
  byId("key-dot").hidden = key !== "" || !needsKey;
  try {
    if (key) sessionStorage.setItem(KEY, key);
    else sessionStorage.removeItem(KEY);
  } catch { /* no storage: the key is kept in memory alone */ }
  showCurl();
}

function model() {
  return byId("model-choice").hidden ? null : byId("model").value;
}

async function showModels() {
  let all;
  try {
    all = await models(key);
  } catch (error) {
    needsKey ||= error.status === UNAUTHORIZED;
    byId("model-name").textContent = needsKey ? "This service asks for an API key" : "Find objects in a picture";
    byId("model-version").textContent = byId("model-labels").textContent = "";
    byId("key-dot").hidden = !needsKey;
    showCurl();
    return;
  }
  byId("model-choice").hidden = all.length < 2;
  const before = byId("model").value;
  byId("model").replaceChildren(...all.map(({ name }) => new Option(name, name)));
  if (all.some(({ name }) => name === before)) byId("model").value = before;
  describe(all.find(({ name }) => name === byId("model").value));
}

function describe({ name, version, labels, score_threshold: floor }) {
  byId("model-name").textContent = `Model ${name}`;
  byId("model-version").textContent = version ? ` · version ${version.slice(0, 12)}` : "";
  byId("model-labels").textContent = labels ? ` · ${labels.length} ${labels.length === 1 ? "label" : "labels"}` : "";
  results.introduce(labels ?? [], floor ?? 0);
}

byId("model").addEventListener("change", async () => {
  showCurl();
  if (camera.running) {
    camera.stop({ keepsLast: false });
    await startLive();
  } else if (picture) {
    await ask();
  }
  await showModels();
});

try {
  key = sessionStorage.getItem(KEY) ?? "";
} catch { /* as above */ }
byId("key").value = key;
useKey(key);
showModels();
