// Whom the page speaks for, and with which model: the API key and the choice among the models.

import { ServiceError, models } from "./service.js";

const byId = (id) => document.getElementById(id);
const STORED = "detection-appliance-key";
const SHORT_VERSION = 12;

export class Access {
  /** `onKey` is told of another key, `onModel` of another model, `onDescribed` what is known of the model. */
  constructor({ onKey, onModel, onDescribed }) {
    Object.assign(this, { onKey, onDescribed });
    this.key = "";
    this.needsKey = false;
    byId("key-form").addEventListener("submit", async (event) => {
      event.preventDefault();
      this.#use(byId("key").value.trim());
      byId("key-panel").hidePopover();
      await this.describe();
      this.onKey();
    });
    byId("key-forget").addEventListener("click", () => {
      byId("key").value = "";
      this.#use("");
      this.onKey();
    });
    byId("model").addEventListener("change", async () => {
      await onModel();
      await this.describe();
    });
    try {
      this.#use(sessionStorage.getItem(STORED) ?? "");
    } catch { /* no storage: the key is kept in memory alone */ }
    byId("key").value = this.key;
  }

  /** The model that is asked for, or null for the only one. */
  get model() {
    return byId("model-choice").hidden ? null : byId("model").value;
  }

  /** Opens the field for the key. */
  ask() {
    this.needsKey = true;
    this.#show();
    byId("key-panel").showPopover();
    byId("key").focus();
  }

  /** The key for a stream: none where the service has no keys, since it would take it for a frame. */
  async streamKey() {
    if (this.key && !this.needsKey) {
      this.needsKey = await models("").then(() => false, (error) => Boolean(error.needsKey));
    }
    if (this.needsKey && !this.key) throw new ServiceError({ message: "This service asks for an API key", code: "unauthorized" });
    return this.needsKey ? this.key : "";
  }

  /** Asks which models there are, and shows what is known of the chosen one. */
  async describe() {
    let all;
    try {
      all = await models(this.key);
    } catch (error) {
      this.needsKey ||= Boolean(error.needsKey);
      byId("model-name").textContent = this.needsKey ? "This service asks for an API key" : "Find objects in a picture";
      byId("model-version").textContent = byId("model-labels").textContent = "";
      this.#show();
      return;
    }
    const before = byId("model").value;
    byId("model-choice").hidden = all.length < 2;
    byId("model").replaceChildren(...all.map(({ name }) => new Option(name, name)));
    if (all.some(({ name }) => name === before)) byId("model").value = before;
    const { name, version, labels, score_threshold: floor } = all.find((one) => one.name === byId("model").value);
    byId("model-name").textContent = `Model ${name}`;
    byId("model-version").textContent = version ? ` · version ${version.slice(0, SHORT_VERSION)}` : "";
    byId("model-labels").textContent = labels ? ` · ${labels.length} ${labels.length === 1 ? "label" : "labels"}` : "";
    this.onDescribed(labels ?? [], floor ?? 0);
  }

  #use(key) {
    this.key = key;
    this.#show();
    try {
      if (key) sessionStorage.setItem(STORED, key);
      else sessionStorage.removeItem(STORED);
    } catch { /* as above */ }
  }

  #show() {
    byId("key-set").hidden = this.key === "";
    byId("key-dot").hidden = this.key !== "" || !this.needsKey;
  }
}
