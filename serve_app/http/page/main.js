// The page: a picture comes in, the service is asked, the answer is shown.

import { Access } from "./access.js";
import { Camera } from "./camera.js";
import { listenForPictures } from "./intake.js";
import { announce, busy, closeError, retryWithKey, showError } from "./notices.js";
import { Overlay } from "./overlay.js";
import { Results } from "./results.js";
import { curlCommand, detect, preview, stagesOf } from "./service.js";
import { showTimings } from "./timings.js";

const byId = (id) => document.getElementById(id);
const LIVE_TABLE_MS = 300;
const LIVE_ANNOUNCE_MS = 6000;

let picture = null; // a File
let isSample = false;
let request = null; // an AbortController while the service is asked
let tableMs = 0;
let announcedMs = 0;

const results = new Results({ onMark: mark, onChange: showChoice });
const overlay = new Overlay(byId("overlay"), { onMark: mark, onPick: (index) => results.focus(index) });
const camera = new Camera(byId("video"), { onAnswer: showLive, onEnd: endLive });
const access = new Access({
  onKey: () => {
    showCurl();
    retryWithKey();
  },
  onModel: askAgain,
  onDescribed: (labels, floor) => {
    results.introduce(labels, floor);
    showCurl();
  },
});

listenForPictures({ onPicture: take, onError: fail });
byId("camera").addEventListener("click", () => camera.running ? camera.stop() : startLive());
showCurl();
access.describe().then(showCurl);

// --- one picture ---

async function take(file, { isSample: sample }) {
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
  clear();
  busy(true);
  showCurl();
  try {
    const { record, roundTripMs, stages } = await detect(picture, { key: access.key, model: access.model, signal: own.signal });
    if (own !== request) return;
    await showRecord(record);
    showTimings(stages, roundTripMs);
    byId("live-line").hidden = true;
  } catch (error) {
    if (own !== request) return;
    fail(error, ask);
    if (byId("frame").classList.contains("blank")) welcome();
  } finally {
    if (own === request) busy(false);
  }
}

async function askAgain() {
  showCurl();
  if (camera.running) {
    camera.stop({ keepsLast: false });
    await startLive();
  } else if (picture) {
    await ask();
  }
}

function fail(error, again = null) {
  if (error.name === "AbortError") return;
  showError(error, again);
  if (error.needsKey) access.ask();
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

const bytes = (count) => count < 1e6 ? `${Math.ceil(count / 1e3)} KB` : `${(count / 1e6).toFixed(1)} MB`;

// --- the stage ---

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
  const { key, model } = access;
  const blob = await preview(picture, { key, model, signal: request?.signal }).catch(() => null);
  if (blob) await display(URL.createObjectURL(blob));
}

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
  byId("camera-text").textContent = "Stop camera";
  try {
    await camera.start({ key: await access.streamKey(), model: access.model });
  } catch (error) {
    byId("camera-text").textContent = "Use camera";
    fail(error, startLive);
    return;
  }
  if (!camera.running) return;
  picture = null;
  isSample = false;
  clear();
  showCurl();
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
  if (answer.error) return;
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
  if (nowMs - announcedMs < LIVE_ANNOUNCE_MS) return;
  announcedMs = nowMs;
  announce(results.sentence);
}

async function endLive(last, error) {
  byId("camera-text").textContent = "Use camera";
  busy(false);
  if (last) {
    const { frame, dropped, timings_ms: timings, ...record } = last.answer;
    picture = last.file;
    await showPicture(picture);
    byId("timings").hidden = false;
    await showRecord(record);
  } else {
    welcome();
  }
  if (error) fail(error, startLive);
}

// --- what is shown of an answer ---

function clear() {
  results.clear();
  overlay.show([], 1, 1);
}

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
  const { key, needsKey, model } = access;
  const { threshold, labels } = results;
  byId("curl").textContent = curlCommand({ picture, isSample, model, needsKey: needsKey || key !== "", threshold, labels });
}
