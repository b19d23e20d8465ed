// All that is asked of the service. Nothing here goes anywhere but to the page's own origin.

const STAGES = { queue: "Queue", receive: "Receive", decode: "Decode", batch_wait: "Batch wait", model: "Model", encode: "Encode" };
const MAX_NAME_CHARACTERS = 1024;

/** What the service, or the way to it, has to say when there is no answer. */
export class ServiceError extends Error {
  constructor({ message, hint = "", code = "", status = 0, retryAfterS = null }) {
    super(message);
    Object.assign(this, { hint, code, status, retryAfterS });
  }

  /** Whether another key would help. */
  get needsKey() {
    return this.code === "unauthorized";
  }

  /** From `{"error": {...}}`, or whatever else came with a failing status. */
  static of(body, status, retryAfterS = null) {
    const error = body?.error;
    if (typeof error?.message === "string") {
      return new ServiceError({ message: error.message, hint: error.hint ?? "", code: error.code ?? "", status, retryAfterS });
    }
    return new ServiceError({
      message: `The answer has the status ${status} and is none of this service`, status, retryAfterS,
      hint: "Something between this browser and the service may have answered instead",
    });
  }
}

/** An address of the service as a URL, also when it lives below a prefix. */
export function address(path, options = {}) {
  const url = new URL(path, document.baseURI);
  for (const [name, value] of Object.entries(options)) {
    if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, value);
  }
  return url;
}

/** Names and settings of the models, the default first. */
export async function models(key) {
  const { response } = await ask(address("v1/models"), { key });
  return (await response.json()).models;
}

/** The record of a picture, and where the time went. */
export async function detect(picture, { key, model, signal }) {
  const startMs = performance.now();
  const { response } = await send(picture, { name: nameOf(picture), model }, { key, signal });
  const record = await response.json();
  const roundTripMs = performance.now() - startMs;
  return { record, roundTripMs, stages: parseServerTiming(response.headers.get("Server-Timing")) };
}

/** A picture that the browser cannot show, as a JPEG without boxes. */
export async function preview(picture, { key, model, signal }) {
  const options = { format: "annotated", score_threshold: 1, model };
  return (await send(picture, options, { key, signal })).response.blob();
}

/** The sample picture of the service. */
export async function samplePicture() {
  const { response } = await ask(address("page/sample.jpg"), {});
  return new File([await response.blob()], "sample.jpg", { type: "image/jpeg" });
}

/** The name that goes with a picture. */
export const nameOf = (picture) => [...picture.name].slice(0, MAX_NAME_CHARACTERS).join("");

/** The media type to send a picture as: the service finds out for itself what it is. */
export const typeOf = (picture) => picture.type.startsWith("image/") ? picture.type : "application/octet-stream";

/** Stages as [{name, ms}] from a Server-Timing header; none without it. */
export function parseServerTiming(header) {
  return (header ?? "").split(",").flatMap((entry) => {
    const [name, ...parameters] = entry.split(";").map((part) => part.trim());
    const duration = parameters.find((parameter) => parameter.startsWith("dur="));
    return duration && STAGES[name] ? [{ name: STAGES[name], ms: Number(duration.slice(4)) }] : [];
  });
}

/** Stages of a message of the live stream. */
export const stagesOf = (timings) => Object.entries(timings ?? {}).flatMap(
  ([name, ms]) => STAGES[name] ? [{ name: STAGES[name], ms }] : []);

/** The command that answers with what the page shows. */
export function curlCommand({ picture, isSample, needsKey, model, threshold, labels }) {
  const options = { score_threshold: threshold, labels: labels?.join(","), name: picture ? nameOf(picture) : null, model };
  const lines = [`curl ${quoted(address("v1/detect", options).href)}`];
  lines.push(`-H ${quoted(`Content-Type: ${picture ? typeOf(picture) : "image/jpeg"}`)}`);
  if (needsKey) lines.push('-H "Authorization: Bearer $API_KEY"');
  lines.push(`--data-binary ${isSample ? "@-" : quoted(`@${picture?.name ?? "picture.jpg"}`)}`);
  const first = isSample ? `curl -s ${quoted(address("page/sample.jpg").href)} |\n  ` : "";
  return first + lines.join(" \\\n  ");
}

const quoted = (text) => /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", String.raw`'\''`)}'`;

const send = (picture, options, { key, signal }) => ask(address("v1/detect", options), {
  key, signal, method: "POST", body: picture, headers: { "Content-Type": typeOf(picture) },
});

async function ask(url, { key, headers = {}, ...rest }) {
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(url, { ...rest, headers, cache: "no-store", credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError({ message: "The service cannot be reached", hint: "Is it running? Is there a network?", code: "unreachable" });
  }
  if (!response.ok) {
    const body = await response.json().catch(() => null);
    throw ServiceError.of(body, response.status, Number(response.headers.get("Retry-After")) || null);
  }
  return { response };
}
