// The ways in for a picture: chosen, dropped, pasted, or the sample of the service.

import { ServiceError, samplePicture } from "./service.js";

const byId = (id) => document.getElementById(id);

/** `onPicture` gets a File and whether it is the sample, `onError` an error and what would try again. */
export function listenForPictures({ onPicture, onError }) {
  const take = (file, otherwise) => {
    if (file) onPicture(file, { isSample: false });
    else onError(new ServiceError({ ...otherwise, code: "no_picture" }));
  };

  byId("choose").addEventListener("click", () => byId("file").click());
  byId("file").addEventListener("change", (event) => {
    take(event.target.files[0]);
    event.target.value = ""; // the same file may be chosen again
  });

  const takeSample = async () => {
    try {
      onPicture(await samplePicture(), { isSample: true });
    } catch (error) {
      onError(error, takeSample);
    }
  };
  byId("sample").addEventListener("click", takeSample);

  document.addEventListener("paste", (event) => {
    if (event.target.matches("input")) return;
    take(event.clipboardData.files[0], {
      message: "There is no picture on the clipboard", hint: "Copy a picture, not its address",
    });
  });

  let depth = 0; // dragging from one element into another leaves one of them
  const drag = (to) => {
    depth = Math.max(to, 0);
    document.body.classList.toggle("dropping", depth > 0);
  };
  const hasFiles = (event) => event.dataTransfer.types.includes("Files");
  document.addEventListener("dragenter", (event) => hasFiles(event) && drag(depth + 1));
  document.addEventListener("dragleave", (event) => hasFiles(event) && drag(depth - 1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drag(0);
    take(event.dataTransfer.files[0], { message: "That is no file", hint: "Drop the picture itself" });
  });
}
