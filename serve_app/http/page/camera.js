// Frames of the camera to `WS /v1/stream`. The service looks at the newest frame and leaves out those that
// it has no time for, so frames are sent at an even pace, whether or not the earlier ones are answered.

import { ServiceError, address } from "./service.js";

const FRAMES_A_SECOND = 15;
const LONGEST_SIDE_PX = 960;
const JPEG_QUALITY = 0.85;
const RATE_WINDOW_MS = 2000;
const NORMAL_CLOSE = 1000;

export class Camera {
  /**
   * `onAnswer` gets {answer, latencyMs, rate} of each answered frame; `onEnd` gets the last answered frame as
   * {file, answer}, or null, and the error that has ended it, or null.
   */
  constructor(video, { onAnswer, onEnd }) {
    Object.assign(this, { video, onAnswer, onEnd });
    this.canvas = document.createElement("canvas");
    this.session = null; // an object of its own for each start, so that a late answer to an earlier one is known
  }

  get running() {
    return this.session !== null;
  }

  /** Asks for the camera, then connects. */
  async start({ key, model }) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new ServiceError({
        message: "This browser gives no camera to this page", code: "no_camera",
        hint: "Browsers allow it only over HTTPS, or on the machine itself (localhost)",
      });
    }
    const session = { sent: 0, waiting: new Map(), answeredMs: [], last: null };
    this.session = session;
    try {
      const wish = { video: { facingMode: { ideal: "environment" }, width: { ideal: 1280 } }, audio: false };
      session.stream = await navigator.mediaDevices.getUserMedia(wish);
    } catch (error) {
      if (this.session === session) this.session = null;
      throw cameraError(error);
    }
    if (this.session !== session) { // stopped while the browser was asking
      release(session);
      return;
    }
    this.video.srcObject = session.stream;
    session.stream.getVideoTracks()[0].addEventListener("ended", () => this.#end(session));
    await this.video.play();
    if (this.session === session) this.#connect(session, key, model);
  }

  /** Ends it; the last answered frame stays as a picture, unless another one takes its place. */
  stop({ keepsLast = true } = {}) {
    if (!this.running) return;
    if (!keepsLast) this.session.last = null;
    this.#end(this.session);
  }

  #end(session, error = null) {
    if (this.session !== session) return;
    this.session = null;
    clearInterval(session.timer);
    session.socket?.close(NORMAL_CLOSE);
    release(session);
    this.video.srcObject = null;
    this.onEnd(session.last, error);
  }

  #connect(session, key, model) {
    const url = address("v1/stream", { model });
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url);
    session.socket = socket;
    socket.addEventListener("open", () => {
      // Browsers cannot set headers on a WebSocket: the key comes as the first message.
      if (key) socket.send(JSON.stringify({ key }));
      session.timer = setInterval(() => this.#sendFrame(session), 1000 / FRAMES_A_SECOND);
    });
    socket.addEventListener("message", (event) => this.#take(session, JSON.parse(event.data)));
    socket.addEventListener("close", () => this.#end(session, new ServiceError({
      message: "The connection to the service has ended", code: "stream_closed",
      hint: "Start the camera again; a proxy in between must let WebSockets pass",
    })));
  }

  async #sendFrame(session) {
    const { video, canvas } = this;
    const { socket } = session;
    // What waits in this browser would be old when it arrives: send only what can leave at once.
    if (session.encoding || video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA || socket.bufferedAmount > 0) return;
    const scale = Math.min(1, LONGEST_SIDE_PX / Math.max(video.videoWidth, video.videoHeight));
    canvas.width = Math.round(video.videoWidth * scale);
    canvas.height = Math.round(video.videoHeight * scale);
    canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
    session.encoding = true;
    const takenMs = performance.now();
    const blob = await new Promise((resolve) => { canvas.toBlob(resolve, "image/jpeg", JPEG_QUALITY); });
    session.encoding = false;
    if (this.session !== session || socket.readyState !== WebSocket.OPEN) return;
    socket.send(blob);
    session.sent += 1;
    session.waiting.set(session.sent, { blob, takenMs });
  }

  #take(session, answer) {
    if (this.session !== session) return;
    if (answer.frame === undefined) {
      this.#end(session, ServiceError.of(answer, 0));
      return;
    }
    const { waiting } = session;
    const frame = waiting.get(answer.frame);
    if (!frame) return;
    for (const number of waiting.keys()) if (number <= answer.frame) waiting.delete(number);
    const nowMs = performance.now();
    session.answeredMs = [...session.answeredMs.filter((ms) => ms > nowMs - RATE_WINDOW_MS), nowMs];
    const spanMs = nowMs - session.answeredMs[0];
    const rate = spanMs > 0 ? ((session.answeredMs.length - 1) * 1000) / spanMs : null;
    session.last = { file: new File([frame.blob], `frame-${answer.frame}.jpg`, { type: "image/jpeg" }), answer };
    this.onAnswer({ answer, rate, latencyMs: nowMs - frame.takenMs });
  }
}

function release({ stream }) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}

function cameraError(error) {
  const reasons = {
    NotAllowedError: ["The camera may not be used", "Allow it in the browser's settings of this page"],
    NotFoundError: ["There is no camera", "Connect one, or choose a picture"],
    NotReadableError: ["The camera is in use", "Close the other program that uses it"],
  };
  const [message, hint] = reasons[error.name] ?? ["The camera cannot be used", error.message];
  return new ServiceError({ message, hint, code: "no_camera" });
}
