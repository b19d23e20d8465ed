// What was found: the count, the threshold, the labels and the table. The service is asked once; what is
// shown of its answer is chosen here.

import { colourOf, css } from "./colours.js";

const MOST_LABELS_LISTED = 40;

const byId = (id) => document.getElementById(id);

export class Results {
  /** `onChange` is told when another choice is shown, `onMark` which row is pointed at, or null. */
  constructor({ onChange, onMark }) {
    this.onMark = onMark;
    this.onChange = onChange;
    this.record = null;
    this.hidden = new Set();
    this.shown = [];
    this.checkboxes = new Map();
    this.slider = byId("threshold");
    this.rows = byId("rows");
    this.slider.addEventListener("input", () => this.#choose());
    this.rows.addEventListener("keydown", (event) => this.#walk(event));
    this.rows.addEventListener("pointerover", (event) => onMark(rowIndex(event)));
    this.rows.addEventListener("pointerleave", () => onMark(null));
    this.rows.addEventListener("focusin", (event) => onMark(rowIndex(event)));
    this.rows.addEventListener("focusout", () => onMark(null));
  }

  get threshold() {
    return Number(this.slider.value);
  }

  /** Labels still shown, or null when none is hidden. */
  get labels() {
    const all = [...new Set(this.record?.detections.map((found) => found.label))];
    const kept = all.filter((label) => !this.hidden.has(label));
    return kept.length === all.length ? null : kept;
  }

  /** Takes a record; `live` ones come many times a second and leave table and labels in peace now and then. */
  show(record, { quietly = false } = {}) {
    this.record = record;
    this.all = record.detections.map((found, index) => ({ ...found, index }));
    this.#filter();
    if (quietly) return;
    byId("controls").hidden = false;
    byId("knows").hidden = true;
    this.#showTicks();
    this.#showLabels();
    this.#render();
  }

  /** Forgets the record; the choices stay. */
  clear() {
    this.record = null;
    this.shown = [];
    byId("controls").hidden = true;
    byId("summary").textContent = "Objects";
    byId("summary-rest").textContent = "What is found on a picture appears here.";
    byId("knows").hidden = byId("knows-list").children.length === 0;
  }

  /** What is known of the model before it has seen anything: its labels, and the lowest score it answers. */
  introduce(labels, floor) {
    const floorText = floor > 0 ? ` The model answers from ${floor.toFixed(2)} up.` : "";
    byId("floor").textContent = `Each mark is one detection.${floorText}`;
    const items = labels.slice(0, MOST_LABELS_LISTED).map((label, index) => {
      const item = document.createElement("li");
      item.append(swatch(index + 1), label);
      return item;
    });
    const more = labels.length - items.length;
    if (more > 0) items.push(Object.assign(document.createElement("li"), { textContent: `and ${more} more` }));
    byId("knows-list").replaceChildren(...items);
    byId("knows").hidden = this.record !== null || items.length === 0;
  }

  /** Brings out one row, or none (null). */
  mark(index) {
    for (const row of this.rows.rows) row.classList.toggle("active", Number(row.dataset.index) === index);
  }

  /** Goes to the row of a detection. */
  focus(index) {
    const row = [...this.rows.rows].find((candidate) => Number(candidate.dataset.index) === index);
    row?.scrollIntoView({ block: "nearest" });
    row?.focus({ preventScroll: true });
  }

  /** The result in a sentence. */
  get sentence() {
    const counts = countByLabel(this.shown);
    const each = [...counts].map(([label, count]) => `${count} ${label}`).join(", ");
    const total = `${this.shown.length} ${this.shown.length === 1 ? "object" : "objects"}`;
    return each ? `${total}: ${each}` : `${total} with a score of ${this.threshold.toFixed(2)} or more`;
  }

  #choose() {
    if (this.record === null) return;
    this.#filter();
    this.#render();
    this.onChange();
  }

  #filter() {
    this.shown = this.all.filter((found) => found.score >= this.threshold && !this.hidden.has(found.label));
  }

  #render() {
    const { slider, shown, all } = this;
    byId("threshold-value").textContent = this.threshold.toFixed(2);
    slider.style.setProperty("--at", `${100 * this.threshold}%`);
    slider.setAttribute("aria-valuetext", `${this.threshold.toFixed(2)}, ${shown.length} of ${all.length} shown`);
    byId("summary").textContent = `${shown.length} ${shown.length === 1 ? "object" : "objects"}`;
    const below = all.filter((found) => found.score < this.threshold).length;
    const hidden = all.length - below - shown.length;
    const rest = [below ? `${below} more below this score` : "", hidden ? `${hidden} of hidden labels` : ""].filter(Boolean);
    byId("summary-rest").textContent = rest.join(", ") || "All that the model answered";
    for (const tick of byId("ticks").children) tick.classList.toggle("below", Number(tick.dataset.score) < this.threshold);
    const counts = countByLabel(this.all.filter((found) => found.score >= this.threshold));
    for (const [label, { count }] of this.checkboxes) count.textContent = counts.get(label) ?? 0;
    this.rows.replaceChildren(...shown.map(tableRow));
    if (shown.length > 0) this.rows.rows[0].tabIndex = 0;
    const nothing = byId("nothing");
    nothing.hidden = shown.length > 0;
    nothing.textContent = all.length > 0 ? "Nothing at this score and of these labels. Move the threshold to the left to see more."
      : "The model found nothing on this picture.";
  }

  #showTicks() {
    byId("ticks").replaceChildren(...this.all.toReversed().map((found) => {
      const tick = document.createElement("i");
      tick.dataset.score = found.score;
      tick.style.left = `${100 * found.score}%`;
      tick.style.setProperty("--colour", css(colourOf(found.class_id)));
      return tick;
    }));
  }

  #showLabels() {
    const found = new Map(this.all.map(({ label, class_id: classId }) => [label, classId]));
    const names = [...found.keys()].sort((a, b) => found.get(a) - found.get(b));
    byId("labels").hidden = names.length === 0;
    // Rebuilt only when it must be, so that a checkbox keeps the focus while the camera runs.
    if (names.join("\n") === [...this.checkboxes.keys()].join("\n")) return;
    this.checkboxes = new Map(names.map((name) => [name, this.#checkbox(name, found.get(name))]));
    byId("label-list").replaceChildren(...[...this.checkboxes.values()].map(({ label }) => label));
  }

  #checkbox(name, classId) {
    const label = document.createElement("label");
    label.className = "label";
    const input = document.createElement("input");
    input.type = "checkbox";
    input.checked = !this.hidden.has(name);
    input.addEventListener("change", () => {
      if (input.checked) this.hidden.delete(name);
      else this.hidden.add(name);
      this.#choose();
    });
    const count = document.createElement("b");
    label.append(input, swatch(classId), name, count);
    return { label, count };
  }

  #walk(event) {
    const row = event.target.closest("tr");
    const rows = [...this.rows.rows];
    const to = { ArrowDown: rows.indexOf(row) + 1, ArrowUp: rows.indexOf(row) - 1, Home: 0, End: rows.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (!rows[to]) return;
    row.tabIndex = -1;
    rows[to].tabIndex = 0;
    rows[to].focus();
  }
}

const rowIndex = (event) => Number(event.target.closest("tr").dataset.index);

function countByLabel(detections) {
  const counts = new Map();
  for (const { label } of detections) counts.set(label, (counts.get(label) ?? 0) + 1);
  return counts;
}

function swatch(classId) {
  const made = document.createElement("span");
  made.className = "swatch";
  made.style.setProperty("--colour", css(colourOf(classId)));
  return made;
}

function tableRow(found) {
  const row = document.createElement("tr");
  row.dataset.index = found.index;
  row.tabIndex = -1;
  const name = document.createElement("span");
  name.className = "name";
  name.append(swatch(found.class_id), found.label);
  row.insertCell().append(name);
  const [left, top, width, height] = [found.x1, found.y1, found.x2 - found.x1, found.y2 - found.y1].map(Math.round);
  for (const texts of [[found.score.toFixed(2)], [`${left}, ${top}`, `${width} × ${height}`]]) {
    const cell = row.insertCell();
    cell.className = "number";
    cell.append(...texts.map((text) => Object.assign(document.createElement("span"), { textContent: text })));
  }
  return row;
}
