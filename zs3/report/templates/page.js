"use strict";
(() => {
  const gallery = document.querySelector(".gallery");
  if (!gallery) return;
  const tools = document.querySelector(".tools");
  const dialog = document.querySelector("dialog");
  const enlarged = dialog.querySelector(".enlarged");
  const figures = [...gallery.querySelectorAll(".item")];
  const classPicker = tools.elements["class"];
  let large = null;

  const holds = (element, wanted) => element.dataset.classes.split(" ").includes(wanted);
  const shownFigures = () => figures.filter((figure) => !figure.hidden);

  // Layers, numbers and legend lines of other classes step back; what belongs to no class stays.
  function highlight(root) {
    const wanted = classPicker.value;
    for (const part of root.querySelectorAll("[data-classes]:not(.item)"))
      part.classList.toggle("off", wanted !== "" && !holds(part, wanted));
    for (const button of root.querySelectorAll(".pick"))
      button.setAttribute("aria-pressed", String(button.dataset.class === wanted));
  }

  function filter() {
    const wanted = classPicker.value, kind = tools.elements["kind"].value;
    for (const figure of figures)
      figure.hidden = (wanted !== "" && !holds(figure, wanted)) || (kind !== "" && figure.dataset.kind !== kind);
    highlight(gallery);
    highlight(enlarged);
    tools.querySelector(".status").textContent = `${shownFigures().length} of ${figures.length} images`;
  }

  function fade(value) {
    document.documentElement.style.setProperty("--opacity", value / 100);
    for (const slider of document.querySelectorAll("[name=opacity]")) slider.value = value;
  }

  function enlarge(figure) {
    large = figure;
    const copy = figure.cloneNode(true);
    copy.hidden = false;
    enlarged.replaceChildren(copy);
    dialog.setAttribute("aria-label", `Enlarged: ${figure.querySelector(".title b").textContent}`);
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  }

  function step(by) {
    const there = shownFigures();
    if (there.length) enlarge(there[(there.indexOf(large) + by + there.length) % there.length]);
  }

  tools.hidden = false;
  for (const button of gallery.querySelectorAll("button")) button.disabled = button.hidden = false;
  tools.addEventListener("change", filter);
  tools.addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("input", (event) => {
    if (event.target.name === "opacity") fade(event.target.value);
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (event.target === dialog || button?.matches(".close")) dialog.close();
    else if (button?.matches(".enlarge")) enlarge(button.closest(".item"));
    else if (button?.matches(".step")) step(Number(button.dataset.step));
    else if (button?.matches(".pick")) {
      classPicker.value = button.dataset.class === classPicker.value ? "" : button.dataset.class;
      filter();
    } else {
      const panel = event.target.closest(".gallery .panel");
      if (panel) enlarge(panel.closest(".item"));
    }
  });
  dialog.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.target.matches("input")) return;
    event.preventDefault();
    step(by);
  });
  dialog.addEventListener("close", () => {
    const back = large && !large.hidden ? large.querySelector(".enlarge") : classPicker;
    enlarged.replaceChildren();
    back.focus();
  });
  gallery.classList.add("ready");
  filter();
  fade(tools.elements["opacity"].value);
})();
