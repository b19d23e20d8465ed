// Where the time of an answer went: a bar, and the same as a list.

const byId = (id) => document.getElementById(id);

// One fixed colour a stage; what the service does not tell of is the way there and back.
const REST = "Network, rest";
const COLOURS = {
  Queue: "#8a94a0", Receive: "#cc79a7", Decode: "#56b4e9", "Batch wait": "#e69f00", Model: "#0072b2", Encode: "#009e73",
  [REST]: "#b3bcc6",
};

/** Shows stages as [{name, ms}] and the time that the browser has measured around them. */
export function showTimings(stages, roundTripMs) {
  const known = stages.reduce((sum, { ms }) => sum + ms, 0);
  const parts = [...stages, { name: stages.length ? REST : "Round trip", ms: Math.max(roundTripMs - known, 0) }];
  byId("timings").hidden = false;
  byId("timings-total").textContent = milliseconds(roundTripMs);
  byId("timings-bar").replaceChildren(...parts.filter(({ ms }) => ms > 0).map(({ name, ms }) => {
    const bar = coloured("i", name);
    bar.style.flexGrow = ms;
    return bar;
  }));
  byId("timings-list").replaceChildren(...parts.map(({ name, ms }) => {
    const item = document.createElement("li");
    const dot = coloured("span", name);
    dot.className = "swatch";
    const figure = document.createElement("b");
    figure.textContent = milliseconds(ms);
    item.append(dot, `${name} `, figure);
    return item;
  }));
}

/** A figure for people. */
export const milliseconds = (ms) => `${ms >= 100 ? ms.toFixed(0) : ms >= 10 ? ms.toFixed(1) : ms.toFixed(2)} ms`;

function coloured(tag, name) {
  const made = document.createElement(tag);
  made.style.setProperty("--colour", COLOURS[name] ?? COLOURS[REST]);
  return made;
}
