"use strict";
(() => {
  const dialog = document.getElementById("zoom");
  const image = dialog.querySelector("img");
  const stage = dialog.querySelector(".stage");
  const said = document.getElementById("said");
  let width = 0;

  const fitting = () => {
    const ratio = image.naturalHeight / image.naturalWidth || 1;
    return Math.min(stage.clientWidth, stage.clientHeight / ratio);
  };
  const resize = (wanted) => {
    width = Math.max(100, Math.min(wanted, 12000));
    image.style.width = `${width}px`;
  };
  const actions = {
    in: () => resize(width * 1.4),
    out: () => resize(width / 1.4),
    fit: () => resize(fitting()),
    close: () => dialog.close(),
  };

  for (const button of document.querySelectorAll("button.zoom")) {
    button.addEventListener("click", () => {
      const small = button.querySelector("img");
      image.src = small.src;
      image.alt = small.alt;
      document.getElementById("zoom-title").textContent =
        button.closest("section").querySelector("h2").textContent;
      dialog.showModal();
      image.decode().catch(() => {}).then(actions.fit);
      stage.focus();
    });
  }
  dialog.addEventListener("click", (event) => {
    const action = event.target.dataset.zoom;
    if (action) actions[action]();
    else if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("keydown", (event) => {
    const action = { "+": "in", "=": "in", "-": "out", "0": "fit" }[event.key];
    if (action && !event.ctrlKey && !event.metaKey) {
      actions[action]();
      event.preventDefault();
    }
  });

  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  };
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      const rows = [...document.getElementById(button.dataset.copy).rows];
      const line = (row) => [...row.cells].map((cell) => cell.textContent.trim().replace(/\s+/g, " "));
      await copy(rows.map((row) => line(row).join("\t")).join("\n"));
      button.focus();
      said.textContent = "";
      requestAnimationFrame(() => { said.textContent = "The table is copied."; });
    });
  }

  // Paper has no folds. Runs of a claim are listed once more under its exhibit, and all numbers of an
  // exhibit, without rounding, are for machines: neither is printed.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")].filter((one) => !one.closest("td"));
    for (const one of folded) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of folded) one.open = false;
  });
  if (matchMedia("(max-width: 40rem)").matches) document.getElementById("contents").open = false;
})();
