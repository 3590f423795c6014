for (const wipe of document.querySelectorAll(".wipe")) {
  const figures = [...wipe.querySelectorAll("figure")];
  const ranges = figures.map((figure) => figure.querySelector("input[type=range]"));
  const stacks = figures.map((figure) => figure.querySelector(".stack"));
  const show = (value) => {
    for (const range of ranges) range.value = value;
    for (const stack of stacks) stack.style.setProperty("--at", ranges[0].value + "%");
  };
  for (const range of ranges) range.addEventListener("input", () => show(range.value));
  for (const stack of stacks) {
    const follow = (event) => {
      const box = stack.getBoundingClientRect();
      show((100 * (event.clientX - box.left)) / box.width);
    };
    stack.addEventListener("pointerdown", (event) => {
      stack.setPointerCapture(event.pointerId);
      follow(event);
    });
    stack.addEventListener("pointermove", (event) => {
      if (event.buttons) follow(event);
    });
  }
  for (const choice of wipe.querySelectorAll("input[type=radio]")) {
    choice.addEventListener("change", () => (wipe.dataset.pair = choice.value));
  }
  show(ranges[0].value);
}
