// Shows the values under the pointer, or under the cursor keys. Without it the page is whole.
"use strict";
for (const plot of document.querySelectorAll(".plot")) {
  const svg = plot.querySelector("svg");
  const layer = svg.querySelector(".hover");
  const lines = JSON.parse(plot.querySelector("script").textContent);
  const all = [...new Set(lines.flatMap((line) => line.p.map((point) => point[0])))].sort((a, b) => a - b);
  const tip = plot.appendChild(document.createElement("div"));
  tip.className = "tip";
  tip.hidden = true;
  let at = -1;

  const nearest = (points, x) => {
    let low = 0;
    let high = points.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < x) low = middle;
      else high = middle;
    }
    return x - points[low][0] < points[high][0] - x ? points[low] : points[high];
  };
  const hide = () => {
    tip.hidden = true;
    layer.replaceChildren();
  };
  const draw = (name, attributes) => {
    const node = document.createElementNS(svg.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    layer.append(node);
  };
  const show = (x) => {
    const reach = 12;
    const found = lines
      .filter((line) => line.p.length)
      .map((line) => [line, nearest(line.p, x)])
      .filter(([, point]) => Math.abs(point[0] - x) <= reach)
      .slice(0, 12);
    if (!found.length) return hide();
    const first = found.reduce((a, b) => (Math.abs(b[1][0] - x) < Math.abs(a[1][0] - x) ? b : a))[1];
    layer.replaceChildren();
    draw("path", { class: "cross", d: `M${first[0]} 22V${svg.viewBox.baseVal.height - 46}` });
    const title = document.createElement("p");
    title.textContent = first[2];
    tip.replaceChildren(title);
    for (const [line, point] of found) {
      draw("circle", { class: `dot ${line.s}`, cx: point[0], cy: point[1], r: 3.5 });
      const row = document.createElement("p");
      const mark = document.createElement("i");
      mark.className = line.s;
      const value = document.createElement("b");
      value.textContent = point[3];
      row.append(mark, line.n + " ", value);
      tip.append(row);
    }
    tip.hidden = false;
    const scale = svg.clientWidth / svg.viewBox.baseVal.width;
    const left = first[0] * scale;
    const isRight = left > svg.clientWidth / 2;
    tip.style.left = isRight ? "" : `${left + 14}px`;
    tip.style.right = isRight ? `${svg.clientWidth - left + 14}px` : "";
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    show(((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width);
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20 }[event.key];
    if (event.key === "Escape") return hide();
    if (!step) return;
    event.preventDefault();
    at = Math.min(all.length - 1, Math.max(0, at + step));
    show(all[at]);
  });
}
