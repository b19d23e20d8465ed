// Boxes and captions over the picture. Boxes are placed in percent of it, so that they stay right at any
// size; captions have the size of text, so they are placed anew whenever the picture changes its size.

import { colourOf, css, inkOn } from "./colours.js";

export class Overlay {
  /** `root` covers the picture exactly. `onMark` is told which detection is pointed at, or null. */
  constructor(root, { onMark, onPick }) {
    this.root = root;
    this.marks = [];
    root.addEventListener("pointerover", (event) => onMark(indexOf(event.target)));
    root.addEventListener("pointerleave", () => onMark(null));
    root.addEventListener("click", (event) => indexOf(event.target) !== null && onPick(indexOf(event.target)));
    new ResizeObserver(() => this.placeCaptions()).observe(root);
  }

  /** Shows detections as [{x1, y1, x2, y2, score, class_id, label, index}] of a picture of that size. */
  show(detections, widthPx, heightPx) {
    this.marks = detections.map((found) => {
      const colour = colourOf(found.class_id);
      const box = element("box", found.index);
      const { style } = box;
      style.left = percent(found.x1, widthPx);
      style.top = percent(found.y1, heightPx);
      style.width = percent(found.x2 - found.x1, widthPx);
      style.height = percent(found.y2 - found.y1, heightPx);
      style.setProperty("--colour", css(colour));
      // The smaller one lies on top: else one could not point at it.
      style.zIndex = 200 - Math.round(199 * ((found.x2 - found.x1) * (found.y2 - found.y1)) / (widthPx * heightPx));
      const caption = element("caption", found.index);
      caption.textContent = `${found.label} ${found.score.toFixed(2)}`;
      caption.style.backgroundColor = css(colour);
      caption.style.color = inkOn(colour);
      caption.style.zIndex = 300;
      const share = [found.x1 / widthPx, found.y1 / heightPx, found.x2 / widthPx, found.y2 / heightPx];
      return { box, caption, share, index: found.index };
    });
    // The best comes last, over the others.
    this.root.replaceChildren(...this.marks.toReversed().flatMap(({ box, caption }) => [box, caption]));
    this.placeCaptions();
  }

  /** Brings out one detection, or none (null). */
  mark(index) {
    this.root.classList.toggle("marking", this.marks.some((mark) => mark.index === index));
    for (const mark of this.marks) {
      mark.box.classList.toggle("active", mark.index === index);
      mark.caption.classList.toggle("active", mark.index === index);
    }
  }

  /** Puts each caption where it hides least: at a corner of its box, outside or inside. */
  placeCaptions() {
    const width = this.root.clientWidth;
    const height = this.root.clientHeight;
    const boxes = this.marks.map(({ share: [x1, y1, x2, y2] }) => [x1 * width, y1 * height, x2 * width, y2 * height]);
    const occupied = boxes.map((rectangle) => ({ rectangle, weight: 1 }));
    const sizes = this.marks.map(({ caption }) => [caption.offsetWidth, caption.offsetHeight]); // one layout for all
    this.marks.forEach(({ caption }, at) => {
      const [x1, y1, x2, y2] = boxes[at];
      const [wide, high] = sizes[at];
      const within = (value, room) => Math.max(Math.min(value, room), 0);
      const columns = [within(x1, width - wide), within(x2 - wide, width - wide)];
      const rows = [y1 - high - 1, y1, y2 + 1, y2 - high].filter((y) => y >= 0 && y + high <= height);
      if (rows.length === 0) rows.push(within(y1, height - high));
      let best = null;
      for (const y of rows) {
        for (const x of columns) {
          const rectangle = [x, y, x + wide, y + high];
          const hidden = occupied.reduce((sum, other) => sum + other.weight * overlap(rectangle, other.rectangle), 0);
          if (best === null || hidden < best.hidden - 0.5) best = { rectangle, hidden };
        }
      }
      // To hide another caption is worse than to hide a part of a box.
      occupied.push({ rectangle: best.rectangle, weight: 4 });
      caption.style.transform = `translate(${best.rectangle[0].toFixed(1)}px, ${best.rectangle[1].toFixed(1)}px)`;
    });
  }
}

const percent = (value, whole) => `${(100 * value) / whole}%`;

const overlap = (a, b) =>
  Math.max(Math.min(a[2], b[2]) - Math.max(a[0], b[0]), 0) * Math.max(Math.min(a[3], b[3]) - Math.max(a[1], b[1]), 0);

const indexOf = (target) => target.dataset.index === undefined ? null : Number(target.dataset.index);

function element(name, index) {
  const made = document.createElement("div");
  made.className = name;
  made.dataset.index = index;
  return made;
}
