for (const figure of document.querySelectorAll(".wipe")) {
  const stack = figure.querySelector(".stack");
  const range = figure.querySelector("input[type=range]");
  const show = () => stack.style.setProperty("--at", range.value + "%");
  const follow = (event) => {
    const box = stack.getBoundingClientRect();
    range.value = (100 * (event.clientX - box.left)) / box.width;
    show();
  };
  range.addEventListener("input", show);
  stack.addEventListener("pointerdown", (event) => {
    stack.setPointerCapture(event.pointerId);
    follow(event);
  });
  stack.addEventListener("pointermove", (event) => {
    if (event.buttons) follow(event);
  });
  for (const choice of figure.querySelectorAll("input[type=radio]")) {
    choice.addEventListener("change", () => (figure.dataset.pair = choice.value));
  }
  show();
}
